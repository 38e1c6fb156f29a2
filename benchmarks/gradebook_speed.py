"""What does the one process that writes the gradebook need a notebook, and its file a student? A JSON line a class.

    python benchmarks/gradebook_speed.py          # classes of 20, 80 and 240 students x 5 notebooks

Its own processor time, as the judge would be elsewhere: here a stand-in passes everything at once. Dividing one by
the figure gives the notebooks a second beyond which more workers do not make grading faster.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tests/ has the class and the stand-in

from autograder.grade import Judging, grade, handed_in  # noqa: E402
from course_utils.exercises import EXERCISES  # noqa: E402
from tests.class_of_students import Course, new_course  # noqa: E402
from tests.obedient_judge import obedient_judge  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gradebook_speed.jsonl"


class AtOnce(Judging):
    def run(self, jobs):
        for student, arguments in jobs:
            yield student, obedient_judge(*arguments)


def processor_seconds(course: Course) -> float:
    students, _ = handed_in(course.folder / "submitted", [], [])
    start = time.process_time()
    grade(course.book(), students, AtOnce(1, folder=course.folder))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", type=int, default=[20, 80, 240])
    for students in parser.parse_args().students:
        with tempfile.TemporaryDirectory() as folder:
            course = new_course(Path(folder))
            for number in range(students):
                for key in EXERCISES:
                    course.hand_in(f"student{number:03}", key, f"student {number}")
            empty = course.db.stat().st_size
            first, again = processor_seconds(course), processor_seconds(course)
            grown = course.db.stat().st_size - empty
        notebooks = students * len(EXERCISES)
        line = {
            "date": str(date.today()),
            "students": students,
            "notebooks": notebooks,
            "seconds_a_notebook": round(first / notebooks, 4),
            "seconds_a_notebook_unchanged": round(again / notebooks, 4),
            "gradebook_kb_a_student": round(grown / 1000 / students, 1),
        }
        print(json.dumps(line), flush=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
