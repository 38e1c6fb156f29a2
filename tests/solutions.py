"""The notebooks' solutions for the tests, taken from the solution cells themselves."""
import itertools
import linecache
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import nbformat

from course_utils.exercises import EXERCISES
from course_utils.export import header

ROOT = Path(__file__).parent.parent
_numbers = itertools.count(1)


@cache
def solution_source(key: str) -> str:
    """The source of the solution cell of exercise `key`."""
    notebook = nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)
    cells = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == key]
    assert len(cells) == 1
    return cells[0].source


def define(key: str, source: str) -> Callable:
    """The function of exercise `key` that `source`, a solution cell, defines.

    The source is put into linecache under a name of its own, as IPython does with a cell. The losses of
    exercise 5 are the stand-ins.
    """
    filename = f"<cell {next(_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(f"course_utils.stand_ins.{key}")
    module.__package__ = "course_utils.stand_ins"
    exec(header(key), module.__dict__)
    exec(compile(source, filename, "exec"), module.__dict__)
    return getattr(module, EXERCISES[key].function)


@cache
def solution(key: str) -> Callable:
    return define(key, solution_source(key))


def edited(key: str, *edits: tuple[str, str]) -> Callable:
    """The solution with each `old` replaced by `new`: a wrong variant. Every `old` must be there."""
    source = solution_source(key)
    for old, new in edits:
        assert old in source, f"the solution of {key} has no {old!r}"
        source = source.replace(old, new)
    return define(key, source)


def stub(key: str) -> Callable:
    """The function as nbgrader's student version has it."""
    lines, keep = [], True
    for line in solution_source(key).splitlines():
        if "### BEGIN SOLUTION" in line:
            lines.append("    raise NotImplementedError()")
            keep = False
        elif "### END SOLUTION" in line:
            keep = True
        elif keep:
            lines.append(line)
    return define(key, "\n".join(lines))
