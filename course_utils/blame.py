"""An error while a run goes on, led back to the exercise and the line that it came from."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_utils.exercises import EXERCISES, PACKAGE, STAND_INS, Exercise, ExerciseError, export_command
from course_utils.plain_error import PlainError


@contextmanager
def naming_the_exercise() -> Iterator[None]:
    """A block that calls exported functions: what one of them raises becomes an ExerciseError that says where.

    Other errors pass, those of functions that were given from elsewhere too, and those of stand-ins, which nobody
    has to correct.
    """
    try:
        with _exit_is_an_error():
            yield
    except Exception as error:
        found = _exported_line(error)
        if found is None or isinstance(error, PlainError) or type(error).__name__ == "OutOfMemoryError":
            raise  # the last one is torch's, and nobody's slip
        exercise, frame = found
        raise ExerciseError(
            f"exercise {exercise.number}, {frame.filename}, line {frame.lineno}: {frame.line}\n"
            f"    {type(error).__name__}: {error}\n"
            f"Correct it in {exercise.notebook}, save, and export again:\n"
            f"    {export_command([exercise], Path(frame.filename).parent)}"
        ) from error


class ExitCalled(Exception):
    """exit() or sys.exit() where a result was expected."""


@contextmanager
def _exit_is_an_error() -> Iterator[None]:
    """exit() in an exported function would end the run without a word."""
    try:
        yield
    except SystemExit as error:
        wrong = ExitCalled(
            f"SystemExit({error.code!r}) would end the whole run; raise an error that says what is wrong"
        )
        raise wrong.with_traceback(error.__traceback__) from error  # which leads to the line


def _exported_line(error: Exception) -> tuple[Exercise, traceback.FrameSummary] | None:
    """The exercise in whose module the error came up, and the last line of that module on the way there."""
    modules = {
        file: name.rpartition(".")[2]
        for name, module in sys.modules.items()
        if name.startswith(PACKAGE) and (file := getattr(module, "__file__", None)) and Path(file).parent != STAND_INS
    }
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in modules]
    return (EXERCISES[modules[frames[-1].filename]], frames[-1]) if frames else None
