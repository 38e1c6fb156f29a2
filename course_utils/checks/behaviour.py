"""What a function does with given inputs, as a flat list of facts: numbers, and words for all that is not one.

Facts of two functions are compared, never their source: types and shapes of the results, their numbers, the
gradient, whether a metric carries one, which inputs were changed, what was raised.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Fact = float | str
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # facts are compared after rounding, and with those of other machines


def of_call(
    function: Callable,
    *arguments,
    trained: int | None = None,
    only: dict[int, Tensor] | None = None,
) -> list[Fact]:
    """The facts of function(*arguments), which are copied for it.

    `trained` is the index of the argument by which the first result is differentiated. `only` says for a
    result, by its index, at which positions (a boolean tensor) its numbers mean something.
    """
    given = [
        argument.detach().clone().requires_grad_(argument.requires_grad) if isinstance(argument, Tensor) else argument
        for argument in arguments
    ]
    if trained is not None:
        given[trained].requires_grad_()
    try:
        result = function(*given)
        facts = _of_results(result, only or {})
        if trained is not None:
            facts += _of_gradient(result, given[trained])
    except Exception as error:
        facts = [f"raises {type(error).__name__}"]
    changed = [
        str(number)
        for number, (old, new) in enumerate(zip(arguments, given, strict=True))
        if isinstance(old, Tensor) and not torch.equal(old, new)
    ]
    return [*facts, f"changes {' '.join(changed)}"]


def of_value(value) -> list[Fact]:
    """The facts of one result: a tensor, a float or anything else."""
    if isinstance(value, Tensor):
        grad = " with gradient" if value.requires_grad else ""
        return [f"{value.dtype} {tuple(value.shape)}{grad}", *numbers(value)]
    return [value] if type(value) is float else [type(value).__name__]


def numbers(tensor: Tensor) -> list[float]:
    return tensor.detach().double().flatten().tolist()


def same(one: Iterable[Fact], other: Iterable[Fact]) -> bool:
    """Whether all facts agree, numbers within the tolerances above."""
    one, other = list(one), list(other)
    return len(one) == len(other) and all(map(_agree, one, other))


def stored(facts: Iterable[Fact]) -> list[Fact]:
    """The facts as JSON holds them: numbers of five digits, "nan" and "inf" as words."""
    return [fact if isinstance(fact, str) else _stored_number(fact) for fact in facts]


def _of_results(result, only: dict[int, Tensor]) -> list[Fact]:
    if not isinstance(result, tuple | list):
        return ["one result", *of_value(result)]
    facts: list[Fact] = [f"{len(result)} results"]
    for index, part in enumerate(result):
        found = of_value(part)
        if index in only and isinstance(part, Tensor) and part.shape == only[index].shape:
            found[1:] = numbers(part[only[index]])
        facts += found
    return facts


def _of_gradient(result, trained: Tensor) -> list[Fact]:
    loss = result[0] if isinstance(result, tuple | list) else result
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return ["no gradient"]
    (grad,) = torch.autograd.grad(loss.sum(), trained, allow_unused=True)
    return ["no gradient"] if grad is None else ["gradient", *numbers(grad)]


def _agree(one: Fact, other: Fact) -> bool:
    one, other = _stored_number(one), _stored_number(other)
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _stored_number(fact: Fact) -> Fact:
    if isinstance(fact, str):
        return fact
    return float(f"{fact:.5g}") + 0.0 if math.isfinite(fact) else str(fact)  # + 0.0: no -0.0
