"""Grades as tables: plug-ins of `nbgrader export`, of which nbgrader_config.py makes the first the default.

    nbgrader export                                                     # grades.csv
    nbgrader export --exporter=autograder.exporters.CanvasExport --to canvas.csv
    nbgrader export --exporter=autograder.exporters.MoodleExport --to moodle.csv

All take nbgrader's --assignment [...] and --student [...]. A score is the one that nbgrader shows: with a grader's
corrections, less the late penalty, and never below 0. Who handed in nothing has an empty cell, which no learning
management system takes for a grade; assignments without points are left out. Ids and names come from students, so a
cell that a spreadsheet would take for a formula gets an apostrophe in front.
"""

import csv
import sys
from pathlib import Path

from nbgrader.api import Assignment, Gradebook, MissingEntry, Student, SubmittedAssignment
from nbgrader.plugins import ExportPlugin

FORMULA = tuple("=+-@＝＋－＠\t\r\n")  # OWASP's list of how a formula begins


class TableExport(ExportPlugin):
    """What they have in common: the choice of students and assignments, and the file."""

    default_file = "grades.csv"

    def rows(self, students: list[Student], assignments: list[Assignment], gradebook: Gradebook) -> list[list]:
        raise NotImplementedError

    def export(self, gradebook: Gradebook) -> None:
        """Writes the file. SystemExit: an assignment or a student is unknown, or the file cannot be written."""
        assignments = [
            one
            for one in self._chosen(gradebook.assignments, "name", self.assignment, "assignment")
            if one.max_score > 0
        ]
        students = self._chosen(gradebook.students, "id", self.student, "student")
        path = Path(self.to or self.default_file)
        rows = [[harmless(cell) for cell in row] for row in self.rows(students, assignments, gradebook)]
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                # All quoted: where a spreadsheet splits at semicolons, a name could hold a cell of its own.
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
        except OSError as error:
            self._fail(f"{path} cannot be written: {error.strerror}. Choose another place with --to.")
        self.log.info("%d students, %d assignments: %s", len(students), len(assignments), path)

    def _chosen(self, everything: list, name: str, wanted: list, what: str) -> list:
        known = {getattr(one, name): one for one in everything}
        unknown = [str(one) for one in wanted if str(one) not in known]
        if unknown:
            self._fail(
                f"The gradebook has no {what} {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}."
            )
        return [known[str(one)] for one in wanted] if wanted else sorted(everything, key=lambda one: getattr(one, name))

    def _fail(self, message: str) -> None:
        self.log.error(message)
        sys.exit(1)


class GradesExport(TableExport):
    """The columns of nbgrader's own grades.csv, a row for each assignment of each student. nbgrader's does not quote
    them: a comma in a name moves all that stand behind it. Who handed in nothing has a score of 0, as there."""

    def rows(self, students: list[Student], assignments: list[Assignment], gradebook: Gradebook) -> list[list]:
        columns = "assignment duedate timestamp student_id last_name first_name email".split()
        scores = "raw_score late_submission_penalty score max_score".split()
        rows = [columns + scores]
        for one in assignments:
            for student in students:
                submission = found(gradebook, one, student)
                raw, penalty = (submission.score, submission.late_submission_penalty) if submission else (0.0, 0.0)
                when = one.duedate, submission and submission.timestamp
                who = student.id, student.last_name, student.first_name, student.email
                numbers = raw, penalty, max(0.0, raw - penalty), one.max_score
                rows.append(["" if cell is None else str(cell) for cell in (one.name, *when, *who, *numbers)])
        return rows


class CanvasExport(TableExport):
    """Canvas' gradebook CSV (Grades > Import; "How do I import grades in the Gradebook?" in Canvas' guides).

    Columns: Student, ID, SIS User ID, SIS Login ID, Section, then one an assignment; the second row has the points
    possible. Canvas finds a student by ID, or, where that is empty, by SIS User ID or SIS Login ID. Here ID is the
    student's lms_user_id in the gradebook (nbgrader db student add --lms-user-id=...), and SIS Login ID their id in
    nbgrader. The first import asks whether an assignment is new or which of Canvas' own it is.
    """

    default_file = "canvas.csv"

    def rows(self, students: list[Student], assignments: list[Assignment], gradebook: Gradebook) -> list[list]:
        header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *(one.name for one in assignments)]
        points = ["    Points Possible", "", "", "", "", *(f"{one.max_score:g}" for one in assignments)]
        return [header, points] + [
            [
                full_name(student),
                student.lms_user_id or "",
                "",
                student.id,
                "",
                *(score(gradebook, one, student) for one in assignments),
            ]
            for student in students
        ]


class MoodleExport(TableExport):
    """Moodle's grade import from CSV (Grades > Import > CSV file; docs.moodle.org/en/Grade_import).

    Columns: ID number, Username, Email address, then one an assignment, with the points possible in its title. Moodle
    asks which column says who it is: map ID number (the gradebook's lms_user_id) to "ID number", or Username (the id
    in nbgrader) to "Username", or Email address to "Email address"; leave the other two unmapped. Then map each
    assignment to a grade item, or to "new grade item".
    """

    default_file = "moodle.csv"

    def rows(self, students: list[Student], assignments: list[Assignment], gradebook: Gradebook) -> list[list]:
        header = [
            "ID number",
            "Username",
            "Email address",
            *(f"{one.name} (of {one.max_score:g})" for one in assignments),
        ]
        return [header] + [
            [
                student.lms_user_id or "",
                student.id,
                student.email or "",
                *(score(gradebook, one, student) for one in assignments),
            ]
            for student in students
        ]


def score(gradebook: Gradebook, assignment: Assignment, student: Student) -> str:
    """Empty for who handed in nothing."""
    submission = found(gradebook, assignment, student)
    return f"{max(0.0, submission.score - submission.late_submission_penalty):g}" if submission else ""


def found(gradebook: Gradebook, assignment: Assignment, student: Student) -> SubmittedAssignment | None:
    try:
        return gradebook.find_submission(assignment.name, student.id)
    except MissingEntry:
        return None


def full_name(student: Student) -> str:
    """As Canvas has it, "Last, First"; the id where the gradebook knows no name."""
    return ", ".join(name for name in (student.last_name, student.first_name) if name) or student.id


def harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
