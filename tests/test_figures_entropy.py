"""The pictures of notebook 3 show what they say, on a real rollout."""

import math

import numpy as np
import pytest
import torch

from course_utils.figures.entropy import (
    BARS,
    draw_decisions,
    draw_temperature,
    draw_three_temperatures,
    print_entropies,
    same_question,
)
from course_utils.real_rollout import real_rollout
from tests.solutions import solution


@pytest.fixture(scope="module")
def rollout():
    return real_rollout(64)


def entropies(logits: torch.Tensor) -> np.ndarray:
    """In float64, from the definition."""
    p = logits.double().softmax(-1).numpy()
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)


def test_decisions_are_the_tokens_with_entropy(rollout):
    figure, description = draw_decisions(rollout, 4)
    length = len(rollout.tokens[4])
    expected = entropies(rollout.logits[4, :length])
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx(expected, abs=1e-4)
    count = int((expected > 0.1).sum())
    assert 0 < count < length / 2  # what the notebook says: most tokens are forced
    assert figure.axes[0].get_title().startswith(f"{count} of {length} tokens are decisions")
    assert f"{count} have more than 0.1 nats" in description


def test_the_first_token_decides_over_the_reward(rollout):
    figure, description = draw_decisions(rollout, 4)
    rewards = dict(
        zip(
            (label.get_text() for label in figure.axes[1].get_xticklabels()),
            (bar.get_height() for bar in figure.axes[1].patches),
        )
    )
    opened = [reward for reward, tokens in zip(rollout.rewards.tolist(), rollout.tokens) if tokens[0] == " That"]
    assert rewards["␣That"] == pytest.approx(sum(opened) / len(opened))
    assert f"␣That {rewards['␣That']:.2f} ({len(opened)} times)" in description
    assert rewards["␣That"] > 0.7 and rewards["␣####"] < 0.3  # what the notebook says
    halves = [text for text, tokens in zip(rollout.responses, rollout.tokens) if tokens[0] == " S"]
    assert halves and all(text.startswith(" So that is <<") and "####" not in text for text in halves)
    assert rewards["␣S"] == 0


@pytest.mark.parametrize(("temperature", "token"), [(1, 1), (0.3, 1), (0.1, 3), (2.5, 3), (5, 12)])
def test_bars_and_point_are_those_of_the_temperature(rollout, temperature, token):
    figure, description = draw_temperature(rollout, 4, temperature, token)
    logits = rollout.logits[4, token - 1]
    p = (logits.double() / temperature).softmax(-1).sort(descending=True).values
    assert [bar.get_width() for bar in figure.axes[0].patches[:BARS]] == pytest.approx(p[:BARS].tolist(), abs=1e-5)
    assert figure.axes[0].patches[BARS].get_width() == pytest.approx(p[BARS:].sum().item(), abs=1e-5)
    point = next(line for line in figure.axes[1].lines if line.get_marker() == "o")
    expected = entropies(logits / temperature)
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((temperature, expected), abs=1e-4)
    assert "-0.00" not in description + figure.axes[1].get_title()
    assert f"Its entropy there is {expected:.2f} nats, of at most {math.log(logits.numel()):.2f}" in description


def test_three_temperatures_of_a_decision_and_of_a_forced_token(rollout):
    figure, description = draw_three_temperatures(rollout, 4)
    for number, axes in enumerate(figure.axes):
        line, column = divmod(number, 3)
        token, temperature = (1, 3)[line], (0.1, 1, 5)[column]
        logits = rollout.logits[4, token - 1]
        p = (logits.double() / temperature).softmax(-1)
        first = logits.topk(BARS).indices
        assert [bar.get_width() for bar in axes.patches[:BARS]] == pytest.approx(p[first].tolist(), abs=1e-5)
        nats = f"{abs(entropies(logits / temperature)):.2f} nats"
        assert axes.get_title() == f"token {token}, temperature {temperature:g}\n{nats}"
        assert (
            draw_temperature(rollout, 4, temperature, token)[1]
            .split("came ")[1]
            .split(". ", 1)[1]
            .split(" Its entropy")[0]
            in description
        )


def test_when_the_forced_token_begins_to_doubt(rollout):
    """What the notebook says of token 3, by the slider's steps."""
    nats = {step: entropies(rollout.logits[4, 2] / (step / 10)) for step in range(10, 51)}
    assert min(step for step in nats if nats[step] > 0.1) == 19
    assert nats[25] == pytest.approx(1, abs=0.05)
    assert (rollout.logits[4, 2].double() / 2.5).softmax(-1).max().item() == pytest.approx(0.89, abs=0.005)


def test_the_token_that_was_drawn_is_named_and_marked(rollout):
    figure, description = draw_temperature(rollout, 4, 1.0, 2)
    length = len(rollout.tokens[4])
    assert description.startswith(f"Token 2 of {length}: after “ That” came ␣is.")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches[: BARS + 1]]
    assert colours.count(colours[names.index("␣is")]) == 1
    assert draw_temperature(rollout, 4, 1.0, 1)[1].startswith(f"Token 1 of {length}: first came ␣That.")


def test_a_token_past_the_end_is_the_last_one(rollout):
    length = len(rollout.tokens[2])
    assert draw_temperature(rollout, 2, 1.0, 60)[1].startswith(f"Token {length} of {length}: ")


def test_a_policy_that_is_sure_gets_one_reward_only(rollout):
    """What the notebook says of question 2."""
    usual, sure = (same_question(rollout, 2, temperature) for temperature in (1.0, 0.1))
    assert len(usual) == len(sure) == 8
    assert [reward for reward, _ in sure] == [0.1] * 8
    assert len({text for _, text in sure}) == 1
    assert max(reward for reward, _ in usual) == 1


def test_the_log_of_a_softmax_breaks_on_this_rollout_when_it_is_sure(rollout):
    """What the notebook predicts: no trouble at temperature 1, NaN at 0.1."""
    for temperature, least, most in ((1, 0, 0), (0.1, 0.9, 1)):
        p = (rollout.logits[rollout.mask.bool()] / temperature).softmax(-1)
        assert least <= (p * p.log()).isnan().any(-1).float().mean() <= most


def test_the_learners_entropies_of_the_rollout(rollout, capsys):
    print_entropies(rollout, solution("entropy"))
    rows = [[float(x) for x in line.split()] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [0.001, 0.1, 1, 2, 5]
    tokens = rollout.mask.bool()
    low, high = rollout.logits.min().item(), rollout.logits.max().item()
    assert (round(low), round(high)) == (-15, 20) and rows[0][1:3] == [-15115, 19896]  # what the notebook says
    for temperature, least, most, single, half in rows:
        assert (least, most) == pytest.approx((low / temperature, high / temperature), abs=0.6)
        expected = entropies(rollout.logits[tokens] / temperature).mean()
        assert single == pytest.approx(expected, abs=1e-4)
        assert half == pytest.approx(expected, abs=0.02)


def test_an_entropy_that_is_not_written_yet_is_told(rollout, capsys):
    def stub(logits_new, response_mask):
        raise NotImplementedError()

    print_entropies(rollout, stub)
    assert "compute_entropy_loss is not written yet" in capsys.readouterr().out
