"""Exercise 4: compute_gae_advantages."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autograder.rubrics import Call, Draw, close, mask_of
from course_utils.worked_example import arguments_of

HINTS = {"token_rewards": 1, "recursion": 2, "whitening": 3, "masking": 2, "no_gradient": 3}


def cases(draw: Draw) -> list[Call]:
    return [*_token_rewards(draw), *_recursion(draw), *_whitening(draw), *_masking(draw), *_no_gradient(draw)]


def _token_rewards(draw: Draw) -> Iterator[Call]:
    for lengths in (mask_of(5, 5), mask_of(6, 2, 4, 1)):
        yield _returns("token_rewards", "with γ = λ = 1", _args(draw, lengths, 1.0, 1.0))
    wide = _args(draw, mask_of(4, 3, 2), 1.0, 1.0)  # rewards below 0 and above 1, penalties of more than a nat
    wide |= {"final_rewards": torch.tensor([-20.0, 30.0, 0.0]), "kl_penalties": wide["kl_penalties"] * 15}
    yield _returns("token_rewards", "with rewards below 0 and above 1", wide)
    later = _args(draw, mask_of(6, 2, 4, 1), draw.number(0.6, 0.95), 1.0)  # from its own last token, not the batch's
    later |= {"values": torch.zeros(4, 6), "kl_penalties": torch.zeros(4, 6)}
    yield _returns("token_rewards", "with γ below 1", later)


def _recursion(draw: Draw) -> Iterator[Call]:
    yield _returns("recursion", "in the worked example", arguments_of("gae"))
    for gamma, lam in (
        (draw.number(0.6, 0.95), draw.number(0.3, 0.9)),
        (draw.number(0.6, 0.95), 0.0),
        (draw.number(0.6, 0.95), 1.0),
        (1.0, draw.number(0.3, 0.9)),
        (0.0, 0.5),
    ):
        args = _of_values(_args(draw, mask_of(6, 3, 4), gamma, lam))
        yield _returns("recursion", "with other γ and λ", args)
    paid = _args(draw, mask_of(5, 5), draw.number(0.6, 0.95), draw.number(0.3, 0.9))
    paid["kl_penalties"] = torch.zeros(2, 5)
    yield _returns("recursion", "with a reward at the end, and other γ and λ", paid)
    large = _of_values(_args(draw, mask_of(6, 3, 4), 0.9, 0.5))
    large["values"] = large["values"] * 30
    yield _returns("recursion", "with large values", large)


def _whitening(draw: Draw) -> Iterator[Call]:
    for lengths in (mask_of(5, 5, 5), mask_of(6, 2, 4, 1), mask_of(4, 0, 5)):
        args = _of_values(_args(draw, lengths, 1.0, 1.0))
        args["values"] = (args["values"] * 64).round() / 64  # exact in float32, as the 0 below has to be
        args["values"][0, 1] = 0  # a raw advantage of 0 is one too
        yield Call("whitening", "of several responses", args, ("advantages",))
    outlier = _of_values(_args(draw, mask_of(20, 20), 1.0, 1.0))
    outlier["values"][0, 3] = 100  # more than six standard deviations from the mean
    yield Call("whitening", "of which one is far from all others", outlier, ("advantages",))
    small = _of_values(_args(draw, mask_of(5, 3, 4), 1.0, 1.0))  # as of a task that is nearly solved
    deviation = small["values"][small["response_mask"].bool()].std(correction=0)
    small["values"] = small["values"] / deviation / 500  # an eps of 1e-8 beside it or in its root is as good
    yield Call("whitening", "that differ by little", small, ("advantages",), tolerance=2e-3)
    for gamma, lam in ((draw.number(0.6, 0.95), draw.number(0.3, 0.9)), (1.0, 0.0)):
        args = _args(draw, mask_of(6, 3, 4), gamma, lam)
        yield Whitening("whitening", "with other γ and λ", args, ("advantages",))
    one = _args(draw, mask_of(1), 1.0, 1.0)
    yield Call("whitening", "of a batch of one token", one, ("advantages",))


def _masking(draw: Draw) -> Iterator[Call]:
    for lengths in (mask_of(6, 2, 4), mask_of(1, 1, width=3), mask_of(4, 0, 5)):
        args = _of_values(_poisoned(draw, lengths, 1.0, 0.5))  # with λ = 1 the returns would be 0
        yield _returns("masking", "with other numbers on the padding", args)
        yield Call("masking", "on the padding", args, ("advantages",), at={"advantages": 1 - lengths})


def _no_gradient(draw: Draw) -> Iterator[Call]:
    lengths = mask_of(4, 2, 0, 1)
    args = _poisoned(draw, lengths, 0.9, 0.8)
    args["final_rewards"][3] = 0  # in which column it is paid is asked elsewhere
    args["kl_penalties"][3] = args["kl_penalties"][3].abs()  # so is what becomes of one below 0
    of_one_token = torch.zeros_like(lengths).index_fill(0, torch.tensor(3), 1)  # the row where no other slip shows
    for argument in ("values", "kl_penalties"):
        args[argument] = args[argument].where((lengths + 1 - of_one_token).bool(), 0)
    for argument in ("values", "kl_penalties", "final_rewards"):
        yield Call(
            "no_gradient",
            "of a response of one token",
            args,
            ("returns",),
            wrt=argument,
            at={"returns": lengths * of_one_token},
            unchanged=True,
            typed=True,
            no_gradient=("advantages", "returns"),
        )


class Whitening(Call):
    """Whether advantages are right, or what the submission's own returns say: a slip of the recursion's costs no point
    here, and neither does one of the returns'."""

    def problem(self, told: dict, tensors: dict[str, Tensor], reference, source: str) -> str:
        problem = super().problem(told, tensors, reference, source)
        if not problem.startswith("wrong advantages"):
            return problem
        mask = self.args["response_mask"].bool()
        advantages, returns = (tensors[f"out{index}"][mask].double() for index in (0, 1))
        raw = returns - self.args["values"][mask].double()
        white = (raw - raw.mean()) / (raw.var(correction=0) + 1e-8).sqrt()
        return "" if close(advantages, white, 1e-3) else problem


def _returns(criterion: str, situation: str, args: dict) -> Call:
    return Call(criterion, situation, args, ("returns",), at={"returns": args["response_mask"]})


def _args(draw: Draw, mask: Tensor, gamma: float, lam: float) -> dict:
    return dict(
        final_rewards=torch.where(draw.either(len(mask)) > 0, 1.0, 0.1) + draw.uniform(0, 0.3, len(mask)),
        kl_penalties=(draw.normal(*mask.shape) * 0.2) * mask,
        values=draw.normal(*mask.shape) * mask,
        response_mask=mask,
        gamma=gamma,
        lam=lam,
    )


def _of_values(args: dict) -> dict:
    """The arguments with nothing paid but to a response without tokens, and nothing charged: so that a slip in the
    rewards costs no other criterion."""
    mask = args["response_mask"]
    paid = args["final_rewards"].where(mask.sum(1) == 0, 0)
    return args | {"final_rewards": paid, "kl_penalties": args["kl_penalties"].where(mask == 0, 0)}


def _poisoned(draw: Draw, mask: Tensor, gamma: float, lam: float) -> dict:
    args = _args(draw, mask, gamma, lam)
    return args | {name: draw.padded(args[name], mask) for name in ("kl_penalties", "values")}
