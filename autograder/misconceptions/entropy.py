"""Typical mistakes in exercise 3, compute_entropy_loss."""

from autograder.misconceptions.misconception import MASK_AS_INDEX, Misconception

ENTROPY = "-(probs * log_probs).sum(dim=-1)"
MEAN = "(entropy * response_mask).sum() / response_mask.sum()"

MISCONCEPTIONS = (
    Misconception(
        "sign",
        "The sign is turned round: minimising this loss makes the policy surer of itself. A lower loss must "
        "mean more entropy.",
        (("return -mean_entropy", "return mean_entropy"),),
    ),
    Misconception(
        "bits",
        "The entropy is in bits. Use the natural logarithm, which gives nats.",
        (("probs * log_probs", "probs * log_probs / math.log(2)"),),
    ),
    Misconception(
        "share of the largest entropy",
        "The entropy is divided by its largest possible value, the logarithm of the "
        "vocabulary's size. Leave it in nats.",
        ((MEAN, f"{MEAN} / math.log(logits_new.shape[-1])"),),
    ),
    Misconception(
        "perplexity",
        "You return the exponential of the entropy, the perplexity.",
        ((f"entropy = {ENTROPY}", f"entropy = ({ENTROPY}).exp()"),),
    ),
    Misconception(
        "mean over the vocabulary",
        "You average over the vocabulary. The entropy of a token is the sum over it: the "
        "probabilities are the weights already.",
        ((".sum(dim=-1)", ".mean(dim=-1)"),),
    ),
    Misconception(
        "surprise without weights",
        "The log-probs are averaged over the vocabulary without their weights. Each counts with its own probability.",
        ((ENTROPY, "-log_probs.mean(dim=-1)"),),
    ),
    Misconception(
        "surprise of the favourite",
        "You take minus the log-prob of the most likely token. The entropy is an average over the whole vocabulary.",
        ((ENTROPY, "-log_probs.amax(dim=-1)"),),
    ),
    Misconception(
        "Gini impurity",
        "This is one minus the sum of squared probabilities. It also measures doubt, but it is not "
        "the entropy, which has a logarithm.",
        ((ENTROPY, "1 - (probs**2).sum(dim=-1)"),),
    ),
    Misconception(
        "entropy of the mean distribution",
        "You average the distributions of all tokens and take the entropy of "
        "that average. Take each token's own entropy, and average those.",
        (
            (ENTROPY, "probs"),
            (MEAN, "(entropy * response_mask.unsqueeze(-1)).sum((0, 1)) / response_mask.sum()"),
            ("return -mean_entropy", "return (mean_entropy * mean_entropy.log()).sum()"),
        ),
    ),
    Misconception(
        "sum over the tokens",
        "The entropies are summed over the tokens. Divide by the number of response tokens.",
        ((" / response_mask.sum()", ""),),
    ),
    Misconception(
        "divided by all positions",
        "Padding is counted in the denominator of the mean. Count response tokens only.",
        ((" / response_mask.sum()", " / response_mask.numel()"),),
    ),
    Misconception(
        "mean of means",
        "You average each response first and then the responses. Here every response token of the "
        "batch weighs the same.",
        ((MEAN, "((entropy * response_mask).sum(1) / response_mask.sum(1)).mean()"),),
    ),
    Misconception(
        "mean over the responses",
        "The sum is divided by the number of responses. Divide by the number of response tokens.",
        ((" / response_mask.sum()", " / len(response_mask)"),),
    ),
    Misconception(
        "softmax over the tokens",
        "The probabilities add up to 1 over the tokens of a response. They must add up "
        "to 1 over the vocabulary, the last dimension.",
        (("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(logits_new.float(), dim=1)"),),
    ),
    Misconception(
        "softmax twice",
        "You take the softmax of what is a softmax already, which flattens every distribution.",
        (("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(F.softmax(logits_new.float(), -1), dim=-1)"),),
    ),
    Misconception(
        "no mask", "Padding is averaged in. Take the mean over the response tokens only.", ((MEAN, "entropy.mean()"),)
    ),
    Misconception("mask as an index", MASK_AS_INDEX, ((MEAN, "entropy[response_mask].mean()"),)),
    Misconception(
        "logits masked",
        "The logits are multiplied by the mask, and all positions averaged; but equal logits "
        "have the most entropy of all. Mask the entropies.",
        (("logits_new.float()", "logits_new.float() * response_mask.unsqueeze(-1)"), (MEAN, "entropy.mean()")),
    ),
    Misconception(
        "log of softmax",
        "A softmax that underflows to 0 has the logarithm −∞. There is one function for both steps that stays finite.",
        (("F.log_softmax(logits_new.float(), dim=-1)", "F.softmax(logits_new.float(), dim=-1).log()"),),
    ),
    Misconception(
        "no float32",
        "Everything is computed in the type of the logits, and bfloat16 has two to three digits. "
        "Convert the logits first.",
        (("logits_new.float()", "logits_new"),),
    ),
    Misconception(
        "float32 too late",
        "The logarithms are computed in the type of the logits and converted afterwards, when "
        "their digits are lost. Convert the logits first.",
        (("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(logits_new, dim=-1).float()"),),
    ),
    Misconception(
        "probabilities detached",
        "The probabilities are detached, so the gradient of the entropy is gone: it comes in through them.",
        (("probs * log_probs", "probs.detach() * log_probs"),),
    ),
    Misconception(
        "all detached",
        "The logits are detached, so that the loss trains nothing.",
        (("logits_new.float()", "logits_new.detach().float()"),),
    ),
    Misconception(
        "loss as a float",
        "The loss is a Python float, which has no gradient. Return the tensor.",
        ((MEAN, f"({MEAN}).item()"),),
    ),
    Misconception(
        "one loss a token",
        "There is still one number for each token. Return a single one: the mean over the response tokens.",
        ((MEAN, "(entropy * response_mask)"),),
    ),
    Misconception(
        "clamped logits",
        "The logits are clamped to a range before anything else. Only their differences count, so logits that are all "
        "large lose what they say; the log-softmax takes them of any size.",
        (("logits_new.float()", "logits_new.float().clamp(-20, 20)"),),
    ),
)
