"""Criteria of exercise 4, compute_gae_advantages."""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.worked_example import arguments_of


def token_rewards(function: Callable) -> None:
    """each token pays its KL penalty, the last response token gets the final reward"""
    # With gamma = lam = 1 a return is the sum of the rewards from its token on, whatever the values are.
    arguments = _arguments(final_rewards=torch.tensor([1.0, 0.5]), gamma=1.0, lam=1.0)
    _, returns = _call(function, *arguments)
    a, b = returns[0], returns[1, :2]
    raw = torch.tensor([0.8, 0.64, 0.48, 0.0, 0.24, 0.25])  # the advantages that these are made of
    whitened = (raw - raw.mean()) / raw.std(correction=0)
    of_whitened = tuple((whitened[:4] + torch.tensor([0.1, 0.2, 0.4, 0.9])).tolist())
    # Rewards of A: .06, -.04, -.02, 1 - .1
    expect.close(
        "returns of response A with γ = λ = 1",
        a,
        [0.9, 0.84, 0.88, 0.9],
        "With γ = λ = 1 a return is the sum of the rewards from its token on. Look at the token rewards first: minus "
        "the penalty, the last one with the final reward on top. If they are right, look at δ = r + γ · next value − "
        "value and at the returns, raw advantages + values. See hint 1 and hint 2.",
        {
            (1.1, 1.16, 1.12, 1.1): "The penalties are added; a penalty is subtracted. See hint 1.",
            (1.0, 1.0, 1.0, 1.0): "The KL penalties are missing. See hint 1.",
            of_whitened: "Returns are the advantages before whitening, plus the values. See hint 2.",
        },
    )
    # Rewards of B: .09, .5 - .05
    expect.close(
        "returns of response B with γ = λ = 1",
        b,
        [0.54, 0.45],
        "B ends at its second token (mask 1, 1, 0, 0): the final reward belongs there, not in the "
        "last column, and nothing comes after it, no value either. See hint 2.",
    )
    # Rewards 1.5, -2, -.5, 30 - 3 and 2, -20 - 4.
    penalties = torch.tensor([[-1.5, 2.0, 0.5, 3.0], [-2.0, 4.0, 9.0, 9.0]])
    wide = _arguments(final_rewards=torch.tensor([30.0, -20.0]), kl_penalties=penalties, gamma=1.0, lam=1.0)
    _, returns = _call(function, *wide)
    expect.close(
        "returns with γ = λ = 1, final rewards 30 and −20 and penalties of more than 1",
        torch.cat([returns[0], returns[1, :2]]),
        [26.0, 24.5, 26.5, 27.0, -22.0, -24.0],
        "Rewards and penalties may be of any size and sign: take them as they are. See hint 1.",
    )
    # A token is paid at its own response's end, wherever the batch's is: 8 halved twice, and 4.
    later = _arguments(
        final_rewards=torch.tensor([8.0, 4.0]),
        kl_penalties=torch.zeros(2, 4),
        values=torch.zeros(2, 4),
        response_mask=torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
        gamma=0.5,
        lam=1.0,
    )
    _, returns = _call(function, *later)
    expect.close(
        "returns with γ = 0.5, λ = 1, final rewards 8 and 4, no penalties, values 0, masks 1, 1, 1, 0 and 1, 0, 0, 0",
        torch.cat([returns[0, :3], returns[1, :1]]),
        [2.0, 4.0, 8.0, 4.0],
        "The final reward is paid in full at the response's own last token; tokens before it see γ of it, γ² and so "
        "on. See hint 1.",
    )
    one, penalty = torch.ones(1, 1), torch.full((1, 1), 0.25)
    _, returns = _call(function, torch.ones(1), penalty, 0 * one, one.long(), 1.0, 1.0)
    expect.close(
        "return of a response of one token, reward 1, penalty 0.25",
        returns,
        [[0.75]],
        "The last token pays its penalty too, if it is the only one as well. See hint 1.",
    )


def recursion(function: Callable) -> None:
    """returns with several γ and λ, worked out by hand"""
    # (gamma, lam), returns of A, returns of B, what it is
    cases = (
        (0.8, 0.5, [0.3, 0.4, 0.7, 0.9], [0.15, -0.05], "the worked example"),
        # r + gamma * next value: .06 + .8 * .2, -.04 + .8 * .4, -.02 + .8 * .9, .9; .09 + .8 * .2, -.05
        (0.8, 0.0, [0.22, 0.28, 0.7, 0.9], [0.25, -0.05], "λ = 0: the reward and the discounted next value"),
        # .9; -.02 + .8 * .9; -.04 + .8 * .7; .06 + .8 * .52
        (0.8, 1.0, [0.476, 0.52, 0.7, 0.9], [0.05, -0.05], "λ = 1: the discounted sum of the rewards"),
        # deltas .16, .16, .48, 0 and -.01, -.25; advantages delta + next / 2: .36, .4, .48, 0 and -.135, -.25
        (1.0, 0.5, [0.46, 0.6, 0.88, 0.9], [0.165, -0.05], "γ = 1"),
        (0.0, 0.5, [0.06, -0.04, -0.02, 0.9], [0.09, -0.05], "γ = 0: each token's own reward"),
    )
    for gamma, lam, a, b, which in cases:
        _, returns = _call(function, *_arguments(gamma=gamma, lam=lam))
        advice = (
            f"This is {which}. Go from the last token to the first: δ = r + γ · next value − value, "
            "and the advantage is δ + γλ · next advantage; after the last response token both are 0. "
            "Returns are the advantages before whitening, plus the values. See hint 2."
        )
        expect.close(f"returns of response A with γ = {gamma}, λ = {lam}", returns[0], a, advice)
        expect.close(
            f"returns of response B with γ = {gamma}, λ = {lam}",
            returns[1, :2],
            b,
            "Does the value on the padding leak in? " + advice,
        )
    final_rewards, kl_penalties, values, mask, gamma, lam = _arguments()
    kl_penalties, values = (torch.where(mask == 1, 50 * tensor, tensor) for tensor in (kl_penalties, values))
    _, returns = _call(function, 50 * final_rewards, kl_penalties, values, mask, gamma, lam)
    expect.close(
        "returns of response A where rewards, penalties and values are 50 times as large",
        returns[0],
        [15.0, 20.0, 35.0, 45.0],
        "All of it is sums and products, so they are 50 times as large too: set no bounds. See hint 2.",
    )


def whitening(function: Callable) -> None:
    """advantages have mean 0 and variance 1 over the response tokens, and are 0 on padding"""
    advantages, _ = _call(function, *_arguments())
    # Raw .2, .2, .3, 0 and -.15, -.25: mean .05, population variance .04.
    response = torch.cat([advantages[0], advantages[1, :2]])
    expect.close(
        "advantages",
        response,
        [0.75, 0.75, 1.25, -0.25, -1.0, -1.5],
        "Subtract the response tokens' mean, divide by their standard deviation. Do the mean and the variance include "
        "the padding? See hint 3.",
        {
            (0.2, 0.2, 0.3, 0.0, -0.15, -0.25): "These are the raw advantages; whiten them. See hint 3.",
            (
                0.684653,
                0.684653,
                1.141089,
                -0.228218,
                -0.912871,
                -1.369306,
            ): "You divided the sum of squares by n − 1 = 5; divide it by n = 6. See hint 3.",
            (0.229416, 0.229416, 1.147079, -1.60591, 1.0, -1.0): "You whitened each response by itself; take the mean "
            "and the deviation of all response tokens of the batch. See hint 3.",
            (1.0, 1.0, 1.5, 0.0, -0.75, -1.25): "The mean is missing: subtract it before you divide. See hint 3.",
        },
    )
    expect.close(
        "advantages on the padding",
        advantages[1, 2:],
        [0.0, 0.0],
        "Whitening has moved them away from 0: mask once more at the end. See hint 3.",
    )
    small = [tensor / 100 for tensor in _arguments()[:3]]
    advantages, _ = _call(function, *small, *_arguments()[3:])
    expect.close(
        "advantages where rewards, penalties and values are 100 times smaller",
        torch.cat([advantages[0], advantages[1, :2]]),
        [0.75, 0.75, 1.25, -0.25, -1.0, -1.5],
        "Whitening takes the size away, so they stay the same. Add no more than 1e-8 to the variance. See hint 3.",
        tolerance=2e-3,
    )
    # Raw advantages -8 and 64 times 0: their mean is -8/65, their standard deviation 64/65.
    values, nothing = torch.zeros(1, 65), torch.zeros(1, 65)
    values[0, 3] = 8
    advantages, _ = _call(function, torch.zeros(1), nothing, values, nothing.long() + 1, 1.0, 1.0)
    expect.close(
        "advantages where one token of 65 is far from all others",
        advantages[0],
        [1 / 8] * 3 + [-8.0] + [1 / 8] * 61,
        "It is eight standard deviations away, and stays there: set no bounds. See hint 3.",
    )
    zero, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.long)
    alone, _ = _call(function, torch.ones(1), zero, zero, mask, 1.0, 1.0)
    expect.close(
        "advantage of a batch of one token",
        alone,
        [[0.0]],
        "Its variance is 0 (and n − 1 would be too): add 1e-8 to the variance before the root. See hint 3.",
    )


def masking(function: Callable) -> None:
    """padding, and a response without tokens, change nothing"""
    clean_advantages, clean_returns = _call(function, *_arguments())
    for junk in (50.0, -50.0):
        final_rewards, kl_penalties, values, mask, gamma, lam = _arguments()
        padding = mask == 0
        advantages, returns = _call(
            function,
            final_rewards,
            kl_penalties.masked_fill(padding, junk),
            values.masked_fill(padding, -junk),
            mask,
            gamma,
            lam,
        )
        advice = "Mask the penalties, and the value and advantage that come from the next token. See hint 2."
        expect.unchanged("advantages", advantages, clean_advantages, advice)
        expect.unchanged("returns", returns[~padding], clean_returns[~padding], advice)
        assert torch.isfinite(returns).all(), "returns on the padding may be any number, but a finite one. See hint 3."
    final_rewards, kl_penalties, values, mask, gamma, lam = _arguments()
    three = [torch.cat([tensor, tensor[:1]]) for tensor in (final_rewards, kl_penalties, values, mask)]
    three[3][2] = 0  # the third response has a reward, 1, but no token
    advantages, returns = _call(function, *three, gamma, lam)
    advice = "A row whose mask is empty has no last token: it gets no reward and counts nowhere. See hint 2."
    expect.close("advantages beside a response without tokens", advantages[:2], clean_advantages, advice)
    expect.close("returns beside a response without tokens", returns[:2][mask == 1], clean_returns[mask == 1], advice)
    expect.close("advantages of a response without tokens", advantages[2], [0.0] * 4, advice)


def no_gradient(function: Callable) -> None:
    """two float tensors (B, R) without gradient; the inputs stay as they are"""
    arguments = _arguments()
    for tensor in arguments[:3]:
        tensor.requires_grad_()
    for name, result in zip(("advantages", "returns"), _call(function, *arguments), strict=True):
        assert result.dtype == torch.float32, f"{name} have dtype {result.dtype}; they must be float32. See hint 3."
        expect.no_gradient(name, result, "They are fixed targets for the update: use .detach(). See hint 3.")


CRITERIA = (token_rewards, recursion, whitening, masking, no_gradient)


def _arguments(**changes) -> tuple:
    return tuple((arguments_of("gae") | changes).values())


def _call(function: Callable, *args) -> tuple[Tensor, ...]:
    results = expect.tensors(expect.call(function, *args), "advantages", "returns")
    for name, result in zip(("advantages", "returns"), results, strict=True):
        assert result.shape == args[2].shape, (
            f"{name} have shape {tuple(result.shape)}; they must have that of values, {tuple(args[2].shape)}. "
            "See hint 3."
        )
    return results
