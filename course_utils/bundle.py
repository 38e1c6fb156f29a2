"""One zip for Google Colab: the course as a wheel, the settings, notebook 6 and your exported functions.

    python -m course_utils.bundle                               # in your workspace
    python -m course_utils.bundle --exercises build/solutions   # in the repository

Run it in the folder that holds configs/ and notebooks/. In Colab the first cell of each notebook runs the zip, and
that is bundle_main.py.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile

from course_utils.exercises import EXERCISES, missing_exercises
from course_utils.plain_error import PlainError

BUNDLE = "tinier_zero_colab.zip"
NOTEBOOK = Path("notebooks/06_train_gsm8k/train_gsm8k.ipynb")
PACKAGE = Path(__file__).parent


class BundleError(PlainError):
    """Why there is no bundle, and what to do."""


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of course_utils into `folder`, without the network. BundleError: it cannot be built.

    It is built from a copy: with the package alone beside pyproject.toml the wheel can have nothing of the
    autograder, of students, or of an earlier build.
    """
    with TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if not (PACKAGE.parent / name).is_file():
                raise BundleError(
                    f"{PACKAGE} was installed without its source: there is no {name} beside it. Use the "
                    "environment of a clone of the course, which `make lab` makes."
                )
            shutil.copy(PACKAGE.parent / name, copy)
        shutil.copytree(PACKAGE, Path(copy, PACKAGE.name), ignore=shutil.ignore_patterns("__pycache__", ".*"))
        # torch brings the setuptools that pyproject.toml asks for, so nothing has to be downloaded.
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--wheel-dir",
                str(folder),
                copy,
            ],
            capture_output=True,
            text=True,
        )
    if pip.returncode:
        raise BundleError(f"pip could not build the wheel of {PACKAGE}:\n{pip.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(exercises: Path, wheel: Path) -> Iterator[tuple[Path, str]]:
    """(file, its name in the bundle) of all that goes in, by the names that notebook 6 knows."""
    yield PACKAGE / "bundle_main.py", "__main__.py"
    yield wheel, wheel.name
    yield NOTEBOOK, str(NOTEBOOK)
    for config in sorted(Path("configs").glob("*.yaml")):
        yield config, f"configs/{config.name}"
    for exercise in EXERCISES.values():
        if (exercises / exercise.module_file).is_file():
            yield exercises / exercise.module_file, f"exercises/{exercise.module_file}"


def write_bundle(exercises: Path, target: Path) -> None:
    """Writes the bundle of the current folder, with the modules of `exercises` that there are, to `target`.

    BundleError: the folder is not a course's, `target` is a folder, or the wheel cannot be built. A file at `target` is
    replaced at the end.
    """
    if not (Path("configs").is_dir() and NOTEBOOK.is_file()):
        raise BundleError(
            f"{Path.cwd()} has no configs/ or no {NOTEBOOK}: run this in your workspace, or in the repository"
        )
    if target.is_dir():
        raise BundleError(f"{target} is a folder: name a file, such as {target / BUNDLE}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        partial = Path(scratch, target.name)
        with ZipFile(partial, "w", ZIP_DEFLATED) as bundle:
            for file, name in contents(exercises, build_wheel(Path(scratch))):
                bundle.write(file, name)
        partial.replace(target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m course_utils.bundle", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--exercises",
        type=Path,
        default="exercises",
        metavar="FOLDER",
        help="your exported functions (default: %(default)s)",
    )
    parser.add_argument("--to", type=Path, default=Path("build", BUNDLE), metavar="ZIP", help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        write_bundle(args.exercises, args.to)
    except (BundleError, OSError) as error:
        sys.exit(f"error: {error}")
    for exercise in missing_exercises(args.exercises):
        print(f"without exercise {exercise.number}: {args.exercises} has no {exercise.module_file}")
    print(f"{args.to}  {args.to.stat().st_size / 1e6:.1f} MB: upload it when a notebook's first cell asks for it")


if __name__ == "__main__":
    main()
