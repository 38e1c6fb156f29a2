"""Writes verdicts into nbgrader's gradebook, and the notebooks that its feedback and its formgrader show.

What nbgrader's own autograder would leave behind is left here: rows for student, submission and grades, late
penalties by nbgrader's plug-in, and autograded/STUDENT/ASSIGNMENT/ with the notebook and the receipt of the hand-in.
The notebook is the course's, rebuilt; no file of the submission is copied.
"""

import logging
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Grade, Gradebook, InvalidEntry, MissingEntry, SubmittedNotebook
from nbgrader.apps.baseapp import NbGrader
from nbgrader.preprocessors import AssignLatePenalties
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from autograder.master import ROOT, Master, master, points, rebuilt
from autograder.submission import DAYS, SECRET, TIMESTAMP, Submission, moment, receipt, written
from autograder.verdict import Verdict
from course_utils.plain_error import PlainError
from course_utils.whole_file import write_whole

app_log = logging.getLogger("tornado.application")  # nbgrader's gradebook writes there


class GradebookError(PlainError):
    """The gradebook cannot be used; one line that says what to do. What it holds already is not changed."""


def course_app() -> NbGrader:
    """An nbgrader application with the course's configuration, for who is not started by nbgrader."""
    app = NbGrader()
    app.initialize([], root=str(ROOT))
    return app


class CourseGradebook:
    """The open gradebook of the course, to be used as a context manager by one process at a time.

    `parent` is an nbgrader application or converter; its configuration says where everything is.
    """

    def __init__(self, parent=None):
        self.parent = parent or course_app()
        self.coursedir = self.parent.coursedir
        self.late_penalties = AssignLatePenalties(parent=self.parent)

    @property
    def submitted(self) -> Path:
        return Path(self.coursedir.root) / self.coursedir.submitted_directory

    @property
    def autograded(self) -> Path:
        return Path(self.coursedir.root) / self.coursedir.autograded_directory

    @property
    def feedback(self) -> Path:
        return Path(self.coursedir.root) / self.coursedir.feedback_directory

    @property
    def late_rule(self) -> str:
        """nbgrader's plug-in for late work, with its settings."""
        plugin = self.late_penalties.plugin_class
        settings = plugin(parent=self.parent).trait_values(config=True)
        return f"{plugin.__module__}.{plugin.__qualname__} {sorted(settings.items())}"

    @property
    def db(self):
        """The SQLAlchemy session."""
        return self.gradebook.db

    def __enter__(self) -> "CourseGradebook":
        with self._in_words():
            self.gradebook = Gradebook(self.coursedir.db_url, self.coursedir.course_id)
        return self

    def __exit__(self, *_) -> None:
        self.gradebook.close()

    def is_new(self, student: str, key: str) -> bool:
        """Whether it is another one than what was graded last, by its time, or nothing was graded yet."""
        exercise = master(key)
        folder = self.autograded / student / exercise.assignment
        if not (folder / exercise.file).is_file():
            return True
        handed_in = moment(receipt(self.submitted, student, key).timestamp)
        graded = moment(_existing(folder / TIMESTAMP))
        return bool(handed_in and graded and handed_in != graded)

    def overruled(self) -> set[tuple[str, str]]:
        """(student, assignment) where points that somebody gave by hand hold, though the judge's have changed since."""
        grades = self.db.query(Grade).filter(Grade.needs_manual_grade, Grade.manual_score.is_not(None))
        return {(grade.notebook.student.id, grade.notebook.assignment.assignment.name) for grade in grades}

    def record(self, student: str, submission: Submission, verdict: Verdict) -> None:
        """Writes one verdict. Manual grades stay.

        The notebook is written last: where it is, the grades are. GradebookError: see there.
        """
        exercise = master(submission.key)
        with self._in_words():
            self._require_assignment(exercise)
            self._require_student(student)
            with self.db.no_autoflush:  # nbgrader builds its rows bit by bit, and SQLAlchemy warns of each half
                whole = self.gradebook.update_or_create_submission(
                    exercise.assignment, student, timestamp=moment(submission.receipt.timestamp)
                )
            notebook = self.gradebook.find_submission_notebook(exercise.notebook, exercise.assignment, student)
            self._grade(notebook, points(verdict))
            self._penalise(exercise, student, whole.total_seconds_late, notebook)
            self._write(student, submission, verdict)

    def _require_assignment(self, exercise: Master) -> None:
        """GradebookError: the gradebook was not made from these notebooks."""
        notebook = self.gradebook.find_notebook(exercise.notebook, exercise.assignment)
        if {cell.name: cell.max_score for cell in notebook.grade_cells} != {
            cell.grade_id: cell.points for cell in exercise.graded
        }:
            remove = f"nbgrader db assignment remove {exercise.assignment} --force"
            raise GradebookError(
                f"the gradebook has other graded cells of {exercise.assignment} than its notebook: run `make release`. "
                f"If nbgrader refuses, since there are submissions, `{remove}` first, which takes due date and points "
                "given by hand with it. Then grade again."
            )

    def _require_student(self, student: str) -> None:
        """GradebookError: they are not in the gradebook, and nbgrader's option says not to add them."""
        if getattr(self.parent, "create_student", True):
            self.gradebook.update_or_create_student(student)
            return
        try:
            self.gradebook.find_student(student)
        except MissingEntry:
            raise GradebookError(
                f"the gradebook has no student {student}: run `nbgrader db student add {student}`, or "
                "set Autograde.create_student"
            ) from None

    def _grade(self, notebook: SubmittedNotebook, scores: dict[str, float]) -> None:
        for grade in notebook.grades:
            score = scores.pop(grade.name)
            # As nbgrader does, a grade that somebody gave by hand is kept, and shown to them again; but only where
            # there is something to look at again.
            if grade.auto_score != score or grade.manual_score is None:
                grade.needs_manual_grade = grade.manual_score is not None
            grade.auto_score = score
        if scores:
            raise MissingEntry(f"grades of {', '.join(scores)}")
        for comment in notebook.comments:
            comment.auto_comment = None  # the graded cells say it; a grader's own comment is another column
        self.db.commit()

    def _penalise(self, exercise: Master, student: str, seconds_late: float, notebook: SubmittedNotebook) -> None:
        if seconds_late == 0:  # as the plug-in has it, without opening the gradebook a second time
            notebook.late_submission_penalty = None
            self.db.commit()
            return
        self.late_penalties.preprocess(
            NotebookNode(cells=[]),
            {
                "nbgrader": {
                    "notebook": exercise.notebook,
                    "assignment": exercise.assignment,
                    "student": student,
                    "db_url": self.coursedir.db_url,
                }
            },
        )

    def _write(self, student: str, submission: Submission, verdict: Verdict) -> None:
        """The folder in autograded/: the notebook and what generate_feedback and release_feedback read beside it."""
        exercise, paper = master(submission.key), submission.receipt
        folder = self.autograded / student / exercise.assignment
        # Without a timestamp generate_feedback warns, and without a secret release_feedback stops for the whole
        # class. A secret of our own names a file that nobody asks for.
        files = {
            TIMESTAMP: paper.timestamp or paper.changed or written(DAYS[0]),
            SECRET: paper.secret or _existing(folder / SECRET) or secrets.token_hex(),
            exercise.file: nbformat.writes(rebuilt(submission.key, submission.cell_sources, verdict)),
        }
        folder.mkdir(parents=True, exist_ok=True)
        if _existing(folder / exercise.file) != files[exercise.file]:  # a page made before would stay as it is
            shutil.rmtree(self.feedback / student / exercise.assignment, ignore_errors=True)
        for path in folder.iterdir():
            if path.name not in files:  # of an earlier run by nbgrader's own autograder, or cut short
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, text in files.items():
            write_whole(text, folder / name, mode=0o664 if self.coursedir.groupshared else 0o444)

    @contextmanager
    def _in_words(self):
        """Whatever stands in the way of writing as a GradebookError."""
        place, level = self.coursedir.db_url.removeprefix("sqlite:///"), app_log.level
        app_log.setLevel(logging.CRITICAL)  # nbgrader logs a traceback of what is said here in a line
        try:
            yield
        except MissingEntry as error:
            raise GradebookError(f"{place} does not know {error}: run `make release`, then grade again.") from error
        except (DatabaseError, InvalidEntry) as error:
            cause = error.__context__ if isinstance(error, InvalidEntry) else error  # nbgrader's is raised for any
            if isinstance(cause, OperationalError | IntegrityError):
                raise GradebookError(f"{place}: {advice(cause.orig)}") from error
            reason = getattr(error, "orig", error)
            raise GradebookError(
                f"{place} is not a gradebook of this nbgrader ({reason}): move it to another place, "
                "run `make release`, then grade again."
            ) from error
        except OSError as error:
            raise GradebookError(
                f"{error.filename or place}: {error.strerror}. Nothing that was written is lost: put "
                "that right, then grade again."
            ) from error
        finally:
            app_log.setLevel(level)


def _existing(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def advice(error: Exception) -> str:
    """What to do about an error of SQLite."""
    reason = str(error)
    if "locked" in reason or "constraint" in reason:  # the latter: of a row that another has made meanwhile
        return "another program is writing to it. Let it finish, then grade again: every finished verdict is kept."
    if "full" in reason or "disk I/O" in reason:
        return f"{reason}. Nothing that was written is lost: make room, then grade again."
    if "readonly" in reason or "unable to open" in reason:
        return f"{reason}. You need permission to write to it and to its folder."
    return (
        f"{reason}. If it was made by another version of nbgrader: make a copy of it and run `nbgrader db upgrade`. If "
        "it is damaged: put a copy in its place; or move it away, run `make release`, and give points changed by hand, "
        "due dates, names and LMS ids again. Then grade again: every finished verdict is kept."
    )
