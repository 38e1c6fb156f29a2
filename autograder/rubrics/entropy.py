"""Exercise 3: compute_entropy_loss."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autograder.rubrics import PADDED, Call, Draw, mask_of
from course_utils.worked_example import arguments_of

HINTS = {"worked_example": 2, "masking": 2, "stability": 2, "gradient": 3}


def cases(draw: Draw) -> list[Call]:
    return [*_worked_example(draw), *_masking(draw), *_stability(draw), *_gradient(draw)]


def _worked_example(draw: Draw) -> Iterator[Call]:
    by_hand = arguments_of("entropy")
    yield Call("worked_example", "in the worked example", by_hand, ("loss",), unchanged=True)
    yield Call(
        "worked_example",
        "for other responses of unequal length",
        _args(draw, mask_of(7, 3, 1, 5), 11),
        ("loss",),
        unchanged=True,
    )
    yield Call("worked_example", "for a larger vocabulary", _args(draw, mask_of(4, 4), 300), ("loss",))


def _masking(draw: Draw) -> Iterator[Call]:
    for lengths in PADDED:
        args = _args(draw, lengths, 9)
        args["logits_new"] = draw.padded(args["logits_new"], lengths)
        yield Call("masking", "with other numbers on the padding", args, ("loss", "gradient"), wrt="logits_new")


def _stability(draw: Draw) -> Iterator[Call]:
    huge = draw.either(2, 3, 8) * 1e4
    huge[0, 0] = -1e4  # all alike: the entropy is ln 8
    huge[0, 1, 1:], huge[0, 1, 0] = 0.0, 1e4
    yield Call(
        "stability",
        "for logits of ±10,000",
        dict(logits_new=huge, response_mask=mask_of(3, 3)),
        ("loss", "gradient"),
        wrt="logits_new",
        tolerance=2e-3,
    )
    near = dict(
        logits_new=draw.either(2, 3, 1) * 1e4 + draw.whole(-2, 2, 2, 3, 8),
        response_mask=mask_of(3, 3),
    )
    words = "for logits near ±10,000 that differ by little"
    yield Call("stability", words, near, ("loss", "gradient"), wrt="logits_new", tolerance=2e-3)
    shifted = _args(draw, mask_of(3, 2), 7)
    shifted["logits_new"] = shifted["logits_new"] + draw.either(2, 3, 1) * draw.uniform(60, 100, 2, 3, 1)
    yield Call(
        "stability",
        "for logits that are all far from 0",
        shifted,
        ("loss", "gradient"),
        wrt="logits_new",
        typed=True,
    )
    sure = torch.zeros(1, 1, 50_000)
    sure[..., int(draw.whole(0, 49_999, 1))] = draw.number(28, 32)
    args, words = dict(logits_new=sure, response_mask=mask_of(1)), "for a token that is nearly sure, of many"
    yield Call("stability", words, args, ("loss",), tolerance=1e-3)
    for dtype in (torch.bfloat16, torch.float16):
        alike = dict(logits_new=torch.zeros(1, 1, 1000, dtype=dtype), response_mask=mask_of(1))  # rounding shows
        yield Call("stability", "for logits in half precision that are all alike", alike, ("loss",))
        args = _args(draw, mask_of(5, 2), 200)
        args["logits_new"] = args["logits_new"].to(dtype)
        words = f"for {str(dtype).removeprefix('torch.')} logits"
        yield Call("stability", words, args, ("loss",), typed=True)


def _gradient(draw: Draw) -> Iterator[Call]:
    for lengths in (mask_of(4, 4), mask_of(3, 1)):
        yield Call(
            "gradient",
            "for the logits of response tokens",
            _args(draw, lengths, 6),
            ("gradient",),
            wrt="logits_new",
        )


def _args(draw: Draw, mask: Tensor, vocabulary: int) -> dict:
    return dict(logits_new=draw.normal(*mask.shape, vocabulary) * 2, response_mask=mask)
