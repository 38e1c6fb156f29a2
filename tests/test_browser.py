"""The course as a learner meets it: the workspace in JupyterLab, in a real browser.

Every test leaves screenshots in the folder that it prints: one of pytest's temporary folders, or $SCREENSHOTS, which
then also gets every picture in both themes.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest

from course_utils.exercises import EXERCISES
from course_utils.workspace import main as lay_out_workspace
from tests.conftest import ROOT
from tests.jupyter_lab import CHROMIUM, Notebook, lab
from tests.solutions import solution_cells

TRAINING = "notebooks/06_train_gsm8k/train_gsm8k.ipynb"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def jupyter(released_course, solutions, tmp_path_factory):
    """(server, browser) on a workspace as `make lab` lays it out, with the five exported functions in it."""
    if not CHROMIUM:
        pytest.skip("there is no chromium: apt install chromium")
    pytest.importorskip("playwright", reason="there is no Playwright: pip install playwright")
    workspace = tmp_path_factory.mktemp("lab") / "workspace"
    assert (
        lay_out_workspace(
            [
                str(workspace),
                "--release",
                str(released_course / "autograder/release"),
                "--configs",
                str(ROOT / "configs"),
            ]
        )
        == 0
    )
    (workspace / "exercises").symlink_to(solutions)
    with lab(workspace, tmp_path_factory.mktemp("home")) as (server, browser):
        yield server, browser


@pytest.fixture
def open_notebook(jupyter, screenshots, capsys):
    """A function that opens a notebook of the workspace, by its path there."""
    opened = []

    def open_one(path: str) -> Notebook:
        opened.append(Notebook(*reversed(jupyter), path))
        return opened[0]

    yield open_one
    for notebook in opened:
        notebook.page.screenshot(path=screenshots / f"{notebook.file.stem} at the end.png")
        notebook.close()
    with capsys.disabled():
        print(f"\nscreenshots: {screenshots}")


@pytest.mark.parametrize("key", EXERCISES)
def test_an_exercise_from_the_stub_to_validate(key, open_notebook, screenshots):
    exercise = EXERCISES[key]
    notebook = open_notebook(str(exercise.notebook))
    released = notebook.source
    cells = {
        mark["grade_id"]: i
        for i, cell in enumerate(released.cells)
        if (mark := cell.metadata.get("nbgrader")) and mark["solution"]
    }
    checks = [i for i in notebook.code if re.match(r"check\(", released.cells[i].source)]
    assert cells.keys() == solution_cells(key).keys() and len(checks) > len(cells)

    notebook.run_all()
    first_check = min(i for i in checks if i > min(cells.values()))
    assert [*notebook.red()] == [first_check]  # and JupyterLab stops there
    assert f"exercise {exercise.number} is not written yet" in notebook.output(first_check)
    assert "Traceback" not in notebook.output(first_check)
    notebook.screenshot(screenshots / f"{key} stub.png", first_check)
    assert _play(notebook, before=first_check) > 0

    for grade_id, index in cells.items():
        notebook.write(index, solution_cells(key)[grade_id])
    notebook.run_from(min(cells.values()))
    assert notebook.red() == {}
    assert all("✓" in notebook.output(i) and "✗" not in notebook.output(i) for i in checks)
    _shoot_pictures(notebook, screenshots, key)

    said = notebook.validate(screenshots / f"{key} validate.png")
    assert "Success! Your notebook passes all the tests." in said
    for grade_id, index in cells.items():
        released.cells[index].source = solution_cells(key)[grade_id]
    handed_in = nbformat.read(notebook.file, 4).cells
    assert [(c.source, c.metadata.get("nbgrader")) for c in handed_in] == [
        (c.source, c.metadata.get("nbgrader")) for c in released.cells
    ]


def _play(notebook: Notebook, before: int) -> int:
    """Moves every slider above cell `before`, the first of each cell with the mouse; how many there were."""
    moved = 0
    for index in (i for i in notebook.code if i < before):
        for number in range(notebook.sliders(index).count()):
            old = notebook.picture(index)
            notebook.drag(index, number) if number == 0 else notebook.press_arrow(index, number)
            notebook.wait_for_another(index, old)
            moved += 1
    return moved


def _shoot_pictures(notebook: Notebook, folder: Path, key: str) -> None:
    """Every picture has a description. For $SCREENSHOTS: every cell with a picture, in both themes."""
    with_pictures = [i for i in notebook.code if notebook.pictures(i).count()]
    assert with_pictures
    for index in with_pictures:
        for picture in notebook.pictures(index).all():
            assert len(picture.get_attribute("alt") or "") > 20, f"cell {index} of {key}"
    for theme in ("Dark", "Light") if "SCREENSHOTS" in os.environ else ():  # the server remembers the last one
        notebook.theme(theme)
        for index in with_pictures:
            notebook.screenshot(folder / f"{key} {index:02} {theme.lower()}.png", index)


def test_the_training_notebook_shows_the_run_while_it_goes_on(jupyter, open_notebook, screenshots, small_run):
    server, _ = jupyter
    file = server.root / TRAINING
    data = nbformat.read(file, 4)
    (settings,) = (cell for cell in data.cells if "parameters" in cell.metadata.get("tags", []))
    settings.source += f"\nOVERRIDES = {small_run('training.total_ppo_steps=4')}"
    nbformat.write(data, file)

    notebook = open_notebook(TRAINING)
    notebook.watch('img[alt^="PPO step"]')
    notebook.run_all(seconds=240)
    assert notebook.red() == {}
    seen = notebook.watched()
    assert len(seen) == len({src for _, src in seen}) >= 2, [alt for alt, _ in seen]  # two steps, two figures
    assert seen[-1][0].startswith("PPO step 4: reward")
    (train,) = (i for i in notebook.code if "trainer.train()" in data.cells[i].source)
    assert "step 4 of 4" in notebook.output(train) and notebook.pictures(train).count() == 1  # in place
    assert all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in notebook.prompts())
    _shoot_pictures(notebook, screenshots, "training")
