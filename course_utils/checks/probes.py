"""One fixed, public set of inputs an exercise, on which typical mistakes show apart from one another.

Inputs are multiples of 1/64 from a generator of our own: the same with every version of torch, and exact in
float32, so that two terms that are equal on paper are equal in the computer too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks.behaviour import Fact, of_call, of_value
from course_utils.checks.epoch_probe import minibatch_update
from course_utils.worked_example import arguments_of

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
POISON = torch.tensor([[0.0, 0, 0, 0], [0, 0, 8, -6], [0, 7, -5, 9]])  # stands where MASK is 0


def sixty_fourths(seed: int, *shape: int, low: float, high: float) -> Tensor:
    """Numbers from `low` to `high` that look random: Lehmer's generator, x -> 48271 x mod 2**31 - 1."""
    numbers, state = [], seed + 1
    for _ in range(math.prod(shape)):
        state = 48271 * state % (2**31 - 1)
        numbers.append(math.floor((low + (high - low) * state / 2**31) * 64) / 64)
    return torch.tensor(numbers).view(shape)


def policy_loss(function: Callable) -> list[Fact]:
    old = sixty_fourths(1, 3, 4, low=-3, high=-1)
    new = old + sixty_fourths(2, 3, 4, low=-1, high=1)
    advantages = sixty_fourths(16, 3, 4, low=-2, high=2)
    far = torch.tensor([[3.5, -0.25, 0.25, -1.5]])  # log-ratios: large, on both sides of a range that others leave
    return [
        *of_call(function, _poisoned(new, 0.5), _poisoned(old, -0.25), _poisoned(advantages), MASK, 0.25, trained=0),
        *of_call(function, *arguments_of("policy_loss").values()),
        *of_call(function, far - 4, far * 0 - 4, torch.tensor([[-1.0, 0.5, 2.0, 0.75]]), MASK[:1], 0.25, trained=0),
    ]


def value_loss(function: Callable) -> list[Fact]:
    old = sixty_fourths(4, 3, 4, low=-1, high=1)
    new = old + sixty_fourths(5, 3, 4, low=-1, high=1)
    returns, zero = sixty_fourths(6, 3, 4, low=-2, high=2), torch.zeros(1, 1)
    return [
        *of_call(function, _poisoned(new), _poisoned(old, -1), _poisoned(returns, 2), MASK, 0.5, trained=0),
        *of_call(function, *arguments_of("value_loss").values()),
        # Around a finite return clipping never acts, as each clipped error is the smaller: only inf tells them apart.
        *of_call(function, zero, zero, zero + math.inf, torch.ones(1, 1, dtype=torch.long), 0.5),
    ]


def entropy(function: Callable) -> list[Fact]:
    logits = sixty_fourths(7, 3, 4, 3, low=-2, high=2)
    poison = POISON.unsqueeze(-1) * torch.tensor([1.0, -1.0, 0.5])
    extreme = torch.tensor([[[1e4, -1e4, 0.0, 0.0], [1e4, 1e4, -1e4, -1e4]]])
    return [
        *of_call(function, torch.where(MASK.unsqueeze(-1) == 1, logits, poison), MASK, trained=0),
        *of_call(function, extreme, torch.ones(1, 2, dtype=torch.long)),
        *of_call(function, 64 - logits[:1], MASK[:1]),
        *_of_half_precision(function),
    ]


def gae(function: Callable) -> list[Fact]:
    rewards = torch.tensor([1.0, -0.5, 0.75])
    kl_penalties, values = sixty_fourths(8, 3, 4, low=-0.5, high=0.5), sixty_fourths(9, 3, 4, low=-1, high=1)
    empty_row = MASK * torch.tensor([[1], [1], [0]])
    zero, one = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.long)
    return [  # returns mean nothing on padding
        *of_call(
            function, rewards, _poisoned(kl_penalties), _poisoned(values, -1), MASK, 0.75, 0.5, only={1: MASK == 1}
        ),
        *of_call(function, rewards, kl_penalties, values, empty_row, 0.5, 0.75, only={1: empty_row == 1}),
        *of_call(function, torch.ones(1, requires_grad=True), zero, zero.clone().requires_grad_(), one, 1.0, 1.0),
    ]


PROBES: dict[str, Callable[[Callable], list[Fact]]] = {
    "policy_loss": policy_loss,
    "value_loss": value_loss,
    "entropy": entropy,
    "gae": gae,
    "minibatch_update": minibatch_update,
}


def _poisoned(tensor: Tensor, factor: float = 1.0) -> Tensor:
    return torch.where(MASK == 1, tensor, factor * POISON)


def _of_half_precision(function: Callable) -> list[Fact]:
    """Type, and in words how good: the last digits of bfloat16 differ between versions of torch."""
    try:
        loss = function(torch.zeros(1, 1, 1000, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.long))
    except Exception as error:
        return [f"raises {type(error).__name__}"]
    found, *numbers = of_value(loss)
    return [found, *(_beside_ln_1000(abs(number)) for number in numbers)]  # type: ignore[arg-type]


def _beside_ln_1000(number: float) -> str:
    """log_softmax in bfloat16 makes the entropy larger by 0.009; whatever is left out of it, smaller."""
    difference = number - math.log(1000)
    return "ln 1000" if abs(difference) < 1e-3 else "more" if difference > 5e-3 else "else"
