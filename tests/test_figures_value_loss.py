"""The pictures of notebook 2 show what they say: numbers by hand, from autograd, and from a real rollout."""

import re

import numpy as np
import pytest
import torch

from course_utils.figures import value_loss
from course_utils.figures.value_loss import draw_critics, draw_flat_zones, draw_value_clip, show_critics
from course_utils.real_rollout import real_rollout
from tests.solutions import solution

# new value, old value, return, range; loss and gradient by hand
BY_HAND = [
    (0.5, 0.4, 0.9, 0.2, 0.08, -0.4),  # within the range
    (0.8, 0.4, 0.9, 0.2, 0.045, 0),  # held at 0.6
    (1.1, 0.4, 0.9, 0.2, 0.045, 0),  # past the return, still no worse than 0.6
    (1.4, 0.4, 0.9, 0.2, 0.125, 0.5),  # overshot: comes back
    (0.1, 0.4, 0.9, 0.2, 0.32, -0.8),  # out of the range on the wrong side: comes back
    (0.1, 0.4, 0.0, 0.2, 0.02, 0),  # held at 0.2
    (0.9, 0.4, 0.5, 0.2, 0.08, 0.4),  # the return is within the range: nothing is held
]


@pytest.mark.parametrize(("value", "old", "target", "clip", "loss", "gradient"), BY_HAND)
def test_the_point_stands_where_it_says(value, old, target, clip, loss, gradient):
    figure, description = draw_value_clip(value, old, target, clip)
    point = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert point.get_xdata()[0] == value
    assert point.get_ydata()[0] == pytest.approx(loss)
    assert f"the loss is {loss:.3f}" in description
    if gradient:
        assert f"the gradient is {gradient:.2f}".replace("-", "−") in description
        assert f"the value goes {'down' if gradient > 0 else 'up'}" in figure.axes[0].get_title()
    else:
        assert "the gradient is 0: the value stays" in figure.axes[0].get_title()


def test_loss_and_slope_are_those_of_the_exercise():
    generator = np.random.default_rng(0)
    for value, old, target, clip in generator.uniform([-1, -1, -1, 0.1], [2, 1, 1, 0.5], (200, 4)):
        new = torch.tensor([[value]], requires_grad=True)
        loss, _ = solution("value_loss")(new, torch.tensor([[old]]), torch.tensor([[target]]), torch.ones(1, 1), clip)
        loss.backward()
        assert value_loss._loss(value, old, target, clip) == pytest.approx(loss.item())
        assert value_loss._slope(value, old, target, clip) == pytest.approx(new.grad.item())


def test_the_flat_zones_are_said():
    figure, description = draw_flat_zones()
    assert "a return of 0.9 and a clip range of 0.2 the loss is flat for new values from 0.60 to 1.20" in description
    assert "a return of 0.5 and a clip range of 0.2 the return lies within the range" in description
    assert "a return of 0.1 and a clip range of 0.2 the loss is flat for new values from 0.00 to 0.20" in description
    assert "a return of 0.9 and a clip range of 0.4 the loss is flat for new values from 0.80 to 1.00" in description
    assert [axes.get_title()[:10] for axes in figure.axes] == ["return 0.9", "return 0.5", "return 0.1", "return 0.9"]


def test_critics_that_follow_a_few_responses_agree_better_with_clipping():
    figure, description = draw_critics(real_rollout(64), solution("value_loss"))
    plain, clipped = map(float, re.findall(r"standard deviation (\d\.\d\d)", description))
    assert plain > 1.5 * clipped
    for axes, spread in zip(figure.axes, (plain, clipped), strict=True):
        assert axes.get_title().split(": ")[1].startswith(f"{spread:.2f} apart")
        points = axes.collections[0].get_paths()[0].vertices  # of the band: (points, 2)
        for line in axes.lines[:2]:  # two of the seven lie in the band of all
            for x, y in zip(*line.get_data()):
                at_x = points[points[:, 0] == x, 1]
                assert at_x.min() - 1e-6 <= y <= at_x.max() + 1e-6
        lowest, highest = points[:, 1].min(), points[:, 1].max()
        assert f"values from {lowest:.2f} to {highest:.2f}".replace("-", "−") in description
    names = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert names[0] == names[1] and names[0][0] == "That"  # so that one can be held against the other


def test_a_value_loss_that_is_not_written_yet_is_told(capsys):
    def stub(values_new, values_old, returns, response_mask, clip_range_value):
        raise NotImplementedError()

    show_critics(real_rollout(16), stub)
    assert "compute_value_loss is not written yet" in capsys.readouterr().out
