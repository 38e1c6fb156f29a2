"""What is written into nbgrader's gradebook and into autograded/, without any judge."""

import sqlite3
import stat
from datetime import datetime, timedelta

import nbformat
import pytest
from nbgrader.api import Gradebook, MissingEntry
from traitlets.config import Config

from autograder.gradebook import CourseGradebook, GradebookError
from autograder.master import ROOT, master
from autograder.submission import read
from tests.class_of_students import new_course
from tests.course import hand_in, verdict

KEY = "policy_loss"
WHERE = ("policy_loss", "01_policy_loss", "ada")
ALL = [cell.criterion for cell in master(KEY).graded]
HANDED_IN = "2026-11-22 10:00:00.000000 UTC"


@pytest.fixture
def course(tmp_path):
    course = new_course(tmp_path)
    folder = hand_in(tmp_path / "submitted", "ada", KEY)
    (folder / "timestamp.txt").write_text(HANDED_IN)
    (folder / "submission_secret.txt").write_text("s3cret")
    (folder / "torch.py").write_text("raise SystemExit")
    return course


def record(course, *passed, student="ada", app=None, **more) -> float:
    """The score as nbgrader has it then: with manual grades, less the late penalty."""
    with CourseGradebook(app or course.app()) as book:
        book.record(student, read(book.submitted, student, KEY), verdict(KEY, *passed, **more))
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        notebook = book.find_submission_notebook(*WHERE[:2], student)
        return max(0.0, notebook.score - (notebook.late_submission_penalty or 0.0))


def grades(course) -> dict:
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        return {
            one.name.removeprefix("policy_loss_"): (one.auto_score, one.manual_score, one.needs_manual_grade)
            for one in book.find_submission_notebook(*WHERE).grades
        }


def change(course, function) -> None:
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        function(book)
        book.db.commit()


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ------------------------------------------------------------------ grades


def test_a_verdict_becomes_grades_criterion_by_criterion(course):
    assert record(course, "clipping", "masking") == 5
    assert grades(course) == {
        "worked_example": (0, None, False),
        "clipping": (3, None, False),
        "masking": (2, None, False),
        "gradient": (0, None, False),
        "metrics": (0, None, False),
    }
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        submission = book.find_submission("01_policy_loss", "ada")
        assert submission.timestamp == datetime(2026, 11, 22, 10)
        assert (submission.score, submission.max_score) == (5, 10)


def test_recording_again_replaces_the_grades_and_nobody_elses(course):
    hand_in(course.folder / "submitted", "bob", KEY)
    record(course, *ALL)
    record(course, "clipping", student="bob")
    record(course, "gradient")
    assert course.scores() == {("ada", "01_policy_loss"): 1, ("bob", "01_policy_loss"): 3}


def test_a_grade_given_by_hand_is_kept_and_shown_again_only_when_the_verdict_changes(course):
    record(course, "clipping")

    def by_hand(book):
        grade = book.find_grade("policy_loss_masking", *WHERE)
        grade.manual_score, grade.needs_manual_grade = 2, False

    change(course, by_hand)
    assert record(course, "clipping") == 5
    assert grades(course)["masking"] == (0, 2, False)
    assert record(course, "masking", "gradient") == 3
    assert grades(course)["masking"] == (2, 2, True)


def test_a_feedback_page_goes_when_the_verdict_is_another_one(course):
    """generate_feedback would pass it over, since the hand-in is the same."""
    record(course, "clipping")
    pages = {
        student: course.folder / "feedback" / student / "01_policy_loss/policy_loss.html" for student in ("ada", "bob")
    }
    for page in pages.values():
        page.parent.mkdir(parents=True)
        page.write_text("3 of 10")
    record(course, "clipping")
    assert pages["ada"].exists()
    record(course, "clipping", "masking")
    assert not pages["ada"].exists() and pages["bob"].exists()


def test_late_penalties_are_those_of_nbgraders_plugin(course):
    def due(book):
        book.update_or_create_assignment("01_policy_loss", duedate="2026-11-22 09:00:00 UTC")

    change(course, due)
    assert record(course, *ALL) == 10  # nbgrader's default takes no points
    strict = course.app()
    strict.update_config(Config(LateSubmissionPlugin={"penalty_method": "zero"}))
    assert record(course, *ALL, app=strict) == 0
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        assert book.find_submission_notebook(*WHERE).late_submission_penalty == 10

    def extended(book):
        book.find_submission("01_policy_loss", "ada").extension = timedelta(hours=2)

    change(course, extended)
    assert record(course, *ALL, app=strict) == 10


def test_a_timestamp_that_says_nothing_is_no_timestamp(course):
    path = course.folder / "submitted/ada/01_policy_loss/timestamp.txt"
    path.write_text("in the year 2525, if man is still alive")
    record(course, *ALL)
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        assert book.find_submission("01_policy_loss", "ada").timestamp is None
    written = (course.folder / "autograded/ada/01_policy_loss/timestamp.txt").read_text()
    assert datetime.strptime(written, "%Y-%m-%d %H:%M:%S.%f UTC")  # the folder's, for nbgrader's feedback


# ------------------------------------------------------------------ autograded/


def test_nothing_of_the_submission_but_its_solution_gets_into_autograded(course):
    old = course.folder / "autograded/ada/01_policy_loss"
    (old / "sub").mkdir(parents=True)
    (old / "sub/torch.py").write_text("of nbgrader's own autograder")
    (old / "link").symlink_to(course.folder / "submitted")
    record(course, *ALL)
    assert files(course.folder / "autograded") == ["ada", "ada/01_policy_loss"] + [
        f"ada/01_policy_loss/{name}" for name in ("policy_loss.ipynb", "submission_secret.txt", "timestamp.txt")
    ]
    assert (course.folder / "submitted/ada/01_policy_loss/torch.py").exists()
    assert (old / "timestamp.txt").read_text() == HANDED_IN
    assert (old / "submission_secret.txt").read_text() == "s3cret"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in old.iterdir())
    nbformat.validate(nbformat.read(old / "policy_loss.ipynb", as_version=4))


def test_a_group_that_grades_together_may_change_all_of_it(course):
    app = course.app()
    app.coursedir.groupshared = True
    record(course, *ALL, app=app)
    graded = course.folder / "autograded/ada/01_policy_loss"
    assert {stat.S_IMODE(path.stat().st_mode) for path in graded.iterdir()} == {0o664}


def test_without_a_secret_one_is_made_and_kept(course):
    (course.folder / "submitted/ada/01_policy_loss/submission_secret.txt").unlink()
    record(course, *ALL)
    path = course.folder / "autograded/ada/01_policy_loss/submission_secret.txt"
    secret = path.read_text()
    assert len(secret) >= 64
    record(course)
    assert path.read_text() == secret


def test_is_new_until_graded_and_again_when_handed_in_later(course):
    with course.book() as book:
        assert book.is_new("ada", KEY)
    record(course, *ALL)
    with course.book() as book:
        assert not book.is_new("ada", KEY)
    (course.folder / "submitted/ada/01_policy_loss/timestamp.txt").write_text("2026-11-22 10:00:01 UTC")
    with course.book() as book:
        assert book.is_new("ada", KEY)


def test_a_later_hand_in_that_comes_while_one_is_judged_is_new_afterwards(course):
    """The grade is that of the earlier one, and so is its time."""
    handed_in = read(course.folder / "submitted", "ada", KEY)
    (course.folder / "submitted/ada/01_policy_loss/timestamp.txt").write_text("2026-11-23 10:00:00 UTC")
    with course.book() as book:
        book.record("ada", handed_in, verdict(KEY, *ALL))
    with course.book() as book:
        assert book.gradebook.find_submission("01_policy_loss", "ada").timestamp == datetime(2026, 11, 22, 10)
        assert book.is_new("ada", KEY)


# ------------------------------------------------------------------ what stands in the way


def test_a_gradebook_without_the_assignment_or_with_other_points_is_refused(course):
    change(course, lambda book: setattr(book.find_grade_cell("policy_loss_masking", *WHERE[:2]), "max_score", 20))
    with pytest.raises(GradebookError, match="`make release`.*`nbgrader db assignment remove 01_policy_loss --force`"):
        record(course, *ALL)
    change(course, lambda book: book.remove_assignment("01_policy_loss"))
    with pytest.raises(GradebookError, match="01_policy_loss.*run `make release`"):
        record(course, *ALL)
    assert not (course.folder / "autograded").exists()


def test_points_for_which_the_gradebook_has_no_place_are_not_lost_in_silence(course):
    """As of a cell that a later release added, after the student's first hand-in was graded."""
    record(course, *ALL)
    change(course, lambda book: book.db.delete(book.find_grade("policy_loss_masking", *WHERE)))
    with pytest.raises(GradebookError, match="grades of policy_loss_masking"):
        record(course, *ALL)


def test_the_courses_gradebook_is_meant_in_whatever_folder_the_command_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = CourseGradebook()
    assert book.submitted == ROOT / "autograder/submitted"
    assert book.coursedir.db_url == f"sqlite:///{ROOT / 'autograder/gradebook.db'}"


def test_a_file_that_is_no_gradebook_is_refused_and_left_alone(course):
    course.db.write_text("my thesis")
    with pytest.raises(GradebookError, match="move it to another place"):
        record(course, *ALL)
    assert course.db.read_text() == "my thesis"


def test_a_locked_gradebook_is_one_clear_line(course):
    record(course, "clipping")
    with sqlite3.connect(course.db) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(GradebookError, match="another program is writing to it") as caught:
            record(course, *ALL)
        assert "\n" not in str(caught.value)
        other.rollback()
    assert course.scores() == {("ada", "01_policy_loss"): 3}


def test_a_row_that_another_run_makes_at_the_same_moment_is_no_foreign_gradebook(course, monkeypatch):
    record(course, "clipping")

    def not_yet(self, name):
        raise MissingEntry(name)

    with monkeypatch.context() as patch:
        patch.setattr(Gradebook, "find_student", not_yet)
        with pytest.raises(GradebookError, match="another program is writing to it"):
            record(course, *ALL)
    record(course, *ALL)
    assert course.scores() == {("ada", "01_policy_loss"): 10}


def test_a_full_disk_leaves_the_old_notebook(course, monkeypatch):
    record(course, "clipping")
    path = course.folder / "autograded/ada/01_policy_loss/policy_loss.ipynb"
    before = path.read_bytes()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(GradebookError, match="No space left on device"):
        record(course, *ALL)
    assert path.read_bytes() == before
    assert len(files(path.parent)) == 3


def test_unknown_students_are_refused_where_nbgraders_option_says_so(course):
    app = course.app()
    app.create_student = False
    with pytest.raises(GradebookError, match="nbgrader db student add ada"):
        record(course, *ALL, app=app)
    assert course.scores() == {}
