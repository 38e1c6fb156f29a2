"""Which functions of an exercise are still the stub: by their source, without running it, or by their error."""

import ast
import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def used(function: str, definitions: dict[str, ast.FunctionDef]) -> set[str]:
    """`function` and those of `definitions` whose names occur in it, or in one of them, and so on."""
    found, new = set(), {function} & definitions.keys()
    while new:
        found |= new
        nodes = [node for name in new for node in ast.walk(definitions[name])]
        new = {node.id for node in nodes if isinstance(node, ast.Name)} & definitions.keys() - found
    return found


def stub_lines(function: ast.FunctionDef) -> list[int]:
    """The lines of `function` that raise NotImplementedError, but for those that a return above makes
    unreachable: whoever wrote the code above the stub's line and left that line has a working function."""
    names = ("body", "orelse", "finalbody")
    blocks = [getattr(node, name, None) for node in ast.walk(function) for name in names]
    return sorted(
        statement.lineno
        for block in blocks
        if isinstance(block, list)  # a lambda's body is an expression
        for statement in itertools.takewhile(lambda node: not isinstance(node, ast.Return), block)
        if raises_not_implemented(statement)
    )


def raises_not_implemented(node: ast.stmt) -> bool:
    raised = node.exc if isinstance(node, ast.Raise) else None
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def unwritten_lines(path: Path, function: str) -> list[int]:
    """The lines of an exported module where `function`, or one that it uses, is still the stub."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return sorted(line for name in used(function, definitions) for line in stub_lines(definitions[name]))


def is_stub(error: NotImplementedError) -> bool:
    """Whether a line of Python raised it; torch raises the same for an operation that a dtype lacks."""
    line = traceback.extract_tb(error.__traceback__)[-1].line  # nothing where there is no source
    return not line or line.startswith("raise NotImplementedError")


@contextmanager
def unless_stub(function: str) -> Iterator[None]:
    """A block that uses the learner's `function`, in a cell that must not fail while it is still the stub."""
    try:
        yield
    except NotImplementedError as error:
        if not is_stub(error):
            raise
        print(f"{function} is not written yet: run this cell again when check() is content with it")
