"""Grading a class: nothing is judged twice, nothing is lost, and one submission's trouble is nobody else's."""

import contextlib
import errno
import functools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from traitlets.config import Config

from autograder import __main__ as command
from autograder import grade as grading
from autograder import judge
from autograder.grade import Judging, grade, handed_in
from autograder.gradebook import CourseGradebook
from autograder.master import ROOT
from autograder.misconceptions import BANK
from autograder.pool import NoCluster
from autograder.recorded import _wording
from autograder.verdict_cache import CacheError, VerdictCache, course_secret
from course_utils.whole_file import write_whole
from tests.class_of_students import new_course
from tests.obedient_judge import obedient_judge, verdict_of
from tests.solutions import solution_source


@pytest.fixture
def course(tmp_path):
    return new_course(tmp_path)


@pytest.fixture
def marks(tmp_path):
    """A folder with one file for each module that was judged."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def run(course, *students, scheduler=None, judge_student=obedient_judge, **options):
    found, _ = handed_in(course.folder / "submitted", [], list(students))
    return grade(
        course.book(), found, Judging(2, scheduler, folder=course.folder, judge_student=judge_student, **options)
    )


def scores(graded):
    return {(one.student, one.verdict.key): one.score for one in graded}


# ---------------------------------------------------------------- the usual way


def test_a_class_gets_its_scores_and_nothing_is_judged_twice(course, marks, monkeypatch):
    course.hand_in("anna", "policy_loss", f"note {marks}")
    course.hand_in("anna", "gae", f"note {marks}\n# miss whitening masking")
    course.hand_in("ben", "policy_loss", f"note {marks}\n# ben's own")
    course.hand_in("ben", "gae", source="def compute_gae_advantages(:\n")
    expected = {("anna", "policy_loss"): 10, ("anna", "gae"): 6, ("ben", "policy_loss"): 10, ("ben", "gae"): 0}
    graded = run(course)
    assert scores(graded) == expected
    assert {one.ungraded for one in graded} == {""}
    assert "syntax error" in next(one for one in graded if one.student == "ben" and one.score == 0).verdict.problem
    assert course.scores() == {
        ("anna", "01_policy_loss"): 10,
        ("anna", "04_gae"): 6,
        ("ben", "01_policy_loss"): 10,
        ("ben", "04_gae"): 0,
    }
    assert (course.folder / "autograded/anna/04_gae/gae.ipynb").is_file()
    assert len(list(marks.iterdir())) == 3

    monkeypatch.setattr(CourseGradebook, "record", None)  # neither judged nor written again
    assert scores(run(course)) == expected
    assert len(list(marks.iterdir())) == 3


def test_one_job_a_student(course, marks):
    for key in ("policy_loss", "value_loss", "entropy"):
        course.hand_in("anna", key, f"note {marks}")
    run(course)
    processes = {name.name.split("-")[1] for name in marks.iterdir()}
    assert len(list(marks.iterdir())) == 3 and len(processes) == 1


def test_the_same_answer_of_another_student_is_judged_once(course, marks):
    course.hand_in("anna", "entropy", f"note {marks}")
    run(course)
    course.hand_in("ben", "entropy", f"note {marks}")
    assert scores(run(course)) == {("anna", "entropy"): 10, ("ben", "entropy"): 10}
    assert len(list(marks.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        "submission",
        "autograded",
        "score",
        "duedate",
        "extension",
        "gradebook",
        "version",
        "wording",
        "damaged",
        "half a digest",
    ],
)
def test_what_changed_is_made_again(course, monkeypatch, change):
    course.hand_in("anna", "entropy")
    run(course)
    notebook = course.folder / "autograded/anna/03_entropy/entropy.ipynb"
    expected = {("anna", "03_entropy"): 10}
    if change == "submission":
        course.hand_in("anna", "entropy", "miss masking")
        expected = {("anna", "03_entropy"): 8}
    if change == "autograded":
        notebook.unlink()
    updates = {
        "score": "UPDATE grade SET auto_score = 1",
        "duedate": "UPDATE assignment SET duedate = '2020-01-01 00:00:00.000000'",
        "extension": "UPDATE submitted_assignment SET extension = '1970-01-02 00:00:00.000000'",
    }
    if change in updates:
        with sqlite3.connect(course.db) as database:
            database.execute(updates[change])
    if change == "gradebook":
        course.db.unlink()
        new_course(course.folder)
    if change == "version":
        monkeypatch.setattr(judge, "VERSION", "another")
    if change == "wording":  # of the feedback
        monkeypatch.setattr("autograder.recorded._wording", lambda: "another")
    if change == "damaged":
        for path in (course.folder / "verdicts").iterdir():
            path.write_text('{"key": "entropy"')
        notebook.unlink()
    if change == "half a digest":
        (course.folder / "recorded/anna/03_entropy").write_bytes(b"\xff")
    recorded = []
    monkeypatch.setattr(
        CourseGradebook,
        "record",
        lambda self, *a, record=CourseGradebook.record: recorded.append(1) or record(self, *a),
    )
    run(course)
    assert course.scores() == expected
    assert notebook.is_file()
    assert len(recorded) == (0 if change == "version" else 1)  # the same verdict of other rubrics is recorded already


def test_the_feedbacks_code_is_part_of_its_wording(tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.recorded.HERE", tmp_path)
    for name in ("master", "feedback", "gradebook"):
        (tmp_path / f"{name}.py").write_text("")
    before = _wording.__wrapped__()
    (tmp_path / "feedback.py").write_text("# in other words")
    assert _wording.__wrapped__() != before


def test_a_grade_given_by_hand_stays(course):
    course.hand_in("anna", "entropy", "miss masking")
    run(course)
    with sqlite3.connect(course.db) as database:
        database.execute("UPDATE grade SET manual_score = 2 WHERE auto_score = 0")
    run(course)
    assert course.scores() == {("anna", "03_entropy"): 10}


def test_a_late_penalty_follows_its_rule_and_the_points_given_by_hand(course):
    (course.hand_in("anna", "entropy", "miss masking").parent / "timestamp.txt").write_text("2026-01-02 00:00:00 UTC")
    with sqlite3.connect(course.db) as database:
        database.execute("UPDATE assignment SET duedate = '2026-01-01 00:00:00.000000'")

    def graded(method: str) -> tuple[float, float]:
        book = course.app()
        book.update_config(Config(LateSubmissionPlugin={"penalty_method": method}))
        found, _ = handed_in(course.folder / "submitted", [], [])
        grade(CourseGradebook(book), found, Judging(2, folder=course.folder, judge_student=obedient_judge))
        with sqlite3.connect(course.db) as database:
            ((penalty,),) = database.execute("SELECT late_submission_penalty FROM submitted_notebook")
        return course.scores()[("anna", "03_entropy")], penalty or 0

    assert graded("none") == (8, 0)
    assert graded("zero") == (8, 8)
    with sqlite3.connect(course.db) as database:
        database.execute("UPDATE grade SET manual_score = 2 WHERE auto_score = 0")
    assert graded("zero") == (10, 10)
    assert graded("none") == (10, 0)


def test_only_those_that_are_asked_for(course):
    course.hand_in("anna", "entropy")
    course.hand_in("anna", "gae")
    course.hand_in("ben", "gae")
    submitted = course.folder / "submitted"
    assert handed_in(submitted, [], []) == ({"anna": ["entropy", "gae"], "ben": ["gae"]}, [])
    assert handed_in(submitted, ["04_gae"], ["anna"]) == ({"anna": ["gae"]}, [])
    assert handed_in(submitted, ["03_entropy"], [])[0] == {"anna": ["entropy"]}


# ---------------------------------------------------------------- deaths


def test_a_process_that_dies_costs_nobody(course, marks):
    course.hand_in("anna", "entropy", f"killonce {course.folder / 'killed'}\n# note {marks}")
    for student in ("ben", "carl", "dora", "emil"):
        course.hand_in(student, "entropy", f"note {marks}\n# {student}")
    graded = run(course)
    assert (course.folder / "killed").exists()
    assert {one.ungraded for one in graded} == {""}
    assert set(scores(graded).values()) == {10} and len(graded) == 5


def test_who_kills_every_process_harms_only_themselves(course, marks):
    course.hand_in("anna", "entropy", "kill")
    for student in ("ben", "carl", "dora"):
        course.hand_in(student, "entropy", f"note {marks}\n# {student}")
    graded = run(course)
    assert scores(graded) == {
        ("anna", "entropy"): 0,
        ("ben", "entropy"): 10,
        ("carl", "entropy"): 10,
        ("dora", "entropy"): 10,
    }
    (anna,) = [one for one in graded if one.ungraded]
    assert anna.student == "anna" and "killed" in anna.ungraded and "graded again" in anna.verdict.problem
    assert len(list((course.folder / "verdicts").iterdir())) == 3  # anna's is tried again
    assert course.scores()["anna", "03_entropy"] == 0


def test_a_judge_that_fails_fails_for_one(course):
    course.hand_in("anna", "entropy", "raise")
    course.hand_in("ben", "entropy")
    graded = run(course)
    assert scores(graded) == {("anna", "entropy"): 0, ("ben", "entropy"): 10}
    assert [one.ungraded for one in graded if one.student == "anna"] == [
        "the judge failed: ValueError: the judge has a bug"
    ]


def test_a_submission_that_cannot_even_be_read_costs_nobody(course, monkeypatch):
    course.hand_in("anna", "entropy")
    course.hand_in("ben", "entropy")
    read = grading.submission.read
    monkeypatch.setattr(
        grading.submission,
        "read",
        lambda submitted, student, key: 1 / 0 if student == "anna" else read(submitted, student, key),
    )
    assert scores(run(course)) == {("anna", "entropy"): 0, ("ben", "entropy"): 10}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_where_it_was(course, marks):
    students = [f"student{n}" for n in range(12)]
    for student in students:
        course.hand_in(student, "entropy", f"sleep 0.3\n# note {marks}\n# {student}")
    arguments = [sys.executable, "-m", "tests.class_of_students", str(course.folder)]
    for wanted in (1, 5):
        process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.time() + 120
        while len(cached(course)) < wanted and time.time() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.time() + 30
        while alive(process.pid) and time.time() < deadline:
            time.sleep(0.1)
        assert not alive(process.pid)  # nobody of its session is left
    finished = len(cached(course))
    assert 5 <= finished < 12
    before = len(list(marks.iterdir()))
    graded = run(course)
    assert len(list(marks.iterdir())) == before + 12 - finished  # no finished verdict was made again
    assert set(scores(graded).values()) == {10}
    assert course.scores() == {(student, "03_entropy"): 10 for student in students}


@pytest.mark.slow
def test_ctrl_c_stops_the_class_and_it_goes_on_where_it_was(course, marks):
    """A terminal sends the signal to all processes of the command; of those at work none may begin another job."""
    course.hand_in("student0", "entropy", f"note {marks}\n# student0")
    for number in range(1, 6):
        course.hand_in(f"student{number}", "entropy", f"note {marks}\n# sleep 300\n# {number}")
    # Not -m: each worker would import the test's module, which takes longer than python -m autograder's.
    arguments = [sys.executable, "-c", "from tests.class_of_students import main; main()", str(course.folder)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    written = course.folder / "autograded/student0/03_entropy/entropy.ipynb"
    try:
        deadline = time.time() + 120
        while not (written.exists() and len(list(marks.iterdir())) == 3) and time.time() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGINT and "spawn" not in said  # in no traceback of a worker
    assert len(list(marks.iterdir())) == 3
    assert course.scores() == {("student0", "03_entropy"): 10} and len(cached(course)) == 1
    for number in range(1, 6):
        course.hand_in(f"student{number}", "entropy", f"note {marks}\n# {number}")
    assert set(scores(run(course)).values()) == {10}
    assert len(list(marks.iterdir())) == 3 + 5


def cached(course):
    folder = course.folder / "verdicts"
    return [path for path in folder.iterdir() if path.suffix == ".json"] if folder.is_dir() else []


def alive(session):
    listing = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True).stdout
    return [int(pid) for pid in listing.split()]


# ---------------------------------------------------------------- a cluster


@pytest.mark.slow
def test_a_dask_cluster_comes_to_the_same_and_survives_a_death(course, marks, tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    other = new_course(tmp_path_factory.mktemp("processes"))
    for number in range(8):
        for one in (course, other):
            one.hand_in(f"student{number}", "entropy", f"sleep 0.3\n# miss {'masking' * (number % 2)}\n# {number}")
    course.hand_in("student3", "gae", f"killonce {course.folder / 'killed'}\n# note {marks}")
    other.hand_in("student3", "gae", "nothing of the kind")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        graded = run(course, scheduler=cluster.scheduler_address)
    assert (course.folder / "killed").exists() and len(list(marks.iterdir())) == 1
    assert scores(graded) == scores(run(other))
    assert course.scores() == other.scores()
    assert {one.ungraded for one in graded} == {""}


@pytest.mark.slow
def test_the_judge_says_the_same_on_a_cluster(course, tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    other = new_course(tmp_path_factory.mktemp("processes"))
    mistake = BANK["entropy"][0]
    wrong = solution_source("entropy")
    for old, new in mistake.edits:
        wrong = wrong.replace(old, new)
    for one in (course, other):
        one.hand_in("anna", "policy_loss", source=solution_source("policy_loss"))
        one.hand_in("anna", "entropy", source=wrong)
        one.hand_in("ben", "gae", source=solution_source("gae"))
        (one.folder / "secret.key").write_bytes(b"0" * 32)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        there = run(course, scheduler=cluster.scheduler_address, judge_student=None)
    here = run(other, judge_student=None)
    assert sorted(there, key=str) == sorted(here, key=str)
    found = {(one.student, one.verdict.key): one for one in here}
    assert found["anna", "policy_loss"].score == found["ben", "gae"].score == 10
    assert found["anna", "entropy"].score < 10
    assert found["anna", "entropy"].verdict.misconception == mistake.name


@pytest.mark.slow
def test_a_job_that_kills_every_worker_of_a_cluster_costs_nobody_else(course):
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    course.hand_in("mallory", "gae", "kill")
    for student in ("anna", "ben", "zoe"):
        course.hand_in(student, "entropy", f"sleep 0.3\n# miss masking\n# {student}")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),  # each job on the killed worker is given up
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
    ):
        graded = run(course, scheduler=cluster.scheduler_address)
    innocent = {(student, "entropy"): 8 for student in ("anna", "ben", "zoe")}
    assert scores(graded) == {("mallory", "gae"): 0} | innocent
    assert {one.student for one in graded if one.ungraded} == {"mallory"}
    assert scores(run(course, "anna", judge_student=None)) == {("anna", "entropy"): 8}  # from the cache


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run_and_keeps_what_is_finished(course, tmp_path):
    pytest.importorskip("distributed")
    for number in range(6):
        course.hand_in(f"student{number}", "entropy", f"sleep {0 if number < 2 else 60}\n# {number}")
    with dask_processes(tmp_path) as (scheduler, address):

        def end_it_when_two_are_finished():
            while len(list((course.folder / "verdicts").glob("*.json"))) < 2:
                time.sleep(0.1)
            scheduler.kill()

        threading.Thread(target=end_it_when_two_are_finished, daemon=True).start()
        with pytest.raises(NoCluster, match="went away"):
            run(course, scheduler=address)
    assert course.scores() == {("student0", "03_entropy"): 10, ("student1", "03_entropy"): 10}


@pytest.mark.slow
def test_a_cluster_whose_workers_are_all_killed_ends_the_run(course, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("autograder.pool.CONNECT_SECONDS", 5)
    monkeypatch.setattr("autograder.pool.SILENT_SECONDS", 5)
    course.hand_in("anna", "entropy")
    course.hand_in("mallory", "gae", "sleep 1\n# kill")
    with dask_processes(tmp_path, "--no-nanny") as (_, address):  # nobody starts the killed one again
        with pytest.raises(NoCluster, match="no workers left .* kept"):
            run(course, scheduler=address)
    assert course.scores() == {("anna", "03_entropy"): 10}


@contextlib.contextmanager
def dask_processes(folder, *worker_options):
    """A scheduler and one worker, each a process of its own; the scheduler's process and its address."""
    contact = folder / "scheduler.json"
    with contextlib.ExitStack() as processes:
        scheduler, worker = (
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.dask_{name}", "--scheduler-file", str(contact), *options],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stderr=subprocess.DEVNULL,
                )
            )
            for name, options in (
                ("scheduler", ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")),
                ("worker", ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder), *worker_options)),
            )
        )
        for process in (scheduler, worker):
            processes.callback(process.kill)
        yield scheduler, _address(contact)


def _address(contact):
    """Of the scheduler that wrote this file, when it has a worker."""
    from distributed import Client

    while not contact.exists() or not contact.read_text():
        time.sleep(0.1)
    with Client(scheduler_file=str(contact)) as client:
        client.wait_for_workers(1, timeout=60)
        return client.scheduler.address


def test_a_cluster_that_is_not_there(course, monkeypatch):
    monkeypatch.setattr("autograder.pool.CONNECT_SECONDS", 1)
    course.hand_in("anna", "entropy")
    with pytest.raises(NoCluster, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        run(course, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(NoCluster, match="no Dask scheduler"):
        run(course, scheduler="nonsense://")


def test_a_worker_with_another_copy_of_the_course_is_refused():
    with pytest.raises(NoCluster, match="another copy of the course"):
        grading.judge_student({}, b"", True, "other rubrics")


# ---------------------------------------------------------------- the cache and the secret


def test_verdicts_made_without_a_sandbox_do_not_pass_for_others(tmp_path):
    cache = VerdictCache(tmp_path, "1")
    cache.store(verdict_of("gae"), "text", sandboxed=False)
    assert cache.load("gae", "text", sandboxed=False) == verdict_of("gae")
    assert cache.load("gae", "text", sandboxed=True) is None
    assert cache.load("gae", "text ", sandboxed=False) is None
    assert cache.load("entropy", "text", sandboxed=False) is None
    assert VerdictCache(tmp_path, "2").load("gae", "text", sandboxed=False) is None


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "autograder/secret.key"
    secret = course_secret(path)
    assert len(secret) == 32 and course_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["secret.key"]
    path.write_bytes(b"half")
    with pytest.raises(CacheError, match="Delete it"):
        course_secret(path)


# ---------------------------------------------------------------- bad input: one line, exit code 2


@pytest.fixture
def cli(course, monkeypatch, capsys):
    """The command line on this course; gives exit code, stdout and stderr without the progress bar."""
    monkeypatch.setattr("autograder.gradebook.course_app", course.app)
    monkeypatch.setattr(
        "autograder.grade.Judging", functools.partial(Judging, folder=course.folder, judge_student=obedient_judge)
    )
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)

    def call(*arguments):
        code = command.main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, "\n".join(line for line in err.splitlines() if line and "students:" not in line)

    return call


def test_it_ends_with_the_table_and_the_report(course, cli):
    course.hand_in("anna", "entropy", "miss masking")
    course.hand_in("ben", "gae")
    code, out, err = cli("grade", "--workers", "1")
    assert (code, err) == (0, "")
    assert out == (
        "student  entropy  gae  total\nanna           8    -      8\nben            -   10     10\n"
        "Scores are the judge's: before late penalties and before changes made by hand.\n"
        f"report: {course.folder / 'report.html'}\n"
    )
    assert "about masking" in (course.folder / "report.html").read_text()


def test_points_given_by_hand_that_hold_down_a_new_hand_in_are_named(course, cli):
    course.hand_in("anna", "entropy", "miss masking")
    course.hand_in("ben", "entropy", "miss masking")
    cli("grade")
    with sqlite3.connect(course.db) as database:
        database.execute("UPDATE grade SET manual_score = 1, needs_manual_grade = 0 WHERE auto_score = 0")
    assert cli("grade")[2] == ""
    course.hand_in("anna", "entropy")
    for _ in range(2):  # until somebody has looked at it
        code, _, err = cli("grade")
        assert code == 0 and err.startswith("anna, entropy: points that were given by hand hold") and "ben" not in err
    assert course.scores()[("anna", "03_entropy")] == 9


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(cli, capsys, number):
    with pytest.raises(SystemExit):
        cli("grade", f"--workers={number}")
    assert f"'{number}' is not a whole number above 0" in capsys.readouterr().err


def test_as_many_processes_grade_as_are_asked_for(course, cli, monkeypatch):
    asked = []
    monkeypatch.setattr(grading, "run_on_cores", lambda _, jobs, workers: asked.append(workers) or iter(()))
    monkeypatch.setattr(grading, "cores", lambda: 7)
    course.hand_in("anna", "gae")
    cli("grade", "--workers", "3")
    cli("grade")
    assert asked == [3, 7]


def test_what_could_not_be_graded_is_named_and_the_exit_code_is_1(course, cli):
    course.hand_in("anna", "entropy", "kill")
    (course.folder / "submitted/a<b/04_gae").mkdir(parents=True)
    code, out, err = cli("grade")
    assert code == 1
    assert "anna           ?" in out
    assert "anna, entropy could not be graded: the process that judged it was killed" in err and "a<b" in err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--assignment", "4_gae"), "did you mean 04_gae?"),
        (("--assignment", "06_train_gsm8k"), "there are 01_policy_loss, 02_value_loss, 03_entropy, 04_gae, 05_mini"),
        (("--student", "ana"), "did you mean anna?"),
        (("--assignment", "01_policy_loss"), "nothing was handed in"),
        (("--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler answers"),
    ],
)
def test_what_is_unknown_is_named_with_the_nearest(course, cli, monkeypatch, arguments, says):
    monkeypatch.setattr("autograder.pool.CONNECT_SECONDS", 1)
    course.hand_in("anna", "gae")
    code, out, err = cli("grade", *arguments)
    assert (code, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1


def test_nothing_was_handed_in_at_all(cli):
    code, _, err = cli("grade")
    assert code == 2 and "nothing was handed in" in err and "collect" in err


@pytest.mark.parametrize(
    "trouble, says",
    [
        ("missing", "run 'make release' first"),
        ("foreign", "not nbgrader's gradebook"),
        ("no database", "file is not a database. If it was made by another version of nbgrader"),
        ("old release", "knows no assignment 04_gae: run 'make release' first"),
        ("locked", "another program is writing to it"),
        ("being written", "another program is writing to it"),
    ],
)
def test_a_gradebook_that_cannot_be_used(course, cli, monkeypatch, trouble, says):
    course.hand_in("anna", "gae")
    holder = None
    if trouble in ("missing", "foreign", "no database"):
        course.db.unlink()
    if trouble == "foreign":
        holder = sqlite3.connect(course.db)
        holder.execute("CREATE TABLE recipes (name)")
        holder.commit()
    if trouble == "no database":
        course.db.write_text("these are my grades\n" * 100)
    if trouble == "old release":
        with sqlite3.connect(course.db) as database:
            database.execute("DELETE FROM assignment WHERE name = '04_gae'")
    if trouble in ("locked", "being written"):
        monkeypatch.setattr(grading, "LOCK_SECONDS", 0.1)
        holder = sqlite3.connect(course.db)
        holder.execute("BEGIN EXCLUSIVE" if trouble == "locked" else "BEGIN IMMEDIATE")  # the latter lets others read
    before = course.db.read_bytes() if course.db.exists() else None
    code, out, err = cli("grade")
    assert (code, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1
    assert (course.db.read_bytes() if course.db.exists() else None) == before
    assert not cached(course)  # it is said before anything is judged
    if trouble in ("locked", "being written"):
        holder.rollback()
        assert cli("grade")[0] == 0
    if holder:
        holder.close()


@pytest.mark.parametrize(
    "error, says",
    [
        (sqlite3.IntegrityError("UNIQUE constraint failed: grade.id"), "another program is writing to it"),
        (sqlite3.OperationalError("database is locked"), "another program is writing to it"),
        (sqlite3.OperationalError("database or disk is full"), "make room"),
        (sqlite3.OperationalError("disk I/O error"), "make room"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "You need permission to write to it"),
        (sqlite3.OperationalError("unable to open database file"), "You need permission to write to it"),
    ],
)
def test_a_gradebook_that_fails_on_the_way_is_one_line_and_no_verdict_is_lost(course, cli, monkeypatch, error, says):
    course.hand_in("anna", "gae")

    def fails(*_):
        raise DBAPIError.instance("SELECT", {}, error, sqlite3.Error)

    with monkeypatch.context() as patch:
        patch.setattr("autograder.recorded.Recorded.unchanged", fails)
        code, out, err = cli("grade")
    assert (code, out) == (2, "") and says in err.splitlines()[-1] and "Traceback" not in err
    monkeypatch.setattr("autograder.judge.judge", None)  # the verdict is there
    assert cli("grade")[0] == 0


def test_ctrl_c_is_a_line_and_an_exit_code_of_its_own(course, cli, monkeypatch):
    course.hand_in("anna", "gae")
    monkeypatch.setattr("autograder.grade.grade", Mock(side_effect=KeyboardInterrupt))
    assert cli("grade") == (130, "", command.STOPPED)


def test_no_sandbox(course, cli):
    course.hand_in("anna", "gae", "nosandbox")
    code, out, err = cli("grade")
    assert (code, out, err) == (2, "", "error: bubblewrap is missing: apt install bubblewrap")
    assert course.scores() == {}
    code, out, err = cli("grade", "--no-sandbox")
    assert code == 0 and "can read and change your files" in err
    assert cli("grade")[0] == 2  # that verdict does not count as one made in a sandbox


@pytest.mark.parametrize("full", ["verdict", "notebook", "remembered"])
def test_a_full_disk_loses_nothing(course, cli, marks, monkeypatch, full):
    for student in ("anna", "ben", "carl"):
        course.hand_in(student, "gae", f"note {marks}\n# {student}")
    written = []

    def fails(at, path, original):
        written.append(path)
        if len(written) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original()

    with monkeypatch.context() as patch:
        if full == "notebook":
            write = CourseGradebook._write
            patch.setattr(
                CourseGradebook,
                "_write",
                lambda self, student, *rest: fails(1, student, lambda: write(self, student, *rest)),
            )
        else:
            module = {"verdict": "autograder.verdict_cache", "remembered": "autograder.recorded"}[full]
            patch.setattr(f"{module}.write_whole", lambda text, path: fails(1, path, lambda: write_whole(text, path)))
        code, out, err = cli("grade")
    assert (code, out) == (2, "")
    assert "No space left on device" in err and len(err.splitlines()) == 1
    done = len(cached(course))
    assert done >= 1
    judged = len(list(marks.iterdir()))
    code, out, err = cli("grade")
    assert (code, err) == (0, "")
    assert len(list(marks.iterdir())) == judged + 3 - done
    assert course.scores() == {(student, "04_gae"): 10 for student in ("anna", "ben", "carl")}


def test_a_gradebook_on_a_full_disk_loses_nothing(course, cli, marks, caplog):
    course.hand_in("anna", "gae", f"note {marks}")
    assert cli("grade")[0] == 0
    students = ["anna", *(f"student{number}" for number in range(12))]  # more than fit into the pages that it has
    for student in students[1:]:
        course.hand_in(student, "gae", f"note {marks}\n# {student}")

    def no_page_more(connection, _):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", no_page_more)
    try:
        code, out, err = cli("grade")
    finally:
        event.remove(Engine, "connect", no_page_more)
    assert (code, out) == (2, "")
    assert f"{course.db}: database or disk is full" in err and "make room, then grade again" in err
    assert len(err.splitlines()) == 1 and caplog.text == ""
    assert course.scores()["anna", "04_gae"] == 10
    kept, judged = len(cached(course)), len(list(marks.iterdir()))
    assert 1 < kept < len(students)
    assert cli("grade")[0] == 0
    assert len(list(marks.iterdir())) == judged + len(students) - kept  # no finished verdict was made again
    assert course.scores() == {(student, "04_gae"): 10 for student in students}


def test_a_full_disk_leaves_the_old_report(course, cli, marks, monkeypatch):
    course.hand_in("anna", "gae", f"note {marks}")
    report, write = course.folder / "report.html", Path.write_text
    report.write_text("of last week")

    def full(path, *arguments, **options):
        if report.name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write, which names no file
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        code, out, err = cli("grade")
    assert code == 2 and "anna      10     10" in out
    assert err == (
        f"error: {report}: No space left on device. Every finished verdict is kept: put that right and run it again."
    )
    assert report.read_text() == "of last week" and course.scores() == {("anna", "04_gae"): 10}
    assert cli("grade")[0] == 0 and "Class report" in report.read_text() and len(list(marks.iterdir())) == 1


# ---------------------------------------------------------------- a learner's own work


@pytest.fixture
def workspace(course):
    """anna's folder, which is laid out as notebooks/ of a workspace is."""
    course.hand_in("notebooks", "entropy", "miss masking")
    course.hand_in("notebooks", "gae", source="def compute_gae_advantages():\n    raise NotImplementedError\n")
    return course.folder / "submitted"


def test_a_learner_sees_points_and_advice(workspace, cli):
    code, out, err = cli("check", str(workspace))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "entropy            8 of 10 points"
    assert "    [ ] 0 of 2 masking: about masking" in out
    assert "still unsolved" in out
    assert out.splitlines()[-1] == "total              8 of 20 points"


def test_a_learner_without_a_sandbox_is_told_so(course, cli):
    course.hand_in("notebooks", "entropy", "nosandbox")
    code, out, err = cli("check", str(course.folder / "submitted"))
    assert code == 0 and len(err.splitlines()) == 1 and "no sandbox on this machine" in err
    assert "entropy            10 of 10 points" in out


def test_a_learners_exercise_that_could_not_be_judged_is_said_by_the_exit_code_too(course, cli):
    course.hand_in("notebooks", "entropy", "raise")
    course.hand_in("notebooks", "gae")
    code, out, err = cli("check", str(course.folder / "submitted"))
    assert (code, err) == (1, "")
    assert "entropy            0 of 10 points\n    The autograder could not finish with this exercise." in out


def test_a_workspace_that_is_not_there(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, workspace in ((["nowhere"], "nowhere"), ([], "workspace")):  # the latter is what `make lab` makes
        code, _, err = cli("check", *arguments)
        assert code == 2 and f"no exercises in {tmp_path / workspace / 'notebooks'}: 'make lab'" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["grade", "check"])
def test_windows_is_refused_in_a_line(cli, monkeypatch, name):
    monkeypatch.setattr("sys.platform", "win32")
    code, out, err = cli(name)
    assert (code, out) == (2, "") and "WSL" in err and len(err.splitlines()) == 1
