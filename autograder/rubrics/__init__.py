"""What is asked of each exercise, case by case: one module an exercise, each with `cases(draw)`.

A case belongs to a criterion, knows what to send to the worker, and says in words what is wrong with the answer;
`HINTS` has the hint of each criterion. Numbers are drawn for each verdict; where a case is fixed, no draw would hit it.
"""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Draw:
    """Random inputs of one verdict."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.generator))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        return round(self.uniform(low, high).item(), 3)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def either(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return self.whole(0, 1, *shape) * 2.0 - 1

    def padded(self, tensor: Tensor, mask: Tensor, low: float = -50, high: float = 50) -> Tensor:
        """`tensor` with poison off the mask; mask (B, R), tensor (B, R) or (B, R, V)."""
        on = mask.bool() if tensor.dim() == mask.dim() else mask.bool().unsqueeze(-1)
        return tensor.where(on, self.uniform(low, high, *tensor.shape))


def mask_of(*lengths: int, width: int | None = None) -> Tensor:
    """(B, R): 1 on the first lengths[b] tokens of row b."""
    return (torch.arange(width or max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()


TYPED = "loss", "advantages", "returns"  # the results that must be float32
PADDED = (mask_of(7, 2, 5), mask_of(1, 1, 1, width=4), mask_of(4, 0, 6))  # unequal, of one token, an empty row


def close(yours: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Equal within an absolute and a relative tolerance, in float64; nothing is close to NaN."""
    return yours.shape == wanted.shape and torch.allclose(
        yours.double(), wanted.double(), rtol=tolerance, atol=tolerance
    )


def untouched(inputs: dict, tensors: dict[str, Tensor]) -> bool:
    """Whether the inputs came back from the worker as they were sent."""
    return all(
        f"after.{name}" in tensors and close(tensors[f"after.{name}"], value, 0)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    )


def error_in_words(error, source: str) -> str:
    """An exception of the submission's: its type, its message and the line of the submission's that raised it."""
    error = error if isinstance(error, dict) else {}
    line, lines = error.get("line"), source.split("\n")  # as Python counts
    where = f" at the line: {lines[line - 1].strip()[:120]}" if isinstance(line, int) and 0 < line <= len(lines) else ""
    return f"it raised {numberless(error.get('type'), 80)}: {numberless(error.get('message'), 300)}{where}"


def numberless(text, longest: int) -> str:
    """What a submission says of itself, without numbers: they may be those of a hidden input."""
    return re.sub(r"\b\d[\w.]*", "#", str(text)[:longest])


@dataclass
class Call:
    """One call of an exercise's function, compared with the reference."""

    criterion: str
    situation: str  # in words, without numbers: "with other numbers on the padding"
    args: dict  # in the order of the function's arguments
    compare: tuple[str, ...]  # results, by name, and "gradient"
    wrt: str = ""  # the argument that the first result is differentiated by
    at: dict[str, Tensor] = field(default_factory=dict)  # result -> where (B, R) it is compared
    tolerance: float = 1e-4
    unchanged: bool = False  # whether inputs changed in place count here
    typed: bool = False  # whether results of another type than float32 count here
    no_gradient: tuple[str, ...] = ()
    requires: str = ""  # as an Epoch's

    def request(self) -> tuple[dict, dict[str, Tensor]]:
        tensors = {name: value.clone() for name, value in self.args.items() if isinstance(value, Tensor)}
        args = [name if name in tensors else float(value) for name, value in self.args.items()]
        return {"kind": "call", "args": args, "wrt": [self.wrt] if self.wrt else [], "seed": 0}, tensors

    def wanted(self, reference) -> dict[str, Tensor]:
        """The reference's results in float64, and the gradient of the first by self.wrt."""
        args = {
            name: value.detach().clone().double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.args.items()
        }
        if self.wrt:
            args[self.wrt].requires_grad_()
        results = reference(**args)
        if "gradient" in self.compare:
            first = next(iter(results.values()))
            results["gradient"] = torch.autograd.grad(first, args[self.wrt])[0]
        return {name: result.detach() for name, result in results.items()}

    def problem(self, told: dict, tensors: dict[str, Tensor], reference, source: str) -> str:
        """What is wrong with an answer, in words; "" if nothing is."""
        if "error" in told:
            return f"{error_in_words(told['error'], source)} ({self.situation})"
        wanted = self.wanted(reference)
        names = [name for name in wanted if name != "gradient"]
        parts = told.get("parts")
        if not isinstance(parts, list) or len(parts) != len(names) or told.get("several") != (len(names) > 1):
            return f"it must return {', '.join(names)}" + (" (a tuple)" if len(names) > 1 else "")
        if self.unchanged and not untouched(self.args, tensors):
            return "it changes one of its arguments in place; the caller still needs them"
        for index, name in enumerate(names):
            yours = tensors.get(f"out{index}")
            if self.typed and name in TYPED and yours is not None and yours.dtype != torch.float32:
                return f"{name} has the type {yours.dtype} instead of torch.float32 {self.situation}"
        for name in self.compare:
            index = 0 if name == "gradient" else names.index(name)
            kind = "grad0" if name == "gradient" else f"out{index}"
            wrong = self._wrong(name, tensors.get(kind), wanted[name], parts[index])
            if wrong:
                return f"{wrong} {self.situation}"
        for name in self.no_gradient:
            yours = tensors.get(f"out{names.index(name)}")
            if yours is None or yours.shape != wanted[name].shape:
                return f"{name} must be a tensor of the shape {tuple(wanted[name].shape)}"
            if parts[names.index(name)].get("requires_grad") is not False:
                return f"{name} must carry no gradient: it is not trained through"
        return ""

    def _wrong(self, name: str, yours: Tensor | None, wanted: Tensor, part: dict) -> str:
        what = f"gradient by {self.wrt}" if name == "gradient" else name
        if yours is None:
            if name == "gradient":
                return f"there is no {what}"
            return f"{what} must be a tensor, not {numberless(part.get('kind'), 60)},"
        if yours.shape != wanted.shape:
            return f"{what} has the shape {tuple(yours.shape)} instead of {tuple(wanted.shape)}"
        at = self.at.get(name)
        if at is not None and not yours.isfinite().all():
            return f"{what} must be finite, on the padding too,"
        if at is not None:
            yours, wanted = yours[at.bool()], wanted[at.bool()]
        return "" if close(yours, wanted, self.tolerance) else f"wrong {what}"


class Telling(Call):
    """A call that costs no point: its answer only tells one misconception from another."""

    def problem(self, *_answer) -> str:
        return ""
