"""A class with hostile submissions in it, graded by the command line: for the others it is as if there were none."""

import ctypes
import functools
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from autograder import __main__ as command
from autograder import misconceptions
from autograder.grade import Judging
from tests.class_of_students import Course, new_course
from tests.process_tree import all_gone, tree
from tests.solutions import solution_source
from tests.test_attacks import ATTACKS, WRONG, cell

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")]
WRITTEN = {"gradebook.db", "verdicts", "recorded", "autograded", "report.html"}  # by the grader itself


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / ".bashrc").write_text("# nothing yet\n")
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def orphans():
    """Processes whose parent has died become children of this one, where `tree` sees them."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def honest_class(folder: Path) -> Course:
    folder.mkdir()
    course = new_course(folder)
    (folder / "secret.key").write_bytes(b"0" * 32)
    course.hand_in("ada", "policy_loss", source=solution_source("policy_loss"))
    course.hand_in("ada", "gae", source=solution_source("gae"))
    mistake = misconceptions.named("policy_loss", "no clipping")
    course.hand_in("zoe", "policy_loss", source=misconceptions.wrong_source("policy_loss", mistake))
    return course


def hand_in_hostile_work(course: Course, home: Path) -> None:
    for number, name in enumerate(("the worker's answer", "many processes")):
        course.hand_in(f"mallory{number}", "policy_loss", source=ATTACKS[name])
    targets = [
        str(path)
        for path in (
            course.db,
            course.folder / "secret.key",
            course.folder / "passed",
            course.folder / "submitted/ada/04_gae/gae.ipynb",
            home / ".bashrc",
        )
    ]
    course.hand_in(
        "mallory2",
        "policy_loss",
        source=cell(
            f"return {WRONG}",
            f"""
        for path in {targets}:
            try:
                open(path, "r+").write("10 points")
            except OSError:
                pass""",
        ),
    )
    path = course.hand_in("mallory3", "policy_loss")
    (path.parent / "torch.py").write_text("raise SystemExit('passed')")
    notebook = nbformat.read(path, as_version=4)
    for graded in (one for one in notebook.cells if one.metadata.get("nbgrader", {}).get("grade")):
        graded.source, graded.metadata.nbgrader.points = "print('passed')", 100
    nbformat.write(notebook, path)


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file but those that grading writes."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in WRITTEN
    }


def verdicts(course: Course) -> dict[str, str]:
    return {path.name: path.read_text() for path in (course.folder / "verdicts").iterdir()}


def test_hostile_submissions_change_nothing_for_the_others(tmp_path, home, orphans, monkeypatch, capsys):
    def grade(course: Course) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("autograder.gradebook.course_app", course.app)
            patch.setattr("autograder.grade.Judging", functools.partial(Judging, folder=course.folder))
            patch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
            assert command.main(["grade", "--workers", "1"]) == 0
        return capsys.readouterr().out

    alone, together = honest_class(tmp_path / "alone"), honest_class(tmp_path / "together")
    hand_in_hostile_work(together, home)
    grade(alone)
    processes, before = set(tree(os.getpid())), contents(together.folder) | contents(home)
    table = grade(together)
    assert all_gone(set(tree(os.getpid())) - processes)
    assert contents(together.folder) | contents(home) == before

    honest = alone.scores()
    assert honest["ada", "01_policy_loss"] == honest["ada", "04_gae"] == 10 > honest["zoe", "01_policy_loss"] > 0
    hostile = {(f"mallory{number}", "01_policy_loss"): 0 for number in range(4)}
    assert together.scores() == honest | hostile
    assert len(verdicts(alone)) == 3 and verdicts(alone).items() <= verdicts(together).items()
    assert "mallory0            0" in table
    report = (together.folder / "report.html").read_text()
    tried = report[report.index("Tried something") : report.index("<h2>Students")]
    for student, words in enumerate(("imports __main__", "imports os", "uses open", "shadows a module")):
        assert f"<td>mallory{student}</td>" in tried and words in tried
    assert "test cell policy_loss_masking was edited" in tried and "has 100 points instead of 2" in tried
    assert "ada" not in tried and "zoe" not in tried
