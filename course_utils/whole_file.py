"""Writing a file whole or not at all, whatever ends the process on the way."""

import os
from pathlib import Path


def write_whole(text: str, path: Path, mode: int | None = None) -> None:
    """Writes the file, with these permissions if given, or leaves what is there. OSError: no space, no right to."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        if mode is not None:
            partial.chmod(mode)
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # which file it is, a full disk does not say
        raise
    finally:
        partial.unlink(missing_ok=True)
