"""Pictures of notebook 2: critics that follow a few responses too far, and where the clipped loss has no slope."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.figures.show import BLUE, GREEN, GREY, ORANGE, new_figure, show
from course_utils.figures.token_explorer import visible
from course_utils.real_rollout import RealRollout, hidden_states
from course_utils.stubs import unless_stub

CLIP = 0.2
FOLLOWED, UPDATES = 8, 60  # responses that one critic is trained on, and the steps taken on them
AXIS = np.linspace(-0.5, 1.7, 441)  # new values
OLD, CASES = 0.4, ((0.9, CLIP), (0.5, CLIP), (0.1, CLIP), (0.9, 2 * CLIP))  # old value; returns and clip ranges


# ------------------------------------------------------------------ why: critics that follow a few responses


def show_critics(rollout: RealRollout, loss: Callable | None = None) -> None:
    """Shows whether critics agree; `loss` is called as compute_value_loss is, without one it is the squared error."""
    with unless_stub("compute_value_loss"):
        show(*draw_critics(rollout, loss))


def draw_critics(rollout: RealRollout, loss: Callable | None = None) -> tuple[Figure, str]:
    """Values of one response by several critics, each trained on FOLLOWED others; with `loss` too, if there is one.

    Only the value head learns, at the default run's learning rate; a token's return is its response's reward.
    """
    hidden, mask = hidden_states(rollout.actor, rollout.buffer), rollout.mask.bool()
    returns = rollout.rewards.unsqueeze(1).expand(mask.shape)
    batches = torch.arange(len(mask)).split(FOLLOWED)[:-1]  # the last ones are kept to be looked at
    shown = max(range(len(mask) - FOLLOWED, len(mask)), key=lambda row: mask[row].sum())
    tokens = rollout.tokens[shown]
    panels = [(_half_squared_error, "plain squared error", ORANGE), (loss, f"your loss, c = {CLIP:g}", BLUE)]
    panels = panels if loss else panels[:1]
    figure = new_figure(3.9 * len(panels))
    words = []
    for axes, (panel_loss, name, colour) in zip(
        figure.subplots(len(panels), 1, sharey=True, squeeze=False).flat, panels
    ):
        critics = [_train(hidden[rows][mask[rows]], returns[rows][mask[rows]], panel_loss) for rows in batches]
        values = np.stack([critic(hidden[shown]).numpy() for critic in critics])[:, : len(tokens)]
        spread = values.std(axis=0).mean()
        axes.fill_between(
            range(len(tokens)), values.min(0), values.max(0), color=colour, alpha=0.25, lw=0, label="all of them"
        )
        for critic, style in zip((0, len(values) - 1), ("-", "--")):
            axes.plot(values[critic], style, color=colour, linewidth=1.8, label=f"critic {critic + 1}")
        axes.axhline(0, color="black", linewidth=1)
        axes.set_title(f"{name}: {spread:.2f} apart (standard deviation)", fontsize=11)
        axes.set(xlim=(-1, len(tokens)), xlabel="token of the response")
        axes.set_xticks(range(len(tokens)), map(visible, tokens), rotation=90, fontsize=8, parse_math=False)
        axes.legend(fontsize=9, ncols=3, loc="upper center")
        words.append(f"{name}, values from {values.min():.2f} to {values.max():.2f}, standard deviation {spread:.2f}")
        axes.set_ylabel("value")
    figure.axes[0].set_ylim(top=1.2 * figure.axes[0].get_ylim()[1])  # room for the legend
    figure.suptitle(f"{len(batches)} critics, each trained on {FOLLOWED} other responses: do they agree?", fontsize=12)
    return figure, (
        f"Values of one response's tokens by {len(batches)} critics, each trained on {FOLLOWED} other "
        f"responses: {'; '.join(words)}."
    ).replace("-", "−")


def _train(hidden: Tensor, returns: Tensor, loss: Callable) -> Callable[[Tensor], Tensor]:
    """A critic that takes UPDATES steps on these T tokens: a function from hidden states (R, D) to values (R,)."""
    head = nn.Linear(hidden.shape[-1], 1)
    nn.init.zeros_(head.weight)  # so that every old value is 0
    nn.init.zeros_(head.bias)
    old, ones = torch.zeros(1, len(hidden)), torch.ones(1, len(hidden), dtype=torch.long)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss(head(hidden).T, old, returns.unsqueeze(0), ones, CLIP)[0].backward()
        optimizer.step()
    return torch.no_grad()(lambda states: head(states).squeeze(-1))


def _half_squared_error(values: Tensor, _old, returns: Tensor, *_rest) -> tuple[Tensor]:
    return (F.mse_loss(values, returns) / 2,)


# ------------------------------------------------------------------ the loss of one token


def draw_flat_zones() -> tuple[Figure, str]:
    """The loss of one token for a return above the range, inside it and below it, and above a wider range."""
    figure = new_figure(3.8)
    words = []
    for axes, (target, clip) in zip(figure.subplots(1, len(CASES), sharey=True), CASES):
        _draw_curves(axes, OLD, target, clip)
        axes.set_title(f"return {target:g}, c = {clip:g}", fontsize=11)
        words.append(f"for a return of {target:g} and a clip range of {clip:g} {_flat_in_words(OLD, target, clip)}")
    figure.axes[0].set_ylabel("loss of one token")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=6)
    figure.suptitle(f"Grey: the gradient is 0. Old value {OLD:g}", fontsize=11)
    return figure, f"Loss of one token against its new value, old value {OLD:g}: {'; '.join(words)}."


def draw_value_clip(value: float, old: float, target: float, clip: float) -> tuple[Figure, str]:
    """The loss of one token, with the new value as a point on it and the step that its gradient asks for."""
    figure = new_figure(3.8)
    axes = figure.subplots()
    _draw_curves(axes, old, target, clip)
    loss, slope = _loss(value, old, target, clip), _slope(value, old, target, clip)
    axes.plot(value, loss, "o", color="black", markersize=10, zorder=5)
    move = (
        "the gradient is 0: the value stays"
        if abs(slope) < 1e-9
        else (f"the gradient is {slope:.2f}: the value goes {'down' if slope > 0 else 'up'}").replace("-", "−")
    )
    if abs(slope) >= 1e-9:
        axes.annotate(
            "",
            (value - np.sign(slope) * 0.2, loss),
            (value, loss),
            arrowprops={"arrowstyle": "-|>", "linewidth": 2, "mutation_scale": 18},
        )
    axes.set_title(f"Loss {loss:.3f}; {move}", fontsize=11)
    axes.set_ylabel("loss of one token")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure, (
        f"Loss of one token with return {target:.2f}, old value {old:.2f} and clip range {clip:.2f}: "
        f"{_flat_in_words(old, target, clip)}. At the new value {value:.2f} the loss is {loss:.3f} and {move}."
    )


def _draw_curves(axes: Axes, old: float, target: float, clip: float) -> None:
    flat = _flat(old, target, clip)
    if flat:
        axes.axvspan(*flat, color="#E0E0E0", label="gradient 0")
    axes.axvline(target, color=GREEN, linestyle=":", linewidth=2, label="return")
    axes.axvspan(old - clip, old + clip, ymax=0.04, color=GREY, label="range")
    axes.plot(AXIS, (AXIS - target) ** 2 / 2, "--", color=ORANGE, linewidth=2, label="½ (new value − return)²")
    axes.plot(
        AXIS,
        (np.clip(AXIS, old - clip, old + clip) - target) ** 2 / 2,
        "-.",
        color=BLUE,
        linewidth=2,
        label="½ (clipped − return)²",
    )
    axes.plot(
        AXIS,
        [_loss(value, old, target, clip) for value in AXIS],
        color="black",
        alpha=0.35,
        linewidth=6,
        label="the loss",
    )
    axes.set(xlim=(AXIS[0], AXIS[-1]), ylim=(-0.02, 0.5), xlabel="new value")


def _flat(old: float, target: float, clip: float) -> tuple[float, ...] | None:
    """Between which new values the gradient is 0: from the range's edge to its mirror image beyond the return."""
    edge = old + clip if target > old + clip else old - clip if target < old - clip else None
    return None if edge is None else tuple(sorted((edge, 2 * target - edge)))


def _flat_in_words(old: float, target: float, clip: float) -> str:
    flat = _flat(old, target, clip)
    if flat is None:
        return "the return lies within the range, so that the loss is flat nowhere"
    return f"the loss is flat for new values from {flat[0]:.2f} to {flat[1]:.2f}".replace("-", "−")


def _slope(value: float, old: float, target: float, clip: float) -> float:
    flat = _flat(old, target, clip)
    return 0 if flat and flat[0] < value < flat[1] else value - target


def _loss(value: float, old: float, target: float, clip: float) -> float:
    flat = _flat(old, target, clip)
    held = flat[0] if flat and flat[0] < value < flat[1] else value
    return (held - target) ** 2 / 2
