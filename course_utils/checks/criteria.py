"""All criteria, by exercise."""

from collections.abc import Callable

from course_utils.checks import entropy, gae, minibatch_update, policy_loss, value_loss

CRITERIA: dict[str, tuple[Callable, ...]] = {
    "policy_loss": policy_loss.CRITERIA,
    "value_loss": value_loss.CRITERIA,
    "entropy": entropy.CRITERIA,
    "gae": gae.CRITERIA,
    "minibatch_update": minibatch_update.CRITERIA,
}
