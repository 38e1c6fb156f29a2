"""The live figure: what is drawn, what is said, and that stopping the cell keeps the notebook going."""

import re

import pytest

from course_utils.figures import dashboard
from course_utils.figures.dashboard import HEIGHT, Dashboard, describe, draw, save_training_figure
from course_utils.figures.show import new_figure
from course_utils.metrics import moving_average

HISTORY = [
    {
        "step": step,
        "rollout/reward_mean": step / 4,
        "rollout/kl": 0.5,
        "rollout/explained_variance": 0.1,
        "rollout/response_length": 30 + step,
        "loss/policy": 0.0,
        "loss/value": 0.1,
        "loss/entropy": 0.2,
        "params/policy_clip_frac": 0.1,
        "params/value_clip_frac": 0.0,
        "time/step_seconds": 60.0,
    }
    for step in (1, 2, 3)
]


@pytest.fixture
def shown(monkeypatch):
    """What the dashboard has put in its place, one text an update."""

    class Place(list):
        def update(self, html):
            self.append(html.data)

    place = Place()
    monkeypatch.setattr(dashboard, "display", lambda *_, **__: place)
    return place


def test_moving_average_by_hand():
    assert moving_average([1, 2, 3, 4], window=2) == [1, 1.5, 2.5, 3.5]


def test_a_flat_curve_keeps_away_from_the_upper_edge():
    figure = new_figure(HEIGHT)
    draw(figure, [HISTORY[0] | {"loss/entropy": 0.086}, HISTORY[1] | {"loss/entropy": 0.082}])
    for axes in figure.axes:
        if axes.get_title().strip() in ("Entropy", "Clip fraction"):
            low, high = axes.get_ylim()
            assert low == 0 and max(y for line in axes.lines for y in line.get_ydata()) < 0.95 * high


def test_an_entropy_with_the_wrong_sign_is_seen():
    figure = new_figure(HEIGHT)
    draw(figure, [HISTORY[0] | {"loss/entropy": -0.086}, HISTORY[1] | {"loss/entropy": -0.082}])
    (axes,) = (axes for axes in figure.axes if axes.get_title().strip() == "Entropy")
    low, high = axes.get_ylim()
    assert low < -0.086 and high == 0


def test_every_curve_is_drawn_with_and_without_evaluations(tmp_path):
    evaluated = [*HISTORY[:-1], HISTORY[-1] | {"eval/accuracy": 0.5, "eval/low": 0.4, "eval/high": 0.6}]
    before = [HISTORY[0] | {"before/accuracy": 0.2, "before/low": 0.1, "before/high": 0.3}, *evaluated[1:]]
    for history, drawn in ((HISTORY, []), (evaluated, [[0.5]]), (before, [[0.2, 0.5]])):
        save_training_figure(history, tmp_path / "training.png")
        assert (tmp_path / "training.png").stat().st_size > 10_000
        figure = new_figure(HEIGHT)
        draw(figure, history)
        panels = {axes.get_title().strip(): axes for axes in figure.axes}
        curves = {title: [list(line.get_ydata()) for line in axes.lines] for title, axes in panels.items()}
        held_out = curves.pop("Held-out accuracy")
        assert held_out[:1] == drawn and len(panels["Held-out accuracy"].containers) == len(drawn)  # the interval
        assert curves == {
            "Reward": [[0.25, 0.5, 0.75], [0.25, 0.375, 0.5]],
            "KL to the reference": [[0.5] * 3],
            "Policy loss": [[0.0] * 3],
            "Value loss": [[0.1] * 3],
            "Explained variance": [[0.1] * 3],
            "Clip fraction": [[0.1] * 3, [0.0] * 3],
            "Entropy": [[0.2] * 3],
            "Response length": [[31, 32, 33]],
        }


def test_no_text_is_smaller_than_eight_points():
    figure = new_figure(HEIGHT)
    draw(figure, HISTORY)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.findobj(lambda x: hasattr(x, "get_fontsize"))]
    assert figure.get_figwidth() <= 9 and min(text.get_fontsize() for text in texts if text.get_text().strip()) >= 8


def test_the_figure_is_said_in_words():
    words = describe(HISTORY)
    assert "step 3" in words and "0.25 at first" in words and "0.75 now" in words and "33 tokens" in words
    assert describe([]) == "Training has not finished a step yet."


def test_the_progress_and_the_picture_are_shown_anew_in_place(shown):
    with Dashboard(4) as board:
        for metrics in HISTORY:
            board.update(metrics)
    assert [re.search(r"step \d of 4[^<]*", html).group() for html in shown] == [
        "step 0 of 4",
        "step 1 of 4, about 3 min left",
        "step 2 of 4, about 2 min left",
        "step 3 of 4, about 60 s left",
        "step 3 of 4, about 60 s left",
    ]
    assert all(html.count("<img alt=") == 1 for html in shown) and "PPO step 3" in shown[-1]


def test_stopping_ends_the_loop_and_says_how_to_go_on(shown):
    with Dashboard(4) as board:
        board.update(HISTORY[0])
        raise KeyboardInterrupt
    assert "step 1 of 4: stopped. Run the cell again to go on" in shown[-1] and "PPO step 1" in shown[-1]
    assert board.history == HISTORY[:1]


def test_an_error_is_not_swallowed(shown):
    with pytest.raises(ValueError), Dashboard(4):
        raise ValueError
    assert "stopped" not in shown[-1]
