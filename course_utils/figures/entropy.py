"""Pictures of notebook 3: which tokens of a real response are decisions, and what temperature does to entropy."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Categorical

from course_utils.figures.show import BLUE, GREY, ORANGE, new_figure
from course_utils.problems import Problem
from course_utils.real_rollout import (
    RealRollout,
    embedded_actor,
    embedded_tokenizer,
    prompt_of,
    respond,
    rewards_of,
)
from course_utils.rollout import texts_of
from course_utils.stubs import unless_stub

TEMPERATURES = np.linspace(0.1, 5, 50)
OPEN = 0.1  # nats: above it we call a token a decision
BARS = 6  # tokens that have a bar of their own
SAMPLES = 8  # responses to one question


# ------------------------------------------------------------------ why: decisions and what they are worth


def draw_decisions(rollout: RealRollout, row: int) -> tuple[Figure, str]:
    """The entropy of each token of one response, and the rewards of all responses by their first token."""
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2, width_ratios=(2.3, 1))
    return figure, f"Left: {_draw_entropies(left, rollout, row)} Right: {_draw_openings(right, rollout)}"


def _draw_entropies(axes: Axes, rollout: RealRollout, row: int) -> str:
    tokens = [_printable(token) for token in rollout.tokens[row]]
    entropies = _entropy(rollout.logits[row, : len(tokens)]).tolist()
    decisions = [f"{token} ({entropy:.1f})" for token, entropy in zip(tokens, entropies) if entropy > OPEN]
    axes.bar(range(len(tokens)), entropies, color=[ORANGE if entropy > OPEN else BLUE for entropy in entropies])
    axes.axhline(OPEN, color="black", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
    axes.set_ylabel("entropy (nats)")
    axes.set_title(f"{len(decisions)} of {len(tokens)} tokens are decisions: above {OPEN:g} nats", fontsize=11)
    return (
        f"entropy of the {len(tokens)} tokens of one response. {len(decisions)} have more than {OPEN:g} nats: "
        f"{', '.join(decisions)}."
    )


def _draw_openings(axes: Axes, rollout: RealRollout) -> str:
    first = [tokens[0] for tokens in rollout.tokens]
    names, counts = zip(*Counter(first).most_common(4))
    rewards = [rollout.rewards[[token == name for token in first]].mean().item() for name in names]
    labels = [f"{reward:.2f}\n{count} ×" for reward, count in zip(rewards, counts)]
    axes.bar_label(axes.bar([_printable(name) for name in names], rewards, color=BLUE), labels, fontsize=9)
    axes.set(ylim=(0, 1.25), ylabel="mean reward", xlabel="first token")
    axes.set_title("The first one matters", fontsize=11)
    return (
        "mean reward of the responses by their first token: "
        + ", ".join(
            f"{_printable(name)} {reward:.2f} ({count} times)" for name, reward, count in zip(names, rewards, counts)
        )
        + "."
    )


# ------------------------------------------------------------------ why: a policy that is sure of itself


def same_question(rollout: RealRollout, row: int, temperature: float) -> list[tuple[float, str]]:
    """Reward and text of SAMPLES responses to one question of the rollout, sampled at this temperature."""
    problem = Problem(rollout.questions[row], f"#### {rollout.golds[row]}")
    buffer = respond(embedded_actor(temperature), [prompt_of(problem)] * SAMPLES, seed=0)
    texts = texts_of(buffer, embedded_tokenizer())
    return list(zip(rewards_of(texts, [problem] * SAMPLES), texts))


def print_entropies(rollout: RealRollout, loss: Callable) -> None:
    """The mean entropy of all response tokens by `loss`, called as compute_entropy_loss is, at some temperatures."""
    rows = ["temperature   logits from      to   float32   bfloat16   entropy by your function, in nats"]
    with unless_stub("compute_entropy_loss"):
        for temperature in (0.001, 0.1, 1, 2, 5):
            logits = rollout.logits / temperature
            single, half = (-loss(x, rollout.mask) for x in (logits, logits.bfloat16()))
            rows.append(f"{temperature:11g} {logits.min():13.0f} {logits.max():7.0f} {single:9.4f} {half:10.4f}")
        print("\n".join(rows))


# ------------------------------------------------------------------ entropy against temperature


def draw_temperature(rollout: RealRollout, row: int, temperature: float, token: float) -> tuple[Figure, str]:
    """The distribution that one token was drawn from, at this temperature, and its entropy at all of them.

    `token` counts from 1; past the end of the response it means the last one.
    """
    tokens = [_printable(text) for text in rollout.tokens[row]]
    position = min(int(token), len(tokens)) - 1
    logits = rollout.logits[row, : len(tokens)]
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    bars = _draw_bars(left, logits[position], temperature, rollout.tokens[row][position])
    curve = _draw_curve(right, logits, position, temperature)
    before = "".join(rollout.tokens[row][:position])[-40:].replace("\n", "↵")
    context = f"after “{before}”" if before else "first"
    title = f"Token {position + 1} of {len(tokens)}: {context} came {tokens[position]}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure, f"{title}. {bars} {curve}"


def draw_three_temperatures(rollout: RealRollout, row: int) -> tuple[Figure, str]:
    """Token 1, a decision, and token 3, a forced one, each cold, as sampled and hot."""
    figure = new_figure(5.4)
    words = []
    for line, position in zip(figure.subplots(2, 3), (0, 2)):
        drawn, logits = rollout.tokens[row][position], rollout.logits[row, position]
        for axes, temperature in zip(line, (0.1, 1, 5)):
            words.append(f"Token {position + 1}: {_draw_bars(axes, logits, temperature, drawn)}")
            entropy = _entropy(logits / temperature).item()
            axes.set_title(f"token {position + 1}, temperature {temperature:g}\n{entropy:.2f} nats", fontsize=10)
            axes.set_xlabel("probability" if position else "", fontsize=9)
    figure.suptitle("Orange: the token that was drawn; outline: its probability at temperature 1", fontsize=11)
    return figure, " ".join(words)


def _draw_bars(axes: Axes, logits: Tensor, temperature: float, drawn: str) -> str:
    top = logits.topk(BARS).indices
    now, before = ((logits / t).softmax(-1)[top].tolist() for t in (temperature, 1.0))
    names = [*(_printable(embedded_tokenizer().decode(token)) for token in top.tolist()), "all others"]
    now, before = ([*p, max(0.0, 1 - sum(p))] for p in (now, before))
    colours = [ORANGE if name == _printable(drawn) else BLUE for name in names]
    axes.barh(range(len(names)), now, color=colours, height=0.7)
    axes.barh(range(len(names)), before, fill=False, edgecolor="black", height=0.7)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="probability (outline: at temperature 1)")
    axes.set_title("Orange: the token that was drawn", fontsize=11)
    return (
        f"At temperature {temperature:.2f} its probabilities are "
        + ", ".join(f"{name} {p:.2f}" for name, p in zip(names, now))
        + "."
    )


def _draw_curve(axes: Axes, logits: Tensor, position: int, temperature: float) -> str:
    curves = torch.stack([_entropy(logits / t) for t in TEMPERATURES])  # (50, R)
    here, highest = _entropy(logits[position] / temperature).item(), math.log(logits.shape[-1])
    axes.axhline(highest, color="black", linestyle=":", label=f"ln {logits.shape[-1]}, the most there can be")
    axes.plot(TEMPERATURES, curves.mean(1), "--", color=GREY, linewidth=2, label="mean over the response")
    axes.plot(TEMPERATURES, curves[:, position], color=BLUE, linewidth=2.5, label="this token")
    axes.plot(temperature, here, "o", color="black", markersize=9)
    axes.set(xlabel="temperature", ylabel="entropy (nats)", xlim=(0, 5), ylim=(0, 7))
    axes.set_title(f"Entropy {here:.2f} at temperature {temperature:.2f}", fontsize=11)
    # Below, since the curves fill the axes.
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False)
    return (
        f"Its entropy there is {here:.2f} nats, of at most {highest:.2f}; at temperature 1 it is "
        f"{_entropy(logits[position]).item():.2f}."
    )


def _entropy(logits: Tensor) -> Tensor:
    return Categorical(logits=logits).entropy().abs()  # rounding makes -0 of 0


def _printable(text: str) -> str:
    """A token with all its spaces, for "<<" and " <<" are two of them, with a bar each."""
    return text.replace("\n", "↵").replace(" ", "␣")
