"""A course in a folder of its own for the tests of grading: submissions and a gradebook."""

import copy
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbgrader.api import Gradebook
from nbgrader.apps.baseapp import NbGrader

from autograder.gradebook import CourseGradebook, course_app
from autograder.master import ROOT, master
from course_utils.exercises import EXERCISES
from tests.obedient_judge import obedient_judge


@dataclass
class Course:
    folder: Path

    @property
    def db(self) -> Path:
        return self.folder / "gradebook.db"

    def book(self) -> CourseGradebook:
        return CourseGradebook(self.app())

    def app(self) -> NbGrader:
        app = course_app()
        app.coursedir.submitted_directory = str(self.folder / "submitted")
        app.coursedir.autograded_directory = str(self.folder / "autograded")
        app.coursedir.feedback_directory = str(self.folder / "feedback")
        app.coursedir.db_url = f"sqlite:///{self.db}"
        return app

    def hand_in(self, student: str, key: str, comment: str = "", source: str = "") -> Path:
        """The course's notebook with a function of the right name, or this source, in its solution cell."""
        exercise = EXERCISES[key]
        source = source or f"def {exercise.function}({', '.join(exercise.arguments)}):\n    return 0\n"
        notebook = copy.deepcopy(nbformat.read(ROOT / exercise.notebook, as_version=4))
        for cell in notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") == key:
                cell.source = source + f"# {comment}"
        path = self.folder / "submitted" / student / master(key).assignment / master(key).file
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    def scores(self) -> dict[tuple[str, str], float]:
        """(student, assignment) -> score, as nbgrader's gradebook has it."""
        with Gradebook(f"sqlite:///{self.db}", "tinier_zero") as book:
            return {
                (one.student.id, one.name): one.score
                for assignment in book.assignments
                for one in assignment.submissions
                if one.notebooks
            }


def new_course(folder: Path) -> Course:
    """With the gradebook that `make release` makes, of the five exercises."""
    course = Course(folder)
    course.db.write_bytes(_released())
    return course


@cache
def _released() -> bytes:
    course_app()  # its configuration tells nbgrader where alembic is
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gradebook.db"
        with Gradebook(f"sqlite:///{path}", "tinier_zero") as book:
            for exercise in map(master, EXERCISES):
                book.add_assignment(exercise.assignment)
                book.add_notebook(exercise.notebook, exercise.assignment)
                for cell in exercise.graded:
                    book.add_grade_cell(
                        cell.grade_id, exercise.notebook, exercise.assignment, max_score=cell.points, cell_type="code"
                    )
                for grade_id in exercise.solution_ids:
                    book.add_solution_cell(grade_id, exercise.notebook, exercise.assignment)
        return path.read_bytes()


def main() -> None:
    """Grades the course in this folder as the command line does; for tests that kill it."""
    from autograder.grade import Judging, grade, handed_in

    course = Course(Path(sys.argv[1]))
    students, _ = handed_in(course.folder / "submitted", [], [])
    grade(course.book(), students, Judging(2, folder=course.folder, judge_student=obedient_judge))


if __name__ == "__main__":
    main()
