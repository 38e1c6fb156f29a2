"""Typical mistakes in exercise 2, compute_value_loss."""

from autograder.misconceptions.misconception import MASK_AS_INDEX, Misconception

LARGER_ERROR = "(torch.max(error, error_clipped) * response_mask).sum() / tokens"

MISCONCEPTIONS = (
    Misconception("no half", "The factor ½ in front of the squared error is missing.", (("0.5 * ", ""),)),
    Misconception(
        "sign",
        "The loss is negative. It is a squared error that has to shrink, not an objective that has to grow.",
        (("loss = 0.5", "loss = -0.5"),),
    ),
    Misconception(
        "sum for mean",
        "The loss is a sum over the response tokens. Make it a mean.",
        (("response_mask).sum() / tokens\n    larger", "response_mask).sum()\n    larger"),),
    ),
    Misconception(
        "divided by all positions",
        "Padding is counted in the denominator of the means. Count response tokens only.",
        (("response_mask.sum()", "response_mask.numel()"),),
    ),
    Misconception(
        "mean of means",
        "You average each response first and then the responses. Here every response token of the "
        "batch weighs the same.",
        ((LARGER_ERROR, "((torch.max(error, error_clipped) * response_mask).sum(1) / response_mask.sum(1)).mean()"),),
    ),
    Misconception(
        "absolute error",
        "The error is not squared.",
        (
            ("(values_new - returns) ** 2", "(values_new - returns).abs()"),
            ("(values_clipped - returns) ** 2", "(values_clipped - returns).abs()"),
        ),
    ),
    Misconception(
        "root of the mean",
        "You take the square root of the mean. The loss is the mean squared error itself.",
        (
            (
                "loss = 0.5 * (torch.max(error, error_clipped) * response_mask).sum() / tokens",
                "loss = 0.5 * ((torch.max(error, error_clipped) * response_mask).sum() / tokens).sqrt()",
            ),
        ),
    ),
    Misconception(
        "smaller error",
        "You take the smaller of the two errors. The loss is the pessimistic one.",
        (("torch.max(", "torch.min("),),
    ),
    Misconception(
        "larger of two means",
        "You average both errors and then take the larger mean. The choice is made token by token, before the mean.",
        ((LARGER_ERROR, "torch.max((error * response_mask).sum(), (error_clipped * response_mask).sum()) / tokens"),),
    ),
    Misconception(
        "no clipping",
        "The loss is a plain squared error. A value that has moved further than the range from its "
        "old one does not count with its own error if the clipped one's is larger.",
        (("torch.max(error, error_clipped)", "error"),),
    ),
    Misconception(
        "clipped always",
        "The error of the clipped value is used everywhere. It counts only where it is the larger of the two.",
        (("torch.max(error, error_clipped)", "error_clipped"),),
    ),
    Misconception(
        "clipped above only",
        "A value that has moved down too far is not clipped. The range has two ends.",
        (("torch.clamp(values_new, low, high)", "torch.min(values_new, high)"),),
    ),
    Misconception(
        "clipped around the return",
        "The values are held near the returns. They are to be held near the old "
        "values: the clip limits how far one rollout pulls a value.",
        (
            (
                "values_old - clip_range_value, values_old + clip_range_value",
                "returns - clip_range_value, returns + clip_range_value",
            ),
        ),
    ),
    Misconception(
        "the clip never acts",
        "The loss is a plain squared error and vf_clip_frac always 0, so no value is ever held. "
        "Hold each within the range around its old value, and take the larger error.",
        (("torch.clamp(values_new, low, high)", "values_new"),),
    ),
    Misconception(
        "clipped around 0",
        "The values themselves are clipped to ± the range. It is their distance from the old values that is limited.",
        (
            (
                "values_old - clip_range_value, values_old + clip_range_value",
                "torch.full_like(values_old, -clip_range_value), torch.full_like(values_old, clip_range_value)",
            ),
        ),
    ),
    Misconception(
        "old value not added back",
        "You clip the change of the value and then compare the change with the return. "
        "The clipped value is the old one plus the clipped change.",
        (
            (
                "torch.clamp(values_new, low, high)",
                "(values_new - values_old).clamp(-clip_range_value, clip_range_value)",
            ),
        ),
    ),
    Misconception(
        "relative range",
        "The range is a share of the old value, as the policy's is of the old probability, and upside down where that "
        "is below 0. Here it is a distance: the same for every value.",
        (
            (
                "values_old - clip_range_value, values_old + clip_range_value",
                "values_old * (1 - clip_range_value), values_old * (1 + clip_range_value)",
            ),
        ),
    ),
    Misconception(
        "relative range, of the size",
        "The range grows with the size of the old value, as the policy's does with the old probability. Here it is a "
        "distance: the same for every value.",
        (
            (
                "values_old - clip_range_value, values_old + clip_range_value",
                "values_old - clip_range_value * values_old.abs(), values_old + clip_range_value * values_old.abs()",
            ),
        ),
    ),
    Misconception(
        "0.2 written down",
        "The range is always 0.2, whatever clip_range_value is given. Use the argument.",
        (("values_old - clip_range_value, values_old + clip_range_value", "values_old - 0.2, values_old + 0.2"),),
    ),
    Misconception(
        "squared error clipped",
        "The squared error is cut off at the range. Not the error is clipped but the value, "
        "before it is compared with the return.",
        (("torch.max(error, error_clipped)", "error.clamp(max=clip_range_value)"),),
    ),
    Misconception(
        "old values as targets",
        "The values are compared with the old values. What they should have been are the returns.",
        (
            ("(values_new - returns)", "(values_new - values_old)"),
            ("(values_clipped - returns)", "(values_clipped - values_old)"),
        ),
    ),
    Misconception(
        "no mask",
        "Padding takes part in the sums. Leave it out of every one of them, before you sum.",
        (
            ("(torch.max(error, error_clipped) * response_mask).sum()", "torch.max(error, error_clipped).sum()"),
            ("(larger * response_mask).sum()", "larger.sum()"),
        ),
    ),
    Misconception(
        "mask as an index",
        MASK_AS_INDEX,
        (
            (LARGER_ERROR, "torch.max(error, error_clipped)[response_mask].mean()"),
            ("(larger * response_mask).sum() / tokens", "larger[response_mask].mean()"),
        ),
    ),
    Misconception(
        "metric over padding",
        "The loss is masked, but vf_clip_frac is a mean over all positions. It is a mean over the response tokens too.",
        (("(larger * response_mask).sum() / tokens", "larger.mean()"),),
    ),
    Misconception(
        "detached",
        "The plain error is cut off from values_new, so that the critic learns nothing from it.",
        (("(values_new - returns) ** 2", "(values_new.detach() - returns) ** 2"),),
    ),
    Misconception(
        "counts every move",
        "vf_clip_frac counts every value that has left the range. Count those whose clipped error is the larger one.",
        (("error_clipped > error", "values_clipped != values_new"),),
    ),
    Misconception(
        "equal errors count",
        "vf_clip_frac also counts tokens whose two errors are equal, as they are for every value within the range.",
        (("error_clipped > error", "error_clipped >= error"),),
    ),
    Misconception(
        "smaller clipped errors count",
        "vf_clip_frac counts where the clipped error is the smaller one. There clipping has no effect.",
        (("error_clipped > error", "error_clipped < error"),),
    ),
    Misconception(
        "metric as a float",
        "vf_clip_frac is a Python float. Return tensors; whoever logs them calls .item().",
        (("return loss, vf_clip_frac", "return loss, vf_clip_frac.item()"),),
    ),
    Misconception(
        "loss alone",
        "Only the loss is returned. The trainer also logs vf_clip_frac.",
        (("return loss, vf_clip_frac", "return loss"),),
    ),
)
