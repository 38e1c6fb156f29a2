"""What students get: no solution, no hidden case, no instructor's module."""

import json

import pytest

from autograder import misconceptions
from autograder.master import master
from course_utils.exercises import EXERCISES
from course_utils.export import read_exercise
from tests.course import copy_code, nbgrader
from tests.solutions import ROOT, solution_source

pytestmark = pytest.mark.slow
TRIVIAL = 20  # characters: a shorter line, such as "return loss", may stand anywhere


def released_files(course) -> dict[str, str]:
    folder = course / "autograder/release"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def lines(text: str) -> set[str]:
    """The stripped lines that are long enough to be recognised."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= TRIVIAL}


def cell_lines(notebook: str) -> set[str]:
    return set().union(*(lines("".join(cell["source"])) for cell in json.loads(notebook)["cells"]))


def solution_lines(key: str) -> set[str]:
    """Those between the markers."""
    parts = solution_source(key).split("### BEGIN SOLUTION")[1:]
    return set().union(*(lines(part.split("### END SOLUTION")[0]) for part in parts))


def test_the_release_is_one_notebook_an_assignment(released_course):
    assert sorted(released_files(released_course)) == sorted(
        [f"{master(key).assignment}/{master(key).file}" for key in EXERCISES] + ["06_train_gsm8k/train_gsm8k.ipynb"]
    )


def test_no_solution_is_released(released_course):
    for name, text in released_files(released_course).items():
        assert "SOLUTION" not in text and "HIDDEN" not in text, name
        for key in EXERCISES:
            assert solution_lines(key)
            assert not cell_lines(text) & solution_lines(key), (name, key)


def test_no_line_of_the_autograder_is_released(released_course):
    """The rubrics and their cases, the reference, the misconceptions with their wrong code: nothing of them."""
    public = set().union(*(lines(path.read_text()) for path in (ROOT / "course_utils").rglob("*.py")))
    code = [*(ROOT / "autograder").glob("*.py"), *(ROOT / "autograder").glob("*/*.py")]
    instructors = set().union(*(lines(path.read_text()) for path in code)) - public
    assert len(instructors) > 500
    for name, text in released_files(released_course).items():
        assert not cell_lines(text) & instructors, name
        assert "autograder" not in text, name


def test_no_wrong_solution_is_released(released_course):
    """Nor with the bank's edits put into whole lines."""
    for key in EXERCISES:
        right = lines(read_exercise(ROOT / EXERCISES[key].notebook)[1])
        for wrong in misconceptions.BANK[key]:
            changed = lines(misconceptions.wrong_source(key, wrong)) - right
            for name, text in released_files(released_course).items():
                assert not cell_lines(text) & changed, (key, wrong.name, name)


def test_every_released_exercise_is_a_stub_with_its_tests_locked(released_course):
    files = released_files(released_course)
    for key in EXERCISES:
        cells = json.loads(files[f"{master(key).assignment}/{master(key).file}"])["cells"]
        marked = {cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in cells if "nbgrader" in cell["metadata"]}
        for grade_id in master(key).solution_ids:
            assert "raise NotImplementedError" in "".join(marked[grade_id]["source"])
        assert set(marked) == {*master(key).solution_ids, *(cell.grade_id for cell in master(key).graded)}
        for cell in master(key).graded:
            assert marked[cell.grade_id]["metadata"]["editable"] is False
        assert not any(cell.get("outputs") for cell in cells)


def test_what_lies_beside_a_source_notebook_stays_there(tmp_path):
    """An exported solution, the outputs of a run, a checkpoint, a cache."""
    copy_code(tmp_path)
    for name in (
        "policy_loss.py",
        "outputs/log.txt",
        "exercises/gae.py",
        "__pycache__/a.pyc",
        ".ipynb_checkpoints/policy_loss-checkpoint.ipynb",
    ):
        path = tmp_path / "notebooks/01_policy_loss" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("torch.min(ratio * advantages, clipped_ratio * advantages)")
    run = nbgrader(tmp_path, "generate_assignment", "01_policy_loss")
    assert run.returncode == 0, run.stderr
    assert list(released_files(tmp_path)) == ["01_policy_loss/policy_loss.ipynb"]
