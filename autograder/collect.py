"""nbgrader's collect, for an exchange folder in which anybody may put anything. nbgrader_config.py sets it.

nbgrader's own follows symbolic links, with the instructor's rights: a link to the instructor's source notebook would
come out as a submission with the right answers. It warns of a folder that belongs to another student than the one in
its name, and collects it all the same. And one folder that is too large, or has a name that it does not expect, ends
the collection for the whole class. Here links stay links, which submission.py then refuses; a folder that another
account made is left where it is unless check_owner is off, as is always what another account has put into it; and
whatever is wrong with a submission is only its own affair.

Whoever made a folder in the exchange can change it while it is collected. So it is opened once, without following a
link, and its owner and all that is copied are those of the open folder.
"""

import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import ignore_patterns

from autograder.feedback import one_line
from autograder.foreign_folder import MAX_FILES, NEW, Copy, extent, opened, permit
from autograder.master import ASSIGNMENTS, master
from autograder.submission import (
    DAYS,
    MAX_RECEIPT,
    SECRET,
    TIMESTAMP,
    moment,
    no_student,
    small_text,
    written,
)

MAX_TOLD = 100  # lines on what an account has put there that is no submission: it can be a million names
MAX_PROBLEMS = 10  # lines on what of one submission is not copied
COLLECTING = ".collecting-"  # begins the name of a folder of ours, beside the assignments
NEW_COPY, OLD_COPY = "+new", "+old"  # no assignment has a + in its name


class CourseCollect(ExchangeCollect):
    """ExchangeCollect with its options."""

    def start(self) -> None:
        """Collects. ExchangeError: there is no exchange, or the disk is full or may not be written."""
        self.refused: Counter[int] = Counter()  # user id -> how many of its folders are not collected
        super().start()
        for uid, count in self.refused.items():
            if count > MAX_TOLD:
                self.log.warning("Not collected: %s more of %s", f"{count - MAX_TOLD:,}", _owner(uid))

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
        """The descriptor of a submission's folder. OSError: it is none. ValueError: it, or what counts in it, is
        somebody else's."""
        with opened(os.path.join(self.inbound_path, record["filename"])) as folder:
            uid = os.fstat(folder).st_uid
            if self.check_owner and (owner := _owner(uid)) != record["username"]:
                raise ValueError(
                    f"it belongs to {owner}. Where all students' servers run as one user, set "
                    "c.ExchangeCollect.check_owner = False"
                )
            for name in self._that_count:  # moved in, or several may write the folder
                with suppress(FileNotFoundError):
                    other = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
                    if other != uid:
                        raise ValueError(f"{name} in it belongs to {_owner(other)}")
            yield folder

    @property
    def _that_count(self) -> list[str]:
        """The names of the files that a grade can depend on."""
        key = ASSIGNMENTS.get(self.coursedir.assignment_id)
        return [TIMESTAMP, SECRET, *([master(key).file] if key else [])]

    def _not_collected(self, path: str, error: Exception) -> None:
        try:
            uid = os.lstat(os.path.join(self.inbound_path, path)).st_uid
        except OSError:  # it is gone
            uid = -1
        self.refused[uid] += 1
        if self.refused[uid] <= MAX_TOLD:
            self.log.warning("Not collected: '%s': %s", one_line(path), error)

    def copy_files(self) -> None:
        """As nbgrader's own, but that what is wrong with one submission ends nothing else, and that an older copy stays
        until a newer one is whole beside it."""
        records = [record for record in self.src_records if record["username"]]
        if not records:
            self.log.warning("No submissions of %s to collect", self.coursedir.assignment_id)
        submitted, no_room = Path(self.coursedir.format_path(self.coursedir.submitted_directory, "", "")), ""
        try:
            self._require_folder(submitted)
            with one_at_a_time(submitted, self.log.warning):
                for student in submitted.iterdir():
                    try:
                        for left in student.glob(f"{COLLECTING}*"):  # by a collection that was killed
                            clear(left)
                    except OSError as error:  # of another account: only that student's affair
                        self.log.warning("%s is left by an earlier collect: %s", error.filename, error.strerror)
                for record in records:
                    try:
                        self._collect(record)
                    except (OSError, ValueError) as error:
                        self._not_collected(record["filename"], error)
                        no_room = error.strerror if of_the_disk(error) else no_room  # type: ignore[union-attr]
        except OSError as error:
            self.fail(f"{submitted}: {error.strerror}")
        if no_room:
            self.fail(f"{submitted}: {no_room}. Not all is collected: put that right, and collect again.")

    def _require_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            permit(str(folder), self._modes[0])

    def _collect(self, record: dict) -> None:
        """Copies a submission, unless it is there already, beside its place, and then moves it there."""
        student, assignment = record["username"], self.coursedir.assignment_id
        dest = Path(self.coursedir.format_path(self.coursedir.submitted_directory, student, assignment))
        updating = dest.is_dir()
        if dest.is_symlink():
            raise OSError(f"{dest} is a symbolic link")
        if updating:
            there = moment(small_text(dest / TIMESTAMP, MAX_RECEIPT))
            if not os.path.lexists(dest / TIMESTAMP) and (self.update or self.before_duedate):
                raise ValueError(
                    f"{one_line(dest)} has no {TIMESTAMP}, so it came another way and stays. Delete it to have the one "
                    "in the exchange"
                )
            newer = there is None or record["timestamp"] > there
            if not (self.update and newer or self.before_duedate and record["timestamp"] != there):
                why = "No newer one" if self.update else "There already, and --update was not given"
                self.log.info("%s: %s %s", why, student, assignment)
                return
        with self._open(record) as folder:
            self._require_folder(dest.parent)
            scratch = Path(tempfile.mkdtemp(prefix=COLLECTING, dir=dest.parent))
            try:
                permit(str(scratch), self._modes[0])
                handed_in = self._copy(record, folder, scratch / NEW_COPY)
                if not handed_in:
                    what = "the older one stays" if updating else "collect --update again"
                    self.log.warning("%s %s has no receipt yet: it is being handed in, %s", student, assignment, what)
                if handed_in or not updating:
                    if updating:
                        dest.rename(scratch / assignment)
                    (scratch / NEW_COPY).rename(dest)
                    self.log.info("%s %s %s", "Updated" if updating else "Collected", student, assignment)
            finally:
                clear(scratch)

    @property
    def _modes(self) -> tuple[int, int]:
        """What folders and files are permitted at least, whatever they came with."""
        return (0o2770, 0o660) if self.coursedir.groupshared else (0o700, 0o600)

    def _copy(self, record: dict, folder: int, new: Path) -> bool:
        """Copies an open folder as far as its limits go; of one that is too large, notebooks and receipt only. Whether
        it was handed in, with the same receipt before and after the copy."""
        source = os.path.join(self.inbound_path, record["filename"])
        too_large, before = self._too_large(source, folder), _receipt(folder)
        unwanted = ignore_patterns(self.coursedir.ignore, self.coursedir.include)

        def left_out(below: str, names: list[str]) -> set[str]:
            out = {TIMESTAMP} if below == "" else set()
            if too_large:
                out |= {name for name in names if not name.endswith(".ipynb") and name != SECRET}
            return out.union(unwanted(os.path.join(source, below), [*set(names) - out]))

        problems = []

        def not_whole(error: Exception) -> None:
            if of_the_disk(error):
                raise error
            problems.append(error)
            if len(problems) <= MAX_PROBLEMS:
                self.log.warning("'%s' is not collected whole: %s", one_line(source), str(error)[:500])

        new.mkdir()
        limits = 1000 * self.coursedir.max_dir_size, 1000 * self.coursedir.max_file_size  # bytes
        # The timestamp is ours, and made first: on a disk that takes TimeStamp.txt for the same, that would be a link.
        with opened(str(new)) as target, open(os.open(TIMESTAMP, NEW, 0o666, dir_fd=target), "w") as timestamp:
            permit(timestamp.fileno(), self._modes[1])
            copy = Copy(os.fstat(folder).st_uid, *limits, self._modes, left_out, not_whole)
            try:
                copy.folder(folder, target)
            except Exception as error:
                not_whole(error)
            # nbgrader's submit writes the time last but for the secret.
            handed_in = bool(before[0]) and before == _receipt(folder)
            when = moment(before[0]) or record["timestamp"]
            if problems or not handed_in or not before[1]:  # --update takes it anew
                when = max(DAYS[0], when - timedelta(microseconds=1))
            timestamp.write(written(when))  # in words of our own: nbgrader stops on what it cannot read
        return handed_in

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
        self.log.warning("'%s' has %s: only its notebooks are collected", one_line(source), why)
        return True


def _receipt(folder: int) -> tuple[str, str]:
    """What the open folder's timestamp.txt and secret say, each "" where it says nothing."""
    timestamp, secret = (small_text(Path(name), MAX_RECEIPT, folder) for name in (TIMESTAMP, SECRET))
    return timestamp if moment(timestamp) else "", secret


def of_the_disk(error: Exception) -> bool:
    """Whether it would meet every other submission too: no room, or a disk that may not be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def one_at_a_time(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """A block that waits until no other process is in it: of two at once, one would delete what the other copies."""
    import fcntl  # not on Windows, where nbgrader has no exchange

    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("Another collect is at work: waiting for its end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # as on some network file systems
            tell(f"{folder} cannot be locked ({error.strerror}): see to it that nobody else collects now")
        yield
    finally:
        os.close(descriptor)


def clear(scratch: Path) -> None:
    """Deletes a folder of _collect's; an older copy in it goes back first, where no newer one has come to its place.
    What cannot be deleted, the next collection tries again."""
    if scratch.is_symlink():
        return  # not ours
    for copy in scratch.iterdir():
        if copy.name not in (NEW_COPY, OLD_COPY):
            place = scratch.parent / copy.name
            copy.rename(scratch / OLD_COPY if os.path.lexists(place) else place)  # which does not come back, even half
    shutil.rmtree(scratch, ignore_errors=True)


def _owner(uid: int) -> str:
    from pwd import getpwuid  # not on Windows, where nbgrader has no exchange

    try:
        return getpwuid(uid).pw_name
    except KeyError:  # as in containers, which do not know each other's users
        return f"user id {uid}, which has no name here"
