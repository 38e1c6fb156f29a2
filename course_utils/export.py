"""Exports an exercise notebook to a module: the one way by which its code reaches the judge and notebook 6.

    jupyter nbconvert --to nbgrader-module notebooks/01_policy_loss/policy_loss.ipynb   # writes it beside
    python -m course_utils.export notebooks/0[1-5]*/*.ipynb --to build/solutions        # several, to a folder

A module is one line that names the notebook, the exercise's fixed imports, and the sources of the code cells
that nbgrader marks as solution; nothing else of the notebook. The same class exports solutions, learners'
notebooks and submissions. Nothing is executed here: what a cell holds is judged from its syntax tree.
"""

import argparse
import ast
import logging
import os
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import nbformat
from nbconvert.exporters import Exporter
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import default

from course_utils.exercises import EXERCISES, Exercise
from course_utils.stubs import raises_not_implemented, stub_lines, used
from course_utils.whole_file import write_whole

IMPORTS = """\
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
RELATIVE_IMPORTS = {
    "minibatch_update": """
from .entropy import compute_entropy_loss
from .policy_loss import compute_policy_loss
from .value_loss import compute_value_loss
"""
}
MARKER = re.compile(r"^[ \t]*#+[ \t]*(BEGIN|END) SOLUTION[ \t]*(\n|$)", re.MULTILINE)
MAGIC = re.compile(r"\s*([\w, ]+=\s*)?[%!?]|.*\?$")  # %time, !ls, x = !ls, ?f, f?
LARGEST_COMPILED = 200_000  # nodes of a syntax tree; a right solution has some hundreds
AGAIN = "Correct the notebook, save it, and export again."


class ExportError(ConversionException):
    """An exercise that cannot be exported; the message names the notebook, the cell and the line."""


@dataclass(frozen=True)
class SolutionCell:
    """A code cell that nbgrader marks as solution, and where it is."""

    notebook: str
    grade_id: str
    position: int  # 1 is the notebook's first cell, of any type
    source: str

    def error(self, problem: str, line: int | None = None) -> ExportError:
        """An ExportError for this cell; `line` counts from 1 within it, and its text is shown."""
        where = f"{self.notebook}, cell {self.grade_id} (number {self.position} from the top)"
        if line is None:
            return ExportError(f"{where}: {problem}. {AGAIN}")
        text = "".join(self.source.split("\n")[line - 1 : line]).strip()
        return ExportError(f"{where}, line {line}: {problem}\n    {text}\n{AGAIN}")


class ModuleExporter(Exporter):
    """nbconvert's exporter "nbgrader-module". ExportError where the notebook holds no finished exercise."""

    output_mimetype = "text/x-python"

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".py"

    def __init__(self, config=None, **kw):
        super().__init__(config, **kw)
        self.log.addFilter(_message_instead_of_traceback)

    def from_notebook_node(self, nb: NotebookNode, resources=None, **kw):
        """The module's text and the resources. No preprocessor runs: nobody's nbconvert configuration may
        change what is graded."""
        resources = self._init_resources(resources)
        name = resources["metadata"]["name"]
        key, text = module_source(nb, os.path.join(resources["metadata"]["path"], f"{name}.ipynb"), alone=True)
        if resources.get("unique_key") == name:  # no --output was given
            resources["unique_key"] = key  # a copy "policy_loss (1).ipynb" still gives policy_loss.py
        return text, resources


def _message_instead_of_traceback(record: logging.LogRecord) -> bool:
    """nbconvert logs a failed conversion with its traceback; for an ExportError the message is enough."""
    if record.exc_info and isinstance(record.exc_info[1], ExportError):
        record.msg, record.args, record.exc_info = str(record.exc_info[1]), (), None
    return True


def header(key: str) -> str:
    """The imports of an exercise's module: what a solution cell may use without importing it."""
    return IMPORTS + RELATIVE_IMPORTS.get(key, "")


def module_source(notebook: NotebookNode, name: str, alone: bool) -> tuple[str, str]:
    """The exercise's key and its module's text, of the notebook at `name`. ExportError: it is unfinished, or imports
    course_utils where it is to stand `alone`, as in the judge; a file that checks itself may do so."""
    cells = _solution_cells(notebook, name)
    key = _exercise_key(cells, name)
    statements = [(cell, node) for cell in cells for node in _parse(cell, header(key)).body]
    _check_solved(cells, statements, EXERCISES[key])
    if alone:
        _check_alone(statements, EXERCISES[key].function)
    # repr: a file's name, whatever it holds, cannot end the string.
    title = repr(f"Exercise {EXERCISES[key].number}, exported from {Path(name).name}: change it there.")
    sources = [MARKER.sub("", cell.source).strip("\n") for cell in cells]
    return key, "\n\n\n".join([f"{title}\n\n{header(key)}".rstrip("\n"), *filter(None, sources)]) + "\n"


def _solution_cells(notebook: NotebookNode, name: str) -> list[SolutionCell]:
    """The cells that nbgrader marks as solution, in the notebook's order."""
    try:
        return [
            SolutionCell(
                name,
                str(cell.metadata.nbgrader.grade_id),
                position,
                cell.source.replace("\r\n", "\n").replace("\r", "\n"),
            )
            for position, cell in enumerate(notebook.cells, start=1)
            if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution")
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ExportError(f"{name}: damaged notebook: {type(error).__name__}: {error}") from error


def _exercise_key(cells: list[SolutionCell], name: str) -> str:
    """Which exercise it is, by the grade_id of the solution cell; the file's name does not matter."""
    keys = [cell.grade_id for cell in cells if cell.grade_id in EXERCISES]
    if not keys:
        found = ", ".join(cell.grade_id for cell in cells) or "none"
        raise ExportError(
            f"{name}: no solution cell: no code cell that nbgrader marks as solution has one "
            f"of the grade_ids {', '.join(EXERCISES)} (found: {found}). If it is gone, copy "
            "your code into the solution cell of a fresh copy of the notebook."
        )
    for grade_id, count in Counter(cell.grade_id for cell in cells).items():
        if count > 1:
            positions = " and ".join(str(cell.position) for cell in cells if cell.grade_id == grade_id)
            raise ExportError(
                f"{name}: duplicate solution cell: cells number {positions} from the top have "
                f"the same grade_id, {grade_id}. Delete all but one, save, and export again."
            )
    if len(keys) > 1:
        raise ExportError(f"{name}: solution cells of several exercises in one notebook: {', '.join(keys)}.")
    return keys[0]


def _parse(cell: SolutionCell, imports: str) -> ast.Module:
    """The cell's syntax tree. ExportError where it would not compile in its module, or the exercise's own is empty."""
    first_line = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "invalid escape sequence": Python accepts it
            tree = ast.parse(cell.source)
            if _compiled_size(tree)[0] > LARGEST_COMPILED:
                raise cell.error("too much code: a `finally` is compiled again for every way out of its `try`")
            first_line = imports.count("\n")
            # With the imports above, it finds also a return outside a function and a late __future__ import.
            compile(imports + cell.source, cell.notebook, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _syntax_error(cell, error, error.lineno and error.lineno - first_line) from error
    except (ValueError, RecursionError, MemoryError) as error:  # a lone surrogate, endless nesting
        raise cell.error(f"Python cannot read it: {str(error) or type(error).__name__}") from error
    if not tree.body and cell.grade_id in EXERCISES:  # a part may be emptied, and its work done elsewhere
        raise cell.error("empty: it holds no code")
    return tree


def _compiled_size(node) -> tuple[int, int]:
    """At most how many nodes of `node` are compiled, and how many ways lead out of it in the middle.

    Python compiles a `finally` once for every return, break and continue in its `try`, for its end and for an error:
    a few of them inside each other make gigabytes of a few hundred bytes.
    """

    def total(nodes) -> tuple[int, int]:
        sizes = [_compiled_size(one) for one in nodes]
        return sum(size for size, _ in sizes), sum(ways for _, ways in sizes)

    if not getattr(node, "finalbody", None):
        size, ways = total(ast.iter_child_nodes(node))
        return size + 1, ways + isinstance(node, ast.Return | ast.Break | ast.Continue)
    (size, ways), (last, ways_of_last) = total([*node.body, *node.handlers, *node.orelse]), total(node.finalbody)
    return size + (ways + 2) * last, ways + (ways + 2) * ways_of_last


def _syntax_error(cell: SolutionCell, error: SyntaxError, line: int | None) -> ExportError:
    """Tells what only a notebook understands from a slip; `line` counts within the cell."""
    if cell.source.lstrip().startswith("%%"):  # a cell magic: Python may stumble only further down
        line = cell.source[: cell.source.index("%%")].count("\n") + 1
    lines = cell.source.split("\n")
    if line and line <= len(lines) and MAGIC.match(lines[line - 1].strip()[:200]):
        return cell.error(
            "IPython magics and shell commands (%, !, ?) cannot be in an exported module: "
            "move this line to a cell of your own",
            line,
        )
    return cell.error(f"syntax error: {error.msg}", line)


def _check_solved(
    cells: list[SolutionCell], statements: list[tuple[SolutionCell, ast.stmt]], exercise: Exercise
) -> None:
    """ExportError: no cell defines the exercise's function, or one of its parts that it uses, or one of those used
    is a stub.

    `statements` are the top-level statements of the cells, each with its cell. Of several definitions of a
    name the last one counts, as it does when the module runs.
    """
    function = exercise.function
    cell_of = {node.name: cell for cell, node in statements if isinstance(node, ast.FunctionDef)}
    definitions = {node.name: node for _, node in statements if isinstance(node, ast.FunctionDef)}
    stubs = [(cell, node.lineno) for cell, node in statements if raises_not_implemented(node)]
    called = used(function, definitions)
    for name in called:
        stubs += [(cell_of[name], line) for line in stub_lines(definitions[name])]
    for cell, line in sorted(stubs, key=lambda stub: (stub[0].position, stub[1]))[:1]:
        raise cell.error("still unsolved: write your code in the place of this line", line)
    needed = _names([definitions[name] for name in called], ast.Load) & set(exercise.parts)
    missing = needed - _names([node for _, node in statements], ast.Store) - definitions.keys()
    if function not in definitions:
        missing = {function}
    for name in sorted(missing)[:1]:
        own = next(cell for cell in cells if cell.grade_id == exercise.key)
        raise own.error(f"function missing: no solution cell has a 'def {name}' at its left margin")


def _check_alone(statements: list[tuple[SolutionCell, ast.stmt]], function: str) -> None:
    """ExportError: a statement that surely runs, of a cell or of `function`, imports course_utils. One inside a `try`
    or an `if` may be done without."""
    for cell, top in statements:
        for node in [top, *(top.body if isinstance(top, ast.FunctionDef) and top.name == function else [])]:
            if _imports_the_course(node):
                raise cell.error("course_utils is not there where this is graded: do without it", node.lineno)


def _imports_the_course(node: ast.stmt) -> bool:
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module]
    return any(name.split(".")[0] == "course_utils" for name in names)


def _names(nodes: list[ast.stmt], context: type[ast.expr_context]) -> set[str]:
    """The names that are read (ast.Load) in `nodes`, or bound (ast.Store) there, at any depth."""
    found = set()
    for node in (one for top in nodes for one in ast.walk(top)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            found.add(node.id)
        elif context is ast.Store:
            found |= {getattr(node, name, None) for name in ("name", "arg", "asname")} - {None}
    return found


def read_exercise(path: str | Path) -> tuple[str, str]:
    """The exercise's key and its module's text. ExportError: the notebook is unreadable or not finished."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            notebook = nbformat.read(file, as_version=4)
    except Exception as error:  # nbformat meets a damaged file with whatever error it runs into
        raise ExportError(
            f"{path}: cannot be read as a notebook: {type(error).__name__}: {error}\n"
            "Check the path. If the file is damaged, go back to an earlier copy: JupyterLab "
            "keeps the last checkpoint in .ipynb_checkpoints beside it."
        ) from error
    return module_source(notebook, str(path), alone=True)


def write_module(text: str, path: Path) -> None:
    """Writes the whole module or nothing. ExportError where the disk or the folder does not let it."""
    try:
        write_whole(text, path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error


def export_notebook(path: str | Path, out_folder: str | Path) -> Path:
    """Exports one notebook to `out_folder` and gives the module's path. ExportError: see read_exercise."""
    key, text = read_exercise(path)
    module = Path(out_folder) / EXERCISES[key].module_file
    write_module(text, module)
    return module


def export_all(root: Path, folder: str | Path) -> None:
    """The five exercise notebooks of `root`, which holds notebooks/, as modules. ExportError: see read_exercise."""
    for exercise in EXERCISES.values():
        export_notebook(root / exercise.notebook, folder)


def main(arguments: list[str] | None = None) -> int:
    """Exports every notebook that can be exported, then reports those that cannot; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.export", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK.ipynb", help="files, or a pattern such as 0*/*.ipynb")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="where the modules go")
    args = parser.parse_args(arguments)
    # Windows' shells hand a pattern on as it is.
    notebooks = [Path(path) for name in args.notebooks for path in sorted(glob(name)) or [name]]
    exported: dict[str, Path] = {}
    failures = []
    for notebook in notebooks:
        try:
            key, text = read_exercise(notebook)
            if key in exported:
                raise ExportError(f"{notebook}: the same exercise, {key}, as {exported[key]}. Export one.")
            exported[key] = notebook
            write_module(text, args.to / EXERCISES[key].module_file)
            print(f"{notebook} -> {args.to / EXERCISES[key].module_file}")
        except ExportError as error:
            failures.append(error)
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    if failures:
        print(f"\n{len(failures)} of {len(notebooks)} notebooks were not exported.", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
