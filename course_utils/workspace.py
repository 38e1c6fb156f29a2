"""Lays out a learner's workspace: the student notebooks and the configs, and never a change to what is there.

    python -m course_utils.workspace workspace --release autograder/release --configs configs

A workspace looks like the repository as far as a notebook can see: notebooks/, configs/ and, once the learner
has exported, exercises/. Run it again after an update of the course: new files come, the others stay.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

LEFT_OUT = {".ipynb_checkpoints", "__pycache__", ".DS_Store"}


def copy_missing(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    """Copies the files under `source` that `target` lacks; (new, kept), as sorted paths relative to `target`.

    FileNotFoundError: no folder `source`.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}")
    new, kept = [], []
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        relative = file.relative_to(source)
        if LEFT_OUT.intersection(relative.parts):
            continue
        if os.path.lexists(target / relative):
            kept.append(relative)
        else:
            _copy(file, target / relative)
            new.append(relative)
    return new, kept


def _copy(source: Path, target: Path) -> None:
    """Copies to a name beside the target first: half a file would pass for the learner's own, and be kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.workspace", description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--release", required=True, type=Path, help="the student notebooks")
    parser.add_argument("--configs", required=True, type=Path)
    args = parser.parse_args(arguments)
    for name, source in (("notebooks", args.release), ("configs", args.configs)):
        try:
            new, kept = copy_missing(source, args.workspace / name)
        except OSError as error:
            print(f"The workspace is not complete: {error}. Nothing of yours was changed.", file=sys.stderr)
            return 1
        for word, files in (("new ", new), ("kept", kept)):
            for file in files:
                print(f"{word}  {args.workspace / name / file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
