"""Reads what a student handed in, and trusts nothing of it.

Of a submission only the source of the solution cells is taken, found by grade_id. Whatever is wrong with the folder,
the file or the notebook ends up in Submission.problem, in plain words; nothing raises, so that nobody's grading stops
for somebody else's file. What was tried that has no effect is listed in Submission.tampering for the instructor.
"""

import json
import os
import re
import stat
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cache
from itertools import groupby
from pathlib import Path

from nbformat import from_dict
from nbgrader.utils import parse_utc

from autograder import tampering
from autograder.feedback import one_line, printable
from autograder.master import ASSIGNMENTS, ROOT, master
from autograder.verdict import Verdict
from course_utils.exercises import EXERCISES
from course_utils.export import AGAIN, ExportError, module_source

MAX_NOTEBOOK = 5_000_000  # bytes; with a few pictures in it, one of the course has some 100,000
MAX_SOURCE = 30_000  # characters of a solution cell: Python may read one for a second; the course's longest has 2,000
MAX_MARKS = 30  # combining marks on one letter: more have no meaning (Unicode Standard Annex 15, section 13)
MAX_CELLS = 1000  # the course's longest notebook has 51
TIMESTAMP, SECRET = "timestamp.txt", "submission_secret.txt"  # what nbgrader's submit leaves beside the notebooks
MAX_RECEIPT = 1_000  # bytes of each
MAX_STUDENT = 128  # characters: the width of the gradebook's column
NOBODY = {".ipynb_checkpoints", "__MACOSX"}  # folders that JupyterLab, and zip on a Mac, put beside those of students
DATE = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
ZONE = re.compile(r"[A-Za-z]\w*([/+-]\w+)*|[+-]\d\d(:?\d\d)?")  # Europe/Berlin, CET, +0100, -03
DAYS = datetime(1970, 1, 1), datetime(9999, 1, 1)  # the first and the last that every time zone can show
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Unreadable(Exception):
    """Why a file or a notebook is not graded, in words for the learner."""


@dataclass(frozen=True)
class Submission:
    """One exercise of one student. Either `module`, the text that the judge takes, or `problem` says something."""

    key: str
    cell_sources: dict[str, str]  # by grade_id, also where they cannot be graded
    module: str | None
    problem: str
    tampering: tuple[str, ...] = ()  # what was tried that has no effect, in words; never costs points
    receipt: "Receipt" = field(default_factory=lambda: Receipt("", ""))

    def failed(self) -> Verdict:
        """The verdict on a submission with a problem: nothing passed."""
        from autograder.judge import without_points  # imports torch, which collecting and exporting do without

        return without_points(self.key, self.problem)


@dataclass(frozen=True)
class Receipt:
    """What nbgrader's submit wrote beside the notebook, as far as it can be used."""

    timestamp: str  # of the hand-in, as written; "" where there is none
    secret: str  # release_feedback derives from it the file's name for the student; "" where there is none
    changed: str = ""  # when the folder was last changed, in the form of a timestamp; "" where that cannot be told


# ---------------------------------------------------------------- the folders


def find(submitted: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The (student, key) of everything that was handed in, sorted; and a line for each name that no student, or no
    assignment, has."""
    found, refused = [], []
    names = {*os.listdir(ROOT / "notebooks")}  # also what is handed out and not graded
    for student in sorted(os.listdir(submitted)) if submitted.is_dir() else []:
        folder = submitted / student
        if student in NOBODY:
            continue
        if not (folder.is_dir() or folder.is_symlink()):
            if not student.startswith("."):
                why = "it is no folder. A notebook belongs into a folder STUDENT/ASSIGNMENT."
                refused.append(one_line(f"{folder} is not graded: {why}"))
        elif why := no_student(student):
            refused.append(one_line(f"{folder} is not graded: {why}"))
        elif folder.is_symlink():
            refused.append(f"{folder} is not graded: it is a symbolic link. Put the folder itself there.")
        else:
            try:
                there = os.listdir(folder)
            except OSError as error:
                refused.append(f"{folder} is not graded: it cannot be read ({error.strerror}).")
                continue
            found += [(student, key) for assignment, key in ASSIGNMENTS.items() if assignment in there]
            refused += [
                one_line(
                    f"{folder / name} is not graded: no assignment has this name. Graded are the folders "
                    f"{', '.join(ASSIGNMENTS)}: rename it, or move it elsewhere."
                )
                for name in sorted(there)
                if name not in names and not name.startswith(".")
            ]
    return found, refused


def no_student(name: str) -> str:
    """Why nobody can have this name in the gradebook; "" if somebody can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8. Rename it to the student's id."
    if name.strip() == "" or not name.isprintable() or name != name.strip() or set(name) & set('<>\\*?[],;"#'):
        return (  # of * ? [ ] nbgrader makes patterns, and behind a # the formgrader's addresses end
            "a student's id has no control characters, none of < > \\ * ? [ ] , ; \" # and no space at its ends. "
            "Rename it to the student's id."
        )
    if name != unicodedata.normalize("NFC", name):
        return "its letters and their accents are apart, as a Mac's zip has them. Rename it to the student's id."
    if name[0] in ".=+-@":  # hidden; the others begin a formula in the spreadsheet that opens grades.csv
        return "a student's id has none of . = + - @ in front. Rename it to the student's id."
    if len(name) > MAX_STUDENT:
        return f"a student's id has at most {MAX_STUDENT} characters. Rename it to the student's id."
    return ""


def read(submitted: Path, student: str, key: str) -> Submission:
    """The exercise `key` of this student in the course's folder of submissions. Raises nothing."""
    paper = receipt(submitted, student, key)  # first: should another come meanwhile, its time is another too
    return replace(_read(submitted, student, key), receipt=paper)


def _read(submitted: Path, student: str, key: str) -> Submission:
    folder = submitted / student / master(key).assignment
    try:
        _require_folder(folder)
        tried = tampering.in_folder(folder, master(key).file)
    except (Unreadable, OSError) as error:
        return Submission(key, {}, None, _words(error))
    try:
        cells = _cells(_notebook(_bytes(_file(folder, key), MAX_NOTEBOOK), key))
    except (Unreadable, OSError) as error:
        return Submission(key, {}, None, _words(error), tried)
    tried += tampering.in_cells(cells, master(key))
    try:
        sources, positions = _solution(cells, key)
    except Unreadable as error:
        return Submission(key, {}, None, _words(error), tried)
    for source in sources.values():
        tried += tampering.in_source(source)
    try:
        module = _module(sources, positions, key)
    except Unreadable as error:
        return Submission(key, sources, None, _words(error), tried)
    return Submission(key, sources, module, "", tried)


def receipt(submitted: Path, student: str, key: str) -> Receipt:
    """timestamp.txt and submission_secret.txt, each "" where it is missing or of no use. Raises nothing."""
    folder = submitted / student / master(key).assignment
    try:
        changed = modified(folder)
        _require_folder(folder)
    except (Unreadable, OSError):
        return Receipt("", "")
    timestamp = small_text(folder / TIMESTAMP, MAX_RECEIPT)
    secret = small_text(folder / SECRET, MAX_RECEIPT)
    return Receipt(timestamp if moment(timestamp) else "", secret if secret.isprintable() else "", changed)


def small_text(path: Path, limit: int, inside: int | None = None) -> str:
    """The file's text without the white space around it; "" for what is no readable file of at most `limit` bytes. With
    the descriptor of an open folder, `inside`, the path begins there."""
    try:
        return _bytes(path, limit, inside).decode().strip()
    except (Unreadable, OSError, UnicodeDecodeError):
        return ""


def moment(timestamp: str) -> datetime | None:
    """The moment, UTC without a zone as in nbgrader's gradebook. None: the text is no point in time as nbgrader writes
    it. dateutil takes more: it completes what is no whole date by today's, and opens a path as a zone."""
    words = timestamp.split(" ")
    whole = timestamp.isascii() and timestamp == timestamp.strip() and DATE.match(timestamp)
    if not whole or len(words) == 3 and not ZONE.fullmatch(words[2]):
        return None
    if len(words) == 3 and words[2][0] in "+-":
        timestamp = "".join(timestamp.rsplit(" ", 1))  # nbgrader would take +0100 behind a space for 100 seconds
    try:
        found = parse_utc(timestamp)
    except Exception:  # whatever dateutil meets in a forged one
        return None
    return found if DAYS[0] <= found <= DAYS[1] else None


def written(when: datetime) -> str:
    """A moment, UTC without a zone, as timestamp.txt has it."""
    return f"{when:%Y-%m-%d %H:%M:%S.%f} UTC"


def modified(folder: Path) -> str:
    """When the folder was last changed, as a timestamp.txt would say it."""
    seconds = os.lstat(folder).st_mtime
    first, last = (day.replace(tzinfo=timezone.utc).timestamp() for day in DAYS)
    return written(datetime.fromtimestamp(min(max(seconds, first), last), timezone.utc))


# ---------------------------------------------------------------- the file


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        name = Path(error.filename).name if error.filename else "The file"  # reading a bad disk names none
        return f"{printable(name)} cannot be read: {error.strerror}."
    return printable(str(error))


def _require_folder(folder: Path) -> None:
    """Unreadable: it, or the student's folder above it, is not a plain folder."""
    for path in (folder.parent, folder):
        if path.is_symlink():
            raise Unreadable(f"The folder {path.name} is a symbolic link; links are not followed. Hand in the folder.")
        if not path.is_dir():
            raise Unreadable(f"{path.name} is not a folder. Hand in a folder {folder.name} with the notebook in it.")


def _file(folder: Path, key: str) -> Path:
    """The notebook's path. Unreadable: there is none of that name."""
    path = folder / master(key).file
    if os.path.lexists(path):
        return path
    others = sorted(name for name in os.listdir(folder) if name not in (TIMESTAMP, SECRET) and name[0] != ".")
    if not others:
        raise Unreadable(f"{path.name} is not there: no notebook was handed in.")
    notebooks = [name for name in others if name.lower().endswith(".ipynb")]
    raise Unreadable(
        f"{path.name} is not there, only {', '.join((notebooks or others)[:3])}. Hand in your notebook as {path.name}, "
        "in no folder and no archive of its own."
    )


def _bytes(path: Path, limit: int, inside: int | None = None) -> bytes:
    """What the file holds. Looked at before it is opened: a link, a device or a pipe is never opened."""
    status = os.lstat(path, dir_fd=inside)
    if stat.S_ISLNK(status.st_mode):
        raise Unreadable(f"{path.name} is a symbolic link; links are not followed. Hand in the file itself.")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{path.name} is not a file.")
    if status.st_size > limit:
        raise Unreadable(
            f"{path.name} has {status.st_size / 1e6:,.1f} MB; at most {limit / 1e6:g} MB are read. Clear "
            "the outputs of all cells, save it, and hand it in again."
        )
    with open(os.open(path, READ, dir_fd=inside), "rb") as file:
        return file.read(limit) or b""  # None: a pipe has taken its place


def _notebook(raw: bytes, key: str) -> dict:
    """The notebook as plain data, of format 4 and with a list of cells."""
    file = master(key).file
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable(f"{file} is damaged: it is not text in UTF-8.") from None
    except (ValueError, RecursionError):
        raise Unreadable(
            f"{file} is damaged: it is cut off, or not JSON. Open it in JupyterLab: if it does not open, "
            "go back to an earlier copy."
        ) from None
    if not isinstance(data, dict) or "nbformat" not in data:
        raise Unreadable(f"{file} is not a notebook.")
    if data["nbformat"] != 4:
        raise Unreadable(
            f"{file} is a notebook of another format than 4, which this course uses. Open it in "
            "JupyterLab, save it, and hand it in again."
        )
    if not isinstance(data.get("cells"), list):
        raise Unreadable(f"{file} is damaged: it has no list of cells.")
    if len(data["cells"]) > MAX_CELLS:
        raise Unreadable(f"{file} has {len(data['cells'])} cells; at most {MAX_CELLS} are read.")
    return data


# ---------------------------------------------------------------- the cells


@dataclass(frozen=True)
class Cell:
    """One cell of a submission, as far as it is well formed."""

    position: int  # 1 is the notebook's first
    grade_id: str  # "": nbgrader has no part in it
    marks: dict  # its nbgrader metadata
    tags: tuple[str, ...]
    source: str | None  # None: it has none that could be read


def _cells(notebook: dict) -> list[Cell]:
    cells = []
    for position, cell in enumerate(notebook["cells"], start=1):
        cell = cell if isinstance(cell, dict) else {}
        metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
        marks = metadata.get("nbgrader") if isinstance(metadata.get("nbgrader"), dict) else {}
        tags = metadata.get("tags") if isinstance(metadata.get("tags"), list) else []
        cells.append(
            Cell(
                position,
                marks.get("grade_id") if isinstance(marks.get("grade_id"), str) else "",
                marks,
                tuple(tag for tag in tags if isinstance(tag, str)),
                _source(cell),
            )
        )
    return cells


def _source(cell: dict) -> str | None:
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source.replace("\r\n", "\n").replace("\r", "\n") if isinstance(source, str) else None


def _solution(cells: list[Cell], key: str) -> tuple[dict[str, str], dict[str, int]]:
    """The sources of the solution cells by grade_id, and where they are in the notebook."""
    sources, positions = {}, {}
    for grade_id in master(key).solution_ids:
        found = [cell for cell in cells if cell.grade_id == grade_id]
        if not found and grade_id != key:
            continue  # a part whose work may be done in another solution cell; the module tells if it is not
        if not found:
            raise Unreadable(_missing(grade_id, {cell.grade_id for cell in cells}, key))
        where = " and ".join(str(cell.position) for cell in found[:5])
        if any(cell.source is None for cell in found):
            raise Unreadable(
                f"The notebook is damaged: solution cell {grade_id} (number {where} from the top) has no text."
            )
        # JupyterLab's copy and paste makes a second cell with the same grade_id: harmless where both say the same.
        if len({cell.source.strip() for cell in found}) > 1:
            raise Unreadable(
                f"Cells number {where} from the top are all marked as solution cell {grade_id}, and "
                "differ. Delete all but one, save, and hand it in again."
            )
        if len(found[0].source) > MAX_SOURCE:
            raise Unreadable(
                f"Solution cell {grade_id} has {len(found[0].source):,} characters; at most {MAX_SOURCE:,} are read."
            )
        if _most_marks(found[0].source) > MAX_MARKS:
            raise Unreadable(
                f"Solution cell {grade_id} has more than {MAX_MARKS} accents in a row on one letter; remove them."
            )
        sources[grade_id], positions[grade_id] = found[0].source, found[0].position
    return sources, positions


def _most_marks(source: str) -> int:
    """The longest run of combining marks. Python sorts those of a name by insertion, each time that it looks at it."""
    return max((sum(1 for _ in run) for is_mark, run in groupby(source, _is_mark) if is_mark), default=0)


@cache
def _is_mark(character: str) -> bool:
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0


def _missing(grade_id: str, found: set[str], key: str) -> str:
    others = [exercise for exercise in EXERCISES.values() if exercise.key in found]
    if others:
        return f"{master(key).file} holds exercise {others[0].number}, {others[0].key}, and not {key}."
    return (
        f"Solution cell {grade_id} is missing. Copy your code into the solution cell of a fresh copy of the "
        "notebook, and hand that in."
    )


def _module(sources: dict[str, str], positions: dict[str, int], key: str) -> str:
    """The module's text. Unreadable: it cannot be one, or is still the stub."""
    # The other cells are empty, so that a cell's number in a message is that in the learner's notebook.
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ""} for _ in range(max(positions.values()))]
    for grade_id, source in sources.items():
        cells[positions[grade_id] - 1] = {
            "cell_type": "code",
            "source": source,
            "metadata": {"nbgrader": {"grade_id": grade_id, "solution": True}},
        }
    try:
        return module_source(from_dict({"cells": cells}), master(key).file, alone=True)[1]
    except ExportError as error:
        raise Unreadable(str(error).replace(AGAIN, "").strip()) from None
