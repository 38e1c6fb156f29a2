"""A copy of the course in a temporary folder, as a fresh clone has it, for tests that run nbgrader."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from autograder.master import master
from autograder.verdict import Result, Verdict
from tests import warm
from tests.solutions import ROOT

LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
IN_TURN = """
import contextlib, os, shlex, sys
from jupyter_core.application import NoStart
from nbgrader.apps import NbGraderApp
for line in sys.stdin:
    folder, command = line.rstrip().split("\\t")
    os.chdir(folder)
    app = NbGraderApp.instance()
    app.initialize(shlex.split(command)[1:])
    with contextlib.suppress(NoStart):  # raised when the command has ended
        app.start()
    app.reset()
"""


def copy_code(target: Path) -> None:
    """What git tracks of the course, as far as nbgrader uses it."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "nbgrader_config.py", target)
    for folder in ("notebooks", "course_utils", "autograder/rubrics", "autograder/misconceptions"):
        shutil.copytree(ROOT / folder, target / folder, ignore=LEFT_OUT)
    for file in (ROOT / "autograder").glob("*.py"):
        shutil.copy(file, target / "autograder")


def nbgrader(course: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs an nbgrader command in the root of `course`, with its code."""
    return python(course, "-m", "nbgrader", *arguments)


def python(course: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess:
    """Runs Python in the root of `course`, with its code."""
    return subprocess.run(
        [*warm.COMMAND, *arguments],
        input=given,
        cwd=course,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(course), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def in_turn(course: Path, *steps: tuple[Path, str]) -> subprocess.CompletedProcess:
    """Runs nbgrader's commands, each in its folder, in one process with the code of `course`: a start takes seconds."""
    return python(course, "-c", IN_TURN, given="".join(f"{folder}\t{command}\n" for folder, command in steps))


def notebook(key: str) -> dict:
    """The course's notebook as JSON, its solution in it: a submission with full marks."""
    return json.loads((ROOT / "notebooks" / master(key).assignment / master(key).file).read_text())


def cell(data: dict, grade_id: str) -> dict:
    (found,) = (cell for cell in data["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id)
    return found


def hand_in(submitted: Path, student: str, key: str, data: object = None) -> Path:
    """Puts a notebook (JSON, or bytes as they are) where nbgrader's collect would; gives its folder."""
    folder = submitted / student / master(key).assignment
    folder.mkdir(parents=True)
    data = notebook(key) if data is None else data
    (folder / master(key).file).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return folder


def verdict(key: str, *passed: str, **more) -> Verdict:
    """A verdict with these criteria passed."""
    return Verdict(
        key,
        tuple(
            Result(
                one.criterion,
                one.criterion in passed,
                f"{one.criterion} in words",
                "" if one.criterion in passed else "see hint 1",
            )
            for one in master(key).graded
        ),
        **more,
    )
