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
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import ignore_patterns

from autograder.foreign_folder import MAX_FILES, Copy, extent, names_in, opened, permit
from autograder.submission import DAYS, MAX_RECEIPT, SECRET, TIMESTAMP, moment, no_student, small_text, written

MAX_TOLD = 100  # lines on folders that are no submissions: anybody can make a million names


class CourseCollect(ExchangeCollect):
    """ExchangeCollect with its options."""

    def _path_to_record(self, path: str) -> dict:
        """nbgrader's {username, filename, timestamp}; the username is "" where the folder cannot be a submission."""
        try:
            filename = os.path.basename(path)
            username, _, rest = filename.partition(f"+{self.coursedir.assignment_id}+")
            if why := no_student(username):
                raise ValueError(why)
            record = {"username": username, "filename": filename, "timestamp": datetime.min}
            with self._open(record):
                pass
            handed_in = moment(rest.rpartition("+")[0]) or moment(rest)  # after the date comes a secret, or nothing
            if handed_in is None:
                raise ValueError("the date in its name is none that a gradebook can show")
            return record | {"timestamp": handed_in}
        except Exception as error:
            self._not_collected(path, error)
            return {"username": "", "filename": os.path.basename(path), "timestamp": datetime.min}

    @contextmanager
    def _open(self, record: dict) -> Iterator[int]:
        """The descriptor of a submission's folder. OSError: it is none. ValueError: it, or what is in it, is somebody
        else's."""
        with opened(os.path.join(self.inbound_path, record["filename"])) as folder:
            uid = os.fstat(folder).st_uid
            if self.check_owner and (owner := _owner(uid)) != record["username"]:
                raise ValueError(
                    f"it belongs to {owner}. Where all students' servers run as one user, set "
                    "c.ExchangeCollect.check_owner = False"
                )
            for name in filter(_counts, names_in(folder, MAX_FILES)):  # moved in, or several may write the folder
                other = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
                if other != uid:
                    raise ValueError(f"{ascii(name)} in it belongs to {_owner(other)}")
            yield folder

    def _not_collected(self, path: str, error: Exception) -> None:
        self.refused += 1
        if self.refused <= MAX_TOLD:
            self.log.warning("Not collected: %s: %s", ascii(path), error)

    def start(self) -> None:
        self.refused = 0
        super().start()
        if self.refused > MAX_TOLD:
            self.log.warning("%s more are not collected", f"{self.refused - MAX_TOLD:,}")

    def copy_files(self) -> None:
        """As nbgrader's own, but that what is wrong with one submission ends nothing else, and that an older copy stays
        where nothing can be opened that would take its place."""
        records = [record for record in self.src_records if record["username"]]
        if not records:
            self.log.warning("No submissions of %s to collect", self.coursedir.assignment_id)
        submitted = Path(self.coursedir.format_path(self.coursedir.submitted_directory, "", ""))
        with _one_at_a_time(submitted, self.log.warning):
            for record in records:
                try:
                    with self._open(record) as folder:
                        self._collect(record, folder)
                except (OSError, ValueError) as error:
                    self._not_collected(record["filename"], error)

    def _collect(self, record: dict, folder: int) -> None:
        """Copies a submission unless it is there already."""
        student, assignment = record["username"], self.coursedir.assignment_id
        dest = Path(self.coursedir.format_path(self.coursedir.submitted_directory, student, assignment))
        if dest.is_dir():
            there = self.coursedir.get_existing_timestamp(dest)
            newer = there is None or record["timestamp"] > there
            if not (self.update and newer or self.before_duedate and record["timestamp"] != there):
                why = "No newer one" if self.update else "There already, and --update was not given"
                self.log.info("%s: %s %s", why, student, assignment)
                return
            self.log.info("Updating %s %s", student, assignment)
            if not os.access(dest.parent, os.W_OK):
                raise PermissionError(f"{dest.parent} may not be changed by this account")
            shutil.rmtree(dest)
        else:
            self.log.info("Collecting %s %s", student, assignment)
        if not dest.parent.exists():
            dest.parent.mkdir(parents=True)
            permit(str(dest.parent), self._modes[0])
        self._copy(record, folder, dest)

    @property
    def _modes(self) -> tuple[int, int]:
        """What folders and files are permitted at least, whatever they came with."""
        return (0o2770, 0o660) if self.coursedir.groupshared else (0o700, 0o600)

    def _copy(self, record: dict, folder: int, dest: Path) -> None:
        """Copies an open folder as far as its limits go. Of one that is too large, notebooks and receipt only."""
        source = os.path.join(self.inbound_path, record["filename"])
        too_large, before = self._too_large(source, folder), _receipt(folder)
        unwanted = ignore_patterns(self.coursedir.ignore, self.coursedir.include)

        def left_out(below: str, names: list[str]) -> set[str]:
            out = {TIMESTAMP} if below == "" else set()
            if too_large:
                out |= {name for name in names if not _counts(name)}
            return out.union(unwanted(os.path.join(source, below), [*set(names) - out]))

        problems = []

        def not_whole(error: Exception) -> None:
            problems.append(error)
            self.log.warning("%s is not collected whole: %s", ascii(source), str(error)[:500])

        limits = 1000 * self.coursedir.max_dir_size, 1000 * self.coursedir.max_file_size  # bytes
        timestamp = dest / TIMESTAMP
        with _stopping_nobody(not_whole):
            dest.mkdir()
            _write_timestamp(timestamp, DAYS[0], self._modes[1])  # should this be killed, --update takes it anew
            with opened(str(dest)) as target:
                owner = os.fstat(folder).st_uid
                Copy(owner, *limits, self._modes, left_out, not_whole).folder(folder, target)
        with _stopping_nobody(not_whole):
            # nbgrader's submit writes the receipt last: it may not be through, or have come through meanwhile.
            whole = not problems and all(before) and before == _receipt(folder)
            handed_in = moment(before[0]) or record["timestamp"]
            if not whole:  # --update takes it anew
                handed_in = max(DAYS[0], handed_in - timedelta(microseconds=1))
            _write_timestamp(timestamp, handed_in, self._modes[1])

    def _too_large(self, source: str, folder: int) -> bool:
        """By nbgrader's option or by the number of its files; also where it cannot be told, as in a folder that shows
        its files' names alone."""
        try:
            count, size = extent(folder)
            if count > MAX_FILES:
                why = f"more than {MAX_FILES:,} files"
            elif size > 1000 * self.coursedir.max_dir_size:
                why = f"more than {self.coursedir.max_dir_size} kB"
            else:
                return False
        except OSError as error:
            why = f"no size that can be told ({error.strerror})"
        self.log.warning("%s has %s: only its notebooks are collected", ascii(source), why)
        return True


def _counts(name: str) -> bool:
    """Whether a grade can depend on the file of this name."""
    return name.endswith(".ipynb") or name in (TIMESTAMP, SECRET)


def _receipt(folder: int) -> tuple[str, str]:
    """What the open folder's timestamp.txt and secret say, each "" where it says nothing."""
    timestamp, secret = (small_text(Path(name), MAX_RECEIPT, folder) for name in (TIMESTAMP, SECRET))
    return timestamp if moment(timestamp) else "", secret


@contextmanager
def _one_at_a_time(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """A block that waits until no other process is in it: of two at once, one would delete what the other copies."""
    import fcntl  # not on Windows, where nbgrader has no exchange

    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # as on some network file systems
            tell(f"{folder} cannot be locked ({error.strerror}): see to it that nobody else collects now")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _stopping_nobody(tell: Callable[[Exception], None]) -> Iterator[None]:
    """A block whose errors are told and end nothing else: what is wrong with one submission is its own affair."""
    try:
        yield
    except Exception as error:
        tell(error)


def _write_timestamp(path: Path, when: datetime, mode: int) -> None:
    """In words of our own: nbgrader stops on one that it cannot read, on the formgrader's pages too."""
    path.write_text(written(when))
    permit(str(path), mode)


def _owner(uid: int) -> str:
    from pwd import getpwuid  # not on Windows, where nbgrader has no exchange

    try:
        return getpwuid(uid).pw_name
    except KeyError:  # as in containers, which do not know each other's users
        return f"user id {uid}, which has no name here"
