"""Criteria of exercise 3, compute_entropy_loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.worked_example import worked_example as new_example

LN2 = math.log(2)


def worked_example(function: Callable) -> None:
    """the loss of the two responses worked out by hand"""
    example = new_example()
    loss = _call(function, example.logits_new, example.response_mask)
    advice = (
        "Compare your entropies with the table above, token by token. The probabilities add up to 1 over the last "
        "dimension, and H is a sum over it. Hint 2 lists the steps."
    )
    slips = {
        11 / 6 * LN2: "Only the sign is wrong: a lower loss must mean more entropy. See hint 1.",
        -11 / 6: "These are bits; use the natural logarithm, which gives nats. See hint 1.",
        -11 / 6 * LN2 / 4: "You averaged over the vocabulary; the entropy is the sum over it. See hint 2.",
        -(7.25 / 4 + 3.75 / 2) / 2 * LN2: "This is the mean of each response's mean; every response token weighs the "
        "same. See hint 2.",
        -11 * LN2: "You summed over the tokens; divide by the number of response tokens, 6. See hint 2.",
        -11 / 2 * LN2: "You divided by the 2 responses; divide by the 6 response tokens. See hint 2.",
        # Nearly sure padding has .002466 nats, twice.
        -(11 * LN2 + 0.004932) / 8: "Padding is averaged in: multiply the entropies by response_mask, and divide their "
        "sum by 6. See hint 2.",
        -11 / 8 * LN2: "You divided by all 8 positions; padding does not count, so divide by the mask's sum. "
        "See hint 2.",
    }
    # Four tokens have 1.75 ln 2 nats, two have 2 ln 2: on average 11/6 ln 2.
    expect.close("loss", loss, -11 / 6 * LN2, advice, slips)


def masking(function: Callable) -> None:
    """what stands on padding changes nothing"""
    for junk in ([0.0, 0.0, 0.0, 0.0], [50.0, -50.0, 0.0, 50.0]):
        example = new_example()
        logits, padding = example.logits_new, example.response_mask == 0
        logits[padding] = torch.tensor(junk)
        logits.requires_grad_()
        loss = _call(function, logits, example.response_mask)
        expect.close(
            f"loss with the logits {junk} on the padding",
            loss,
            -11 / 6 * LN2,
            "Multiply the entropies (B, R) by response_mask before you sum, and divide by the mask's sum. See hint 2.",
        )
        grad = expect.gradient(loss, logits, "See hint 3.")
        expect.close("gradient on the padding", grad[padding], torch.zeros(2, 4), expect.MASK_FIRST)


def stability(function: Callable) -> None:
    """float32 whatever comes in, and finite for logits of ±10,000"""
    cases = ([1e4, -1e4, 0.0, 0.0], 0.0), ([1e4, 1e4, -1e4, -1e4], LN2), ([-1e4] * 4, 2 * LN2)
    for logits, entropy in cases:
        extreme = torch.tensor([[logits]], requires_grad=True)
        loss = _call(function, extreme, torch.ones(1, 1, dtype=torch.long))
        advice = (
            "softmax() underflows to 0 and its log() is −inf: take log_softmax of the logits, and "
            "exp() of that. See hint 2."
        )
        expect.close(f"loss of the logits {logits}", loss, -entropy, advice, tolerance=2e-3)
        grad = expect.gradient(loss, extreme, "See hint 3.")
        assert torch.isfinite(grad).all(), f"the gradient at the logits {logits} is not finite. {advice}"
    apart = torch.tensor([[[0.0] * 4, [200.0] * 4]])
    expect.close(
        "loss of a token with all logits 0 and one with all logits 200",
        _call(function, apart, torch.ones(1, 2, dtype=torch.long)),
        -2 * LN2,
        "What is subtracted from logits must be each token's own: log_softmax does that. See hint 2.",
    )
    sure = torch.zeros(1, 1, 50_000)
    sure[..., 0] = 30
    expect.close(
        "loss of a token that is nearly sure, of 50,000",
        _call(function, sure, torch.ones(1, 1, dtype=torch.long)),
        0.0,
        "The others are e⁻³⁰ likely each, which is next to nothing: set no lower bound on probabilities or "
        "log-probs. log_softmax needs none. See hint 2.",
        tolerance=1e-3,
    )
    for shift in (60.0, -60.0, 1e4, -1e4):
        logits = torch.tensor([[[2.0, 1.0, 0.0, 0.0]]]) * LN2 + shift
        expect.close(
            f"loss of four logits near {shift:g}",
            _call(function, logits, torch.ones(1, 1, dtype=torch.long)),
            -1.75 * LN2,
            "Only the differences of logits count, and log_softmax takes them of any size: leave the logits as they "
            "are. See hint 2.",
            tolerance=2e-3,
        )
    for dtype in (torch.bfloat16, torch.float16):
        loss = _call(function, torch.zeros(1, 1, 1000, dtype=dtype), torch.ones(1, 1, dtype=torch.long))
        assert loss.dtype == torch.float32, (
            f"{dtype} logits give a loss of {loss.dtype}; it must be float32: bfloat16 has two to three "
            "digits. Convert the logits first. See hint 2."
        )
        expect.close(
            f"loss of 1000 equal {dtype} logits",
            loss,
            -math.log(1000),
            "Convert the logits with .float() before anything is computed, not the result after. See hint 2.",
        )


def gradient(function: Callable) -> None:
    """the gradient reaches the logits and flattens the distribution"""
    example = new_example()
    logits = example.logits_new.requires_grad_()
    loss = _call(function, logits, example.response_mask)
    grad = expect.gradient(loss, logits, "Do not detach the logits or the probabilities. See hint 3.")
    # For -H the gradient by logit j is p_j (ln p_j + H); here H is 1.75 ln 2, and there are 6 tokens.
    half, quarter, eighth = (p * (math.log(p) + 1.75 * LN2) / 6 for p in (1 / 2, 1 / 4, 1 / 8))
    target = [eighth, half, quarter, eighth]
    expect.close(
        "gradient by the logits of response A's first token",
        grad[0, 0],
        target,
        "It comes in through the probabilities of p · log p: do not detach them. See hint 3.",
    )
    expect.close(
        "gradient where all four tokens are equally likely",
        grad[0, 1],
        [0.0] * 4,
        "Nothing is flatter than flat: there the gradient is 0. See hint 3.",
    )


CRITERIA = (worked_example, masking, stability, gradient)


def _call(function: Callable, *args) -> Tensor:
    (loss,) = expect.scalars(expect.call(function, *args), "loss")
    return loss
