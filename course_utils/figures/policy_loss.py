"""Pictures for notebook 1, the policy loss: a lucky guess that is learnt too well, and the clipped objective."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from textwrap import fill

import numpy as np
import torch
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from course_utils.figures.show import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, show
from course_utils.figures.table import html_table
from course_utils.policy import ActorCritic
from course_utils.problems import Prompt
from course_utils.real_rollout import (
    RealRollout,
    embedded_actor,
    embedded_tokenizer,
    real_rollout,
    respond,
    training_prompts,
)
from course_utils.rollout import texts_of
from course_utils.stubs import unless_stub

# Found by looking: of some 150 direct guesses in 60 rollouts, two were right. Another model needs another seed.
LUCKY_SEED = 28
LEARNING_RATE = 0.002  # of plain gradient descent
STEPS = 20
CLIP = 0.2
CASES = ((0.5, 0.2), (1.3, 0.2), (1.3, 0.5))  # ratio, clip ratio: what notebook 1 asks for before it shows it
STYLES = (
    {"color": BLUE, "linestyle": "--"},
    {"color": GREEN, "linestyle": ":"},
    {"color": ORANGE, "linestyle": "-"},
    {"color": PURPLE, "linestyle": "-."},
)


@dataclass(frozen=True)
class LuckyGuess:
    """A response of a real rollout that calculates nothing and is right."""

    rollout: RealRollout
    row: int

    def __str__(self) -> str:
        return (
            f"{fill(self.rollout.questions[self.row], 88)}\nright answer: {self.rollout.golds[self.row]}\n"
            f"response: {self.rollout.responses[self.row]}"
        )


@dataclass(frozen=True)
class Repeated:
    """What many updates on one response do to the model."""

    tokens: list[str]  # R of them
    old_probs: Tensor  # (R,) when the response was written
    ratios: Tensor  # (STEPS + 1, R): probability of each token over its old one
    questions: list[str]  # other questions, which the model answered by a guess
    before: list[str]  # its most likely response to each of them
    after: list[str]


def lucky_guess() -> LuckyGuess:
    rollout = real_rollout(8, LUCKY_SEED)
    (row,) = (i for i, text in enumerate(rollout.responses) if rollout.rewards[i] == 1 and "<<" not in text)
    return LuckyGuess(rollout, row)


def show_updates(lucky: LuckyGuess, loss: Callable | None = None) -> None:
    """Updates the model many times on the lucky guess alone: shows the ratios, and its answers to other questions.

    `loss` is called as compute_policy_loss is; without one, the objective is the plain mean of ratio times advantage.
    """
    with unless_stub("compute_policy_loss"):
        repeated = repeat_update(lucky, loss)
        show(*draw_ratios(repeated))
        _show_answers(repeated)


def repeat_update(lucky: LuckyGuess, loss: Callable | None = None) -> Repeated:
    """Takes STEPS steps of plain gradient descent, with an advantage of 1 at each token. `lucky` is not changed."""
    actor, prompts = embedded_actor(), training_prompts(24, seed=7)
    before = _greedy(actor, prompts)
    guessed = [row for row, text in enumerate(before) if "<<" not in text]
    tokens = lucky.rollout.tokens[lucky.row]
    old = lucky.rollout.buffer["logprobs"][lucky.row, : len(tokens)]
    ratios = _ascend(actor, lucky, old[None], loss)
    after = _greedy(actor, [prompts[row] for row in guessed])
    return Repeated(
        tokens,
        old.exp(),
        ratios,
        [prompts[row].problem.question for row in guessed],
        [before[row] for row in guessed],
        after,
    )


def _greedy(actor: ActorCritic, prompts: list[Prompt]) -> list[str]:
    return texts_of(respond(actor, prompts, seed=None), embedded_tokenizer())


def _ascend(actor: ActorCritic, lucky: LuckyGuess, old: Tensor, loss: Callable | None) -> Tensor:
    """The ratios (STEPS + 1, R) before, between and after the steps, to the log-probs `old` (1, R); changes `actor`."""
    buffer, row, length = lucky.rollout.buffer, slice(lucky.row, lucky.row + 1), old.shape[1]
    response = buffer["response_input_ids"][row, :length]  # (1, R)
    ids = torch.cat([buffer["prompt_input_ids"][row], response], dim=1)
    mask = torch.cat([buffer["prompt_attention_mask"][row], torch.ones_like(response)], dim=1)
    ones = torch.ones_like(old)
    optimizer = torch.optim.SGD(actor.parameters(), lr=LEARNING_RATE)
    ratios = []
    for step in range(STEPS + 1):
        logits, _ = actor(ids, mask, logits_to_keep=length + 1)
        new = logits[:, :-1].log_softmax(-1).gather(-1, response.unsqueeze(-1)).squeeze(-1)
        ratio = (new - old).exp()
        ratios.append(ratio.detach()[0])
        if step < STEPS:
            optimizer.zero_grad()
            (loss(new, old, ones, ones.long(), CLIP)[0] if loss else -ratio.mean()).backward()
            optimizer.step()
    return torch.stack(ratios)


def _show_answers(repeated: Repeated) -> None:
    rows = [
        (escape(question), escape(before.strip()), f"<b>{escape(after.strip())}</b>")
        for question, before, after in zip(repeated.questions, repeated.before, repeated.after)
    ]
    display(HTML(html_table(("another question", "response before", "response after"), rows)))


def draw_ratios(repeated: Repeated) -> tuple[Figure, str]:
    """How the ratio of each token of the lucky guess moves from update to update."""
    ratios = repeated.ratios.numpy()
    steps, ceiling = len(ratios) - 1, 1 / repeated.old_probs.min().item()
    held = ratios.max() < 2  # then the band is what there is to see, and the ceiling far above it
    figure = new_figure(3.4)
    axes = figure.subplots()
    axes.axhspan(1 - CLIP, 1 + CLIP, color=GREY, alpha=0.5, linewidth=0, label=f"1 ± ε, with ε = {CLIP}")
    if not held:
        axes.axhline(ceiling, color="black", linewidth=1, label=f"{ceiling:.1f}: here the new probability is 1")
    names = [repr(token) if token.strip() else "the space" for token in repeated.tokens]
    for name, ratio, style in zip(names, ratios.T, STYLES):
        axes.plot(ratio, linewidth=2.5, label=f"{name}, at the end {ratio[-1]:.2f}", **style)
    axes.set(
        xlim=(0, steps),
        ylim=(0.5, 2) if held else (0, 1.08 * ceiling),
        xlabel="updates on the same response",
        ylabel="ratio = new / old probability",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
    top = ratios[-1].argmax()
    axes.set_title(
        f"After {steps} updates, {names[top]} is {ratios[-1, top]:.1f} times as likely as when it was written",
        fontsize=11,
    )
    final = ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(names, ratios[-1]))
    limit = "the axis ends at 2" if held else f"a line the highest possible ratio, {ceiling:.1f}"
    return figure, (
        f"Lines of the ratio of each token over {steps} updates. All begin at 1; at the end: {final}. "
        f"A grey band marks {1 - CLIP} to {1 + CLIP}, {limit}."
    )


# ------------------------------------------------------------------ the clipped objective


def draw_objective(ratio: float, clip_ratio: float) -> tuple[Figure, str]:
    """One token's objective over its ratio, for an advantage of +1 and of −1, with the token at `ratio`."""
    figure = new_figure(3.9)
    words = []
    for axes, advantage in zip(figure.subplots(1, 2), (1, -1)):
        words.append(_draw_sign(axes, advantage, ratio, clip_ratio))
        low, high = _flat(advantage, clip_ratio)
        if high - low > 0.6:  # or the words would be wider than the range
            axes.text((low + high) / 2, axes.get_ylim()[0] + 0.1, "gradient 0", ha="center", fontsize=9)
        axes.legend(loc="upper left" if advantage > 0 else "upper right", fontsize=9)
    figure.suptitle(
        "The arrow is where gradient ascent moves your token; in the grey range nothing moves it", fontsize=11
    )
    return figure, (
        f"The clipped objective of one token over its ratio r, with ε = {clip_ratio:.2f} and the token at "
        f"r = {ratio:.2f}. {' '.join(words)}"
    )


def draw_three_ratios() -> tuple[Figure, str]:
    """draw_objective three times, at the ratios of the questions: what the sliders show, without them."""
    figure = new_figure(5.4)
    words = []
    for column, (ratio, clip_ratio) in zip(figure.subplots(2, 3).T, CASES):
        signs = [_draw_sign(axes, advantage, ratio, clip_ratio) for axes, advantage in zip(column, (1, -1))]
        words.append(f"At r = {ratio:g} with ε = {clip_ratio:g}: {' '.join(signs)}")
    for axes in figure.axes:
        axes.set_title(axes.get_title().replace(": ", "\n"), fontsize=10)
    figure.suptitle("r = 0.5, r = 1.3, and r = 1.3 with a larger ε. In the grey range the gradient is 0", fontsize=11)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure, f"The clipped objective of one token over its ratio, three times. {' '.join(words)}"


def _flat(advantage: int, clip_ratio: float) -> tuple[float, float]:
    """The ratios, as far as they are drawn, at which the gradient is 0: only one side is clipped."""
    return (1 + clip_ratio, 2.5) if advantage > 0 else (0, 1 - clip_ratio)


def _draw_sign(axes: Axes, advantage: int, ratio: float, clip_ratio: float) -> str:
    """One panel; returns what it shows, in words."""
    limit = 1 + advantage * clip_ratio  # the only side that is clipped
    clipped = (ratio - limit) * advantage > 1e-9
    value = limit * advantage if clipped else ratio * advantage
    r = np.array([0, limit, 2.5])
    axes.axvspan(*_flat(advantage, clip_ratio), color=GREY, alpha=0.3, linewidth=0)
    axes.plot(r, r * advantage, color=GREY, linestyle="--", linewidth=1.5, label="r·A, not clipped")
    axes.plot(r, np.minimum(r * advantage, limit * advantage), color=BLUE, linewidth=2.5, label="objective")
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.plot(ratio, value, "o", color=ORANGE, markersize=10, label="your token")
    if not clipped:
        axes.annotate(
            "",
            (ratio + 0.35 * advantage, value + 0.35),
            (ratio, value),
            zorder=5,
            arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 2.5, "mutation_scale": 18},
        )
    sign, edge = ("+1", "1 + ε") if advantage > 0 else ("−1", "1 − ε")
    state = "clipped, gradient 0" if clipped else f"gradient {sign}"
    axes.set(
        xlim=(0, 2.5),
        ylim=(-0.3, 2.7) if advantage > 0 else (-2.7, 0.3),
        ylabel="objective",
        xlabel=f"ratio r   ({edge} = {limit:.2f})",
    )
    axes.set_title(f"advantage A = {sign}: {state}", fontsize=11)
    words = f"its objective is {value:.2f} and its gradient is {'0' if clipped else sign}".replace("-", "−")
    return f"Advantage {sign}: flat {'above' if advantage > 0 else 'below'} {edge} = {limit:.2f}; {words}."
