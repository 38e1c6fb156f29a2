"""The map of PPO that opens each notebook: the whole cycle, with the place that the notebook is about."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course_utils.figures.show import BLUE, ORANGE, WIDTH, new_figure, show

PLACES = {  # by the number of the notebook
    1: "the policy loss",
    2: "the value loss",
    3: "the entropy bonus",
    4: "the advantages",
    5: "the mini-batch update",
    6: "the whole cycle",
}
HEIGHT = 3.75  # inches, as are all coordinates


@dataclass(frozen=True)
class Box:
    title: str
    details: str
    left: float
    bottom: float
    notebook: int | None = None  # that is about it
    width: float = 1.2
    height: float = 0.85

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


ROLLOUT = (  # from left to right
    Box("prompts", "questions", 0.15, 2.4),
    Box("sample", "the policy writes,\ntoken by token", 1.65, 2.4),
    Box("responses", "with log-probs\nand values", 3.15, 2.4),
    Box("reward", "is the answer\nright?", 4.65, 2.4),
    Box("KL penalty", "how far from\nthe reference?", 6.15, 2.4),
    Box("advantages", "GAE: better\nthan expected?", 7.6, 2.4, notebook=4, width=1.25),
)
LOSSES = (  # added up, inside the update
    Box("policy loss", "good tokens get\nmore likely", 3.35, 0.55, notebook=1, width=1.5, height=0.8),
    Box("value loss", "learn what\nto expect", 5.25, 0.55, notebook=2, width=1.5, height=0.8),
    Box("entropy", "keep trying\nother tokens", 7.15, 0.55, notebook=3, width=1.5, height=0.8),
)
UPDATE = Box("mini-batch update, several times a rollout", "", 3.15, 0.4, notebook=5, width=5.7, height=1.4)
NEW_POLICY = Box("new policy", "writes the\nnext responses", 1.65, 0.68)


def cycle_map(here: int) -> None:
    """Shows the PPO cycle with the place of notebook `here`, 1 to 6, marked."""
    show(*draw_cycle(here))


def draw_cycle(here: int) -> tuple[Figure, str]:
    """The map and its description. `here` is the number of a notebook; 6 is about all of the cycle."""
    figure = new_figure(HEIGHT)
    figure.set_layout_engine("none")  # the boxes know their places
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    _draw_update(axes, here in (5, 6))
    for box in (*ROLLOUT, NEW_POLICY, *LOSSES):
        _draw_box(axes, box, box.notebook is not None and here in (box.notebook, 6))
    for one, next_one in zip(ROLLOUT, ROLLOUT[1:]):
        _arrow(axes, (one.left + one.width, 2.825), (next_one.left, 2.825))
    _arrow(axes, (ROLLOUT[-1].middle, 2.4), (ROLLOUT[-1].middle, 1.8))
    _arrow(axes, (UPDATE.left, 1.1), (NEW_POLICY.left + 1.2, 1.1))
    _arrow(axes, (NEW_POLICY.middle, 1.53), (NEW_POLICY.middle, 2.4))
    for one, next_one in zip(LOSSES, LOSSES[1:]):
        axes.text((one.left + 1.5 + next_one.left) / 2, 0.95, "+", ha="center", va="center", fontsize=14)
    _draw_here(axes, here)
    return figure, _describe(here)


def _draw_box(axes: Axes, box: Box, marked: bool) -> None:
    ink = "white" if marked else "black"
    _frame(axes, box, BLUE if marked else "white", 2.5 if marked else 1)
    title = f"{box.notebook} · {box.title}" if box.notebook else box.title
    top = box.bottom + box.height
    axes.text(box.middle, top - 0.18, title, ha="center", va="center", fontsize=10, weight="bold", color=ink)
    axes.text(box.middle, top - 0.53, box.details, ha="center", va="center", fontsize=9, color=ink)


def _draw_update(axes: Axes, marked: bool) -> None:
    _frame(axes, UPDATE, "#CCE3F0" if marked else "#F2F2F2", 3 if marked else 1, BLUE if marked else "black")
    axes.text(UPDATE.left + 0.2, 1.57, f"{UPDATE.notebook} · {UPDATE.title}", va="center", fontsize=10.5, weight="bold")


def _frame(axes: Axes, box: Box, colour: str, line: float, edge: str = "black") -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.left, box.bottom),
            box.width,
            box.height,
            facecolor=colour,
            edgecolor=edge,
            linewidth=line,
            boxstyle="round,pad=0,rounding_size=0.1",
        )
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "black") -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1.5,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 14,
        },
    )


def _draw_here(axes: Axes, here: int) -> None:
    if here == 6:
        axes.text(
            ROLLOUT[0].middle,
            1.1,
            "you are\nhere: the\nwhole\ncycle",
            ha="center",
            va="center",
            fontsize=11,
            weight="bold",
            color=ORANGE,
        )
        return
    (box,) = (box for box in (*ROLLOUT, *LOSSES, UPDATE) if box.notebook == here)
    above = box in ROLLOUT
    edge = box.bottom + box.height if above else box.bottom
    tail = 3.5 if above else 0.15
    _arrow(axes, (box.middle, tail), (box.middle, edge), ORANGE)
    axes.text(
        box.middle - 0.1, tail, "you are here ", ha="right", va="center", fontsize=11, weight="bold", color=ORANGE
    )


def _describe(here: int) -> str:
    steps = ", ".join(box.title for box in ROLLOUT)
    losses = ", ".join(f"{box.title} (notebook {box.notebook})" for box in LOSSES)
    return (
        f"Map of the PPO cycle. You are here: {PLACES[here]} (notebook {here}). In order: {steps} (by GAE, "
        f"notebook 4), {UPDATE.title} (notebook 5), which adds up {losses}; then the new policy, which samples "
        "the next responses, and so round again."
    )
