"""The probe of exercise 5: epochs of an actor that answers whatever it is asked, and what they did.

Every token of every response has a number of its own, and the actor is a table from the number to logits and
a value. So any slice, order or mix-up of the inputs gives an answer that tells what it was.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.checks.behaviour import Fact, of_value
from course_utils.checks.minibatch_update import OF_THE_BUFFER
from course_utils.checks.one_epoch import Epoch
from course_utils.exercises import UPDATE_METRICS


class TokenActor(nn.Module):
    """logits (b, T, V) and values (b, T), each by its token alone, and larger the more tokens are to be seen."""

    def __init__(self, table: Tensor, values: Tensor, length: int):
        super().__init__()
        self.table, self.values = nn.Parameter(table), nn.Parameter(values)  # (V, V), (V,)
        self.length = length  # P + R: token n belongs to response n // length
        self.responses: list[set[int]] = []  # of each row that was asked

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        self.responses += [set((row // self.length).tolist()) for row in input_ids]
        seen = 1 + attention_mask.cumsum(dim=1) / 4  # (b, T)
        return self.table[input_ids] * seen.unsqueeze(-1), self.values[input_ids] * seen


def minibatch_update(function: Callable) -> list[Fact]:
    return [*_one_mini_batch(function), *_groups(function), *_lengths(function), *_shuffling(function)]


def _one_mini_batch(function: Callable) -> list[Fact]:
    """All three responses at once: what the losses are given, and how far each token's parameters move."""
    buffer = token_buffer(torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]))
    buffer["prompt_attention_mask"][1, 0] = 0
    return _of_epoch(
        _losses_and_moves,
        function,
        buffer,
        TokenActor(_ramp(15, 15), _ramp(15), 5),
        mini_batch_size=3,
        vf_coeff=2.0,
        entropy_coeff=0.25,
        max_grad_norm=0.5,
    )


def _groups(function: Callable) -> list[Fact]:
    """Nine like responses in groups of (2, 2, 2) and (2, 1): the same whatever the order is.

    The gradient norm is 0.53 for the first group, which is not clipped, and 0.75 for the second, which is.
    """
    return _of_epoch(
        _steps_and_metrics,
        function,
        token_buffer(torch.ones(9, 2, dtype=torch.long)),
        TokenActor(torch.zeros(36, 36), torch.zeros(36), 4),
        mini_batch_size=2,
        gradient_accumulation_steps=3,
        entropy_coeff=0.25,
        max_grad_norm=0.5625,
    )


def _lengths(function: Callable) -> list[Fact]:
    """A response of one token and one of three, each a mini-batch, in one group."""
    return _of_epoch(
        lambda epoch: epoch.moved["values"].sort().values.tolist(),
        function,
        token_buffer(torch.tensor([[1, 0, 0], [1, 1, 1]])),
        TokenActor(torch.zeros(10, 10), torch.zeros(10), 5),
        mini_batch_size=1,
        gradient_accumulation_steps=2,
    )


def _shuffling(function: Callable) -> list[Fact]:
    """Eight responses in pairs, with two seeds."""
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        actor = TokenActor(torch.zeros(24, 24), torch.zeros(24), 3)
        _of_epoch(lambda epoch: [], function, token_buffer(torch.ones(8, 1, dtype=torch.long)), actor)
        orders.append([min(responses) for responses in actor.responses])
    return [
        "in order" if orders[0] == sorted(orders[0]) else "shuffled",
        "by the seed" if orders[0] == orders[1] else "by something else",
        "neighbours stay together" if all(map(_pairs_of_neighbours, orders)) else "cut anew",
    ]


def _pairs_of_neighbours(order: list[int]) -> bool:
    """Whether its pairs are 0 and 1, 2 and 3, ..., in any order."""
    return bool(order) and all(one // 2 == other // 2 for one, other in zip(order[::2], order[1::2]))


def _of_epoch(
    describe: Callable[[Epoch], list[Fact]], function: Callable, buffer: dict[str, Tensor], actor: TokenActor, **ppo
) -> list[Fact]:
    """What `describe` finds in the epoch; a few words where its numbers would vary with the order drawn."""
    try:
        epoch = Epoch(function, buffer, actor, **ppo)
        if any(len(responses) > 1 for responses in actor.responses):
            return ["rows of different responses meet"]
        if names := _of_others(epoch):
            return [f"{' '.join(names)} of other responses"]
        asked = [min(responses) for responses in actor.responses]
        if len(set(asked)) < len(asked):
            return ["responses are drawn more than once"]
        return [f"{len(asked)} responses", *describe(epoch)]
    except Exception as error:
        return [f"raises {type(error).__name__}: {str(error)[:60]}"]


def _losses_and_moves(epoch: Epoch) -> list[Fact]:
    table, values = epoch.moved["table"], epoch.moved["values"]
    norm = epoch.result["params/grad_norm"]
    return [*_of_losses(epoch), *of_value(norm), *(table * _ramp(len(table))).sum(dim=1).tolist(), *values.tolist()]


def _steps_and_metrics(epoch: Epoch) -> list[Fact]:
    left = any(p.grad is not None and p.grad.any() for p in epoch.actor.parameters())
    moved = torch.cat([epoch.moved["table"], epoch.moved["values"].unsqueeze(1)], dim=1)  # (V, V + 1)
    facts = [
        " ".join(epoch.events),
        "gradient left" if left else "no gradient left",
        *moved.view(9, -1).norm(dim=1).sort().values.tolist(),
    ]
    if not isinstance(epoch.result, dict):
        return [*facts, *of_value(epoch.result)]
    return [*facts, *(fact for name in UPDATE_METRICS for fact in of_value(epoch.result.get(name)))]


def token_buffer(mask: Tensor) -> dict[str, Tensor]:
    """A buffer of responses with this mask (N, R) and two prompt tokens, numbered on; each tensor differs."""
    responses, tokens = mask.shape
    ids = torch.arange(responses * (2 + tokens)).view(responses, -1)
    share = torch.arange(responses).unsqueeze(1) / 8 + torch.arange(tokens) / 2  # (N, R)
    return {
        "prompt_input_ids": ids[:, :2],
        "prompt_attention_mask": torch.ones(responses, 2, dtype=torch.long),
        "response_input_ids": ids[:, 2:],
        "response_attention_mask": mask,
        "rewards": share[:, 0],
        "logprobs": -share - 1,
        "ref_logprobs": -share - 20,
        "values": share + 3,
        "advantages": share * share - 1,
        "returns": 2 * share + 4,
    }


def _of_others(epoch: Epoch) -> list[str]:
    """The tensors of the buffer of which a loss got the rows of other responses than the actor was asked about."""
    found = []
    for loss, argument, name in OF_THE_BUFFER:
        given = [row for call in epoch.calls[loss] for row in call[argument]]
        owners = [
            {number for number, own in enumerate(epoch.buffer[name]) if torch.equal(own, row)} for row in given
        ]  # none where the rows were computed anew
        if any(own and own != asked for own, asked in zip(owners, epoch.actor.responses)):
            found.append(name)
    return found


def _of_losses(epoch: Epoch) -> list[Fact]:
    """One number for each argument of each loss, whatever the order of the responses is."""
    facts: list[Fact] = []
    for name, calls in epoch.calls.items():
        facts.append(f"{name} {len(calls)} times")
        for call in calls:
            mask = call["response_mask"].double()
            for argument, given in call.items():
                if isinstance(given, Tensor):
                    tokens = given.detach().double().reshape(*mask.shape, -1) * mask.unsqueeze(-1)
                    given = (tokens.mean(dim=-1) * torch.linspace(1, 2, mask.shape[1])).square().sum()
                if argument != "self":
                    facts.append(float(given))
    return facts


def _ramp(*shape: int) -> Tensor:
    """Numbers from -1 to 1 in an order that repeats no row."""
    return (torch.arange(torch.Size(shape).numel()) * 37 % 101 / 50 - 1).view(shape)
