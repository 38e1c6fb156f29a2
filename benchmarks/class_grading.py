"""How much faster than plain nbgrader is a class graded? One class, both ways on this machine, one JSON line.

    python benchmarks/class_grading.py                                  # 40 students x 5 notebooks
    python benchmarks/class_grading.py --students 2 --plain-students 1  # does it run?

The class hands in right solutions, differently written ones and wrong ones of the bank of misconceptions; no two
notebooks have the same solution cell, so that no verdict is used twice. Both ways start from a copy of the course with
the gradebook of `make release`:

- ours: `python -m autograder grade`, and the same command again with nothing changed;
- plain: `nbgrader autograde` of a configuration without this course's plug-in, which executes the visible tests. It
  takes seconds a notebook, so it is measured on --plain-students, half of them before ours and half after, and
  scaled: start-up once an assignment, measured by repeating the command, plus a notebook's time times their number.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tests/ has the differently written solutions

from autograder.grade import cores  # noqa: E402
from autograder.master import ASSIGNMENTS, master  # noqa: E402
from autograder.misconceptions import BANK  # noqa: E402
from tests.course import cell, copy_code, nbgrader, notebook  # noqa: E402
from tests.right_solutions import right_solutions  # noqa: E402

RESULTS = ROOT / "benchmarks/results/class_grading.jsonl"


def solution(key: str, number: int) -> str:
    """The solution cell of this student: right, right but differently written, or wrong, in turn."""
    source = cell(notebook(key), key)["source"]
    source = source if isinstance(source, str) else "".join(source)
    if number % 3 == 1:
        others = list(right_solutions(key).values())
        source = others[number // 3 % len(others)]
    if number % 3 == 2:
        for old, new in BANK[key][number // 3 % len(BANK[key])].edits:
            source = source.replace(old, new)
    return f"{source}\n# student {number}\n"


def lay_out(course: Path, students: int) -> None:
    """A copy of the course after `make release`, with everything handed in."""
    copy_code(course)
    released = nbgrader(course, "generate_assignment", "0[1-5]_*", "--force")
    if released.returncode:
        sys.exit(released.stderr)
    for number in range(students):
        for assignment, key in ASSIGNMENTS.items():
            data = json.loads((course / "autograder/release" / assignment / master(key).file).read_text())
            cell(data, key)["source"] = solution(key, number)
            folder = course / "autograder/submitted" / f"student{number:03}" / assignment
            folder.mkdir(parents=True)
            (folder / master(key).file).write_text(json.dumps(data))


def without_plug_in(course: Path) -> None:
    """nbgrader_config.py without its last part, which puts this course's grading in the place of nbgrader's."""
    config = course / "nbgrader_config.py"
    text, plug_in, _ = config.read_text().partition("from autograder.nbgrader_plugin import install")
    if not plug_in:
        sys.exit("nbgrader_config.py no longer imports the plug-in where this benchmark cuts it off")
    config.write_text(text)


def seconds(course: Path, *command: str) -> float:
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, *command],
        cwd=course,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(course), "OMP_NUM_THREADS": "1"},
    )
    if run.returncode:
        sys.exit(f"{' '.join(command)}:\n{run.stdout}\n{run.stderr}")
    return time.perf_counter() - start


def plain(course: Path, students: range) -> tuple[float, float, int]:
    """Seconds with start-up, seconds of start-up alone, and how many notebooks."""
    whole = start_up = 0.0
    for assignment in ASSIGNMENTS:
        for number in students:
            command = ("-m", "nbgrader", "autograde", assignment, f"--student=student{number:03}")
            whole += seconds(course, *command)
            start_up += seconds(course, *command)  # again: it finds that nothing is to be done
    return whole, start_up, len(students) * len(ASSIGNMENTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--plain-students", type=int, default=2)
    parser.add_argument("--no-result", action="store_true", help="append nothing: a trial")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "plain"
        lay_out(ours, args.students)
        lay_out(theirs, args.plain_students)
        without_plug_in(theirs)
        half = args.plain_students // 2
        before = plain(theirs, range(half))
        first = seconds(ours, "-m", "autograder", "grade")
        again = seconds(ours, "-m", "autograder", "grade")
        after = plain(theirs, range(half, args.plain_students))
    whole, start_up, measured = map(sum, zip(before, after))
    notebooks = args.students * len(ASSIGNMENTS)
    per_notebook = (whole - start_up) / measured
    estimate = len(ASSIGNMENTS) * start_up / measured + notebooks * per_notebook
    line = {
        "date": str(date.today()),
        "machine": platform.machine(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "students": args.students,
        "notebooks": notebooks,
        "ours_seconds": round(first, 1),
        "repeat_seconds": round(again, 1),
        "plain_notebooks_measured": measured,
        "plain_seconds_a_notebook": round(per_notebook, 2),
        "plain_seconds_scaled": round(estimate),
        "times_faster": round(estimate / first, 1),
        "times_faster_repeat": round(estimate / again, 1),
    }
    print(json.dumps(line))
    if not args.no_result:
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
