"""Exercise 1: compute_policy_loss."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autograder.rubrics import PADDED, Call, Draw, mask_of
from course_utils.worked_example import arguments_of

HINTS = {"worked_example": 2, "clipping": 1, "masking": 2, "gradient": 3, "metrics": 2}


def cases(draw: Draw) -> list[Call]:
    return [*_worked_example(draw), *_clipping(draw), *_masking(draw), *_gradient(draw), *_metrics(draw)]


def _worked_example(draw: Draw) -> Iterator[Call]:
    by_hand = arguments_of("policy_loss")
    lengths = mask_of(7, 3, 1, 5)
    yield Call("worked_example", "in the worked example", by_hand, ("loss",), unchanged=True, typed=True)
    yield Call(
        "worked_example",
        "for other responses of unequal length",
        _args(draw, lengths),
        ("loss",),
        unchanged=True,
        typed=True,
    )


def _clipping(draw: Draw) -> Iterator[Call]:
    for ratio, advantage, words in (
        (1.6, 1, "far above 1, A > 0"),
        (0.4, 1, "far below 1, A > 0"),
        (0.4, -1, "far below 1, A < 0"),
        (1.6, -1, "far above 1, A < 0"),
        (0.01, 1, "very small, A > 0"),  # where nothing may be clipped, however far it is
        (500.0, -12, "very large, A < 0"),  # an advantage beyond 5, whatever is drawn
    ):
        args = _args(draw, mask_of(1), far=False)
        args["log_probs_new"] = args["log_probs_old"] + torch.tensor(ratio).log() * draw.number(0.9, 1.1)
        args["advantages"] = (args["advantages"].abs() + 0.5) * advantage
        yield Call("clipping", f"for a token whose ratio is {words}", args, ("loss",))
    for clip_ratio in (0.1, draw.number(0.15, 0.35)):
        yield Call(
            "clipping",
            "for ratios on both sides and another clip_ratio",
            _args(draw, mask_of(6, 6, 6), clip_ratio),
            ("loss",),
        )


def _masking(draw: Draw) -> Iterator[Call]:
    for lengths in PADDED:
        yield Call(
            "masking",
            "with other numbers on the padding",
            _args(draw, lengths, far=False, poison=True),
            ("loss", "gradient"),
            wrt="log_probs_new",
        )


def _gradient(draw: Draw) -> Iterator[Call]:
    clipped = _args(draw, mask_of(6, 6))
    _at_ratios(clipped, 1.6, 0.4, 0.4, 1.6)  # no draw may leave out the two that clipping holds
    clipped["advantages"][0, :4] = clipped["advantages"][0, :4].abs() * torch.tensor([1.0, -1.0, 1.0, -1.0])
    yield Call("gradient", "for tokens with and without clipping", clipped, ("gradient",), wrt="log_probs_new")


def _metrics(draw: Draw) -> Iterator[Call]:
    for lengths in (mask_of(6, 6), mask_of(7, 2, 4, 1)):
        yield Call(
            "metrics",
            "for ratios on both sides",
            _args(draw, lengths, poison=True),
            ("clip_frac", "approx_kl"),
            wrt="log_probs_new",
            no_gradient=("clip_frac", "approx_kl"),
        )
    wider = _args(draw, mask_of(4), 0.3)
    _at_ratios(wider, 1.25, 0.75, 1.1, 0.4)  # mostly below 1: approx_kl is above 0
    yield Call("metrics", "for another clip_ratio", wider, ("clip_frac", "approx_kl"))
    near = _args(draw, mask_of(4))
    _at_ratios(near, 0.81, 1.215, 1.215, 1.0)  # of the logarithms, -0.21 and twice 0.195, others are beyond 0.2
    # Mostly above 1: it is below 0, as an estimate may be.
    yield Call("metrics", "for ratios near the ends of the range", near, ("clip_frac", "approx_kl"))


def _at_ratios(args: dict, *ratios: float) -> None:
    """Gives the first tokens of the first response these ratios."""
    at = 0, slice(len(ratios))
    args["log_probs_new"][at] = args["log_probs_old"][at] + torch.tensor(ratios).log()


def _args(draw: Draw, mask: Tensor, clip_ratio: float = 0.2, far: bool = True, poison: bool = False) -> dict:
    """`far`: half of the ratios lie outside the range, none within a hundredth of its ends."""
    old = -draw.uniform(0.1, 6, *mask.shape)
    inside = 1 + draw.uniform(-0.8, 0.8, *mask.shape) * clip_ratio
    outside = torch.where(
        draw.either(*mask.shape) > 0,
        draw.uniform(1.02 + clip_ratio, 2.9, *mask.shape),
        draw.uniform(0.05, 0.98 - clip_ratio, *mask.shape),
    )
    ratio = torch.where(draw.either(*mask.shape) > 0, inside, outside) if far else inside
    new, advantages = old + ratio.log(), draw.normal(*mask.shape) + 0.3
    if poison:  # log-probabilities: not above 0
        new, old, advantages = (
            draw.padded(new, mask, -50, 0),
            draw.padded(old, mask, -50, 0),
            draw.padded(advantages, mask),
        )
    return dict(log_probs_new=new, log_probs_old=old, advantages=advantages, response_mask=mask, clip_ratio=clip_ratio)
