"""The pictures of notebook 1: the clipped objective, by hand; the lucky guess, on the embedded model."""

import pytest
import torch
from torch.testing import assert_close

from course_utils.figures.policy_loss import (
    draw_objective,
    draw_ratios,
    draw_three_ratios,
    lucky_guess,
    repeat_update,
    show_updates,
)
from tests.solutions import solution, stub

# ------------------------------------------------------------------ the clipped objective


@pytest.mark.parametrize(
    ("ratio", "clip_ratio", "values", "gradients"),
    [
        (1.0, 0.2, ("1.00", "−1.00"), ("+1", "−1")),
        (0.5, 0.2, ("0.50", "−0.80"), ("+1", "0")),
        (1.3, 0.2, ("1.20", "−1.30"), ("0", "−1")),
        (1.3, 0.5, ("1.30", "−1.30"), ("+1", "−1")),
        (0.0, 0.05, ("0.00", "−0.95"), ("+1", "0")),
        (1.2, 0.2, ("1.20", "−1.20"), ("+1", "−1")),  # on the border: not clipped yet
    ],
)
def test_the_point_s_objective_and_gradient(ratio, clip_ratio, values, gradients):
    figure, description = draw_objective(ratio, clip_ratio)
    for axes, value, gradient in zip(figure.axes, values, gradients, strict=True):
        assert f"its objective is {value} and its gradient is {gradient}" in description
        (point,) = (line for line in axes.lines if line.get_label() == "your token")
        assert point.get_xdata()[0] == ratio and f"{point.get_ydata()[0]:.2f}".replace("-", "−") == value
        arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
        assert len(arrows) == (gradient != "0")
        assert ("clipped" in axes.get_title()) == (gradient == "0")


@pytest.mark.parametrize("clip_ratio", [0.05, 0.2, 0.5])
def test_the_curves_are_the_loss_of_the_exercise(clip_ratio):
    figure, _ = draw_objective(1.0, clip_ratio)
    for axes, advantage in zip(figure.axes, (1.0, -1.0), strict=True):
        (curve,) = (line for line in axes.lines if line.get_label() == "objective")
        for r, value in zip(*curve.get_data()):
            if r > 0:
                loss, _, _ = solution("policy_loss")(
                    torch.tensor([[r]]).log(),
                    torch.zeros(1, 1),
                    torch.tensor([[advantage]]),
                    torch.ones(1, 1).long(),
                    clip_ratio,
                )
                assert -loss.item() == pytest.approx(value, abs=1e-6)


def test_three_ratios_are_the_three_predictions_of_the_notebook():
    """Both signs at each: what the slider shows, in one picture that needs none."""
    figure, description = draw_three_ratios()
    signs = [[axes.get_title().split("\n")[1] for axes in row] for row in (figure.axes[:3], figure.axes[3:])]
    assert signs == [
        ["gradient +1", "clipped, gradient 0", "gradient +1"],
        ["clipped, gradient 0", "gradient −1", "gradient −1"],
    ]
    for axes in figure.axes:  # an arrow where there is a gradient, and no words on the grey
        assert [text.get_text() for text in axes.texts] == ([] if "clipped" in axes.get_title() else [""])
    for ratio, clip_ratio in ((0.5, 0.2), (1.3, 0.2), (1.3, 0.5)):
        alone = draw_objective(ratio, clip_ratio)[1].split(". ", 1)[1]
        assert f"At r = {ratio} with ε = {clip_ratio}: {alone}" in description


# ------------------------------------------------------------------ the lucky guess


@pytest.fixture(scope="module")
def lucky():
    return lucky_guess()


@pytest.fixture(scope="module")
def unclipped(lucky):
    return repeat_update(lucky)


def test_the_guess_is_right_and_calculates_nothing(lucky):
    rollout = lucky.rollout
    assert rollout.responses[lucky.row] == f" #### {rollout.golds[lucky.row]}"
    said = " ".join(str(lucky).split())  # the question is wrapped
    assert said.startswith(f"{rollout.questions[lucky.row]} right answer: {rollout.golds[lucky.row]} response: ")


def test_without_clipping_the_guess_becomes_the_answer_to_everything(lucky, unclipped):
    assert unclipped.tokens == [" ####", " ", "7", "<|end|>"]
    assert_close(unclipped.ratios[0], torch.ones(4), rtol=1e-4, atol=0)
    assert unclipped.old_probs[2] == pytest.approx(0.08, abs=0.005)  # the notebook says 8 %
    assert unclipped.ratios[-1, 2] > 10
    assert len(set(unclipped.before)) > 1 and set(unclipped.after) == {" #### 7"}
    assert len(unclipped.questions) == len(unclipped.before) == len(unclipped.after) >= 5
    assert lucky.rollout.questions[lucky.row] not in unclipped.questions


def test_the_exercise_s_loss_repairs_it(lucky):
    clipped = repeat_update(lucky, solution("policy_loss"))
    assert 1.2 < clipped.ratios[-1, 2] < 1.4  # the notebook says about 1.3
    assert clipped.after == clipped.before


def test_the_figure_says_what_it_shows(unclipped):
    figure, description = draw_ratios(unclipped)
    (axes,) = figure.axes
    end = f"{unclipped.ratios[-1, 2]:.2f}"
    assert f"'7' {end}" in description and "'7' is" in axes.get_title()
    assert f"'7', at the end {end}" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"highest possible ratio, {1 / unclipped.old_probs[2]:.1f}" in description
    assert min(text.get_fontsize() for text in axes.get_legend().get_texts()) >= 8


def test_a_clipped_run_is_drawn_where_its_band_fills_the_axis(lucky, unclipped):
    clipped, description = draw_ratios(repeat_update(lucky, solution("policy_loss")))
    assert clipped.axes[0].get_ylim() == (0.5, 2) and "the axis ends at 2." in description
    legend = [text.get_text() for text in clipped.axes[0].get_legend().get_texts()]
    assert not [text for text in legend if "here the new probability is 1" in text]
    assert draw_ratios(unclipped)[0].axes[0].get_ylim()[1] > 12


def test_a_table_shows_the_answers_before_and_after(lucky, unclipped, monkeypatch):
    shown = []
    monkeypatch.setattr("course_utils.figures.policy_loss.repeat_update", lambda *_: unclipped)
    monkeypatch.setattr("course_utils.figures.show.display", shown.append)
    monkeypatch.setattr("course_utils.figures.policy_loss.display", shown.append)
    show_updates(lucky)
    figure, table = (html.data for html in shown)
    assert figure.startswith("<img alt=")
    assert table.count("<tr>") == 1 + len(unclipped.questions) and table.count("<b>#### 7</b>") == len(unclipped.after)


def test_the_stub_is_told_from_an_error(lucky, capsys):
    show_updates(lucky, stub("policy_loss"))
    assert "compute_policy_loss is not written yet" in capsys.readouterr().out
