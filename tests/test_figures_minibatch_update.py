"""The pictures of notebook 5: right about the positions, right about the step, and the model is left as it was."""

import math
import re

import pytest
import torch
from matplotlib.figure import Figure

from course_utils.figures.minibatch_update import (
    RATES,
    RIGHT,
    WRONG,
    draw_positions,
    draw_three_updates,
    draw_update,
    one_update,
    share_of_that,
)
from course_utils.real_rollout import real_rollout
from course_utils.rollout import score_logprobs


@pytest.fixture(scope="module")
def rollout():
    return real_rollout()


@pytest.fixture(scope="module")
def update(rollout):
    return one_update(rollout)


def heights(figure: Figure, marker: str, panel: int = 0) -> list[float]:
    (line,) = (line for line in figure.axes[panel].lines if line.get_marker() == marker)
    return list(line.get_ydata())


def test_the_rows_are_a_right_and_a_wrong_response(rollout):
    assert rollout.rewards[RIGHT] == 1 and rollout.rewards[WRONG] < 1
    assert rollout.responses[RIGHT].endswith(f"#### {rollout.golds[RIGHT]}")
    assert (len(rollout.tokens[RIGHT]), rollout.responses[WRONG]) == (39, " #### 15")


def test_positions_shows_ratios_of_1_and_those_of_the_next_output(rollout):
    figure, description = draw_positions(rollout)
    assert heights(figure, "o") == pytest.approx([1] * 39, abs=1e-3)
    logits, old = rollout.logits[RIGHT], rollout.buffer["logprobs"][RIGHT]
    third = rollout.buffer["response_input_ids"][RIGHT, 2]
    late = heights(figure, "x")
    assert late[2] == pytest.approx((logits[3].log_softmax(0)[third] - old[2]).exp().item(), rel=1e-3)
    assert len(late) == 38 and max(late) < 0.1
    low, high = figure.axes[0].get_ylim()
    assert low < min(late) and high > 1
    assert "38 of 38 are outside 0.8 to 1.2" in description
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:4] == ["That", "is", "<<", "2"]


def test_the_step_starts_from_the_probabilities_of_sampling_and_leaves_the_model(rollout, update):
    for row, before in zip((RIGHT, WRONG), update.probabilities[0]):
        noted = rollout.buffer["logprobs"][row, : len(before)].exp().tolist()
        assert before == pytest.approx(noted, abs=1e-4)
    again = score_logprobs(rollout.actor, rollout.buffer, chunk=8)
    assert torch.allclose(again, rollout.buffer["logprobs"], atol=1e-4)
    assert not [p for p in rollout.actor.parameters() if p.grad is not None]


def test_several_steps_on_a_rollout_get_further_than_one(rollout):
    """What the notebook says; one step is that of one_update."""
    before, one, four, eight = (share_of_that(rollout, size) for size in (None, 16, 4, 2))
    assert before + 0.02 < one < four - 0.05 and four < eight - 0.02


def test_the_step_is_that_of_the_stand_in_loss(rollout, update):
    """The same step from a batched forward pass and the stand-in, and Adam's first step, lr · sign."""
    from course_utils.stand_ins import compute_policy_loss

    buffer, actor = rollout.buffer, rollout.actor
    ids = torch.cat([buffer["prompt_input_ids"], buffer["response_input_ids"]], dim=1)
    masks = torch.cat([buffer["prompt_attention_mask"], rollout.mask], dim=1)
    logits, _ = actor(ids, masks)
    first = buffer["prompt_input_ids"].shape[1]
    new = torch.stack(
        [
            torch.stack([logits[i, first + t - 1].log_softmax(0)[token] for t, token in enumerate(row)])
            for i, row in enumerate(buffer["response_input_ids"])
        ]
    )
    advantages = ((rollout.rewards - rollout.rewards.mean()) / rollout.rewards.std()).unsqueeze(1).expand_as(new)
    loss, _, _ = compute_policy_loss(new, buffer["logprobs"], advantages, rollout.mask, 0.2)
    parameters = [p for p in actor.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    steps = [3e-4 * g / (g.abs() + 1e-8) if g is not None else 0 for g in gradients]
    with torch.no_grad():
        for parameter, step in zip(parameters, steps):
            parameter -= step
        after = score_logprobs(actor, buffer, chunk=8)
        for parameter, step in zip(parameters, steps):
            parameter += step
    for row, found in zip((RIGHT, WRONG), update.probabilities[3]):
        assert found == pytest.approx(after[row, : len(found)].exp().tolist(), abs=0.02)
    assert update.advantages == pytest.approx((math.sqrt(7 / 9), -math.sqrt(9 / 7)), abs=1e-3)  # 9 of 16 are right


def test_a_small_step_does_what_the_notebook_says(update):
    before, after = update.probabilities[0], update.probabilities[3]
    assert all(new > old - 0.005 for old, new in zip(before[0], after[0]))
    assert all(new < old + 0.005 for old, new in zip(before[1], after[1]))
    assert after[0][0] > before[0][0] + 0.05
    assert sum(abs(new - old) >= 0.005 for old, new in zip(before[0], after[0])) < 10


def test_a_large_step_breaks_tokens_of_the_right_response(update):
    before = update.probabilities[0][0]
    for rate, broken in ((9, False), (21, True), (30, True)):
        after = update.probabilities[rate][0]
        assert any(new < old - 0.2 for old, new in zip(before, after)) is broken, rate


def test_at_12_two_digits_of_the_right_response_fall_one_of_them_a_trifle(update):
    falls = [
        (old - new, token)
        for old, new, token in zip(update.probabilities[0][0], update.probabilities[12][0], update.tokens[0])
    ]
    (much, one), (little, other) = sorted((fall for fall in falls if fall[0] > 0.002), reverse=True)
    assert one.isdigit() and other.isdigit() and much > 0.1 and little < 0.02


@pytest.mark.parametrize("rate", [0, 3, 27, 30])
def test_the_drawing_marks_every_visible_change_and_says_the_largest(update, rate):
    figure, description = draw_update(update, float(rate))
    for panel, (before, after) in enumerate(zip(update.probabilities[0], update.probabilities[rate])):
        assert heights(figure, "o", panel) == before
        for marker, sign in (("^", 1), ("v", -1)):
            assert heights(figure, marker, panel) == [
                new for old, new in zip(before, after) if sign * (new - old) >= 0.005
            ]
    assert f"with learning rate {rate} · 10⁻⁴." in description
    assert ("no token changes" in description) is (rate == 0)
    told = [(float(a), float(b)) for a, b in re.findall(r"” (\d\.\d\d) to (\d\.\d\d)", description)]
    largest = max(abs(new - old) for old, new in zip(update.probabilities[0][0], update.probabilities[rate][0]))
    assert not told and rate == 0 or math.isclose(max(abs(b - a) for a, b in told), largest, abs_tol=0.011)
    assert [axes.get_title().split("\n") for axes in figure.axes] == [
        ["Right answer", "advantage +0.88"],
        ["Wrong answer", "advantage −1.13"],
    ]


def test_the_rates_are_those_of_the_notebook_s_slider(update):
    assert list(update.probabilities) == list(RATES) == list(range(0, 31, 3))


def test_three_updates_are_those_of_the_slider(update):
    figure, description = draw_three_updates(update)
    for line, rate in enumerate((3, 12, 30)):
        alone, words = draw_update(update, rate)
        assert words in description
        for panel in (0, 1):
            for marker in "o^v":
                assert heights(figure, marker, 2 * line + panel) == heights(alone, marker, panel)
        assert figure.axes[2 * line].get_ylabel().endswith(f"learning rate {rate} · 10⁻⁴")
