"""What notebook 5 shows: one step or several, outputs at the wrong positions, what one update does to a response."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.figures.show import BLUE, GREY, ORANGE, new_figure
from course_utils.figures.token_explorer import visible
from course_utils.policy import ActorCritic
from course_utils.real_rollout import RealRollout, embedded_actor, embedded_tokenizer, training_prompts

RIGHT, WRONG = 4, 2  # rows of real_rollout(): a right response of 39 tokens and a wrong one of 5
UNIT = 1e-4  # of the learning rates
RATES = range(0, 31, 3)
RATE = 3  # the course's
OTHERS = 64  # questions
VISIBLE = 0.005  # smaller changes of a probability are not marked


# ------------------------------------------------------------------ why: one step, or several


def share_of_that(rollout: RealRollout, mini_batch_size: int | None = None) -> float:
    """How often responses to other questions open with " That", the opening of nearly all right answers.

    Of the model as it is, or after one pass over the rollout with a step of Adam for each mini-batch, in order. The
    loss is that of one_update; the rollout's own model is left alone.
    """
    actor, advantages = embedded_actor(), _whitened(rollout.rewards)
    optimizer = torch.optim.Adam(actor.parameters(), lr=RATE * UNIT)
    for rows in torch.arange(len(advantages)).split(mini_batch_size) if mini_batch_size else ():
        for row in rows.tolist():
            loss = advantages[row] * _surprises(actor, rollout, row).sum() / rollout.mask[rows].sum()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    that = embedded_tokenizer()(" That").input_ids[0]
    prompts = [torch.tensor([prompt.input_ids]) for prompt in training_prompts(OTHERS, seed=99)]
    with torch.no_grad():
        last = [actor(ids, torch.ones_like(ids), logits_to_keep=1)[0][0, -1] for ids in prompts]
    return torch.stack(last).softmax(-1)[:, that].mean().item()


def _whitened(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / rewards.std(correction=0)


# ------------------------------------------------------------------ one position late


def draw_positions(rollout: RealRollout) -> tuple[Figure, str]:
    """The ratio to the log-probs of sampling at each token of the right response, by outputs at the right positions and
    by those one position late. The model has not been updated, so it should be 1."""
    tokens = rollout.tokens[RIGHT]
    exact, late = _ratios(rollout, RIGHT)
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    axes.axhline(1, color=GREY, linewidth=1)
    axes.plot(exact, "o", color=BLUE, label="output before the token: predicts it")
    axes.plot(late, "x", color=ORANGE, markeredgewidth=2, label="output at the token: one position late")
    axes.set(
        yscale="log",
        ylim=(1e-9, 1e3),
        ylabel="ratio  new / old",
        title="Nothing has been learnt yet, so every ratio must be 1",
    )
    axes.legend(loc="upper right", ncols=2, fontsize=9)
    _name_tokens(axes, tokens)
    outside = sum(not 0.8 <= ratio <= 1.2 for ratio in late)
    return figure, (
        f"The ratio of new to old probability at each of the {len(tokens)} tokens of a response, on a logarithmic "
        f"scale. With outputs at the right positions all lie on 1. One position late, {outside} of {len(late)} are "
        f"outside 0.8 to 1.2, most near {sorted(late)[len(late) // 2]:.0e}; the last token has no output at all."
    )


def _ratios(rollout: RealRollout, row: int) -> tuple[list[float], list[float]]:
    """π(token) / π(token) at sampling, token by token: by the output that predicts it, and by the one after it."""
    steps = [logits.softmax(dim=0) for logits in rollout.logits[row, : len(rollout.tokens[row])]]  # each (V,)
    ids, old = rollout.buffer["response_input_ids"][row].tolist(), rollout.buffer["logprobs"][row].exp().tolist()
    exact = [float(step[token]) / before for step, token, before in zip(steps, ids, old)]
    late = [float(step[token]) / before for step, token, before in zip(steps[1:], ids, old)]
    return exact, late


# ------------------------------------------------------------------ what one update does


@dataclass(frozen=True)
class OneUpdate:
    """Two responses before and after one step on their mini-batch, for each of RATES."""

    tokens: tuple[list[str], list[str]]  # of the right and of the wrong response
    advantages: tuple[float, float]
    probabilities: dict[int, list[list[float]]]  # [learning rate][response][token]; at 0 nothing has changed


def one_update(rollout: RealRollout) -> OneUpdate:
    """A step of Adam with the whole rollout as its mini-batch, and with a plain loss: minus the advantage times the
    log-probability, without the ratio. Takes about two seconds; the rollout's own model is left alone."""
    advantages = _whitened(rollout.rewards)
    actor = embedded_actor()
    start = copy.deepcopy(actor.state_dict())
    for row in range(len(rollout.tokens)):
        loss = advantages[row] * _surprises(actor, rollout, row).sum() / rollout.mask.sum()
        loss.backward()
    probabilities = {}
    for rate in RATES:
        actor.load_state_dict(start)
        torch.optim.Adam(actor.parameters(), lr=rate * UNIT).step()
        with torch.no_grad():
            probabilities[rate] = [(-_surprises(actor, rollout, row)).exp().tolist() for row in (RIGHT, WRONG)]
    return OneUpdate(
        (rollout.tokens[RIGHT], rollout.tokens[WRONG]),
        (advantages[RIGHT].item(), advantages[WRONG].item()),
        probabilities,
    )


def _surprises(actor: ActorCritic, rollout: RealRollout, row: int) -> Tensor:
    """-log π of each token of one response (its length,), as one trains a language model on a single text."""
    buffer = rollout.buffer
    prompt = buffer["prompt_input_ids"][row][buffer["prompt_attention_mask"][row] == 1]
    response = buffer["response_input_ids"][row][rollout.mask[row] == 1]
    text = torch.cat([prompt, response])
    logits, _ = actor(text.unsqueeze(0), torch.ones_like(text).unsqueeze(0))
    return F.cross_entropy(logits[0, :-1], text[1:], reduction="none")[-len(response) :]


def draw_update(update: OneUpdate, learning_rate: float) -> tuple[Figure, str]:
    """The probability of each sampled token before and after one step; `learning_rate` is one of RATES, in 1e-4."""
    return _draw_updates(update, (learning_rate,), height=3.8)


def draw_three_updates(update: OneUpdate) -> tuple[Figure, str]:
    """draw_update with three learning rates: the course's, one at which tokens break, and ten times the first."""
    return _draw_updates(update, (3, 12, 30), height=8.4)


def _draw_updates(update: OneUpdate, learning_rates: tuple[float, ...], height: float) -> tuple[Figure, str]:
    """A line of panels for each learning rate, the right response on the left and the wrong one on the right."""
    figure = new_figure(height)
    widths = [max(9, len(tokens)) for tokens in update.tokens]
    lines = figure.subplots(len(learning_rates), 2, sharex="col", sharey=True, width_ratios=widths, squeeze=False)
    words = []
    for panels, learning_rate in zip(lines, learning_rates):
        words.append(
            "The probability of each sampled token before and after one step with learning rate "
            f"{learning_rate:g} · 10⁻⁴."
        )
        before, after = update.probabilities[0], update.probabilities[round(learning_rate)]
        for number, name in enumerate(("Right", "Wrong")):
            title = f"{name} answer, advantage {update.advantages[number]:+.2f}".replace("-", "−")
            _draw_change(panels[number], before[number], after[number])
            lines[0][number].set_title(title.replace(", ", "\n"), fontsize=11)
            _name_tokens(panels[number], update.tokens[number])
            words.append(f"{title}: {_change_in_words(update.tokens[number], before[number], after[number])}")
        panels[0].set(ylim=(-0.04, 1.06), ylabel=f"probability of the token,\nlearning rate {learning_rate:g} · 10⁻⁴")
    figure.legend(*lines[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure, " ".join(words)


def _draw_change(axes: Axes, before: list[float], after: list[float]) -> None:
    axes.vlines(range(len(before)), before, after, color=GREY, linewidth=2)
    axes.plot(before, "o", markerfacecolor="white", color=GREY, label="before, or unchanged")
    changes = [new - old for old, new in zip(before, after)]
    for marker, colour, sign, label in (("^", BLUE, 1, "after: more likely"), ("v", ORANGE, -1, "after: less likely")):
        chosen = [i for i, change in enumerate(changes) if sign * change >= VISIBLE]
        axes.plot(chosen, [after[i] for i in chosen], marker, color=colour, markersize=7, label=label)


def _change_in_words(tokens: list[str], before: list[float], after: list[float]) -> str:
    """The five largest changes, if there are any."""
    largest = sorted(range(len(tokens)), key=lambda i: -abs(after[i] - before[i]))[:5]
    changes = [
        f"“{visible(tokens[i])}” {before[i]:.2f} to {after[i]:.2f}"
        for i in sorted(largest)
        if abs(after[i] - before[i]) >= VISIBLE
    ]
    return f"{', '.join(changes)}, the others less." if changes else "no token changes."


def _name_tokens(axes: Axes, tokens: list[str]) -> None:
    axes.set_xticks(range(len(tokens)), map(visible, tokens), rotation=90, fontsize=9, parse_math=False)
    axes.set_xlim(-0.8, len(tokens) - 0.2)
    axes.spines[["top", "right"]].set_visible(False)
