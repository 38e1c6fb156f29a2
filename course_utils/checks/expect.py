"""What the criteria of all exercises expect, in the same words: parts of a result, numbers, gradients."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

MASK_EACH = (
    "Multiply each per-token quantity by response_mask before you sum, and divide by the mask's sum. See hint 2."
)
MASK_FIRST = "Padding must not be trained on: mask before you sum. See hint 2."


def call(function: Callable, *args):
    """function(*args). AssertionError if it returns nothing or changes one of its tensors."""
    before = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
    result = function(*args)
    assert result is not None, "it returned None: is the `return` at the end missing?"
    for name, old, new in zip(inspect.signature(function).parameters, before, args, strict=True):
        assert not isinstance(new, Tensor) or torch.equal(old, new.detach()), (
            f"it changed its argument {name} in place; the caller still needs it. Assign to a new name: "
            "functions whose name ends in _ , and *=, += or x[...] = change what they are given."
        )
    return result


def scalars(
    result, *names: str, advice: str = "It is a mean over the response tokens. See hint 2."
) -> tuple[Tensor, ...]:
    """The parts of a result, each a tensor of shape (). One name: the result itself is the part."""
    parts = tensors(result, *names)
    for name, part in zip(names, parts, strict=True):
        assert part.shape == (), (
            f"{name} has shape {tuple(part.shape)}; it must be one number, a tensor of shape (). {advice}"
        )
    return parts


def tensors(result, *names: str) -> tuple[Tensor, ...]:
    """The parts of a result, each a tensor."""
    wanted = f"({', '.join(names)})" if len(names) > 1 else names[0]
    parts = result if len(names) > 1 else (result,)
    assert isinstance(parts, tuple | list) and len(parts) == len(names), (
        f"it returned {_describe(result)}; it must return {wanted}."
    )
    for name, part in zip(names, parts, strict=True):
        assert isinstance(part, Tensor), f"{name} is {_describe(part)}; return a tensor, without .item()."
    return tuple(parts)


def close(what: str, yours: Tensor, target, advice: str, slips: dict | None = None, *, tolerance: float = 1e-5) -> None:
    """AssertionError with both numbers unless `yours` is `target` within `tolerance` (absolute and relative).

    `slips` maps what a common mistake gives, a number or a tuple, to the advice for it; `advice` is for all
    other cases.
    """
    target = torch.as_tensor(target, dtype=torch.float64)
    assert yours.shape == target.shape, (
        f"{what}: yours has shape {tuple(yours.shape)}, the target {tuple(target.shape)}. {advice}"
    )
    if _same(yours, target, tolerance):
        return
    for wrong, better_advice in (slips or {}).items():
        if _same(yours, torch.as_tensor(wrong, dtype=torch.float64), tolerance):
            advice = better_advice
    raise AssertionError(f"{what}: yours {_show(yours)}, target {_show(target)}\n{advice}")


def unchanged(what: str, yours: Tensor, clean: Tensor, advice: str) -> None:
    """AssertionError if `yours`, computed with other numbers on the padding, is not `clean`."""
    assert _same(yours, clean.detach().double(), 1e-5), (
        f"{what} changes with the numbers on the padding, from {_show(clean)} to {_show(yours)}\n{advice}"
    )


def no_gradient(what: str, tensor: Tensor, advice: str) -> None:
    assert not tensor.requires_grad, f"{what} carries a gradient (requires_grad is True). {advice}"


def gradient(loss: Tensor, wrt: Tensor, advice: str) -> Tensor:
    """d loss / d wrt, of the shape of `wrt`. AssertionError if the loss does not depend on it."""
    assert loss.requires_grad, f"the loss carries no gradient. {advice}"
    (grad,) = torch.autograd.grad(loss, wrt, allow_unused=True)
    assert grad is not None, f"the loss does not depend on the input that has to be trained. {advice}"
    return grad


def _same(yours: Tensor, target: Tensor, tolerance: float) -> bool:
    return torch.allclose(yours.detach().double(), target, rtol=tolerance, atol=tolerance)


def _show(tensor: Tensor) -> str:
    """A tensor as numbers of six digits, rows in brackets."""
    if tensor.dim() == 0:
        return f"{tensor.item() + 0.0:.6g}"  # + 0.0: no "-0"
    return "[" + ", ".join(_show(row) for row in tensor.detach()) + "]"


def _describe(value) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
