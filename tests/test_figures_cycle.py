"""The map of the cycle: what it marks for each notebook, and that it can be read."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from course_utils.figures.cycle import LOSSES, NEW_POLICY, PLACES, ROLLOUT, UPDATE, cycle_map, draw_cycle
from course_utils.figures.show import BLUE

MARKED = {
    1: {"policy loss"},
    2: {"value loss"},
    3: {"entropy"},
    4: {"advantages"},
    5: {UPDATE.title},
    6: {"policy loss", "value loss", "entropy", "advantages", UPDATE.title},
}
BOXES = (UPDATE, *ROLLOUT, NEW_POLICY, *LOSSES)  # as they are drawn


def marked(here: int) -> set[str]:
    patches = [p for p in draw_cycle(here)[0].axes[0].patches if isinstance(p, FancyBboxPatch)]
    return {
        box.title
        for box, patch in zip(BOXES, patches, strict=True)
        if BLUE.lower() in (to_hex(patch.get_facecolor()), to_hex(patch.get_edgecolor()))
    }


@pytest.mark.parametrize("here", MARKED)
def test_the_notebook_s_place_is_marked_and_named(here):
    figure, description = draw_cycle(here)
    assert marked(here) == MARKED[here]
    assert f"You are here: {PLACES[here]} (notebook {here})" in description
    written = " ".join(text.get_text() for text in figure.axes[0].texts).replace("\n", " ")
    assert written.count("you are here") == 1


def test_the_description_tells_the_whole_cycle_in_order():
    words = [
        "prompts",
        "sample",
        "responses",
        "reward",
        "KL penalty",
        "advantages",
        "mini-batch update",
        "policy loss",
        "value loss",
        "entropy",
        "new policy",
    ]
    description = draw_cycle(6)[1]
    places = [description.index(word, description.index("In order")) for word in words]
    assert places == sorted(places)


@pytest.mark.parametrize("here", MARKED)
def test_all_text_is_legible_and_inside_the_figure(here):
    figure, _ = draw_cycle(here)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.axes[0].texts:
        if text.get_text():
            extent = text.get_window_extent(renderer)
            assert text.get_fontsize() >= 8
            assert 0 <= extent.x0 and extent.x1 <= figure.bbox.width, text.get_text()
            assert 0 <= extent.y0 and extent.y1 <= figure.bbox.height, text.get_text()


def test_text_stays_within_its_box():
    figure, _ = draw_cycle(6)
    axes = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = {
        text.get_text(): text.get_window_extent(renderer).transformed(axes.transData.inverted())
        for text in axes.texts
        if text.get_text()
    }
    for box in BOXES:
        for words in filter(None, (f"{box.notebook} · {box.title}" if box.notebook else box.title, box.details)):
            extent = extents[words]
            assert box.left < extent.x0 and extent.x1 < box.left + box.width, words
            assert box.bottom < extent.y0 and extent.y1 < box.bottom + box.height, words


def test_the_map_is_shown_with_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr("course_utils.figures.show.display", shown.append)
    cycle_map(here=4)
    assert 'alt="Map of the PPO cycle. You are here: the advantages (notebook 4)' in shown[0].data


def test_there_is_no_seventh_place():
    with pytest.raises(ValueError):
        draw_cycle(7)
