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
def solution_cells(key: str) -> dict[str, str]:
    """The sources of the solution cells of exercise `key`, by grade_id; not to be changed."""
    notebook = nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)
    marked = [(cell.metadata["nbgrader"], cell.source) for cell in notebook.cells if "nbgrader" in cell.metadata]
    return {marks["grade_id"]: source for marks, source in marked if marks["solution"]}


def solution_source(key: str) -> str:
    """The sources of its solution cells, one below the other: they also work in one cell."""
    return "\n\n\n".join(solution_cells(key).values())


def define(key: str, *sources: str) -> Callable:
    """The function of exercise `key` that `sources`, its solution cells, define.

    Each source is put into linecache under a name of its own, as IPython does with a cell. The losses of
    exercise 5 are the stand-ins.
    """
    module = ModuleType(f"course_utils.stand_ins.{key}")
    module.__package__ = "course_utils.stand_ins"
    exec(header(key), module.__dict__)
    for source in sources:
        run_cell(source, module.__dict__)
    return getattr(module, EXERCISES[key].function)


def run_cell(source: str, namespace: dict) -> None:
    """Runs `source` as IPython runs a cell."""
    filename = f"<cell {next(_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)


@cache
def solution(key: str) -> Callable:
    return define(key, *solution_cells(key).values())


def edited(key: str, *edits: tuple[str, str]) -> Callable:
    """The solution with each `old` replaced by `new`: a wrong variant. Every `old` must be there."""
    sources = list(solution_cells(key).values())
    for old, new in edits:
        assert any(old in source for source in sources), f"the solution of {key} has no {old!r}"
        sources = [source.replace(old, new) for source in sources]
    return define(key, *sources)


def stub(key: str) -> Callable:
    """The function as nbgrader's student version has it."""
    return define(key, *map(stub_source, solution_cells(key).values()))


def stub_source(source: str) -> str:
    """A solution cell as nbgrader's student version has it."""
    lines, keep = [], True
    for line in source.splitlines():
        if "### BEGIN SOLUTION" in line:
            lines.append("    raise NotImplementedError()")
            keep = False
        elif "### END SOLUTION" in line:
            keep = True
        elif keep:
            lines.append(line)
    return "\n".join(lines)
