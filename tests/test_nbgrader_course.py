"""nbgrader's commands where the judge and the course's exporters stand behind them; a whole term is in test_term.py."""

import copy
import csv
import json
import re

import pytest
from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader
from nbgrader.converters import NbGraderException
from nbgrader.converters.autograde import Autograde
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from autograder import nbgrader_plugin
from autograder.report import Graded
from tests.course import cell, hand_in, in_turn, nbgrader, notebook, verdict
from tests.test_master import Tags

ASSIGNMENT, KEY = "01_policy_loss", "policy_loss"


# ------------------------------------------------------------------ the commands


@pytest.mark.slow
def test_autograde_feedback_and_the_exporters(course, tmp_path):
    """Ada hands in the solution, Bob half a file; as nbgrader's submit leaves it, and with a module to hide PyTorch."""
    for student, data in (("ada", None), ("bob", json.dumps(notebook(KEY))[:5000].encode())):
        folder = hand_in(course / "autograder/submitted", student, KEY, data)
        (folder / "torch.py").write_text("raise SystemExit")
        (folder / "timestamp.txt").write_text("2026-11-22 10:00:00.000000 UTC")
        (folder / "submission_secret.txt").write_text(f"{student}'s")
    exporters = "CanvasExport", "MoodleExport"
    done = in_turn(
        course,
        *(
            (course, f"nbgrader {command}")
            for command in (
                f"autograde {ASSIGNMENT}",
                f"generate_feedback {ASSIGNMENT}",
                *(f"export --exporter autograder.exporters.{name} --to {tmp_path}/{name}.csv" for name in exporters),
            )
        ),
    )
    assert done.returncode == 0 and not re.search("warning", done.stderr, re.IGNORECASE), done.stderr
    assert sorted(path.name for path in (course / f"autograder/autograded/bob/{ASSIGNMENT}").iterdir()) == [
        f"{KEY}.ipynb",
        "submission_secret.txt",
        "timestamp.txt",
    ]
    for student, words in (("ada", "Passed: 3 of 3 points"), ("bob", "damaged: it is cut off")):
        assert words in Tags((course / f"autograder/feedback/{student}/{ASSIGNMENT}/{KEY}.html").read_text()).text
    for name in exporters:
        ada, bob = list(csv.reader((tmp_path / f"{name}.csv").open()))[-2:]
        assert "ada" in ada and "10" in ada and "bob" in bob and "0" in bob


@pytest.mark.slow
def test_a_refusal_is_one_line_and_an_exit_code(course):
    done = nbgrader(course, "autograde", "07_no_such")
    assert done.returncode == 1
    assert "Nothing is graded in '07_no_such'" in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------ nbgrader's options, without the judge


@pytest.fixture
def api(course, tmp_path, monkeypatch):
    """nbgrader's API, as the formgrader uses it, on a course where a stub passes "clipping" of everything."""

    def grade(book, students, judging):
        api.graded.append(students)
        with book:
            for student, keys in students.items():
                for key in keys:
                    one = nbgrader_plugin.submission.read(book.submitted, student, key)
                    book.record(student, one, one.failed() if one.problem else verdict(key, "clipping"))
        found = verdict(KEY, timed_out=api.timed_out)
        return [Graded(student, ASSIGNMENT, found, 3, 10, ungraded=api.ungraded) for student in students]

    app = NbGrader()
    app.update_config(
        Config(
            Exchange={"root": str(tmp_path / "exchange")},
            CourseDirectory={
                "source_directory": "notebooks",
                "course_id": "tinier_zero",
                "submitted_directory": "autograder/submitted",
                "autograded_directory": "autograder/autograded",
                "feedback_directory": "autograder/feedback",
                "db_url": f"sqlite:///{course}/autograder/gradebook.db",
            },
        )
    )
    coursedir = CourseDirectory(parent=app, root=str(course))
    monkeypatch.setattr("autograder.grade.grade", grade)
    monkeypatch.setattr(nbgrader_plugin, "ROOT", course)
    nbgrader_plugin.install(str(course))
    api = NbGraderAPI(coursedir, parent=app)
    api.graded, api.ungraded, api.timed_out, api.submitted = [], "", False, course / "autograder/submitted"
    return api


def succeeds(result: dict) -> None:
    assert result["success"], result["error"] + result.get("log", "")


def test_the_formgraders_button_grades_one_submission_again(api):
    hand_in(api.submitted, "ada", KEY)
    hand_in(api.submitted, "a b", KEY)
    for student in ("ada", "a b", "ada"):
        succeeds(api.autograde(ASSIGNMENT, student))
    assert api.graded == [{"ada": [KEY]}, {"a b": [KEY]}, {"ada": [KEY]}]
    assert api.get_autograded_students(ASSIGNMENT) == {"ada", "a b"}
    assert api.get_submission(ASSIGNMENT, "ada")["score"] == 3


def test_without_force_only_what_is_new_is_graded(api):
    hand_in(api.submitted, "ada", KEY)
    hand_in(api.submitted, "ada", "gae")
    api.autograde(ASSIGNMENT, "*", force=False)
    hand_in(api.submitted, "bob", KEY)
    succeeds(api.autograde(ASSIGNMENT, "*", force=False))
    succeeds(api.autograde(ASSIGNMENT, "*", force=False))
    assert api.graded == [{"ada": [KEY]}, {"bob": [KEY]}]


def test_nbgraders_options_choose(api):
    for student in ("ada", "adam", "bob"):
        hand_in(api.submitted, student, KEY)
        hand_in(api.submitted, student, "value_loss")
    api.autograde("0[12]_*", "ada*")
    api.coursedir.student_id_exclude = "bob,adam"
    api.autograde(ASSIGNMENT, "*")
    api.coursedir.notebook_id = "other"
    assert not api.autograde(ASSIGNMENT, "*")["success"]
    assert api.graded == [{"ada": [KEY, "value_loss"], "adam": [KEY, "value_loss"]}, {"ada": [KEY]}]


@pytest.mark.parametrize(
    "assignment, student, words",
    [
        ("07_no_such", "*", "Nothing is graded in '07_no_such'. Graded are 01_policy_loss, 02_value_loss"),
        ("06_train_gsm8k", "*", "Nothing is graded in '06_train_gsm8k'"),
        (ASSIGNMENT, "eve", "'eve' handed in nothing"),
    ],
)
def test_an_unknown_assignment_or_student_is_named(api, assignment, student, words):
    hand_in(api.submitted, "ada", KEY)
    result = api.autograde(assignment, student)
    assert not result["success"] and words in result["log"]


def test_create_false_adds_no_student(api):
    hand_in(api.submitted, "ada", KEY)
    result = api.autograde(ASSIGNMENT, "ada", create=False)
    assert not result["success"] and "nbgrader db student add ada" in result["log"]


def test_what_could_not_be_graded_is_said_at_the_end(api):
    hand_in(api.submitted, "ada", KEY)
    api.ungraded = "the judge failed"
    result = api.autograde(ASSIGNMENT, "ada")
    assert not result["success"] and "ada, 01_policy_loss: the judge failed" in result["log"]


def test_what_was_not_finished_in_time_is_said(api):
    hand_in(api.submitted, "ada", KEY)
    api.timed_out = True
    result = api.autograde(ASSIGNMENT, "ada")
    succeeds(result)
    assert "ada, policy_loss was not finished in time" in result["log"]


def test_feedback_is_made_and_released_for_every_damaged_submission(api, tmp_path):
    damaged = {"cut": b'{"nbformat": 4', "none": b"", "old": {"nbformat": 3}, "twice": copy.deepcopy(notebook(KEY))}
    damaged["twice"]["cells"] += [{**cell(notebook(KEY), KEY), "source": "x = 1"}]
    for student, data in damaged.items():
        hand_in(api.submitted, student, KEY, data)
    (hand_in(api.submitted, "missing", KEY) / f"{KEY}.ipynb").unlink()
    (hand_in(api.submitted, "renamed", KEY) / f"{KEY}.ipynb").rename(api.submitted / "renamed" / ASSIGNMENT / "a.ipynb")
    (api.submitted / "file").mkdir()
    (api.submitted / "file" / ASSIGNMENT).write_text("not a folder")
    (api.submitted / "link").mkdir()
    (api.submitted / "link" / ASSIGNMENT).symlink_to("/etc")
    script = "def compute_policy_loss():\n    '</pre><script>alert(1)</script>'\n"
    hand_in(api.submitted, "<b>", KEY)
    hostile = notebook(KEY)
    cell(hostile, KEY)["source"] = script
    hand_in(api.submitted, "hostile", KEY, hostile)
    api.submitted.joinpath("ada").symlink_to(api.submitted / "hostile")
    students = {*damaged, "missing", "renamed", "file", "link", "hostile"}

    succeeds(api.autograde(ASSIGNMENT, "*"))
    assert set(api.graded[0]) == students
    succeeds(api.generate_feedback(ASSIGNMENT, "*"))
    pages = {path.parts[-3]: path.read_text() for path in (api.submitted.parent / "feedback").rglob("*.html")}
    assert set(pages) == students
    for student, page in pages.items():
        assert page.count("<script") == page.count(
            '<script src="https://cdnjs.cloudflare.com/ajax/libs/mathjax'
        ) + page.count('<script type="text/x-mathjax-config">'), student
        assert ("could not be graded" in page) == (student != "hostile")

    (tmp_path / "exchange").mkdir()
    (tmp_path / "exchange").chmod(0o777)
    succeeds(api.release_feedback(ASSIGNMENT))
    assert len(list((tmp_path / "exchange").rglob("*.html"))) == len(students)


# ------------------------------------------------------------------ where it takes nbgrader's place


def test_another_course_in_the_same_formgrader_keeps_nbgraders_own(api, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Autograde, "start", lambda self: seen.append(self.coursedir.root))
    (tmp_path / "other").mkdir()
    other = NbGraderAPI(CourseDirectory(parent=api.parent, root=str(tmp_path / "other")), parent=api.parent)
    other.autograde(ASSIGNMENT, "ada")
    assert seen == [str(tmp_path / "other")] and api.graded == []


def test_nbgraders_own_still_works_for_it(tmp_path):
    """Its methods call super() by the name Autograde, which has to stay its own in its module."""
    (tmp_path / "submitted/ada/ps1").mkdir(parents=True)
    app = NbGrader()
    other = nbgrader_plugin.CourseAutograde(
        CourseDirectory(parent=app, root=str(tmp_path), assignment_id="ps1"), parent=app
    )
    with pytest.raises(NbGraderException, match="No notebooks were matched"):
        other.start()


def test_another_clone_is_not_graded_with_this_ones_notebooks(tmp_path):
    nbgrader_plugin.install(str(tmp_path))
    app = NbGrader()
    clone = nbgrader_plugin.CourseAutograde(
        CourseDirectory(parent=app, root=str(tmp_path), assignment_id=ASSIGNMENT), parent=app
    )
    with pytest.raises(NbGraderException, match="would be graded by the autograder of"):
        clone.start()
