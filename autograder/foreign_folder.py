"""A folder that another account can change at any moment: measured and copied by open descriptors, never by paths.

A path is looked up anew each time: between two looks a link can become a folder, and a folder a link or a pipe. What is
open stays what it was.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from autograder.submission import READ

MAX_FILES = 1000  # files and folders of one submission: a million empty ones are within every limit on size
MAX_DEPTH = 20  # folders in folders: the functions below call themselves for each
MAX_PATH = 1000  # bytes of a path below the first folder: the system opens 4,095 at most, and others work by paths
MAX_LIST = 5_000_000  # bytes of a folder itself, of which some have gigabytes: its names, and room where others were
MAX_NAMES = 10_000  # beyond so many no further folder is listed: one large folder can be moved to the next name
FOLDER = READ | getattr(os, "O_DIRECTORY", 0)  # nothing else is opened: a pipe would wait for its other end
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


class TooMuch(Exception):
    """Why no more of a folder is copied."""


@contextmanager
def opened(name: str, inside: int | None = None) -> Iterator[int]:
    """The descriptor of a folder. OSError: there is none of this name in the open folder `inside`, or a link to one."""
    descriptor = os.open(name, FOLDER, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names_in(folder: int, most: int | None = None) -> list[str]:
    """All names in an open folder, or the first. OSError: there are, or were, so many that to list them takes long."""
    if os.fstat(folder).st_size > MAX_LIST:
        raise OSError(errno.EFBIG, "it has too many names")
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, most)]


def extent(folder: int, depth: int = 0) -> tuple[int, int]:
    """How many files and folders are in an open folder, at any depth down to MAX_DEPTH, and the bytes of the files.
    Once there are more than MAX_FILES, the rest is not looked at."""
    count = size = 0
    for name in names_in(folder, MAX_FILES + 1):
        count += 1
        if count > MAX_FILES:
            break
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            size += found.st_size
        elif stat.S_ISDIR(found.st_mode) and depth < MAX_DEPTH:
            with opened(name, folder) as inner:
                more, larger = extent(inner, depth + 1)
            count, size = count + more, size + larger
    return count, size


class Copy:
    """A copy of one folder, of `room` bytes and MAX_FILES files and folders at most, whatever the folder grows to.

    What belongs to another account than `owner` is not copied: it can have been moved in, or be a hard link. `largest`
    is the most that a file may have, `modes` what folders and files are permitted at least. `left_out` says which of a
    folder's names are not wanted; `not_whole` is told why something is not copied that was.
    """

    def __init__(
        self,
        owner: int,
        room: int,
        largest: int,
        modes: tuple[int, int],
        left_out: Callable[[str, list[str]], set[str]],
        not_whole: Callable[[Exception], None],
    ):
        self.owner, self.room, self.largest = owner, room, largest
        self.left_out, self.not_whole = left_out, not_whole
        self.of_folders, self.of_files = modes
        self.copied = self.listed = 0

    def folder(self, source: int, target: int, path: str = "", depth: int = 0) -> None:
        """Copies what is in the open folder `source` into the open folder `target`, `path` below the first one.

        TooMuch: there is more than may be copied, or a file grows meanwhile.
        """
        if self.listed > MAX_NAMES:
            raise TooMuch(f"it has more than {MAX_NAMES:,} names")
        permit(target, self.of_folders)
        names, inner = names_in(source, MAX_NAMES + 1), []
        self.listed += len(names)
        for name in sorted({*names} - self.left_out(path, names)):
            if self.copied == MAX_FILES:
                raise TooMuch(f"it has more than {MAX_FILES:,} files")
            self.copied += 1
            try:
                if self._is_folder(name, source, target):
                    inner.append(name)
            except OSError as error:  # the rest is copied
                self.not_whole(error)
        if inner and (depth == MAX_DEPTH or len(os.fsencode(path)) > MAX_PATH):
            self.not_whole(RecursionError(f"it has more than {MAX_DEPTH} folders in one another, or very long names"))
            return
        for name in inner:  # after all files: deep in a folder lies nothing that is graded
            try:
                with opened(name, source) as below, opened(name, target) as copy:
                    self._require_owner(name, os.fstat(below))
                    self.folder(below, copy, os.path.join(path, name), depth + 1)
            except OSError as error:
                self.not_whole(error)

    def _is_folder(self, name: str, source: int, target: int) -> bool:
        """Copies what has this name: a link as a link, of a folder itself alone, no pipe and no device. Whether it is a
        folder."""
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        mode = found.st_mode
        self._require_owner(name, found)
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISDIR(mode):
            os.mkdir(name, dir_fd=target)
            return True
        elif stat.S_ISREG(mode):
            self._file(name, source, target)
        return False

    def _file(self, name: str, source: int, target: int) -> None:
        with open(os.open(name, READ, dir_fd=source), "rb") as file:
            found, room = os.fstat(file.fileno()), min(self.room, self.largest)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{name!r} was a file a moment ago")
            self._require_owner(name, found)
            if found.st_size > room:
                raise OSError(f"{name!r} has more than the {room // 1000:,} kB that are left for it")
            content = file.read(found.st_size + 1)
        if len(content) > found.st_size:
            raise TooMuch(f"{name!r} grows while it is copied")
        with open(os.open(name, NEW, 0o666, dir_fd=target), "wb") as copy:
            permit(copy.fileno(), self.of_files)
            self.room -= copy.write(content)

    def _require_owner(self, name: str, found: os.stat_result) -> None:
        if found.st_uid != self.owner:
            raise OSError(f"{name!r} belongs to another account")


def permit(place: int | str, mode: int) -> None:
    """At least `mode`, for an open file or folder or a path."""
    os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) | mode)
