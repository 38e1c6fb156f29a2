"""What a submission tried that has no effect, in words, for the instructor's report. It never costs points.

Nothing here decides anything: the solution runs in a sandbox, and the points come from outside it. A learner who
imports os, or deletes a test cell, may have had a good reason; the instructor can look.
"""

import ast
import os
import sys
import warnings
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.feedback import printable

if TYPE_CHECKING:
    from autograder.master import Master
    from autograder.submission import Cell

MOST = 20  # of one kind
LONGEST = 120  # characters of a name that a submission made up
CONFIGURATION = {
    "conftest.py",
    "ipython_config.py",
    "ipython_kernel_config.py",
    "jupyter_config.py",
    "nbgrader_config.py",
    "sitecustomize.py",
    "usercustomize.py",
}
MODULES = set(
    """
    __main__ _posixsubprocess _thread asyncio atexit autograder builtins code codeop concurrent course_utils ctypes dis
    ensurepip faulthandler fcntl ftplib gc glob http imaplib importlib inspect io IPython ipykernel jupyter_client
    linecache marshal mmap multiprocessing nbformat nbgrader os pathlib pdb pickle pip pkgutil platform posix psutil
    pty pwd requests resource runpy safetensors select shelve shutil signal site smtplib socket socketserver sqlite3
    ssl subprocess sys sysconfig tempfile threading traceback tracemalloc types urllib weakref webbrowser xmlrpc
    zipfile
""".split()
)
FUNCTIONS = {
    "__import__",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "exit",
    "get_ipython",
    "globals",
    "input",
    "locals",
    "open",
    "quit",
    "setattr",
    "vars",
}
TENSOR_NAMES = {"torch", "np", "nn", "F", "Tensor", "math"}  # what the exercises' modules import
FILES = {"load", "save", "hub", "fromfile", "tofile", "from_file", "memmap", "loadtxt", "genfromtxt", "savez"}
ORDINARY = {"__name__", "__doc__", "__init__", "__call__", "__class__", "__future__", "__version__"}


def in_folder(folder: Path, notebook: str) -> tuple[str, ...]:
    """Links, and files that would shadow a module or configure a tool that ran in this folder. OSError: unreadable."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, stem = entry.name, entry.name.partition(".")[0]
            if entry.is_symlink():
                found.append(f"{_shown(name)} is a symbolic link")
            elif name in CONFIGURATION or name.endswith(".pth"):
                found.append(f"{_shown(name)} would configure a tool that ran in the folder")
            elif stem in _importable() and (name.endswith((".py", ".so", ".pyc")) or entry.is_dir()):
                found.append(f"{_shown(name)} shadows a module")
            elif name.endswith(".ipynb") and name != notebook:
                found.append(f"{_shown(name)} is another notebook")
    return tuple(sorted(found)[:MOST])


@cache
def _importable() -> set[str]:
    return {"autograder", "course_utils", *sys.stdlib_module_names, *packages_distributions()}


def in_cells(cells: "list[Cell]", master: "Master") -> tuple[str, ...]:
    """Changes of the graded cells, and graded cells that the course does not have."""
    found = []
    course = {cell.grade_id: cell for cell in master.graded}
    for grade_id in course.keys() - {cell.grade_id for cell in cells}:
        found.append(f"test cell {grade_id} is gone")
    for cell in cells:
        if cell.grade_id in course:
            found += _changes(cell, course[cell.grade_id])
        elif cell.grade_id in master.solution_ids:
            if cell.marks.get("grade") or cell.marks.get("points"):
                found.append(f"solution cell {cell.grade_id} is marked as graded")
            if cell.tags:
                found.append(f"solution cell {cell.grade_id} has tags: {_shown(', '.join(cell.tags))}")
        elif cell.marks.get("grade") or cell.marks.get("points"):
            found.append(f"cell number {cell.position} is marked as graded: {_shown(cell.grade_id)}")
    return tuple(sorted(set(found))[:MOST])


def _changes(cell: "Cell", course) -> list[str]:
    found = []
    if (cell.source or "").strip() != course.source.strip():
        found.append(f"test cell {cell.grade_id} was edited")
    if cell.marks.get("points") != course.points:
        found.append(
            f"test cell {cell.grade_id} has {_shown(repr(cell.marks.get('points')))} points instead of "
            f"{course.points:g}"
        )
    if not (
        cell.marks.get("grade") is True and cell.marks.get("solution") is False and cell.marks.get("locked") is True
    ):
        found.append(f"test cell {cell.grade_id} is marked differently")
    if cell.tags:
        found.append(f"test cell {cell.grade_id} has tags: {_shown(', '.join(cell.tags))}")
    return found


def in_source(source: str) -> tuple[str, ...]:
    """Imports, calls and names in a solution cell that no exercise needs, from its syntax tree."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()  # it does not run either
    found = {}
    for node in nodes:
        for what in _tried(node):
            found.setdefault(what, node.lineno)  # type: ignore[attr-defined]
    return tuple(f"the solution {what} (line {line})" for what, line in list(found.items())[:MOST])


def _tried(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [f"imports {_shown(alias.name)}" for alias in node.names if _top(alias.name) in MODULES]
    if isinstance(node, ast.ImportFrom) and (node.level or _top(node.module) in MODULES):
        return [f"imports from {'.' * node.level}{_shown(node.module or '')}"]
    if isinstance(node, ast.Name) and (node.id in FUNCTIONS or _dunder(node.id)):
        return [f"uses {_shown(node.id)}"]
    if isinstance(node, ast.Attribute):
        if isinstance(node.ctx, ast.Store | ast.Del) and _root(node) in TENSOR_NAMES:
            return [f"changes {_shown(f'{_root(node)}…{node.attr}')}"]
        if _dunder(node.attr) or node.attr in FILES and _root(node) in TENSOR_NAMES:
            return [f"uses {_shown(node.attr)}"]
    return []


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in ORDINARY


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _shown(name: str) -> str:
    name = printable(name.replace("\n", " "))
    return name if len(name) <= LONGEST else name[:LONGEST] + "…"
