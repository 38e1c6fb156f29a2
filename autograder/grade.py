"""Grades a class: finds what was handed in, makes the verdicts in parallel, writes the gradebook from this process.

Each verdict is on disk before the gradebook hears of it, and each step can be repeated. So after an end at any moment
the next run goes on where this one was, and comes to the same gradebook.
"""

import dataclasses
import difflib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError
from tqdm import tqdm

from autograder import judge, master, submission
from autograder.gradebook import CourseGradebook, advice
from autograder.pool import NoCluster, WorkerDied, run_on_cores, run_on_dask
from autograder.recorded import Recorded
from autograder.report import Graded
from autograder.sandbox import NoSandbox
from autograder.submission import Submission
from autograder.verdict import Verdict
from autograder.verdict_cache import VerdictCache, course_secret
from course_utils.plain_error import PlainError

TABLES = {"assignment", "student", "submitted_assignment", "grade", "alembic_version"}  # of nbgrader's gradebook
LOCK_SECONDS = 10  # that another program may keep the gradebook to itself
STOP_ALL = (NoSandbox, NoCluster)  # what stops one job would stop every other


class GradingError(PlainError):
    """Why nothing, or nothing more, can be graded, and what to do."""


@dataclass(frozen=True)
class Judging:
    """Where verdicts are made, and how."""

    workers: int
    scheduler: str | None = None  # of a Dask cluster, in place of this machine's cores
    sandboxed: bool = True
    folder: Path = master.ROOT / "autograder"  # for the verdicts, the secret and what was recorded
    judge_student: Callable | None = None  # in tests, a stand-in

    def run(self, jobs: Iterable[tuple[str, tuple]]) -> Iterator[tuple[str, Any]]:
        function = self.judge_student or judge_student
        if self.scheduler:
            return run_on_dask(function, jobs, self.scheduler)
        return run_on_cores(function, jobs, self.workers)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Judged:
    """One exercise that was handed in, with what came of it."""

    submission: Submission
    verdict: Verdict
    ungraded: str = ""  # why the verdict is only a place-holder


def judge_student(modules: dict[str, str], secret: bytes, sandboxed: bool, version: str) -> dict[str, Verdict]:
    """One job, done in another process or on another machine: all of a student's modules, in one sandbox."""
    if judge.VERSION != version:
        raise NoCluster(
            f"a worker has another copy of the course (rubrics {judge.VERSION}, here {version}): give all "
            "of them the same one and start them again"
        )
    return judge.judge(modules, secret, sandboxed) if modules else {}


def verdicts(
    students: dict[str, list[str]], read: Callable[[str, str], Submission], judging: Judging
) -> Iterator[tuple[str, list[Judged]]]:
    """Each student with their exercises: first those for whom nothing is left to judge, then the others as they are
    finished. Of the others only those in flight are in memory.

    NoSandbox, NoCluster, CacheError. OSError: a verdict cannot be written.
    """
    cache = VerdictCache(judging.folder / "verdicts", judge.VERSION)
    secret = course_secret(judging.folder / "secret.key")
    unfinished, in_flight = {}, {}

    def look(student: str, keys: list[str]) -> tuple[list[Judged], dict[str, Submission]]:
        done, missing = [], {}
        for one in (_read(read, student, key) for key in keys):
            verdict = cache.load(one.key, one.module, judging.sandboxed) if one.module is not None else one.failed()
            if verdict is None:
                missing[one.key] = one
            else:
                done.append(Judged(one, verdict))
        return done, missing

    def jobs() -> Iterator[tuple[str, tuple]]:
        for student, keys in unfinished.items():
            in_flight[student] = done, missing = look(student, keys)
            modules = {key: one.module for key, one in missing.items()}
            yield student, (modules, secret, judging.sandboxed, judge.VERSION)

    for student, keys in students.items():
        done, missing = look(student, keys)
        if missing:
            unfinished[student] = keys
        else:
            yield student, done
    if not unfinished:
        return
    for student, outcome in judging.run(jobs()):
        done, missing = in_flight.pop(student)
        if isinstance(outcome, STOP_ALL):
            raise outcome
        for key, one in missing.items():
            if isinstance(outcome, Exception):
                done.append(_ungraded(one, outcome))
            else:
                if not outcome[key].timed_out:
                    cache.store(outcome[key], one.module, judging.sandboxed)
                done.append(Judged(one, outcome[key]))
        yield student, done


def _read(read: Callable[[str, str], Submission], student: str, key: str) -> Submission:
    try:
        return read(student, key)
    except Exception as error:  # it should raise nothing; if it does, that costs nobody else
        return Submission(key, {}, None, f"The notebook could not be read ({type(error).__name__}).")


def _ungraded(one: Submission, outcome: Exception) -> Judged:
    """No verdict for a reason that may be the grader's: no points for now, not cached, tried again in the next run."""
    if isinstance(outcome, WorkerDied):
        why = "the process that judged it was killed, and so was the next"
    else:
        why = f"the judge failed: {type(outcome).__name__}: {outcome}"
    problem = (
        "The autograder could not finish with this exercise. Your instructor has been told, and it will be "
        "graded again."
    )
    return Judged(one, dataclasses.replace(one, module=None, problem=problem).failed(), why)


# ---------------------------------------------------------------- what was handed in


def handed_in(submitted: Path, assignments: list[str], students: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Student -> keys of the exercises that they handed in, of these assignments and students, or of all where none is
    named; and a line for each folder that is nobody's. GradingError: a name is unknown, or nothing was handed in."""
    for assignment in assignments:
        if assignment not in master.ASSIGNMENTS:
            raise GradingError(
                f"no assignment '{assignment}' is graded{_nearest(assignment, master.ASSIGNMENTS)}: "
                f"there are {', '.join(master.ASSIGNMENTS)}"
            )
    keys = {master.ASSIGNMENTS[assignment] for assignment in assignments} or set(master.ASSIGNMENTS.values())
    everything, refused = submission.find(submitted)
    known = {student for student, _ in everything}
    for student in students:
        if student not in known:
            raise GradingError(
                f"student '{student}' has handed in nothing{_nearest(student, known)}: there is no "
                f"{submitted / student} with an assignment in it"
            )
    found: dict[str, list[str]] = {}
    for student, key in everything:
        if key in keys and (student in students or not students):
            found.setdefault(student, []).append(key)
    if not found:
        raise GradingError(
            f"nothing was handed in: there is no {submitted}/STUDENT/ASSIGNMENT for "
            f"{', '.join(assignments) or 'any assignment'}. Collect first (nbgrader collect "
            "ASSIGNMENT), or put the notebooks there yourself."
        )
    return found, refused


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""


# ---------------------------------------------------------------- the gradebook


def require_gradebook(db_url: str, assignments: set[str]) -> None:
    """GradingError: the gradebook is missing, foreign or locked, or does not know one of the assignments. Looked at
    without nbgrader, which would add its tables to whatever database it is given."""
    path = _file(db_url)
    if not path.exists():
        raise GradingError(f"no gradebook {path}: run 'make release' first")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not TABLES <= tables:
                raise GradingError(
                    f"{path} is a database, but not nbgrader's gradebook. Put the right one in its "
                    "place, or move it away and run 'make release'."
                )
            known = {name for (name,) in database.execute("SELECT name FROM assignment")}
            if missing := sorted(assignments - known):
                raise GradingError(f"{path} knows no assignment {', '.join(missing)}: run 'make release' first")
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise GradingError(f"{path}: {advice(error)}") from error


def _file(db_url: str) -> Path:
    return Path(db_url.removeprefix("sqlite:///"))


# ---------------------------------------------------------------- a class


def grade(book: CourseGradebook, students: dict[str, list[str]], judging: Judging) -> list[Graded]:
    """Grades what `handed_in` found, and writes it into the gradebook, which is opened here.

    GradingError, GradebookError, and what `verdicts` raises.
    """
    assignments = {master.master(key).assignment for keys in students.values() for key in keys}
    require_gradebook(book.coursedir.db_url, assignments)
    read = partial(submission.read, book.submitted)
    graded = []
    try:
        with book, tqdm(total=len(students), desc="students", unit=" students") as bar:
            recorded = Recorded(judging.folder / "recorded", book)
            for student, exercises in verdicts(students, read, judging):
                for one in exercises:
                    _record(book, recorded, student, one)
                    graded.append(as_graded(student, one))
                bar.update()
            by_hand = book.overruled()
    except DBAPIError as error:
        raise GradingError(f"{_file(book.coursedir.db_url)}: {advice(error.orig)}") from error
    return [dataclasses.replace(one, overruled=(one.student, one.assignment) in by_hand) for one in graded]


def _record(book: CourseGradebook, recorded: Recorded, student: str, one: Judged) -> None:
    """Writes the exercise into the gradebook and its autograded notebook, unless that is how they are already."""
    key = one.submission.key
    made_of = json.dumps(
        [
            one.verdict.to_json(),
            one.submission.cell_sources,
            dataclasses.astuple(one.submission.receipt),
        ]
    )
    if not recorded.unchanged(student, key, made_of):
        book.record(student, one.submission, one.verdict)
        recorded.remember(student, key, made_of)


def as_graded(student: str, one: Judged) -> Graded:
    exercise = master.master(one.submission.key)
    return Graded(
        student,
        exercise.assignment,
        one.verdict,
        master.score(one.verdict),
        exercise.max_score,
        one.submission.tampering,
        one.ungraded,
    )


# ---------------------------------------------------------------- a learner's own work


def check(workspace: Path, judging: Judging) -> list[Graded]:
    """The exercises in a workspace, in their order; only the verdicts are written. GradingError: there are none."""
    keys = [key for assignment, key in master.ASSIGNMENTS.items() if (workspace / "notebooks" / assignment).is_dir()]
    if not keys:
        raise GradingError(
            f"no exercises in {workspace / 'notebooks'}: 'make lab' makes a workspace, or name yours: "
            "python -m autograder check WORKSPACE"
        )
    # A workspace keeps its assignments in notebooks/, as a class's folder does in that of a student.
    ((_, exercises),) = verdicts({"notebooks": keys}, partial(submission.read, workspace), judging)
    return sorted((as_graded("you", one) for one in exercises), key=lambda one: one.assignment)
