"""Criteria of exercise 2, compute_value_loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.worked_example import arguments_of


def worked_example(function: Callable) -> None:
    """the loss of the two responses worked out by hand"""
    loss, _ = _call(function, *_arguments())
    assert loss.dtype == torch.float32, f"the loss has dtype {loss.dtype}; float32 in must give float32 out."
    advice = "Compare your squared errors with the table above, token by token. Hint 2 lists the steps."
    rows_picked = (6 * (0.025 + 2 * 18**2) + 2 * 0.12) / 64  # row 1 six times, row 0 twice, of four errors each
    slips = {
        0.145 / 6: "The factor ½ is missing. See hint 2.",
        0.145 / 2: "You summed; divide by the number of response tokens, 6. See hint 2.",
        0.145 / 4: "You divided by the 2 responses; divide by the 6 response tokens. See hint 2.",
        0.145 / 16: "You divided by all 8 positions; padding does not count, so divide by the mask's sum. See hint 2.",
        (0.145 + 2 * 18**2) / 16: "Padding counts in yours: multiply the errors by response_mask. See hint 2.",
        (0.145 + 2 * 18**2) / 12: "Padding counts in yours: multiply the errors by response_mask. See hint 2.",
        -0.145 / 12: "Only the sign is wrong: the loss is to be minimised. See hint 2.",
        0.145 / 24: "The factor ½ is there twice. See hint 2.",
        0.0425 / 4: "This is the mean of each response's mean; every response token weighs the same. See hint 2.",
        rows_picked: "You index with the mask: it holds whole numbers, so that picks rows 0 and 1. Multiply by it, or "
        "index with response_mask == 1. See hint 2.",
        0.135 / 12: "This equals the loss without clipping: your clip has no effect on this mean. See hint 1.",
        # A fifth of the old value on both sides: .0324 + .09 + .0484 + .01 and .0225 + .0441.
        0.2474 / 12: "Your range grows with the old value. It is c on both sides, whatever the value. See hint 1.",
        0.115 / 12: "You took the clipped error everywhere; it counts only where it is the larger. See hint 1.",
        0.105 / 12: "You took the smaller of the two errors; the loss is the larger, the pessimistic one. See hint 1.",
    }
    # The larger squared errors .01 + .09 + .01 + .01 and .0225 + .0025 add up to .145.
    expect.close("loss", loss, 0.145 / 12, advice, slips)
    *tensors, mask, clip_range = _arguments()
    large = [torch.where(mask == 1, 100 * tensor, tensor) for tensor in tensors]
    loss, _ = _call(function, *large, mask, 100 * clip_range)
    expect.close(
        "loss where values, returns and the range are 100 times as large",
        loss,
        1e4 * 0.145 / 12,
        "Errors are squared, so it is 10,000 times as large: set no bounds on values, returns or errors. See hint 2.",
    )


def clipping(function: Callable) -> None:
    """a value that moved too far from the old one is clipped, if that makes the error larger"""
    cases = (  # v, old value, return, target loss (the range is ½), which case it is
        (1.2, 1.0, 2.0, 0.32, "inside the range nothing is clipped: ½ (1.2 − 2)²"),
        (2.5, 1.0, 3.0, 1.125, "v moved up by 1.5, so v_clipped = 1.5, and ½ (1.5 − 3)² is the larger"),
        (3.0, 1.0, 2.0, 0.5, "v overshot: v_clipped = 1.5, but ½ (3 − 2)² is the larger, not clipped"),
        (-0.5, 1.0, -1.0, 1.125, "v moved down by 1.5, so v_clipped = 0.5, and ½ (0.5 + 1)² is the larger"),
        (-1.0, 1.0, 0.0, 0.5, "v overshot below: v_clipped = 0.5, but ½ (−1 − 0)² is the larger, not clipped"),
        (3.5, 2.0, 4.0, 1.125, "v moved up by 1.5 from 2, so v_clipped = 2.5, and ½ (2.5 − 4)² is the larger"),
        (-3.5, -2.0, -4.0, 1.125, "v moved down by 1.5 from −2, so v_clipped = −2.5, and ½ (−2.5 + 4)² is the larger"),
    )
    for value, old, target_return, target, which in cases:
        loss, _ = _call(
            function,
            torch.full((1, 1), value),
            torch.full((1, 1), old),
            torch.full((1, 1), target_return),
            torch.ones(1, 1, dtype=torch.long),
            0.5,
        )
        what = f"loss of one token with v = {value}, old value {old:g}, return {target_return}, range 0.5"
        expect.close(what, loss, target, f"Here {which}. The clip is around values_old, on both sides. See hint 1.")


def masking(function: Callable) -> None:
    """what stands on padding changes nothing"""
    arguments = _arguments()
    padding = arguments[3] == 0
    clean = _call(function, *arguments)
    # In the last the clipped error is the larger.
    for new, old, target_return in ((50.0, -50.0, -50.0), (-50.0, 0.0, 50.0), (50.0, 50.0, -50.0), (50.0, 0.0, 50.0)):
        dirty = [
            tensor.masked_fill(padding, junk)
            for tensor, junk in zip(arguments[:3], (new, old, target_return), strict=True)
        ]
        dirty[0].requires_grad_()
        results = _call(function, *dirty, *arguments[3:])
        for name, yours, before in zip(("loss", "vf_clip_frac"), results, clean, strict=True):
            expect.unchanged(name, yours, before, expect.MASK_EACH)
        grad = expect.gradient(results[0], dirty[0], "See hint 3.")
        expect.close("gradient on the padding", grad[padding], [0.0, 0.0], expect.MASK_FIRST)


def gradient(function: Callable) -> None:
    """the gradient reaches values_new, and is 0 where clipping binds"""
    new, *others = _arguments()
    loss, _ = _call(function, new.requires_grad_(), *others)
    grad = expect.gradient(
        loss, new, "Compute both errors from values_new itself: no .detach(), no torch.no_grad(). See hint 3."
    )
    # (v - R) / 6 where the unclipped error is the larger, 0 where the clipped one is.
    target = [[0.1 / 6, -0.3 / 6, 0, -0.1 / 6], [-0.15 / 6, 0, 0, 0]]
    expect.close(
        "gradient by values_new",
        grad,
        target,
        "It is 0 for a clipped token and (v − R) / 6 for any other: let torch.clamp and torch.max do it. See hint 3.",
    )


def metrics(function: Callable) -> None:
    """vf_clip_frac, without gradient"""
    new, *others = _arguments()
    _, frac = _call(function, new.requires_grad_(), *others)
    expect.close(
        "vf_clip_frac",
        frac,
        2 / 6,
        "It is the share of response tokens whose clipped error is the larger. See hint 2.",
        {
            4 / 6: "Count where the clipped error is the larger: not wherever the value left the "
            "range, and not where both errors are equal. See hint 2.",
            2 / 8: "You divided by all 8 positions; divide by the 6 response tokens. See hint 2.",
        },
    )
    expect.no_gradient("vf_clip_frac", frac, "It is only for the log: use .detach(). See hint 3.")
    # A value that moved from 0 to 2, with a range of 1: the clipped one is further from 4, 3, 3, but nearer to 0.
    returns, zeros = torch.tensor([[4.0, 3.0, 3.0, 0.0]]), torch.zeros(1, 4)
    _, frac = _call(function, zeros + 2, zeros, returns, torch.ones(1, 4, dtype=torch.long), 1.0)
    expect.close(
        "vf_clip_frac where the clipped error is the larger for three tokens of four",
        frac,
        3 / 4,
        "Count where the clipped error is the larger, not where it is the smaller. See hint 2.",
    )
    # Whole numbers, so that `old + clamp(new - old)` is exact too: rounding is nobody's mistake.
    old = torch.arange(8.0).unsqueeze(0)
    _, frac = _call(function, old + 3, old, old + 10, torch.ones_like(old).long(), 5.0)
    expect.close(
        "vf_clip_frac where no value left the range",
        frac,
        0.0,
        "There both errors are equal, and equal errors do not count as larger. See hint 2.",
    )


CRITERIA = (worked_example, clipping, masking, gradient, metrics)


def _arguments() -> tuple:
    return tuple(arguments_of("value_loss").values())


def _call(function: Callable, *args) -> tuple[Tensor, ...]:
    return expect.scalars(expect.call(function, *args), "loss", "vf_clip_frac")
