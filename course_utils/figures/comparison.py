"""A run drawn over the course's own, recorded one: the reference run."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.figures.dashboard import dress
from course_utils.figures.show import BLUE, GREY, new_figure
from course_utils.metrics import moving_average
from course_utils.reference_run import ReferenceRun, reference_run

PANELS = (  # title, what to look for, metric
    ("Reward", "inside the band, or nearly", "rollout/reward_mean"),
    ("Held-out accuracy", "up with the reward", "eval/accuracy"),
    ("KL to the reference", "nats; single peaks are chance", "rollout/kl"),
    ("Explained variance", "above 0 after a few steps", "rollout/explained_variance"),
    ("Clip fraction", "of the policy loss", "params/policy_clip_frac"),
    ("Entropy", "nats a token", "loss/entropy"),
)


def draw_comparison(history: list[dict]) -> tuple[Figure, str]:
    """Six curves of a run over those of the reference run, and what there is to see in words."""
    reference = reference_run()
    last_step = max(line["step"] for line in [*reference.history, *history])  # a resumed run may be the longer one
    figure = new_figure(5)
    for axes, (title, hint, metric) in zip(figure.subplots(2, 3).flat, PANELS):
        if title == "Reward":
            _draw_band(axes, reference)
        _draw_curve(axes, reference.history, metric, color="black", lw=1.2, ls="--", label="the course's", zorder=3)
        _draw_curve(axes, history, metric, color=BLUE, lw=2.2, marker="o", ms=2.5, label="yours")
        dress(axes, title, hint, last_step)
    return figure, _describe(history, reference)


def _draw_curve(axes: Axes, history: list[dict], metric: str, **style) -> None:
    points = [(line["step"], line[metric]) for line in history if metric in line]
    if points:
        axes.plot(*zip(*points), **style)


def _draw_band(axes: Axes, reference: ReferenceRun) -> None:
    rewards = list(zip(*reference.seed_rewards))  # of each step
    axes.fill_between(
        range(1, len(rewards) + 1),
        [min(step) for step in rewards],
        [max(step) for step in rewards],
        color=GREY,
        alpha=0.4,
        lw=0,
        label=f"{len(reference.seed_rewards)} other seeds",
    )


def _describe(history: list[dict], reference: ReferenceRun) -> str:
    if not history:
        return "No step is finished yet; the course's run alone is drawn."
    last = history[-1]
    other = reference.history[min(last["step"], len(reference.history)) - 1]
    rewards = [moving_average(seed[: len(history)])[-1] for seed in reference.seed_rewards]
    yours = moving_average([line["rollout/reward_mean"] for line in history])[-1]
    return (
        f"Yours over the course's run, at PPO step {last['step']}: reward, mean of 5 steps, {yours:.2f}, and "
        f"{min(rewards):.2f} to {max(rewards):.2f} with {len(rewards)} other seeds; "
        f"KL {last['rollout/kl']:.1f} and {other['rollout/kl']:.1f} nats; explained variance "
        f"{last['rollout/explained_variance']:.2f} and {other['rollout/explained_variance']:.2f}; clip fraction "
        f"{last['params/policy_clip_frac']:.2f} and {other['params/policy_clip_frac']:.2f}; entropy "
        f"{last['loss/entropy']:.3f} and {other['loss/entropy']:.3f} nats."
    )
