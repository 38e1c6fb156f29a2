"""What is said when a file of a run cannot be written: which, why, and how to go on."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_utils.plain_error import PlainError
from course_utils.whole_file import write_whole

NEARLY_NOTHING = 2**16  # bytes left on a disk of which we say that it is full


class WriteError(PlainError):
    """A file that cannot be written, and how to go on; what was written before is whole."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`. What the disk says against it becomes a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(could_not_write(path, error)) from error


def write_file(text: str, path: Path) -> None:
    """Writes the file whole, or leaves what is there and raises a WriteError."""
    with writing(path):
        write_whole(text, path)


def could_not_write(path: Path, error: Exception, kept: str = "") -> str:
    """The message, with a sentence on what is safe. To be asked before space is freed again."""
    full = _is_full(path, error)
    reason = "the disk is full" if full else getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return (
        f"could not write {path}: {reason}. {kept}{'Free some space' if full else 'Make it possible to write there'}, "
        "or move the run's folder to another disk and name it as training.output_dir; then go on with "
        "training.resume=auto."
    )


def _is_full(path: Path, error: Exception) -> bool:
    """Libraries in Rust have the number in their text alone; torch.save has it nowhere, so the disk is asked."""
    in_text = re.search(r"os error (\d+)", str(error))
    number = int(in_text[1]) if in_text else getattr(error, "errno", None)
    if number is not None:
        return number in (errno.ENOSPC, errno.EDQUOT)
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(there).free < NEARLY_NOTHING
