"""Exercise 2: compute_value_loss."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autograder.rubrics import PADDED, Call, Draw, Telling, mask_of
from course_utils.worked_example import arguments_of

HINTS = {"worked_example": 2, "clipping": 1, "masking": 2, "gradient": 3, "metrics": 2}


def cases(draw: Draw) -> list[Call]:
    return [*_worked_example(draw), *_clipping(draw), *_masking(draw), *_gradient(draw), *_metrics(draw)]


def _worked_example(draw: Draw) -> Iterator[Call]:
    by_hand = arguments_of("value_loss")
    yield Call("worked_example", "in the worked example", by_hand, ("loss",), unchanged=True, typed=True)
    yield Call(
        "worked_example",
        "for other responses of unequal length",
        _args(draw, mask_of(7, 3, 1, 5)),
        ("loss",),
        unchanged=True,
        typed=True,
    )
    far = {name: 30 * arg if name != "response_mask" else arg for name, arg in _args(draw, mask_of(4, 2)).items()}
    far["returns"] = far["values_old"] + draw.either(2, 4) * 60
    _place(far, 0, (45.0, 60.0), (45.0, -60.0))  # of one the clipped error is the larger, of one the plain one
    yield Call("worked_example", "for values far from their returns", far, ("loss",))


def _clipping(draw: Draw) -> Iterator[Call]:
    for move, target, words in (
        (1.5, 3.0, "moved up, towards a higher return"),
        (1.5, 0.6, "overshot its return"),
        (-1.5, -3.0, "moved down, towards a lower return"),
        (-1.5, -0.6, "overshot its return, downwards"),
    ):
        old, by = draw.normal(1, 1), draw.number(0.9, 1.1)
        args = dict(
            values_new=old + move * by,
            values_old=old,
            returns=old + target * by,
            response_mask=mask_of(1),
            clip_range_value=0.5,
        )
        yield Call("clipping", f"for a value that {words}", args, ("loss",))
    for clip_range in (0.1, draw.number(0.3, 0.6)):
        yield Call(
            "clipping",
            "for values in and out of another range",
            _args(draw, mask_of(6, 6, 6), clip_range),
            ("loss",),
        )
    # Around a finite return clipping never acts, as each clipped error is the smaller: only inf tells the two apart.
    zero = torch.zeros(1, 1)
    endless = dict(
        values_new=zero, values_old=zero, returns=zero + torch.inf, response_mask=mask_of(1), clip_range_value=0.5
    )
    yield Telling("clipping", "for an infinite return", endless, ())


def _masking(draw: Draw) -> Iterator[Call]:
    for lengths in PADDED:
        yield Call(
            "masking",
            "with other numbers on the padding",
            _args(draw, lengths, far=False, poison=True),
            ("loss", "gradient"),
            wrt="values_new",
        )


def _gradient(draw: Draw) -> Iterator[Call]:
    clipped = _args(draw, mask_of(6, 6))
    _place(clipped, 0, (1.5, 3.0), (-1.5, -3.0), (1.5, 0.5))  # the clip binds for the first two, whatever is drawn
    yield Call("gradient", "for tokens with and without clipping", clipped, ("gradient",), wrt="values_new")


def _metrics(draw: Draw) -> Iterator[Call]:
    some = _args(draw, mask_of(4, 2))
    _place(some, 0, (1.5, 3.0), (-1.5, -3.0), (0, 1.0), (0, -1.0))
    _place(some, 1, (0, 1.0), (0, -1.0), (1.5, 3.0), (1.5, 3.0))  # the last two are padding
    yield Call("metrics", "for a clip that binds at some tokens, and on the padding", some, ("vf_clip_frac",))
    for lengths in (mask_of(6, 6), mask_of(7, 2, 4, 1)):
        yield Call(
            "metrics",
            "for values in and out of the range",
            _args(draw, lengths, 0.25, poison=True),
            ("vf_clip_frac",),
            wrt="values_new",
            no_gradient=("vf_clip_frac",),
        )
    wider = _args(draw, mask_of(4), 0.5)
    _place(wider, 0, (0.375, 1.0), (-0.375, -1.0))
    yield Call("metrics", "for another clip_range_value", wider, ("vf_clip_frac",))


def _place(args: dict, row: int, *tokens: tuple[float, float]) -> None:
    """Gives the first tokens of a response new value and return, as distances from the old value."""
    old = args["values_old"][row]
    for token, (move, target) in enumerate(tokens):
        args["values_new"][row, token], args["returns"][row, token] = old[token] + move, old[token] + target


def _args(draw: Draw, mask: Tensor, clip_range_value: float = 0.25, far: bool = True, poison: bool = False) -> dict:
    """Numbers are multiples of 1/16, so that a range of 1/4 is met without rounding, however it is written. Returns are
    not, or one may lie midway between a value and the clipped one, where torch.max shares the gradient and torch.where
    does not. Old values are 1 to 2 away from 0, so that a range in proportion to them costs the same in every draw."""
    old = draw.either(*mask.shape) * draw.whole(16, 32, *mask.shape) / 16
    within = draw.whole(-3, 3, *mask.shape) / 16
    beyond = draw.either(*mask.shape) * draw.whole(12, 40, *mask.shape) / 16
    new = old + (torch.where(draw.either(*mask.shape) > 0, within, beyond) if far else within * clip_range_value)
    returns = old + draw.whole(-40, 40, *mask.shape) / 16 + 1 / 64
    if poison:
        old, new, returns = (draw.padded(tensor, mask) for tensor in (old, new, returns))
    return dict(values_new=new, values_old=old, returns=returns, response_mask=mask, clip_range_value=clip_range_value)
