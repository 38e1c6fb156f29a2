"""What the curves of a run that does not learn look like, and what is usually the cause.

The limits are rules of thumb. The embedded default keeps well inside them with every seed that was tried; on another
model and other problems they may be too tight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from course_utils.figures.table import html_table
from course_utils.metrics import moving_average

SOONEST = 10  # with fewer PPO steps the curves say nothing yet


@dataclass(frozen=True)
class Symptom:
    name: str
    judge: Callable[[list[dict]], tuple[bool, str]]  # history -> (does the run show it?, its numbers)
    meaning: str  # in brackets the exercises where to look


def _ends(history: list[dict], metric: str) -> tuple[float, float]:
    """The mean of the first three steps and of the last five."""
    values = [line[metric] for line in history]
    return mean(values[:3]), mean(values[-5:])


def flat_reward(history: list[dict]) -> tuple[bool, str]:
    first, last = _ends(history, "rollout/reward_mean")
    return last < first + 0.1 and last < 0.9, f"{first:.2f} → {last:.2f}"


def lost_reward(history: list[dict]) -> tuple[bool, str]:
    means = moving_average([line["rollout/reward_mean"] for line in history])[4:]  # those of five steps
    best, last = max(means), means[-1]
    return last < best - 0.15, f"best {best:.2f}, now {last:.2f}"


def high_kl(history: list[dict]) -> tuple[bool, str]:
    last = median(line["rollout/kl"] for line in history[-5:])  # a single response may make a peak
    return last > 5, f"{last:.1f} nats"


def useless_critic(history: list[dict]) -> tuple[bool, str]:
    last = mean(line["rollout/explained_variance"] for line in history[-(len(history) // 3) :])
    return last <= 0.02, f"{last:.2f}"


def much_clipping(history: list[dict]) -> tuple[bool, str]:
    last = _ends(history, "params/policy_clip_frac")[1]
    return last > 0.3, f"{last:.2f}"


def collapsed_entropy(history: list[dict]) -> tuple[bool, str]:
    first, last = _ends(history, "loss/entropy")
    return last < 0.2 * first and _ends(history, "rollout/reward_mean")[1] < 0.7, f"{first:.3f} → {last:.3f} nats"


def odd_length(history: list[dict]) -> tuple[bool, str]:
    first, last = _ends(history, "rollout/response_length")
    return not 0.6 * first < last < 1.6 * first, f"{first:.0f} → {last:.0f} tokens"


SYMPTOMS = (
    Symptom(
        "The reward does not rise",
        flat_reward,
        "Is the KL 0 too? Then nothing is updated: <code>optimizer.step()</code>, <code>zero_grad()</code> (5); with "
        "<code>ppo.kl_coeff=0</code> it is not measured, and always 0. "
        "Does the KL grow? Then the steps lead elsewhere: the sign of the policy loss (1), positions off by one (5). "
        "Neither: the final reward on padding, where it is lost (4). Has the reward fallen? Then as in the next row: a "
        "small λ (4), steps that are too large (1). On another model: a learning rate that is too small, or problems "
        "that it never solves.",
    ),
    Symptom(
        "The reward rises, then falls",
        lost_reward,
        "Steps that are too large: a clip without effect, for instance <code>max</code> for <code>min</code> (1), "
        "too many epochs, too high a learning rate. Or advantages that trust a bad critic: a small λ (4).",
    ),
    Symptom(
        "The KL runs away",
        high_kl,
        "The KL penalty is lost, or has the wrong sign, on its way into the token rewards (4); "
        "<code>ppo.kl_coeff</code> is too small; or the steps are too large (1).",
    ),
    Symptom(
        "Explained variance 0 or below",
        useless_critic,
        "The critic knows no more than a constant would: a value loss against the wrong target, or clipped too "
        "tightly (2), returns made of whitened advantages (4), values of the wrong positions (5), "
        "<code>ppo.vf_coeff</code> too small. Below 0 it misleads.",
    ),
    Symptom(
        "A clip fraction above 0.3",
        much_clipping,
        "The ratio leaves 1 too fast: too high a learning rate, too many epochs, gradients that pile up because "
        "<code>zero_grad()</code> is missing, log-probs of the wrong positions (5).",
    ),
    Symptom(
        "The entropy collapses while the reward is low",
        collapsed_entropy,
        "The policy says one thing only and cannot find a better one: the entropy bonus with the wrong sign (3), "
        "<code>ppo.entropy_coeff</code> too small for this model, too high a learning rate. With a high reward a "
        "fall is right: who knows the answers need not vary them.",
    ),
    Symptom(
        "Responses get much longer or shorter",
        odd_length,
        "The end of a response is not learned from: a mask that leaves out the end-of-sequence token, the final "
        "reward on padding (4). Or the reward has fallen too: then these are the responses of a broken policy.",
    ),
)


def symptom_table(history: list[dict], reference: Sequence[dict] = ()) -> str:
    """HTML with a row a symptom: does the run show it, its numbers and, where it can be compared, those of the
    course's run after as many steps, and what it usually means."""
    runs = {"Yours": history, **({"The course's": list(reference[: len(history)])} if reference else {})}
    rows = [(f"<b>{s.name}</b>", *(_verdict(s, run) for run in runs.values()), s.meaning) for s in SYMPTOMS]
    return html_table(("What to look for", *runs, "What it usually means (and in which exercise)"), rows)


def _verdict(symptom: Symptom, history: list[dict]) -> str:
    if len(history) < SOONEST:
        return f"too early: wait for step {SOONEST}"
    shown, numbers = symptom.judge(history)
    return f"{'✗ <b>yes</b>' if shown else '✓ no'}<br>{numbers}"
