"""The live figure of a run and its picture on disk.

Colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""
import base64
import io
import time
from html import escape
from pathlib import Path
from statistics import median

from IPython.display import HTML, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
PANELS = (  # title, what to look for, ((metric, label, colour), ...)
    ("Reward", "should rise and level off", (("rollout/reward_mean", "each rollout", BLUE),)),
    ("Held-out accuracy", "problems never trained on", (("eval/accuracy", "greedy, 95 % interval", GREEN),)),
    ("KL to the reference", "nats a response; a few are fine", (("rollout/kl", "KL", ORANGE),)),
    ("Critic", "explained variance: above 0 helps", (("rollout/explained_variance", "explained variance", BLUE),)),
    ("Policy loss", "small, around 0", (("loss/policy", "policy loss", BLUE),)),
    ("Value loss", "should fall", (("loss/value", "value loss", ORANGE),)),
    ("Clip fraction", "mostly below 0.3", (("params/policy_clip_frac", "policy", BLUE),
                                          ("params/value_clip_frac", "value", ORANGE))),
    ("Entropy and length", "entropy falls; length settles", (("loss/entropy", "entropy (nats)", GREEN),)),
)


def moving_average(values: list[float], window: int = 5) -> list[float]:
    """The mean of each value and up to window − 1 before it."""
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i + 1 - window):i + 1]]]


def draw(figure: Figure, history: list[dict]) -> None:
    """Draws the eight panels of a run anew into `figure`."""
    figure.clear()
    for axes, (title, hint, lines) in zip(figure.subplots(2, 4).flat, PANELS):
        for metric, label, colour in lines:
            if metric == "eval/accuracy":
                _draw_accuracy(axes, history)
                continue
            points = [(line["step"], line[metric]) for line in history if metric in line]
            if not points:
                continue
            steps, values = zip(*points)
            axes.plot(steps, values, "o-", ms=2.5, lw=1.2, color=colour, label=label)
            if metric == "rollout/reward_mean":
                axes.plot(steps, moving_average(values), lw=2.5, color=ORANGE, label="mean of 5")
        if title in ("Reward", "Held-out accuracy"):
            axes.set_ylim(-0.03, 1.05)
        if title == "Clip fraction":
            axes.set_ylim(bottom=0)
        if title == "Entropy and length":
            _draw_length(axes, history)
        axes.set_xlim(0, 1.04 * max([1, *(line["step"] for line in history)]))  # the same steps in every panel
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{title}\n", fontsize=11, fontweight="bold")
        axes.text(0.5, 1.03, hint, transform=axes.transAxes, ha="center", fontsize=8, color="#555555")
        axes.set_xlabel("PPO step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="best")


def _draw_accuracy(axes, history: list[dict]) -> None:
    """Every evaluation with its interval; the one before training is in the first step's line and stands at 0."""
    found = [(step, line[f"{when}/accuracy"], line[f"{when}/low"], line[f"{when}/high"]) for line in history
             for when, step in (("before", 0), ("eval", line["step"])) if f"{when}/accuracy" in line]
    if found:
        steps, values, lows, highs = zip(*found)
        errors = [[v - low for v, low in zip(values, lows)], [high - v for v, high in zip(values, highs)]]
        axes.errorbar(steps, values, errors, fmt="o-", ms=2.5, lw=1.2, color=GREEN, ecolor=GREY, capsize=3,
                      label="greedy, 95 % interval")


def _draw_length(entropy_axes, history: list[dict]) -> None:
    axes = entropy_axes.twinx()
    entropy_axes.set_zorder(1)  # its legend lies above the grey line
    entropy_axes.patch.set_visible(False)
    axes.plot([line["step"] for line in history], [line["rollout/response_length"] for line in history],
              color=GREY, lw=1.2)
    axes.set_ylabel("response length (tokens), grey", fontsize=7, color="#555555")
    axes.tick_params(labelsize=8)


def describe(history: list[dict]) -> str:
    """The figure in words, for screen readers and for figures that do not show."""
    if not history:
        return "Training has not finished a step yet."
    last = history[-1]
    accuracies = [line["eval/accuracy"] for line in history if "eval/accuracy" in line]
    held_out = f", held-out accuracy {accuracies[-1]:.1%}" if accuracies else ""
    return (f"PPO step {last['step']}: reward {history[0]['rollout/reward_mean']:.2f} at first, "
            f"{last['rollout/reward_mean']:.2f} now{held_out}, KL to the reference {last['rollout/kl']:.2f} nats, "
            f"explained variance {last['rollout/explained_variance']:.2f}.")


def new_figure() -> Figure:
    return Figure(figsize=(12, 6), layout="constrained", facecolor="white")


def save_training_figure(history: list[dict], path: Path) -> None:
    """Writes training.png; its description is in the file's metadata."""
    figure = new_figure()
    draw(figure, history)
    figure.savefig(path, dpi=110, metadata={"Description": describe(history)})


class Dashboard:
    """A progress bar and one figure below the training cell, shown anew in place while the run goes on.

    Drawing costs most of a second, so it is done only when ten times as long has passed since the last time; the
    progress is shown at every step.
    """

    def __init__(self, total: int, history: list[dict] = ()):
        self.total, self.history, self.figure = total, list(history), new_figure()
        self._handle = display(HTML(""), display_id=True)
        self._draw()
        self._next = time.monotonic()  # the first drawing is the slowest: the first step need not wait for it
        self._show()

    def update(self, metrics: dict) -> None:
        self.history.append(metrics)
        if len(self.history) == self.total or time.monotonic() >= self._next:
            self._draw()
        self._show()

    def _draw(self) -> None:
        start = time.monotonic()
        self._image = self._picture()
        self._next = time.monotonic() + 10 * (time.monotonic() - start)

    def _show(self) -> None:
        self._handle.update(HTML(f"{self._progress()}<br>{self._image}"))

    def _progress(self) -> str:
        done = len(self.history)
        left = (self.total - done) * median([line["time/step_seconds"] for line in self.history] or [0])
        remaining = f", about {left:.0f} s left" if 0 < done < self.total else ""
        return f'<progress value="{done}" max="{self.total}"></progress> step {done} of {self.total}{remaining}'

    def _picture(self) -> str:
        """The figure as an image with alt text, so that the notebook and its HTML can be read by everyone."""
        draw(self.figure, self.history)
        png = io.BytesIO()
        self.figure.savefig(png, format="png", dpi=96)
        data = base64.b64encode(png.getvalue()).decode()
        return f'<img alt="{escape(describe(self.history))}" src="data:image/png;base64,{data}">'
