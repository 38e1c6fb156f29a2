"""What a mistake does to a run: the recorded curves, and a run of one's own beside them."""

import inspect
import json
import time
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from statistics import mean, median
from textwrap import fill

from IPython.display import HTML, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from course_utils.break_it.mistakes import KL, MEASURED, METRICS, MISTAKES, REWARD
from course_utils.exercises import EXERCISES
from course_utils.figures.show import BLUE, GREEN, ORANGE, image, new_figure, show
from course_utils.stubs import unless_stub

RECORDED = Path(__file__).parent / "recorded.json"
RIGHT = "right"
Runs = dict[str, dict[str, list[float]]]  # seed -> metric -> a number a step


def recorded(key: str) -> dict[str, Runs]:
    """The recorded runs of exercise `key`, by the name of the mistake; those without one are RIGHT."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))["runs"][key]


def gallery(key: str) -> None:
    """Shows every mistake of exercise `key` by the metric that tells most about it, and says what to look for."""
    show(*draw_gallery(key))
    display(HTML("".join(f"<p><b>{name}</b>: {escape(mistake.words)}</p>" for name, mistake in MISTAKES[key].items())))


def draw_gallery(key: str) -> tuple[Figure, str]:
    """A panel for each mistake, and the same in words."""
    runs, mistakes = recorded(key), MISTAKES[key]
    figure = new_figure(3.1)
    for axes, (name, mistake) in zip(figure.subplots(1, len(mistakes), squeeze=False)[0], mistakes.items()):
        _draw_runs(axes, runs[RIGHT], mistake.metric, BLUE, "right")
        _draw_runs(axes, runs[name], mistake.metric, ORANGE, "with the mistake", "--")
        if mistake.metric in MEASURED:
            _draw_runs(axes, runs[name], MEASURED[mistake.metric], GREEN, "with the mistake, of the sampled text", ":")
        _finish(axes, mistake.metric, name, runs[RIGHT], runs[name])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
    return figure, "Recorded runs, the mean of the last third. " + " ".join(
        _in_words(name, mistake.metric, runs) for name, mistake in mistakes.items()
    )


def _in_words(name: str, metric: str, runs: dict[str, Runs]) -> str:
    measured = f", of the sampled text {last_third(runs[name], MEASURED[metric]):.2g}" if metric in MEASURED else ""
    return (
        f"{name}: {METRICS[metric]} {last_third(runs[name], metric):.2g}{measured}, "
        f"without the mistake {last_third(runs[RIGHT], metric):.2g}."
    )


def last_third(runs: Runs, metric: str) -> float:
    """The mean over the last third of the steps of all seeds."""
    return mean(x for run in runs.values() for x in run[metric][-max(1, len(run[metric]) // 3) :])


def break_it(key: str, wrong: Callable, steps: int | None = None) -> None:
    """Trains the embedded model with `wrong` as exercise `key` and draws it beside the recorded right runs.

    The other four functions are course_utils.stand_ins, as they were in the recorded runs. `steps`: fewer or more than
    those had. What stops the run is said in a line; an error that comes from no line of the learner's is raised.
    """
    from course_utils.break_it.short_run import settings_of, short_run  # the gallery opens without what training needs
    from course_utils.trainer import TrainingError

    steps = steps or settings_of(key).training.total_ppo_steps
    metrics, history, begun = metrics_to_show(key, wrong.__name__), [], time.monotonic()
    picture = display(HTML("Loading the model ..."), display_id=True)
    try:
        with unless_stub(EXERCISES[key].function):
            for line in short_run(key, wrong, f"training.total_ppo_steps={steps}"):
                history.append(line)
                left = (steps - len(history)) * (time.monotonic() - begun) / len(history)
                progress = f"step {len(history)} of {steps}" + (f", about {left:.0f} s left" if left else "")
                picture.update(HTML(f"{progress}<br>{image(*draw_live(key, history, metrics))}"))
    except TrainingError as stopped:
        print(f"The run could not go on: {stopped}")
    except KeyboardInterrupt:
        print(f"You stopped the run after {len(history)} of {steps} steps.")
    except Exception as error:
        own = _line_of(error, wrong)
        if own is None:
            raise
        print(
            f"The run could not go on: {own.name} raised {type(error).__name__}: {error}\n"
            f"    line {own.lineno} of its cell: {own.line}"
        )
    finally:
        if not history:
            picture.update(HTML(""))


def _line_of(error: Exception, wrong: Callable) -> traceback.FrameSummary | None:
    """The last line on the way to the error that belongs to `wrong` or to a function defined beside it."""
    names = getattr(inspect.unwrap(wrong), "__globals__", None)
    modules = [frame.f_globals for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = [line for line, module in zip(traceback.extract_tb(error.__traceback__), modules) if module is names]
    return lines[-1] if lines else None


def metrics_to_show(key: str, name: str) -> list[str]:
    """The reward, and what tells most about the mistake of this name (no_clipping); of an unknown one, the KL."""
    known = {mistake.replace(" ", "_"): of.metric for mistake, of in MISTAKES[key].items()}
    return list(dict.fromkeys([REWARD, known.get(name, KL), KL]))[:2]


def draw_live(key: str, history: list[dict], metrics: list[str]) -> tuple[Figure, str]:
    """A panel for each of the two metrics: the right runs as recorded, and what `history` holds."""
    live = {"live": {metric: [line[metric] for line in history] for metric in metrics}}
    figure = new_figure(3.3)
    for axes, metric in zip(figure.subplots(1, 2), metrics):
        _draw_runs(axes, recorded(key)[RIGHT], metric, BLUE, "right, recorded")
        _draw_runs(axes, live, metric, ORANGE, "with your mistake, now", "o--")
        _finish(axes, metric, "", recorded(key)[RIGHT], live)
    figure.axes[0].legend(fontsize=10)
    return figure, f"Step {len(history)} with your mistake: " + ", ".join(
        f"{METRICS[metric]} {history[-1][metric]:.2g}" for metric in metrics
    )


def _draw_runs(axes, runs: Runs, metric: str, colour: str, label: str, style: str = "-") -> None:
    """The middle one of the seeds as a line, all of them as a band; as long as the shortest."""
    curves = list(zip(*(run[metric] for run in runs.values())))
    steps = range(1, 1 + len(curves))
    axes.plot(steps, [median(step) for step in curves], style, ms=4, lw=2, color=colour, label=label)
    lows, highs = [min(step) for step in curves], [max(step) for step in curves]
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, lw=0)


def _top(runs: Runs, metric: str) -> float:
    return max(x for run in runs.values() for x in run[metric])


def _finish(axes, metric: str, title: str, right: Runs, wrong: Runs) -> None:
    axes.set_title(fill(title, 18), fontsize=11)
    axes.set_ylabel(METRICS[metric], fontsize=10)
    if metric == KL and _top(wrong, metric) > 10 * _top(right, metric):  # one run would flatten all the others
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set_ylabel(f"{METRICS[metric]},\nlogarithmic above 1", fontsize=10)
    axes.set_xlabel("PPO step", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
