"""Sliders and what stands for them where widgets do not run."""

import sys

import pytest
from IPython.display import HTML

from course_utils.figures import show as shown
from course_utils.figures.policy_loss import draw_objective
from course_utils.figures.show import Slider, explore

SLIDERS = {"ratio": Slider("ratio r", 0.5, 0, 2.5, 0.05), "clip_ratio": Slider("ε", 0.2, 0.05, 0.5, 0.05)}


@pytest.fixture
def displayed(monkeypatch):
    found = []
    monkeypatch.setattr(shown, "display", lambda what, **_: found.append(what))
    return found


def test_with_widgets_the_sliders_stand_above_the_picture(displayed):
    explore(draw_objective, **SLIDERS)
    box, picture = displayed
    assert [control.description for control in box.children] == ["ratio r", "ε"]
    assert repr(box) == ""  # an exported page would show it above the picture
    assert isinstance(picture, HTML)


def test_without_ipywidgets_the_picture_of_the_start_values_is_there_and_says_the_same(displayed, monkeypatch):
    explore(draw_objective, **SLIDERS)
    _, with_widgets = displayed
    displayed.clear()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it raises ImportError
    explore(draw_objective, **SLIDERS)
    (picture,) = displayed
    assert picture.data == with_widgets.data
    assert "with ε = 0.20 and the token at r = 0.50" in picture.data
