"""A case without an answer in time costs its criterion, but not for good: it may have been the machine's fault."""

import math
import shutil
from types import SimpleNamespace

import pytest

from autograder import __main__ as command
from autograder import judge
from autograder.grade import Judging, grade, handed_in
from autograder.sandbox import Worker
from course_utils.export import header
from tests.class_of_students import new_course
from tests.obedient_judge import obedient_judge
from tests.solutions import solution_source

KEY = "entropy"
WRITE_TO_EVERY_FILE = """
import os
for number in range(3, 20):
    try:
        os.write(number, b"frame" * 9)
    except OSError:
        pass
"""


def run(course) -> float:
    students, _ = handed_in(course.folder / "submitted", [], [])
    (graded,) = grade(course.book(), students, Judging(1, folder=course.folder, judge_student=obedient_judge))
    assert graded.score == course.scores()["ada", "03_entropy"]
    return graded.score


def test_a_verdict_that_ran_out_of_time_is_made_again_and_then_kept(tmp_path):
    course, first = new_course(tmp_path), tmp_path / "first"
    course.hand_in("ada", KEY, f"slowonce {first}")
    assert run(course) == 8
    assert run(course) == 10
    first.unlink()  # to be judged again would cost points again
    assert run(course) == 10


def test_the_instructor_is_told(tmp_path, capsys, monkeypatch):
    course = new_course(tmp_path)
    course.hand_in("ada", KEY, f"slowonce {tmp_path / 'first'}")
    monkeypatch.setattr("autograder.gradebook.CourseGradebook", course.book)
    monkeypatch.setattr(
        "autograder.grade.Judging", lambda *_: Judging(1, folder=course.folder, judge_student=obedient_judge)
    )
    words = "ada, entropy was not finished in time"
    assert command.main(["grade"]) == 0 and words in capsys.readouterr().err
    assert command.main(["grade"]) == 0 and words not in capsys.readouterr().err


@pytest.fixture(scope="module")
def process():
    with Worker() as worker:
        yield worker


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
@pytest.mark.parametrize(
    "deed, timed_out",
    [
        ("__import__('time').sleep(1000)", True),
        ("any(False for _ in __import__('itertools').count())", True),
        ("__import__('resource').setrlimit(0, (1, 1)) or any(False for _ in __import__('itertools').count())", True),
        ("__import__('os')._exit(1)", False),
        (f"exec({WRITE_TO_EVERY_FILE!r})", False),
        ("1 / 0", False),
        ("pass", False),
    ],
)
def test_the_judge_tells_a_time_out_from_every_other_end(process, monkeypatch, deed, timed_out):
    code = f"    if logits_new.dtype != torch.float32: {deed}\n    log_probs = "
    source = solution_source(KEY).replace("    log_probs = ", code, 1)
    monkeypatch.setattr(Worker.ask, "__defaults__", (5,))
    verdict = judge.judge_exercise(process, KEY, f"{header(KEY)}\n\n{source}", b"secret")
    assert verdict.timed_out == timed_out
    lost = {result.criterion: result.advice for result in verdict.results if not result.passed}
    assert list(lost) == ([] if deed == "pass" else ["stability"])  # no other criterion
    assert "gave no result" in lost.get("stability", "") or deed in ("pass", "1 / 0")


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
@pytest.mark.parametrize(
    "deed, timed_out, words",
    [
        ("__import__('resource').setrlimit(0, (1, 1))\nwhile True: pass", True, "its process was killed"),
        ("__import__('os')._exit(0)", False, "it ended the process"),
    ],
)
def test_a_process_that_ends_while_it_loads_is_said_to_have(process, deed, timed_out, words):
    source = f"{header(KEY)}\n\n{solution_source(KEY)}\n{deed}\n"
    verdict = judge.judge_exercise(process, KEY, source, b"secret")
    assert verdict.timed_out == timed_out and words in verdict.problem
    assert not any(result.passed for result in verdict.results)


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_answers_just_in_time_are_waited_for_only_so_long_in_all(process, monkeypatch):
    """By a clock on which each answer takes 19 seconds: that to the load and six cases fit into 120, the last of them
    with 6 seconds left."""
    clock, asked, ask = [0.0], [], Worker.ask

    def slowly(self, message, tensors, until):
        asked.append((message["kind"], until - clock[0]))
        clock[0] += 19
        return ask(self, message, tensors)

    monkeypatch.setattr(judge, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Worker, "ask", slowly)
    source = f"{header('policy_loss')}\n\n{solution_source('policy_loss')}"
    verdict = judge.judge_exercise(process, "policy_loss", source, b"secret")
    left = [("load", 120), *(("call", seconds) for seconds in (101, 82, 63, 44, 25, 6))]
    assert asked == [*left, ("end", math.inf), ("ping", math.inf)]
    assert verdict.timed_out and verdict.misconception == ""
    assert [result.criterion for result in verdict.results if result.passed] == ["worked_example"]
    assert all("no time was left of the 120 seconds" in result.advice for result in verdict.results[1:])
