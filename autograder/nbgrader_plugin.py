"""Puts this course's grading in the place of nbgrader's. nbgrader_config.py calls install().

nbgrader's own Autograde runs the tests in the same kernel as the submission, reads the points from the cells'
outputs, and copies whatever lies beside the notebook. CourseAutograde has its options and its buttons, and takes the
points from the judge. Every nbgrader command loads this file, so what imports torch is imported when it grades.
"""

from fnmatch import fnmatchcase
from pathlib import Path

import nbgrader.apps.api
import nbgrader.apps.autogradeapp
import nbgrader.converters
from nbgrader.converters import NbGraderException
from nbgrader.converters.autograde import Autograde

from autograder import submission
from autograder.gradebook import CourseGradebook
from autograder.master import ASSIGNMENTS, ROOT, master
from course_utils.plain_error import PlainError

_roots: set[Path] = set()  # of the courses whose nbgrader_config.py loaded this


def install(root: str) -> None:
    """Makes `nbgrader autograde` and the formgrader's button take CourseAutograde for the course at `root`."""
    _roots.add(Path(root).resolve())
    for module in (nbgrader.converters, nbgrader.apps.autogradeapp, nbgrader.apps.api):
        if not issubclass(module.Autograde, Autograde):  # a new nbgrader that keeps it elsewhere fails here
            raise ImportError(f"{module.__name__}.Autograde is not nbgrader's: install the nbgrader of constraints.txt")
        module.Autograde = CourseAutograde


class CourseAutograde(Autograde):
    """nbgrader's Autograde for this course."""

    def start(self) -> None:
        """Grades what nbgrader's options choose. NbGraderException: something was not graded; the log says what."""
        root = Path(self.coursedir.root).resolve()
        if root not in _roots:  # another course, in a formgrader that shows several
            super().start()
        elif root != ROOT:
            self._fail(
                f"{root} would be graded by the autograder of {ROOT}. Start nbgrader in the folder that it is to grade."
            )
        else:
            self._grade(CourseGradebook(self))

    def _grade(self, book: CourseGradebook) -> None:
        from autograder.grade import Judging, cores, grade
        from autograder.report import overruled, unfinished

        students = self._chosen(book)
        try:
            graded = grade(book, students, Judging(workers=min(cores(), len(students)))) if students else []
        except (PlainError, OSError) as error:
            self._fail(str(error))
        for one in graded:
            self.log.info("%s, %s: %g of %g points", one.student, one.assignment, one.score, one.max_score)
        for line in unfinished(graded):
            self.log.warning("%s (nbgrader autograde takes it again with --force)", line)
        for line in overruled(graded):
            self.log.warning(line)
        if failures := [one for one in graded if one.ungraded]:
            self._fail(
                "Not graded, run it again, with --force: "
                + "; ".join(f"{one.student}, {one.assignment}: {one.ungraded}" for one in failures)
            )

    def _chosen(self, book: CourseGradebook) -> dict[str, list[str]]:
        """Student -> keys, by nbgrader's options; without --force only what is new since the last time."""
        keys = {
            key
            for assignment, key in ASSIGNMENTS.items()
            if fnmatchcase(assignment, self.coursedir.assignment_id)
            and fnmatchcase(master(key).notebook, self.coursedir.notebook_id)
        }
        if not keys:
            self._fail(f"Nothing is graded in '{self.coursedir.assignment_id}'. Graded are {', '.join(ASSIGNMENTS)}.")
        excluded = self.coursedir.student_id_exclude.split(",")
        found, refused = submission.find(book.submitted)
        for line in refused:
            self.log.warning(line)
        handed_in = [
            (student, key)
            for student, key in found
            if key in keys and student not in excluded and fnmatchcase(student, self.coursedir.student_id)
        ]
        if not handed_in:
            self._fail(
                f"'{self.coursedir.student_id}' handed in nothing: there is no folder "
                f"{book.submitted / self.coursedir.student_id / self.coursedir.assignment_id}"
            )
        students: dict[str, list[str]] = {}
        for student, key in handed_in:
            if self.force or book.is_new(student, key):
                students.setdefault(student, []).append(key)
            else:
                self.log.info("Skipping existing assignment: %s, %s", student, master(key).assignment)
        return students

    def _fail(self, message: str) -> None:
        self.log.error(message)
        raise NbGraderException(message)
