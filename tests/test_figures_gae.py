"""The pictures of notebook 4: one-row GAE against numbers by hand, the critic against least squares, true values."""

import re

import pytest
import torch

from course_utils.figures import gae
from course_utils.figures.gae import (
    LinearCritic,
    advantages,
    draw_gae,
    draw_lambdas,
    draw_one_reward,
    draw_prospects,
    true_values,
)
from course_utils.real_rollout import real_rollout
from course_utils.worked_example import worked_example

RIGHT, WRONG = 0, 1


@pytest.fixture(scope="module")
def rollout():
    return real_rollout(128)  # as the notebook


@pytest.fixture(scope="module")
def critic(rollout):
    return LinearCritic(rollout, unseen=(RIGHT, WRONG))


def numbers(text: str) -> list[float]:
    return [float(number.replace("−", "-")) for number in re.findall(r"[+−]\d\.\d\d", text)]


# ------------------------------------------------------------------ GAE of one response


def test_the_advantages_of_the_worked_example_are_those_of_its_table():
    example = worked_example()
    rewards = [0.06, -0.04, -0.02, 0.9]
    values = example.values_old[0].tolist()
    assert advantages(rewards, values, 0.8, 0.5) == pytest.approx([0.2, 0.2, 0.3, 0], abs=1e-6)
    assert advantages([0.09, -0.05], [0.3, 0.2], 0.8, 0.5) == pytest.approx([-0.15, -0.25])


def test_lambda_0_is_the_td_error_and_lambda_1_waits_for_the_reward():
    rewards, values = [0, 0, 1], [0.5, 0.7, 0.4]
    assert advantages(rewards, values, 0.9, 0) == pytest.approx([0.63 - 0.5, 0.36 - 0.7, 1 - 0.4])
    assert advantages(rewards, values, 0.9, 1) == pytest.approx([0.81 - 0.5, 0.9 - 0.7, 1 - 0.4])


# ------------------------------------------------------------------ the critic


def test_the_notebook_s_two_responses_are_what_its_text_says(rollout):
    assert rollout.rewards[[RIGHT, WRONG]].tolist() == pytest.approx([1, 0.1])
    assert len(rollout.tokens[RIGHT]) == len(rollout.tokens[WRONG]) == 38
    assert rollout.responses[WRONG].startswith(" There are <<8*2=16>>16 toys.")
    assert "<<16+10=26>>" in rollout.responses[WRONG] and "sells 10" in rollout.questions[WRONG]


def test_the_hidden_states_are_those_that_the_value_head_sees(critic, rollout):
    head = rollout.actor.value_head
    weights = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    ids = torch.cat([rollout.buffer["prompt_input_ids"], rollout.buffer["response_input_ids"]], dim=1)
    mask = torch.cat([rollout.buffer["prompt_attention_mask"], rollout.mask], dim=1)
    zeros = head.weight.detach().clone()
    try:
        with torch.no_grad():
            head.weight.copy_(weights)
            _, values = rollout.actor(ids, mask, logits_to_keep=rollout.mask.shape[1] + 1)
    finally:
        head.weight.data.copy_(zeros)
    mine = (critic.hidden @ weights[0]) * rollout.mask
    assert mine.shape == rollout.mask.shape
    assert torch.allclose(mine, values[:, :-1] * rollout.mask, atol=1e-3)


@pytest.mark.parametrize("gamma", [1, 0.9])
def test_the_values_solve_the_ridge_regression(critic, rollout, gamma):
    """Against least squares on the data with a row of √ridge for each weight, and a column of ones."""
    x, y = [], []
    for row in range(2, len(rollout.tokens)):
        length = len(rollout.tokens[row])
        for t in range(length):
            x.append(critic.hidden[row, t].double())
            y.append(rollout.rewards[row].item() * gamma ** (length - 1 - t))
    x, y = torch.stack(x), torch.tensor(y, dtype=torch.float64).unsqueeze(1)
    width = x.shape[1]
    data = torch.cat(
        [
            torch.cat([x, torch.ones(len(x), 1)], 1),
            torch.cat([gae.RIDGE**0.5 * torch.eye(width), torch.zeros(width, 1)], 1),
        ]
    )
    weights = torch.linalg.lstsq(data, torch.cat([y, torch.zeros(width, 1)])).solution.flatten()
    length = len(rollout.tokens[WRONG])
    expected = critic.hidden[WRONG, :length].double() @ weights[:-1] + weights[-1]
    values = critic.values(gamma)
    assert torch.allclose(values[WRONG, :length].double(), expected, atol=1e-4)
    assert (values[WRONG, length:] == 0).all()


def test_the_critic_has_not_seen_the_responses_that_it_judges(critic, rollout):
    values = critic.values(1.0)
    for row, changes in ((WRONG, False), (2, True)):
        rollout.rewards[row] += 5
        try:
            assert torch.equal(critic.values(1.0), values) is not changes
        finally:
            rollout.rewards[row] -= 5


# ------------------------------------------------------------------ true values


def test_the_first_token_of_the_wrong_response_was_the_mistake(rollout):
    figure, description = draw_prospects(rollout, WRONG)
    bars = figure.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    assert len(heights) == 39 and heights[0] > 0.25
    assert all(0 < height < 0.2 for height in heights[1:])
    assert heights[-1] == pytest.approx(0.1)  # what it got
    assert [bar.get_facecolor() == bars[0].get_facecolor() for bar in bars] == [True, False] + [True] * 37
    assert description.startswith(f"Orange: after “There” the prospects fall by {heights[0] - heights[1]:.2f}")
    assert description.count(" 0.10") >= 30


def test_ends_are_scored_together_with_what_they_began_with(rollout):
    """After all but the last token of the right response, the answer stands there."""
    assert true_values(rollout, RIGHT, count=1)[-3:] == pytest.approx([1, 1, 1])


# ------------------------------------------------------------------ heat maps


def cells(figure) -> list[tuple[str, float]]:
    """(token, value) of each cell, as written in it."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [(token, float(value.replace("−", "-"))) for token, value in zip(texts[::2], texts[1::2])]


def test_without_a_critic_each_token_gets_the_same(rollout):
    figure, description = draw_one_reward(rollout, (RIGHT, WRONG))
    mean = rollout.rewards.mean().item()
    assert [value for _, value in cells(figure)] == pytest.approx([1 - mean] * 38 + [0.1 - mean] * 38, abs=0.0051)
    assert numbers(description) == pytest.approx([1 - mean, 0.1 - mean], abs=0.0051)


@pytest.mark.parametrize(
    ("gamma", "lam", "name"),
    [(1, 0, "TD, looks one token ahead"), (0.9, 0.95, "between TD"), (1, 1, "Monte Carlo, waits for the reward")],
)
def test_a_cell_shows_its_token_and_its_raw_advantage(critic, rollout, gamma, lam, name):
    figure, description = draw_gae(critic, gamma, lam)
    values, shown = critic.values(gamma), cells(figure)
    expected = []
    for row, reward in ((RIGHT, 1.0), (WRONG, 0.1)):
        following = torch.cat([values[row, 1:38], torch.zeros(1)])
        delta = gamma * following - values[row, :38]
        delta[-1] += reward
        expected += [sum((gamma * lam) ** (s - t) * delta[s].item() for s in range(t, 38)) for t in range(38)]
    assert [value for _, value in shown] == pytest.approx(expected, abs=0.0051)
    assert [token for token, _ in shown[38:43]] == ["There", "are", "<<", "8", "*"]
    assert name in description and numbers(description) == [value for _, value in shown]


def test_monte_carlo_colours_a_response_by_its_reward(critic):
    values = [value for _, value in cells(draw_gae(critic, 1.0, 1.0)[0])]
    assert sum(value > 0 for value in values[:38]) > 30 and sum(value < 0 for value in values[38:]) > 30


def test_td_blames_the_first_token_most_apart_from_the_last_and_then_takes_it_back(critic):
    shown = cells(draw_lambdas(critic, WRONG)[0])[:38]
    assert min(shown[:-1], key=lambda cell: cell[1]) == shown[0]
    assert shown[0][0] == "There" and shown[1][1] > -shown[0][1] / 2


@pytest.mark.parametrize(("row", "place"), [(RIGHT, slice(38)), (WRONG, slice(38, None))])
def test_the_sliders_positions_that_the_notebook_asks_for_without_a_slider(critic, row, place):
    figure, description = draw_lambdas(critic, row)
    cases = [(1, 0, "TD"), (1, 0.8, "between"), (1, 1, "Monte Carlo"), (0.9, 1, "Monte Carlo")]
    shown = [value for _, value in cells(figure)]
    assert len(shown) == 4 * 38 and numbers(description) == shown
    for number, (axes, (gamma, lam, name)) in enumerate(zip(figure.axes, cases, strict=True)):
        title = axes.get_title(loc="left")
        assert title.startswith(f"γ = {gamma:.2f}, λ = {lam:.2f}") and name in title
        whole = [value for _, value in cells(draw_gae(critic, gamma, lam)[0])]
        assert shown[38 * number : 38 * number + 38] == whole[place]


def test_with_a_small_gamma_the_first_tokens_lose_their_colour(critic):
    """What the notebook says of γ = 0.9 and λ = 1, of both responses."""
    for row in (RIGHT, WRONG):
        shown = [abs(value) for _, value in cells(draw_lambdas(critic, row)[0])]
        waits, discounted = shown[76:114], shown[114:]
        assert max(discounted[:15]) < 0.2 < sum(waits[:15]) / 15 and min(discounted[-2:]) > 0.2


def test_all_cells_lie_within_the_figure(critic):
    """A response of 38 tokens takes three lines of 13, and the last has a cell less."""
    figure, _ = draw_gae(critic, 1.0, 0.5)
    for axes in figure.axes:
        assert [axes.get_xlim(), axes.get_ylim()] == [(0, 13), (3, 0)]
        assert len(axes.patches) == 38
        assert {patch.get_xy() for patch in axes.patches} == {(i % 13, i // 13) for i in range(38)}
