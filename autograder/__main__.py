"""Grades a class, or one's own workspace.

    python -m autograder grade                                         # everything that was handed in and is new
    python -m autograder grade --assignment 04_gae --student bitdiddle
    python -m autograder grade --scheduler tcp://10.0.0.1:8786         # on a Dask cluster
    python -m autograder check workspace                               # a learner's own notebooks

docs/instructor.md goes through a term with it.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from course_utils.plain_error import PlainError

WINDOWS = "Windows lacks what the judge needs (fork). In WSL, the Linux that Windows brings, the same command runs."
STOPPED = "Stopped. Every finished verdict is kept: run it again to go on."


def main(arguments: list[str] | None = None) -> int:
    """0: all is graded; 1: something could not be graded, and is named; 2: nothing, or nothing more, can be; 130:
    stopped by Ctrl-C."""
    args = _arguments(arguments)
    if sys.platform == "win32":
        print(f"error: {WINDOWS}", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a name that this terminal cannot show
    try:
        return args.command(args)
    except PlainError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}. Every finished verdict is kept: put that right and run it "
            "again.",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    return 2


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m autograder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    grading = commands.add_parser("grade", help="grade a class into nbgrader's gradebook")
    grading.set_defaults(command=_grade)
    grading.add_argument("--assignment", action="append", default=[], help="only this one, e.g. 04_gae; again for more")
    grading.add_argument("--student", action="append", default=[], help="only this one; again for more")
    where = grading.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_positive, help="processes on this machine (default: one for each core)")
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="of a Dask cluster to use instead")
    grading.add_argument(
        "--no-sandbox",
        action="store_true",
        help="run submissions with your rights: they can read and change your files and grades",
    )
    checking = commands.add_parser("check", help="grade your own notebooks; nothing is handed in")
    checking.set_defaults(command=_check)
    checking.add_argument("workspace", type=Path, nargs="?", default=Path("workspace"))
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _grade(args: argparse.Namespace) -> int:
    from autograder import report
    from autograder.grade import Judging, cores, grade, handed_in
    from autograder.gradebook import CourseGradebook
    from course_utils.whole_file import write_whole

    book = CourseGradebook()
    judging = Judging(args.workers or cores(), args.scheduler, not args.no_sandbox)
    if args.no_sandbox:
        print(
            "warning: without a sandbox, a submission can read and change your files, the gradebook and other "
            "people's work, and use the network.",
            file=sys.stderr,
        )
    students, refused = handed_in(book.submitted, args.assignment, args.student)
    graded = grade(book, students, judging)
    print(report.class_table(graded), report.WHOSE, sep="\n")
    page = judging.folder / "report.html"
    write_whole(report.class_report(graded, f"{datetime.now():%Y-%m-%d %H:%M}"), page)
    print(f"report: {page}")
    for line in report.unfinished(graded) + report.overruled(graded):
        print(line, file=sys.stderr)
    failures = refused + [
        f"{one.student}, {one.verdict.key} could not be graded: {one.ungraded}. Run it again."
        for one in graded
        if one.ungraded
    ]
    for failure in failures:
        print(report.one_line(failure), file=sys.stderr)
    return 1 if failures else 0


def _check(args: argparse.Namespace) -> int:
    from autograder import master, report
    from autograder.grade import Judging, check
    from autograder.sandbox import NoSandbox

    workspace = args.workspace.resolve()
    try:
        graded = check(workspace, Judging(workers=1))
    except NoSandbox:
        print("There is no sandbox on this machine: your code runs without one, with your own rights.", file=sys.stderr)
        graded = check(workspace, Judging(workers=1, sandboxed=False))
    points = {
        one.verdict.key: {cell.criterion: cell.points for cell in master.master(one.verdict.key).graded}
        for one in graded
    }
    print(report.learner_table(graded, points))
    return 1 if any(one.ungraded for one in graded) else 0


if __name__ == "__main__":
    sys.exit(main())
