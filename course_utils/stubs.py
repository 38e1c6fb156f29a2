"""Which functions of an exercise are still the stub, by their source; nothing is run."""

import ast
import itertools


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
