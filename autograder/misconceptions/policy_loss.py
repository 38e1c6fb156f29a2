"""Typical mistakes in exercise 1, compute_policy_loss."""

from autograder.misconceptions.misconception import MASK_AS_INDEX, Misconception

SURROGATE = "torch.min(ratio * advantages, clipped_ratio * advantages)"

MISCONCEPTIONS = (
    Misconception(
        "sign",
        "The sign of the loss is turned round: an optimizer minimises, but the objective is to be maximised.",
        (("loss = -(", "loss = ("),),
    ),
    Misconception(
        "sum for mean",
        "The loss is a sum over the response tokens. Make it a mean, so that its size does not "
        "depend on how many tokens a batch has.",
        (("(surrogate * response_mask).sum() / tokens", "(surrogate * response_mask).sum()"),),
    ),
    Misconception(
        "divided by all positions",
        "Padding is counted in the denominator of the means. Count response tokens only.",
        (("response_mask.sum()", "response_mask.numel()"),),
    ),
    Misconception(
        "mean of means",
        "You average each response first and then the responses, so a token of a short response "
        "weighs more. Here every response token of the batch weighs the same.",
        (
            (
                "(surrogate * response_mask).sum() / tokens",
                "((surrogate * response_mask).sum(1) / response_mask.sum(1)).mean()",
            ),
        ),
    ),
    Misconception(
        "ratio upside down",
        "The ratio is old over new. It has to grow when the new policy makes the token more likely.",
        (("log_ratio.exp()", "(-log_ratio).exp()"),),
    ),
    Misconception(
        "ratio without exp",
        "The difference of two log-probs is the logarithm of the ratio, not the ratio: it is "
        "0, not 1, for an unchanged policy.",
        (("ratio = log_ratio.exp()", "ratio = log_ratio"),),
    ),
    Misconception(
        "ratio of log-probs",
        "You divided one log-prob by the other. A quotient of probabilities is a difference "
        "of log-probs, and then one more step.",
        (("ratio = log_ratio.exp()", "ratio = log_probs_new / log_probs_old"),),
    ),
    Misconception(
        "log-probs for the ratio",
        "You weigh the new log-probs themselves with the advantages. PPO weighs the ratio of the new "
        "to the old probability.",
        ((SURROGATE, "log_probs_new * response_mask * advantages"),),
    ),
    Misconception(
        "no clipping",
        "The loss uses the plain ratio everywhere. PPO gives no further reward for a ratio that "
        "has left the range in the direction that the advantage asks for.",
        ((SURROGATE, "ratio * advantages"),),
    ),
    Misconception(
        "clipped always",
        "The clipped ratio is used everywhere. Where clipping would make the loss smaller than "
        "the plain ratio does, the plain one counts: the objective is the pessimistic of the two.",
        ((SURROGATE, "clipped_ratio * advantages"),),
    ),
    Misconception(
        "max for min",
        "You take the larger of the two products. The objective is the pessimistic one.",
        (("torch.min(", "torch.max("),),
    ),
    Misconception(
        "clipped by the sign of A",
        "You clip every token whose advantage is positive and none whose advantage is negative. Each sign has one side "
        "that is clipped: what decides is which of the two products is the smaller.",
        ((SURROGATE, "torch.where(advantages > 0, clipped_ratio * advantages, ratio * advantages)"),),
    ),
    Misconception(
        "dual clip",
        "A large ratio with a negative advantage is cut off as well, which is the dual-clip variant of PPO. The "
        "objective of this exercise has no such bound.",
        ((SURROGATE, f"torch.max({SURROGATE}, advantages.clamp(max=0) * 3)"),),
    ),
    Misconception(
        "clipped above only",
        "A ratio below 1 − ε is not clipped. It must be, for tokens whose advantage is negative.",
        (("clamp(1 - clip_ratio, 1 + clip_ratio)", "clamp(max=1 + clip_ratio)"),),
    ),
    Misconception(
        "minimum of ratios",
        "The minimum is taken between the ratios, before the advantage. Where the advantage "
        "is negative that picks the wrong one: compare the two products.",
        ((SURROGATE, "torch.min(ratio, clipped_ratio) * advantages"),),
    ),
    Misconception(
        "0.2 written down",
        "The range is always 0.2, whatever clip_ratio is given. Use the argument.",
        (("1 - clip_ratio, 1 + clip_ratio", "0.8, 1.2"),),
    ),
    Misconception(
        "log-ratio clipped",
        "You clip the log-ratio to ±ε, before the exponential. It is the ratio itself that stays within 1 ± ε.",
        (("ratio.clamp(1 - clip_ratio, 1 + clip_ratio)", "log_ratio.clamp(-clip_ratio, clip_ratio).exp()"),),
    ),
    Misconception(
        "range around 0",
        "The ratio is clipped to ±ε. A ratio of 1 means that nothing has changed, so the range lies around 1.",
        (("clamp(1 - clip_ratio, 1 + clip_ratio)", "clamp(-clip_ratio, clip_ratio)"),),
    ),
    Misconception(
        "product clipped",
        "You clip ratio times advantage. Clip the ratio alone, then multiply: the advantage may have any size.",
        (("clipped_ratio * advantages)", "(ratio * advantages).clamp(1 - clip_ratio, 1 + clip_ratio))"),),
    ),
    Misconception(
        "advantages whitened again",
        "The advantages are normalised once more inside the loss. They come whitened "
        "over the whole rollout; use them as they are.",
        (
            (
                "    surrogate = ",
                "    on = response_mask == 1\n"
                "    advantages = (advantages - advantages[on].mean()) / (advantages[on].std() + 1e-8)\n"
                "    surrogate = ",
            ),
        ),
    ),
    Misconception(
        "no mask",
        "Padding takes part in the sums. Leave it out of every one of them, before you sum.",
        (
            (" * response_mask  # (B, R)", ""),
            ("(surrogate * response_mask).sum()", "surrogate.sum()"),
            ("(outside * response_mask).sum()", "outside.sum()"),
        ),
    ),
    Misconception(
        "mask as an index",
        MASK_AS_INDEX,
        (
            (" * response_mask  # (B, R)", ""),
            ("(surrogate * response_mask).sum() / tokens", "surrogate[response_mask].mean()"),
            ("(outside * response_mask).sum() / tokens", "outside[response_mask].mean()"),
            ("-log_ratio.detach().sum() / tokens", "-log_ratio.detach()[response_mask].mean()"),
        ),
    ),
    Misconception(
        "metrics over padding",
        "The loss is masked, but clip_frac and approx_kl are means over all positions. They "
        "are means over the response tokens too.",
        (
            ("(outside * response_mask).sum() / tokens", "((ratio.detach() - 1).abs() > clip_ratio).float().mean()"),
            ("-log_ratio.detach().sum() / tokens", "(log_probs_old - log_probs_new).detach().mean()"),
        ),
    ),
    Misconception(
        "detached",
        "The ratio is cut off from log_probs_new, so that nothing can be learnt from the loss. Only the "
        "metrics are detached.",
        (("log_ratio.exp()", "log_ratio.detach().exp()"),),
    ),
    Misconception(
        "clip_frac of one side",
        "clip_frac counts only ratios above 1 + ε. Ratios below 1 − ε have left the range as well.",
        (("(ratio - 1).abs() >", "(ratio - 1) >"),),
    ),
    Misconception(
        "clip_frac of clipped losses",
        "clip_frac counts the tokens whose loss clipping has changed. Here it is the "
        "share of tokens whose ratio has left the range, whether or not that changed the loss.",
        (("((ratio - 1).abs() > clip_ratio)", "(surrogate < ratio * advantages)"),),
    ),
    Misconception(
        "sign of the KL",
        "approx_kl has the wrong sign: on average it has to be positive when the new policy has "
        "moved away from the old one.",
        (("-log_ratio.detach()", "log_ratio.detach()"),),
    ),
    Misconception(
        "KL of absolute differences",
        "approx_kl averages absolute differences. The estimator asked for has no "
        "absolute value: single terms may be negative.",
        (("-log_ratio.detach().sum()", "log_ratio.detach().abs().sum()"),),
    ),
    Misconception(
        "KL never below 0",
        "approx_kl is cut off at 0. As an estimate from a few tokens it may be negative: leave it as it is.",
        (("-log_ratio.detach().sum() / tokens", "(-log_ratio.detach().sum() / tokens).clamp(min=0)"),),
    ),
    Misconception(
        "KL without its sign",
        "approx_kl is made positive at the end. As an estimate from a few tokens it may be negative: leave its sign.",
        (("-log_ratio.detach().sum() / tokens", "(-log_ratio.detach().sum() / tokens).abs()"),),
    ),
    Misconception(
        "k2",
        "approx_kl is k2, half the mean squared log-ratio. Asked for is k1, which has no square.",
        (("-log_ratio.detach().sum()", "(log_ratio.detach() ** 2 / 2).sum()"),),
    ),
    Misconception(
        "k3",
        "approx_kl is k3, which also holds the ratio itself. Asked for is k1, a mean of log-prob differences alone.",
        (("-log_ratio.detach().sum()", "(ratio - 1 - log_ratio).detach().sum()"),),
    ),
    Misconception(
        "KL with gradient",
        "approx_kl carries a gradient. It is only for the log: detach it.",
        (("log_ratio.detach()", "log_ratio"),),
    ),
    Misconception(
        "metrics swapped",
        "clip_frac and approx_kl are returned in the wrong order.",
        (("return loss, clip_frac, approx_kl", "return loss, approx_kl, clip_frac"),),
    ),
    Misconception(
        "metric as a float",
        "clip_frac is a Python float. Return tensors; whoever logs them calls .item().",
        (("return loss, clip_frac,", "return loss, clip_frac.item(),"),),
    ),
    Misconception(
        "loss alone",
        "Only the loss is returned. The trainer also logs clip_frac and approx_kl.",
        (("return loss, clip_frac, approx_kl", "return loss"),),
    ),
    Misconception(
        "nothing returned",
        "The function computes everything and returns nothing.",
        (("    return loss, clip_frac, approx_kl", ""),),
    ),
    Misconception(
        "one loss a token",
        "The loss still has one number for each token. An optimizer needs a single one: the "
        "mean over the response tokens.",
        (("-(surrogate * response_mask).sum() / tokens", "-surrogate * response_mask"),),
    ),
    Misconception(
        "advantages masked in place",
        "The argument advantages is changed in place, and the caller still needs it. Assign the product to a new name.",
        (("tokens = response_mask.sum()", "tokens = response_mask.sum()\n    advantages *= response_mask"),),
    ),
    Misconception(
        "clip_frac by the log-ratio",
        "For clip_frac you compare the logarithm of the ratio with ε. It is the distance of the ratio itself from 1 "
        "that counts.",
        (("(ratio - 1).abs() > clip_ratio", "log_ratio.abs() > clip_ratio"),),
    ),
)
