"""Remembers what the gradebook and the autograded notebook were after they were last written, so that an unchanged
submission is not written again.

What is remembered is a digest of everything that a record depends on or consists of. So it is written again when the
submission, the rubric, the feedback's wording, a due date, an extension or the rule for late work changes, and when
somebody else changed the automatic scores, removed the notebook or made a new gradebook. A grader's manual scores
count where work is late, since a penalty may depend on them, and comments nowhere.
"""

import functools
import hashlib
import json
from pathlib import Path

from sqlalchemy import text

from autograder import master
from autograder.gradebook import CourseGradebook
from course_utils.whole_file import write_whole

HERE = Path(__file__).parent
ROWS = text("""
    SELECT a.duedate, s.timestamp, s.extension, n.late_submission_penalty, c.name, g.auto_score,
        CASE WHEN n.late_submission_penalty IS NOT NULL THEN g.manual_score END
    FROM assignment a
    JOIN submitted_assignment s ON s.assignment_id = a.id
    JOIN notebook b ON b.assignment_id = a.id
    JOIN submitted_notebook n ON n.notebook_id = b.id AND n.assignment_id = s.id
    JOIN base_cell c ON c.notebook_id = b.id
    JOIN grade g ON g.cell_id = c.id AND g.notebook_id = n.id
    WHERE a.name = :assignment AND s.student_id = :student
    ORDER BY b.name, c.name
""")


class Recorded:
    """The digests, one small file for each submission in a folder of their own."""

    def __init__(self, folder: Path, book: CourseGradebook):
        self.folder, self.book, self.late_rule = folder, book, book.late_rule

    def unchanged(self, student: str, key: str, made_of: str) -> bool:
        """Whether nothing has changed since `remember`. `made_of` is all that the record is made of, as text."""
        try:
            return self._file(student, key).read_text() == self._digest(student, key, made_of)
        except (FileNotFoundError, UnicodeDecodeError):
            return False

    def remember(self, student: str, key: str, made_of: str) -> None:
        write_whole(self._digest(student, key, made_of), self._file(student, key))

    def _file(self, student: str, key: str) -> Path:
        return self.folder / student / master.master(key).assignment

    def _digest(self, student: str, key: str, made_of: str) -> str:
        exercise = master.master(key)
        rows = self.book.db.execute(ROWS, {"assignment": exercise.assignment, "student": student}).all()
        notebook = self.book.autograded / student / exercise.assignment / exercise.file
        written = hashlib.sha256(notebook.read_bytes()).hexdigest()
        return hashlib.sha256(
            json.dumps([made_of, _wording(), self.late_rule, written, str(rows)]).encode()
        ).hexdigest()


@functools.cache
def _wording() -> str:
    """The code and the notebooks that make a record of a verdict."""
    files = [
        *(HERE / f"{name}.py" for name in ("master", "feedback", "gradebook")),
        *sorted(master.ROOT.glob("notebooks/*/*.ipynb")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
