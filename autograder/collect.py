"""nbgrader's collect, for an exchange folder in which anybody may put anything. nbgrader_config.py sets it.

nbgrader's own follows symbolic links, with the instructor's rights: a link to the instructor's source notebook would
come out as a submission with the right answers. It warns of a folder that belongs to another student than the one in
its name, and collects it all the same. And one folder that is too large, or has a name that it does not expect, ends
the collection for the whole class. Here links stay links, which submission.py then refuses; what another account made
is left where it is unless check_owner is off, and whatever is wrong with a submission is only its own affair.

Whoever made a folder in the exchange can change it while it is collected. So it is opened once, without following a
link, and its owner and all that is copied are those of the open folder.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import ignore_patterns

from autograder.foreign_folder import MAX_FILES, Copy, extent, opened
from autograder.submission import DAYS, MAX_RECEIPT, moment, no_student, small_text

TIMESTAMP, SECRET = "timestamp.txt", "submission_secret.txt"


class CourseCollect(ExchangeCollect):
    """ExchangeCollect with its options."""

    def _path_to_record(self, path: str) -> dict:
        """nbgrader's {username, filename, timestamp}; the username is "" where the folder cannot be a submission."""
        try:
            filename = os.path.basename(path)
            username, _, rest = filename.partition(f"+{self.coursedir.assignment_id}+")
            if why := no_student(username):
                raise ValueError(why)
            handed_in = moment(rest.rpartition("+")[0]) or moment(rest)  # behind the date is a secret, or nothing
            if handed_in is None:
                raise ValueError("the date in its name is none that a gradebook can show")
            record = {"username": username, "filename": filename, "timestamp": handed_in}
            with self._open(record, self.check_owner):
                return record
        except Exception as error:
            self._not_collected(path, error)
            return {"username": "", "filename": os.path.basename(path), "timestamp": datetime.min}

    @contextmanager
    def _open(self, record: dict, check_owner: bool) -> Iterator[int]:
        """The descriptor of a submission's folder. OSError: it is none. ValueError: it is somebody else's."""
        with opened(os.path.join(self.inbound_path, record["filename"])) as folder:
            if check_owner and (owner := _owner(os.fstat(folder).st_uid)) != record["username"]:
                raise ValueError(
                    f"it belongs to {owner}. Where all students' servers run as one user, set "
                    "c.ExchangeCollect.check_owner = False"
                )
            yield folder

    def _not_collected(self, path: str, error: Exception) -> None:
        self.log.warning("Not collected: %s: %s", ascii(path), error)

    def copy_files(self) -> None:
        self.src_records = _OneByOne(self, [record for record in self.src_records if record["username"]])
        self.check_owner = False  # nbgrader's own look ends at a folder that is gone by now
        super().copy_files()

    def do_copy(self, src: str, dest: str, log=None) -> None:
        """Copies one submission, self.folder, as far as its limits go. Of a folder that is too large, notebooks and
        receipt only."""
        too_large = self._too_large(src)
        unwanted = ignore_patterns(self.coursedir.ignore, self.coursedir.include)

        def left_out(below: str, names: list[str]) -> set[str]:
            out = {TIMESTAMP} if below == "" else set()
            if too_large:
                out |= {name for name in names if not name.endswith(".ipynb") and name != SECRET}
            return out.union(unwanted(os.path.join(src, below), [*set(names) - out]))

        problems = []

        def not_whole(error: Exception) -> None:
            problems.append(error)
            self.log.warning("%s is not collected whole: %s", ascii(src), str(error)[:500])

        limits = 1000 * self.coursedir.max_dir_size, 1000 * self.coursedir.max_file_size  # bytes
        modes = (0o2770, 0o660) if self.coursedir.groupshared else (0o700, 0o600)  # whatever it came with
        timestamp = Path(dest, TIMESTAMP)
        with _stopping_nobody(not_whole):
            os.makedirs(dest, exist_ok=True)
            _write_timestamp(timestamp, DAYS[0], modes[1])  # should this be killed, --update takes it anew
            with opened(dest) as target:
                Copy(*limits, modes, left_out, not_whole).folder(self.folder, target)
        with _stopping_nobody(not_whole):
            _write_timestamp(timestamp, self._handed_in(whole=not problems), modes[1])

    def _too_large(self, src: str) -> bool:
        """By nbgrader's option or by the number of its files; also where it cannot be told, as in a folder that shows
        its files' names alone."""
        try:
            count, size = extent(self.folder)
            if count > MAX_FILES:
                why = f"more than {MAX_FILES:,} files"
            elif size > 1000 * self.coursedir.max_dir_size:
                why = f"more than {self.coursedir.max_dir_size} kB"
            else:
                return False
        except OSError as error:
            why = f"no size that can be told ({error.strerror})"
        self.log.warning("%s has %s: only its notebooks are collected", ascii(src), why)
        return True

    def _handed_in(self, whole: bool) -> datetime:
        """What the student's timestamp.txt says or, where it says nothing, the folder's name. Of a copy that is not
        whole, or of a folder that nbgrader's submit is not through with, a moment before: --update takes it anew."""
        text, secret = (small_text(Path(name), MAX_RECEIPT, self.folder) for name in (TIMESTAMP, SECRET))
        told = moment(text)
        found = told or self.record["timestamp"]
        return found if whole and told and secret else max(DAYS[0], found - timedelta(microseconds=1))


@contextmanager
def _stopping_nobody(tell: Callable[[Exception], None]) -> Iterator[None]:
    """A block whose errors are told and end nothing else: what is wrong with one submission is its own affair."""
    try:
        yield
    except Exception as error:
        tell(error)


def _write_timestamp(path: Path, when: datetime, mode: int) -> None:
    """In words of our own: nbgrader stops on one that it cannot read, on the formgrader's pages too."""
    path.write_text(f"{when:%Y-%m-%d %H:%M:%S.%f} UTC")
    path.chmod(path.stat().st_mode | mode)


class _OneByOne(list):
    """The records that nbgrader goes through. The folder of each is opened before, as collect.folder: nbgrader deletes
    the older copy, which must stay where there is nothing to put in its place."""

    def __init__(self, collect: CourseCollect, records: list[dict]):
        super().__init__(records)
        self.collect, self.check_owner = collect, collect.check_owner

    def __iter__(self) -> Iterator[dict]:
        for record in super().__iter__():
            try:
                with self.collect._open(record, self.check_owner) as self.collect.folder:
                    self.collect.record = record
                    yield record
            except (OSError, ValueError) as error:
                self.collect._not_collected(record["filename"], error)


def _owner(uid: int) -> str:
    from pwd import getpwuid  # not on Windows, where nbgrader has no exchange

    try:
        return getpwuid(uid).pw_name
    except KeyError:  # as in containers, which do not know each other's users
        return f"user id {uid}, which has no name here"
