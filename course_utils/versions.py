"""Says at the top of each notebook what it runs with, and what to do where something is too old or missing."""

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from course_utils.plain_error import PlainError
from course_utils.this_python import this_python

COURSE = "tinier-zero"


class VersionError(PlainError, RuntimeError):
    """What is too old or missing, and the command that mends it."""


def check_versions() -> None:
    """Prints one line with the versions of Python, torch, transformers and the course. Needs no network.

    Raises:
        VersionError: Python or a package is older than the course's own metadata asks for, or is not installed.
    """
    try:
        needed = metadata(COURSE)["Requires-Python"]
    except PackageNotFoundError:
        raise VersionError(
            f"{COURSE} is not installed in this kernel's Python; in the folder of the course, run\n"
            f'    {this_python()} -m pip install -e ".[course]"'
        ) from None
    python = platform.python_version()
    if not SpecifierSet(needed).contains(python, prereleases=True):
        raise VersionError(
            f"this kernel runs Python {python}, and the course needs {needed}; make a new environment, "
            "as the README says, and choose it as the kernel"
        )
    wanted = [Requirement(line) for line in requires(COURSE) or []]
    wrong = {
        f"{need.name}{need.specifier}": found
        for need in wanted
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and (found := _found(need)) is not None
    }
    if wrong:
        raise VersionError(
            "the course needs " + ", ".join(f"{need} ({found})" for need, found in wrong.items()) + "; run\n"
            f"    {this_python()} -m pip install --upgrade " + " ".join(f'"{need}"' for need in wrong) + "\n"
            "and restart the kernel"
        )
    print(
        f"✓ Python {python}, torch {version('torch')}, transformers {version('transformers')}, "
        f"{COURSE} {version(COURSE)}"
    )


def _found(need: Requirement) -> str | None:
    """What there is instead of what is needed; None if all is well."""
    try:
        have = version(need.name)
    except PackageNotFoundError:
        return "it is not installed"
    return None if need.specifier.contains(have, prereleases=True) else f"here is {have}"
