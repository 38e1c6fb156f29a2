"""The live figure of a run, its picture on disk, and both in words."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from course_utils.figures.show import BLUE, GREEN, GREY, ORANGE, PURPLE, image, new_figure
from course_utils.metrics import moving_average


@dataclass(frozen=True)
class Panel:
    title: str
    hint: str  # what to look for
    lines: tuple[tuple[str, str, str], ...]  # (metric, label or "", colour)


PANELS = (
    Panel("Reward", "should rise and level off", (("rollout/reward_mean", "each rollout", BLUE),)),
    Panel("Held-out accuracy", "problems never trained on", (("eval/accuracy", "greedy, 95 % interval", GREEN),)),
    Panel("KL to the reference", "nats a response; a few are fine", (("rollout/kl", "", ORANGE),)),
    Panel("Policy loss", "small, around 0: not a sign of learning", (("loss/policy", "", BLUE),)),
    Panel("Value loss", "should fall", (("loss/value", "", ORANGE),)),
    Panel("Explained variance", "of the critic; above 0 helps", (("rollout/explained_variance", "", PURPLE),)),
    Panel(
        "Clip fraction",
        "mostly below 0.3",
        (("params/policy_clip_frac", "policy", BLUE), ("params/value_clip_frac", "value", ORANGE)),
    ),
    Panel("Entropy", "nats a token; falls, but not to 0", (("loss/entropy", "", GREEN),)),
    Panel("Response length", "tokens; should settle", (("rollout/response_length", "", GREY),)),
)


HEIGHT = 6.6  # inches


def draw(figure: Figure, history: list[dict]) -> None:
    """Draws the panels of a run anew into `figure`."""
    figure.clear()
    steps = [line["step"] for line in history]
    for axes, panel in zip(figure.subplots(3, 3).flat, PANELS):
        for metric, label, colour in panel.lines if history else ():
            if metric == "eval/accuracy":
                _draw_accuracy(axes, history, label, colour)
                continue
            values = [line[metric] for line in history]
            axes.plot(steps, values, "o-", ms=2.5, lw=1.2, color=colour, label=label)
            if metric == "rollout/reward_mean":
                axes.plot(steps, moving_average(values), lw=2.5, color=ORANGE, label="mean of 5")
        dress(axes, panel.title, panel.hint, max([1, *steps]))


def dress(axes: Axes, title: str, hint: str, last_step: int) -> None:
    """Title, hint, limits and legend of a panel; all panels show the same steps."""
    if title in ("Reward", "Held-out accuracy"):
        axes.set_ylim(-0.03, 1.05)
    elif title in ("Clip fraction", "Entropy"):
        # A flat curve would lie on the upper edge, and the entropy of a wrong sign is below 0.
        axes.set_ylim(min(0, 1.1 * axes.dataLim.y0), max(0, 1.1 * axes.get_ylim()[1]))
    axes.set_xlim(-0.04 * last_step, 1.04 * last_step)  # a point at 0 keeps its error bar
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{title}\n", fontsize=10, fontweight="bold")
    axes.text(0.5, 1.03, hint, transform=axes.transAxes, ha="center", fontsize=8, color="#444444")
    axes.set_xlabel("PPO step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best")


def _draw_accuracy(axes: Axes, history: list[dict], label: str, colour: str) -> None:
    """Every evaluation with its interval; the one before training is in the first step's line and stands at 0."""
    found = [
        (step, line[f"{when}/accuracy"], line[f"{when}/low"], line[f"{when}/high"])
        for line in history
        for when, step in (("before", 0), ("eval", line["step"]))
        if f"{when}/accuracy" in line
    ]
    if found:
        steps, values, lows, highs = zip(*found)
        errors = [[v - low for v, low in zip(values, lows)], [high - v for v, high in zip(values, highs)]]
        axes.errorbar(
            steps, values, errors, fmt="o-", ms=2.5, lw=1.2, color=colour, ecolor=GREY, capsize=3, label=label
        )


def describe(history: list[dict]) -> str:
    """The figure in words, for screen readers and for figures that do not show."""
    if not history:
        return "Training has not finished a step yet."
    last = history[-1]
    accuracies = [line["eval/accuracy"] for line in history if "eval/accuracy" in line]
    held_out = f", held-out accuracy {accuracies[-1]:.1%}" if accuracies else ""
    return (
        f"PPO step {last['step']}: reward {history[0]['rollout/reward_mean']:.2f} at first, "
        f"{last['rollout/reward_mean']:.2f} now{held_out}, KL to the reference {last['rollout/kl']:.2f} nats, "
        f"policy loss {last['loss/policy']:.3f}, value loss {last['loss/value']:.3f}, "
        f"explained variance {last['rollout/explained_variance']:.2f}, "
        f"clip fraction {last['params/policy_clip_frac']:.2f}, entropy {last['loss/entropy']:.3f} nats, "
        f"response length {last['rollout/response_length']:.0f} tokens."
    )


def save_training_figure(history: list[dict], path: Path) -> None:
    """Writes training.png; its description is in the file's metadata."""
    figure = new_figure(HEIGHT)
    draw(figure, history)
    figure.savefig(path, dpi=130, metadata={"Description": describe(history)})


class Dashboard:
    """A progress bar and one figure below the training cell, shown anew in place while the run goes on.

        with Dashboard(total, history) as dashboard:  # stopping the cell ends the loop here, without a traceback
            for metrics in trainer.train():
                dashboard.update(metrics)

    Drawing costs most of a second, so it is done only when ten times as long has passed since the last time; the
    progress is shown at every step.
    """

    def __init__(self, total: int, history: Sequence[dict] = ()):
        self.total, self.history, self.figure = total, list(history), new_figure(HEIGHT)
        self.stopped = False
        self._handle = display(HTML(""), display_id=True)
        self._draw()
        self._next = time.monotonic()  # the first drawing is the slowest: the first step need not wait for it
        self._show()

    def __enter__(self) -> "Dashboard":
        return self

    def __exit__(self, kind, *_) -> bool:
        self.stopped = kind is KeyboardInterrupt
        self._draw()
        self._show()
        return self.stopped

    def update(self, metrics: dict) -> None:
        self.history.append(metrics)
        if time.monotonic() >= self._next:
            self._draw()
        self._show()

    def _draw(self) -> None:
        start = time.monotonic()
        draw(self.figure, self.history)
        self._image = image(self.figure, describe(self.history))
        self._next = time.monotonic() + 10 * (time.monotonic() - start)

    def _show(self) -> None:
        self._handle.update(HTML(f"{self._progress()}<br>{self._image}"))

    def _progress(self) -> str:
        done = len(self.history)
        seconds = (self.total - done) * median([line["time/step_seconds"] for line in self.history] or [0])
        if self.stopped:
            note = ": stopped. Run the cell again to go on, or the cells below with the model as it is now"
        elif 0 < done < self.total:
            note = f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"
        else:
            note = ""
        return (
            f'<progress value="{done}" max="{self.total}" aria-label="training"></progress> '
            f"step {done} of {self.total}{note}"
        )
