"""nbgrader's collect, for an exchange folder in which anybody may put anything. nbgrader_config.py sets it.

nbgrader's own follows symbolic links, with the instructor's rights: a link to the instructor's source notebook would
come out as a submission with the right answers. It warns of a folder that belongs to another student than the one in
its name, and collects it all the same. And one folder that is too large, or has a name that it does not expect, ends
the collection for the whole class. Here links stay links, which submission.py then refuses, also one that takes a
file's place while the folder is copied; what another account made is left where it is unless check_owner is off, and
whatever is wrong with a submission is only its own affair.
"""

import os
import shutil
import stat
from datetime import datetime
from pathlib import Path

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import find_owner, ignore_patterns

from autograder.submission import MAX_RECEIPT, READ, moment, no_student, small_text

RECEIPT = ("timestamp.txt", "submission_secret.txt")
MAX_FILES = 1000  # files and folders of one submission: a million empty ones are within every limit on size
MAX_DEPTH = 20  # folders in folders: Python's own functions call themselves for each


class CourseCollect(ExchangeCollect):
    """ExchangeCollect with its options."""

    def _path_to_record(self, path: str) -> dict:
        """nbgrader's {username, filename, timestamp}; the username is "" where the folder cannot be a submission."""
        try:
            if os.path.islink(path) or not os.path.isdir(path):
                raise ValueError("not a folder")
            record = super()._path_to_record(path)
            if why := no_student(record["username"]):
                raise ValueError(why)
            if moment(record["filename"].rsplit("+", 3)[2]) is None:
                raise ValueError("the date in its name is none that a gradebook can show")
            if self.check_owner and (owner := _owner(path)) != record["username"]:
                raise ValueError(
                    f"it belongs to {owner}. Where all students' servers run as one user, set "
                    "c.ExchangeCollect.check_owner = False"
                )
            return record
        except Exception as error:  # parsing such a name fails in more than one way
            self.log.warning("Not collected: %s: %s", ascii(path), error)
            return {"username": "", "filename": os.path.basename(path), "timestamp": datetime.min}

    def copy_files(self) -> None:
        self.src_records = [record for record in self.src_records if record["username"]]
        self.check_owner = False  # was looked at above; nbgrader's own look ends at a folder that is gone by now
        super().copy_files()

    def do_copy(self, src: str, dest: str, log=None) -> None:
        """Copies one submission, MAX_FILES files and nbgrader's max_dir_size at most, whatever it grows to meanwhile.
        Of a folder that is too large, notebooks and receipt only."""
        too_large = self._too_large(src)
        unwanted = ignore_patterns(self.coursedir.ignore, self.coursedir.include)

        def left_out(folder: str, names: list[str]) -> set[str]:
            out = set()
            if too_large:
                out = {name for name in names if not name.endswith(".ipynb") and name not in RECEIPT}
            return out.union(unwanted(folder, [*set(names) - out]))

        def not_whole(error: Exception) -> None:
            self.log.warning("%s is not collected whole: %s", ascii(src), str(error)[:500])

        os.makedirs(dest, exist_ok=True)
        copied, room = 0, 1000 * self.coursedir.max_dir_size  # bytes
        try:
            # By open folders: whoever made one can put a link in the place of anything in it at any moment.
            for folder, folders, files, opened in os.fwalk(src, onerror=not_whole):
                if folders and os.path.relpath(folder, src).count(os.sep) >= MAX_DEPTH:
                    not_whole(RecursionError(f"it has more than {MAX_DEPTH} folders in one another"))
                    folders.clear()
                wanted = {*folders, *files} - left_out(folder, [*folders, *files])
                for name in sorted(wanted):
                    if (copied := copied + 1) > MAX_FILES:
                        raise OSError(f"it has more than {MAX_FILES:,} files")
                    try:
                        to = Path(dest, os.path.relpath(folder, src), name)
                        room -= _copy(name, opened, to, min(room, 1000 * self.coursedir.max_file_size))
                    except OSError as error:  # the rest is copied
                        not_whole(error)
                folders[:] = [name for name in folders if name in wanted]
        except Exception as error:  # what is wrong with one submission stops nobody else's
            not_whole(error)
        self._permit(Path(dest))
        self._mend_timestamp(Path(src).name, Path(dest, "timestamp.txt"))

    def _too_large(self, src: str) -> bool:
        """By nbgrader's option or by the number of its files; also where it cannot be told, as in a folder that shows
        its files' names alone."""
        try:
            if _more_files_than(MAX_FILES, src):
                why = f"more than {MAX_FILES:,} files"
            elif self.get_size(src) > 1000 * self.coursedir.max_dir_size:
                why = f"more than {self.coursedir.max_dir_size} kB"
            else:
                return False
        except (OSError, RecursionError) as error:  # nbgrader's own goes down into each folder by calling itself
            why = f"no size that can be told ({getattr(error, 'strerror', error)})"
        self.log.warning("%s has %s: only its notebooks are collected", ascii(src), why)
        return True

    def _permit(self, dest: Path) -> None:
        """The instructor can read and change what was collected, whatever permissions it came with."""
        folder, file = (0o2770, 0o660) if self.coursedir.groupshared else (0o700, 0o600)
        for path in [dest, *dest.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (folder if path.is_dir() else file))

    def _mend_timestamp(self, name: str, path: Path) -> None:
        """Where timestamp.txt says nothing, the folder's name does. nbgrader stops on one that it cannot read, on the
        formgrader's pages too."""
        if moment(small_text(path, MAX_RECEIPT)) is None:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_text(name.rsplit("+", 3)[2])


def _more_files_than(count: int, folder: str) -> bool:
    found = 0
    for _, folders, files in os.walk(folder):
        found += len(folders) + len(files)
        if found > count:
            return True
    return False


def _owner(path: str) -> str:
    try:
        return find_owner(path)
    except KeyError:  # as in containers, which do not know each other's users
        return f"user id {os.stat(path).st_uid}, which has no name here"


def _copy(name: str, folder: int, dest: Path, room: int) -> int:
    """Copies what has this name in the open folder: a link as a link, of a folder itself alone, no pipe and no device.
    Returns the number of bytes.

    OSError: it cannot be read, was another thing a moment ago, has more bytes than `room`, or is a file of another
    account under a second name. ValueError: it grows meanwhile."""
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        dest.symlink_to(os.readlink(name, dir_fd=folder))
    elif stat.S_ISDIR(mode):
        dest.mkdir()
    elif stat.S_ISREG(mode):
        with open(os.open(name, READ, dir_fd=folder), "rb") as source:
            file = os.fstat(source.fileno())
            if file.st_nlink > 1 and file.st_uid != os.fstat(folder).st_uid:
                raise OSError(f"{name!r} is a hard link to a file of another account")
            if file.st_size > room:
                raise OSError(f"{name!r} has more than the {room // 1000:,} kB that are left for it")
            content = source.read(file.st_size + 1)
        if len(content) > file.st_size:
            raise ValueError(f"{name!r} grows while it is copied")
        with dest.open("xb") as copy:
            return copy.write(content)
    return 0
