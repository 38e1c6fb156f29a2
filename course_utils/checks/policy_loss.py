"""Criteria of exercise 1, compute_policy_loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.worked_example import arguments_of


def worked_example(function: Callable) -> None:
    """the loss of the two responses worked out by hand"""
    loss, _, _ = _call(function, *_arguments())
    assert loss.dtype == torch.float32, f"the loss has dtype {loss.dtype}; float32 in must give float32 out."
    advice = "Compare your ratios and products with the table above, token by token. Hint 2 lists the steps."
    rows_picked = (6 * 2.3 - 2 * 2.2125) / 32  # row 1 six times, row 0 twice, of four products each
    slips = {
        -0.0875 / 6: "Only the sign is wrong: an optimizer minimises, so the loss is minus the objective. See hint 1.",
        0.0875: "You summed; divide by the number of response tokens, 6. See hint 2.",
        0.0875 / 2: "You divided by the 2 responses; divide by the 6 response tokens. See hint 2.",
        0.0875 / 8: "You divided by all 8 positions; padding does not count, so divide by the mask's sum. See hint 2.",
        0.2984375: "You averaged each response, then the responses; here every response token weighs the "
        "same. See hint 2.",
        -0.25 / 6: "This is the loss without clipping. See hint 1.",
        -0.15 / 6: "You took the clipped term everywhere; it counts only where it is the smaller. See hint 1.",
        -0.4875 / 6: "You took the larger of the two terms; the objective is the smaller, the pessimistic "
        "one. See hint 1.",
        rows_picked: "You index with the mask: it holds whole numbers, so that picks rows 0 and 1. Multiply by it, or "
        "index with response_mask == 1. See hint 2.",
        0.95 / 6: "Your ratio is upside down: it is new over old, exp(new - old). See hint 2.",
    }
    # .9 + .375 + 1.25 - .3125 and -.8 - 1.5 add up to -.0875, over 6 tokens; the loss is minus that.
    expect.close("loss", loss, 0.0875 / 6, advice, slips)


def clipping(function: Callable) -> None:
    """gains are capped at 1 + ε and 1 − ε, corrections never"""
    cases = (  # ratio, advantage, clip_ratio, target loss, which case it is
        (1.1, 2.0, 0.2, -2.2, "inside the range nothing is clipped"),
        (1.5, 2.0, 0.2, -2.4, "A > 0, the ratio is above 1 + ε: no more to gain, so 1.2 · 2"),
        (0.5, 2.0, 0.2, -1.0, "A > 0, the ratio is below 1 − ε: 0.5 · 2 is less than 0.8 · 2, not clipped"),
        (0.5, -2.0, 0.2, 1.6, "A < 0, the ratio is below 1 − ε: no more to gain, so 0.8 · (−2)"),
        (1.5, -2.0, 0.2, 3.0, "A < 0, the ratio is above 1 + ε: −1.5 · 2 is less than −1.2 · 2, not clipped"),
        (500.0, -9.0, 0.2, 4500.0, "A < 0, the ratio is far above 1: the loss grows with it and with −A, however far"),
        (1.15, 2.0, 0.1, -2.2, "the range is 1 ± clip_ratio, whatever clip_ratio is given"),
    )
    for ratio, advantage, clip_ratio, target, which in cases:
        old = torch.full((1, 1), -1.5)
        loss, _, _ = _call(
            function,
            old + math.log(ratio),
            old,
            torch.full((1, 1), advantage),
            torch.ones(1, 1, dtype=torch.long),
            clip_ratio,
        )
        what = f"loss of one token with ratio {ratio}, advantage {advantage}, ε = {clip_ratio}"
        expect.close(
            what,
            loss,
            target,
            f"Here {which}. The minimum is between r · A and clip(r) · A, not between ratios. See hint 1.",
            {0.0: "The advantage was lost: a single one less its mean is 0. They come whitened; use them as they are."},
        )


def masking(function: Callable) -> None:
    """padding, and a response without tokens, change nothing; one of a single token counts as one"""
    arguments = _arguments()
    padding = arguments[3] == 0
    clean = _call(function, *arguments)
    for new, old, advantage in ((0.0, -50.0, -50.0), (-50.0, 0.0, 50.0)):
        dirty = [
            tensor.masked_fill(padding, junk) for tensor, junk in zip(arguments[:3], (new, old, advantage), strict=True)
        ]
        dirty[0].requires_grad_()
        results = _call(function, *dirty, *arguments[3:])
        for name, yours, before in zip(("loss", "clip_frac", "approx_kl"), results, clean, strict=True):
            expect.unchanged(name, yours, before, expect.MASK_EACH)
        grad = expect.gradient(results[0], dirty[0], "See hint 3.")
        expect.close("gradient on the padding", grad[padding], [0.0, 0.0], expect.MASK_FIRST)
    # The third response repeats A, but its mask has no token; or only the first, of ratio 1 and advantage 0.75.
    three = [torch.cat([tensor, tensor[:1]]) for tensor in arguments[:4]]
    three[3][2] = 0
    advice = "Divide one sum over the batch by the mask's sum, not each response by its own. See hint 2."
    for name, yours, before in zip(
        ("loss", "clip_frac", "approx_kl"), _call(function, *three, arguments[4]), clean, strict=True
    ):
        expect.close(f"{name} beside a response without tokens", yours, before.detach(), advice)
    three[3][2, 0], three[0][2] = 1, three[1][2]
    together = (6 * clean[0].detach() - 0.75) / 7
    expect.close("loss beside a response of a single token", _call(function, *three, arguments[4])[0], together, advice)


def gradient(function: Callable) -> None:
    """the gradient reaches log_probs_new, and is 0 where clipping binds"""
    new, *others = _arguments()
    loss, _, _ = _call(function, new.requires_grad_(), *others)
    grad = expect.gradient(
        loss,
        new,
        "Compute the ratio from log_probs_new itself: no .detach(), no .item(), no torch.no_grad(). See hint 3.",
    )
    # -A r / 6 where r A is the smaller term, 0 where the clipped one is.
    target = [[0, -0.75 * 0.5 / 6, -1.25 / 6, 0.25 * 1.25 / 6], [0, 1.5 / 6, 0, 0]]
    expect.close(
        "gradient by log_probs_new",
        grad,
        target,
        "It is 0 for a clipped token and −A · r / 6 for others: let torch.clamp and torch.min do it. See hint 3.",
    )


def metrics(function: Callable) -> None:
    """clip_frac and approx_kl, both without gradient"""
    new, *others = _arguments()
    _, clip_frac, approx_kl = _call(function, new.requires_grad_(), *others)
    all_positions = "You divided by all 8 positions; divide by the 6 response tokens. See hint 2."
    # Ratios 1.25, .5, 1, 1.25 and .5, 1: four of six are further than .2 from 1.
    expect.close(
        "clip_frac",
        clip_frac,
        4 / 6,
        "It is the share of response tokens with |r − 1| > ε. See hint 3.",
        {
            2 / 6: "Count every response token with |r − 1| > ε: on both sides, whether or not "
            "clipping changed its loss. See hint 3.",
            4 / 8: all_positions,
        },
    )
    # The logarithms of .81 and 1.215 are -.211 and .195.
    near, zeros = torch.tensor([[0.81, 1.215, 1.215, 1.0]]).log(), torch.zeros(1, 4)
    _, frac, below_0 = _call(function, near - 1, zeros - 1, zeros, torch.ones(1, 4, dtype=torch.long), 0.2)
    expect.close(
        "clip_frac of the ratios 0.81, 1.215, 1.215 and 1",
        frac,
        2 / 4,
        "Only 1.215 is further than ε = 0.2 from 1, twice. See hint 3.",
        {1 / 4: "You compare the logarithm of the ratio with ε; it is |r − 1| that counts. See hint 3."},
    )
    _, frac, _ = _call(function, near - 1, zeros - 1, zeros, torch.ones(1, 4, dtype=torch.long), 0.1)
    expect.close(
        "clip_frac of the same ratios with ε = 0.1", frac, 3 / 4, "The range is 1 ± clip_ratio, as given. See hint 2."
    )
    kl = -2 * (math.log(1.25) + math.log(0.5)) / 6  # minus the mean of the log-ratios
    expect.close(
        "approx_kl",
        approx_kl,
        kl,
        "It is the mean of old − new over the response tokens. See hint 1.",
        {
            -kl: "The sign: it is old − new. See hint 1.",
            kl * 6 / 8: all_positions,
            0.0883743: "This is k2, half the squared log-ratio; k1 is the mean of old − new. See hint 1.",
            0.0733346: "This is k3, r − 1 − log r; k1 is the mean of old − new. See hint 1.",
        },
    )
    expect.close(
        "approx_kl of the same ratios",
        below_0,
        -(math.log(0.81) + 2 * math.log(1.215)) / 4,
        "An estimate of the KL may be below 0, where most tokens have become likelier: leave its sign. See hint 1.",
    )
    for name, metric in (("clip_frac", clip_frac), ("approx_kl", approx_kl)):
        expect.no_gradient(name, metric, "It is only for the log: use .detach(). See hint 3.")


CRITERIA = (worked_example, clipping, masking, gradient, metrics)


def _arguments() -> tuple:
    return tuple(arguments_of("policy_loss").values())


def _call(function: Callable, *args) -> tuple[Tensor, ...]:
    return expect.scalars(expect.call(function, *args), "loss", "clip_frac", "approx_kl")
