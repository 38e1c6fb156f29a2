"""Typical mistakes in exercise 4, compute_gae_advantages."""

from autograder.misconceptions.misconception import Misconception

IS_LAST = "response_mask - F.pad(response_mask[:, 1:], (0, 1))"
REWARDS = "rewards = is_last * final_rewards.unsqueeze(1) - response_mask * kl_penalties"
WHITENED = "centered * torch.rsqrt(variance + 1e-8)"
ADVANTAGE = "(delta + gamma * lam * next_advantage) * response_mask[:, t]"

# edits that several mistakes have in common
PENALTY_ON_PADDING = ("- response_mask * kl_penalties", "- kl_penalties")
UNMASKED_RECURSION = (
    (ADVANTAGE, "delta + gamma * lam * next_advantage"),
    ("next_value = values[:, t] * response_mask[:, t]", "next_value = values[:, t]"),
)
RAW_MASKED = ("    returns = raw + values", "    raw = raw * response_mask\n    returns = raw + values")
JUNK_ON_PADDING = (
    (f"next_advantage = {ADVANTAGE}", "raw[:, t] = delta + gamma * lam * next_advantage"),
    ("raw[:, t] = next_advantage", "next_advantage = raw[:, t] * response_mask[:, t]"),
)
ZEROS_WHITENED_IN = (("raw.sum() / tokens", "raw.mean()"), ("(centered**2).sum() / tokens", "raw.var(unbiased=False)"))
WHITENED_OVER_ALL = (
    ("(raw - raw.sum() / tokens) * response_mask", "raw - raw.mean()"),
    ("(centered**2).sum() / tokens", "(centered**2).mean()"),
)

MISCONCEPTIONS = (
    Misconception(
        "penalty added",
        "The KL penalty raises the reward. A penalty has to lower it.",
        (("- response_mask * kl_penalties", "+ response_mask * kl_penalties"),),
    ),
    Misconception(
        "no penalty", "The KL penalties are not in the token rewards.", ((" - response_mask * kl_penalties", ""),)
    ),
    Misconception(
        "penalty never below 0",
        "A penalty below 0 is cut off. As an estimate from one token it may be negative, and then raises the reward.",
        (("response_mask * kl_penalties", "response_mask * kl_penalties.clamp(min=0)"),),
    ),
    Misconception(
        "reward in the last column",
        "The final reward is paid in the last column of the batch. A shorter response "
        "ends before: pay it at its own last token.",
        ((IS_LAST, "F.pad(torch.zeros_like(response_mask[:, 1:]), (0, 1), value=1)"),),
    ),
    Misconception(
        "reward one token early",
        "The final reward is paid one token before the response's last.",
        ((f"is_last = {IS_LAST}", "is_last = (response_mask - F.pad(response_mask[:, 1:], (0, 1))).roll(-1, dims=1)"),),
    ),
    Misconception(
        "reward at every token",
        "Every response token gets the final reward. Only the last one of each response "
        "gets it; the recursion carries it back.",
        (("is_last * final", "response_mask * final"),),
    ),
    Misconception(
        "reward for the penalty",
        "The last token gets the final reward instead of its penalty. It gets both.",
        ((REWARDS, "rewards = torch.where(is_last == 1, final_rewards.unsqueeze(1), -response_mask * kl_penalties)"),),
    ),
    Misconception(
        "value of the padding after the end",
        "The value of the padding after a response enters its last δ. After the last "
        "response token there is nothing: its next value is 0.",
        (("next_value = values[:, t] * response_mask[:, t]", "next_value = values[:, t]"),),
    ),
    Misconception(
        "values on padding flow back",
        "The values on padding enter the recursion, which is masked only when it is "
        "over. Mask the value and the advantage that come from the next token before they are used.",
        (*UNMASKED_RECURSION, RAW_MASKED),
    ),
    Misconception(
        "padding flows back",
        "Penalties and values on padding enter the recursion, which is masked only when it is "
        "over. Mask what comes from the next token before it is used.",
        (PENALTY_ON_PADDING, *UNMASKED_RECURSION, RAW_MASKED),
    ),
    Misconception(
        "no mask",
        "Only the place of the final reward depends on the mask. The recursion must start anew where a "
        "response ends, and padding takes no part in the whitening.",
        (PENALTY_ON_PADDING, *UNMASKED_RECURSION, *WHITENED_OVER_ALL),
    ),
    Misconception(
        "last value used twice",
        "The last token's own value stands in for the value after it. After the "
        "last response token there is nothing: its next value is 0.",
        (("gamma * next_value", "gamma * torch.where(is_last[:, t] == 1, values[:, t], next_value)"),),
    ),
    Misconception("gamma forgotten", "The next value is not discounted in δ.", (("gamma * next_value", "next_value"),)),
    Misconception(
        "lambda forgotten",
        "The next advantage is discounted by γ alone. λ belongs there too.",
        (("gamma * lam * ", "gamma * "),),
    ),
    Misconception(
        "gamma forgotten before the next advantage",
        "The next advantage is weighed by λ alone. It is discounted by γ as well.",
        (("gamma * lam * ", "lam * "),),
    ),
    Misconception(
        "gamma and lambda swapped",
        "λ discounts the next value where γ should.",
        (("gamma * next_value", "lam * next_value"),),
    ),
    Misconception(
        "one step only",
        "The advantage is δ alone. It also carries the discounted advantage of the next token, "
        "which is how the final reward reaches the first one.",
        (("(delta + gamma * lam * next_advantage)", "delta"),),
    ),
    Misconception(
        "value not subtracted",
        "δ lacks the token's own value. An advantage says how much better it went than the critic expected.",
        ((" - values[:, t]\n", "\n"),),
    ),
    Misconception(
        "from the first token",
        "The recursion runs from the first token to the last. An advantage depends on what "
        "comes after the token, so begin at the end.",
        (("reversed(range(values.shape[1]))", "range(values.shape[1])"),),
    ),
    Misconception(
        "returns without values",
        "The returns are the raw advantages. Adding the values back makes them targets for the critic.",
        (("returns = raw + values", "returns = raw"),),
    ),
    Misconception(
        "returns of whitened advantages",
        "The values are added to the whitened advantages. Returns are in the units "
        "of the rewards: use the advantages as they were before whitening.",
        (
            (
                "return advantages.detach(), returns.detach()",
                "return advantages.detach(), (advantages + values).detach()",
            ),
        ),
    ),
    Misconception(
        "returns whitened",
        "The returns are whitened too. Only the advantages are: the critic has to learn the rewards' own scale.",
        (
            (
                "returns.detach()",
                "((returns - returns[response_mask == 1].mean())"
                " * torch.rsqrt(returns[response_mask == 1].var(unbiased=False) + 1e-8)).detach()",
            ),
        ),
    ),
    Misconception("not whitened", "The advantages are not whitened.", ((WHITENED, "raw"),)),
    Misconception(
        "whitened row by row",
        "Each response is whitened by itself, so a good response looks like a bad one. Use "
        "one mean and one variance for all response tokens of the batch.",
        (
            ("(raw - raw.sum() / tokens)", "(raw - raw.sum(1, True) / tokens)"),
            ("(centered**2).sum() / tokens", "(centered**2).sum(1, True) / tokens"),
            ("tokens = response_mask.sum()", "tokens = response_mask.sum(1, True).clamp(min=1)"),
        ),
    ),
    Misconception(
        "divided by the variance",
        "The centred advantages are divided by the variance. Divide by its root, the standard deviation.",
        ((WHITENED, "centered / (variance + 1e-8)"),),
    ),
    Misconception(
        "unbiased variance",
        "The sum of squares is divided by n − 1. Here it is divided by n, the number of response tokens.",
        (("(centered**2).sum() / tokens", "(centered**2).sum() / (tokens - 1)"),),
    ),
    Misconception(
        "mean not subtracted",
        "The advantages are scaled but their mean is not subtracted.",
        (("centered * torch.rsqrt", "raw * torch.rsqrt"),),
    ),
    Misconception(
        "only centred",
        "The mean is subtracted, but the advantages are not divided by their standard deviation.",
        ((WHITENED, "centered"),),
    ),
    Misconception(
        "whitened over padding",
        "Padding takes part in the mean and the variance. Take both over the response tokens.",
        WHITENED_OVER_ALL,
    ),
    Misconception(
        "padding counts as zeros",
        "Padding is masked after the whitening, but takes part in the mean and the "
        "variance, as zeros. Take both over the response tokens.",
        ZEROS_WHITENED_IN,
    ),
    Misconception(
        "junk whitened in",
        "What the recursion left on the padding takes part in the mean and the variance. Take both "
        "over the response tokens, and make padding 0.",
        (*JUNK_ON_PADDING, *WHITENED_OVER_ALL),
    ),
    Misconception(
        "junk whitened in, then masked",
        "What the recursion left on the padding takes part in the mean and the "
        "variance; masking the result is too late. Take both over the response tokens.",
        (*JUNK_ON_PADDING, *ZEROS_WHITENED_IN),
    ),
    Misconception(
        "mask as an index",
        "For mean and variance the mask picks whole rows: a tensor of whole numbers in brackets is "
        "read as row numbers 0 and 1. Compare it with 1 first, or multiply by it.",
        (
            ("raw.sum() / tokens", "raw[response_mask].mean()"),
            ("(centered**2).sum() / tokens", "raw[response_mask].var(unbiased=False)"),
        ),
    ),
    Misconception(
        "padding moved off 0",
        "Whitening has moved the advantages on the padding away from 0.",
        ((WHITENED, "(raw - raw.sum() / tokens) * torch.rsqrt(variance + 1e-8)"),),
    ),
    Misconception(
        "no eps",
        "Nothing keeps the division from being 0 / 0 where all advantages are equal.",
        (("variance + 1e-8", "variance"),),
    ),
    Misconception(
        "penalty on padding",
        "Padding pays penalties, and its advantages flow back into the response. Mask what comes from the next token.",
        (PENALTY_ON_PADDING, UNMASKED_RECURSION[0]),
    ),
    Misconception(
        "empty row ends in its last column",
        "A row without response tokens is given a last token all the same, and "
        "with it a reward. It has none, and counts nowhere.",
        (
            (
                f"is_last = {IS_LAST}",
                "lengths = response_mask.sum(1)\n"
                "    is_last = F.one_hot((lengths - 1) % values.shape[1], values.shape[1])",
            ),
            (
                "* lam * next_advantage) * response_mask[:, t]",
                "* lam * next_advantage) * (response_mask + is_last)[:, t].clamp(max=1)",
            ),
        ),
    ),
    Misconception(
        "results swapped",
        "Advantages and returns come back in the wrong order: advantages are the first.",
        (("return advantages.detach(), returns.detach()", "return returns.detach(), advantages.detach()"),),
    ),
    Misconception(
        "whole numbers",
        "The advantages are collected in a tensor of whole numbers, made like the mask, which cuts "
        "off every fraction. Make it like the values.",
        (("raw = torch.zeros_like(values)", "raw = torch.zeros_like(response_mask)"),),
    ),
    Misconception(
        "returns as whole numbers",
        "The returns are in a tensor of whole numbers, made like the mask, which cuts off "
        "every fraction. Make it like the values.",
        (("returns = raw + values", "returns = (raw + values).to(response_mask.dtype)"),),
    ),
    Misconception(
        "with gradient",
        "The returns carry a gradient. Advantages and returns are fixed targets of the update.",
        (("returns.detach()", "returns"),),
    ),
    Misconception(
        "all with gradient",
        "Advantages and returns carry a gradient. Both are fixed targets of the update.",
        (("return advantages.detach(), returns.detach()", "return advantages, returns"),),
    ),
    Misconception(
        "values changed",
        "The argument values is changed in place, and the caller still needs it. Assign the sum to a new name.",
        (("returns = raw + values", "returns = values.detach().add_(raw)"),),
    ),
)
