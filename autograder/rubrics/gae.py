"""Exercise 4: compute_gae_advantages."""

import torch
from torch import Tensor

from autograder.rubrics import Call, Draw, mask_of
from course_utils.worked_example import worked_example


def cases(draw: Draw) -> list[Call]:
    example = worked_example()
    by_hand = dict(
        final_rewards=example.final_rewards,
        kl_penalties=example.kl_penalties,
        values=example.values_old,
        response_mask=example.response_mask,
        gamma=example.gamma,
        lam=example.lam,
    )
    found = []
    for lengths in (mask_of(5, 5), mask_of(6, 2, 4, 1)):
        found.append(_returns("token_rewards", "with γ = λ = 1", _args(draw, lengths, 1.0, 1.0), 1))
    found.append(_returns("recursion", "in the worked example", by_hand, 2))
    for gamma, lam in (
        (draw.number(0.6, 0.95), draw.number(0.3, 0.9)),
        (draw.number(0.6, 0.95), 0.0),
        (draw.number(0.6, 0.95), 1.0),
        (1.0, draw.number(0.3, 0.9)),
        (0.0, 0.5),
    ):
        found.append(_returns("recursion", "with other γ and λ", _args(draw, mask_of(6, 3, 4), gamma, lam), 2))
    for lengths in (mask_of(5, 5, 5), mask_of(6, 2, 4, 1), mask_of(4, 0, 5)):
        found.append(Call("whitening", "of several responses", _args(draw, lengths, 1.0, 1.0), ("advantages",), 3))
    one = _args(draw, mask_of(1), 1.0, 1.0)
    found.append(Call("whitening", "of a batch of one token", one, ("advantages",), 3))
    for lengths in (mask_of(6, 2, 4), mask_of(1, 1, width=3), mask_of(4, 0, 5)):
        args = _poisoned(draw, lengths, 1.0, 1.0)
        found.append(_returns("masking", "with other numbers on the padding", args, 2))
        found.append(Call("masking", "on the padding", args, ("advantages",), 2, at={"advantages": 1 - lengths}))
    args = _poisoned(draw, mask_of(4, 2, 0), 0.9, 0.8)
    for argument in ("values", "kl_penalties"):
        found.append(
            Call("no_gradient", "", args, (), 3, wrt=argument, unchanged=True, no_gradient=("advantages", "returns"))
        )
    return found


def _returns(criterion: str, situation: str, args: dict, hint: int) -> Call:
    return Call(criterion, situation, args, ("returns",), hint, at={"returns": args["response_mask"]})


def _args(draw: Draw, mask: Tensor, gamma: float, lam: float) -> dict:
    return dict(
        final_rewards=torch.where(draw.either(len(mask)) > 0, 1.0, 0.1) + draw.uniform(0, 0.3, len(mask)),
        kl_penalties=(draw.normal(*mask.shape) * 0.2) * mask,
        values=draw.normal(*mask.shape) * mask,
        response_mask=mask,
        gamma=gamma,
        lam=lam,
    )


def _poisoned(draw: Draw, mask: Tensor, gamma: float, lam: float) -> dict:
    args = _args(draw, mask, gamma, lam)
    return args | {name: draw.padded(args[name], mask) for name in ("kl_penalties", "values")}
