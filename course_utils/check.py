"""check(function) tells a learner at once what is right, what is wrong and why. Public cases only; it grades
nothing.

    check(compute_policy_loss)                # all criteria, one line each
    check(compute_policy_loss, "clipping")    # one criterion, as the graded cells do
    check(minibatch_loss)                     # a part of an exercise that has several solution cells; ungraded

Where something fails and the function behaves like a typical wrong solution, the report names that mistake.

It is not tested as it stands in the notebook's kernel, but as its exported module would have it: the
cells that define it and the exercise's parts are run again, in a new module that knows the exercise's imports
and nothing else.
"""

import inspect
import linecache
import os
import re
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from IPython import get_ipython
from IPython.display import HTML, display
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.checks.criteria import CRITERIA
from course_utils.checks.devices import mixed_devices
from course_utils.checks.fingerprints import recognised
from course_utils.checks.minibatch_parts import PARTS
from course_utils.checks.side_by_side import side_by_side
from course_utils.exercises import EXERCISES, Exercise
from course_utils.export import AGAIN, ExportError, header, module_source
from course_utils.plain_error import in_plain_words
from course_utils.stubs import is_stub

PACKAGE = "course_utils.stand_ins"  # where `from .policy_loss import ...` of exercise 5 finds its losses
_running_again = False


def check(function: Callable, criterion: str | None = None) -> None:
    """Prints a report on `function`, on all criteria of its exercise or on one.

    Raises:
        AssertionError: a criterion does not hold; said are which, the likely reason and the hint to open,
            if one speaks of it.
        NotImplementedError: the stub has not been replaced.
        ValueError: no exercise has a function of this name, or the exercise has no such criterion.
    """
    if _running_again:
        return
    exercise, name = _exercise_of(function), function.__name__
    whole = name == exercise.function
    criteria = CRITERIA[exercise.key] if whole else PARTS[name]
    chosen = _chosen(name, criteria, criterion)
    alone = _as_exported(function, exercise)
    if whole:
        _expect_arguments(alone, exercise)
    try:
        failures = {c.__name__: advice for c in chosen if (advice := _failure(c, alone, exercise))}
        above = criteria[: criteria.index(chosen[0])] if failures else ()
        first = next((c.__name__ for c in above if _failure(c, alone, exercise)), None)
    except NotImplementedError as stub:
        open_one = traceback.extract_tb(stub.__traceback__)[-1].name
        words = f"exercise {exercise.number} is not written yet: fill in {open_one} above, in the place of its `raise`"
        raise in_plain_words(NotImplementedError(words)) from None
    if whole and not criterion and not failures:
        _expect_exportable(function, exercise)
    known = recognised(exercise.key, alone) if failures and whole else None
    mistake = f"→ This is a known mistake, “{known[0]}”: {known[1]}" if known else ""
    if criterion and failures:
        begin = f"Begin with {first}: it does not hold either, and this may only follow from it." if first else ""
        lines = (_title(chosen[0]), failures[criterion], mistake or begin)
        raise in_plain_words(AssertionError("\n".join(filter(None, lines))))
    if not criterion and get_ipython() and (pictures := side_by_side(alone)):
        display(HTML(pictures))
    remark = _on_a_gpu(alone, exercise) if whole and not criterion and not failures else ""
    print(_report(chosen, failures, mistake or remark))
    if failures:
        raise in_plain_words(
            AssertionError(f"{name}: {len(failures)} of {len(chosen)} criteria do not hold yet: {', '.join(failures)}")
        )


def _exercise_of(function: Callable) -> Exercise:
    name = getattr(function, "__name__", repr(function))
    for exercise in EXERCISES.values():
        if name in (*exercise.parts, exercise.function):
            return exercise
    known = (name for e in EXERCISES.values() for name in (*e.parts, e.function))
    raise ValueError(f"no exercise has a function {name}; check() knows {', '.join(known)}")


def _chosen(name: str, criteria: tuple[Callable, ...], criterion: str | None) -> tuple[Callable, ...]:
    by_name = {c.__name__: c for c in criteria}
    if criterion is None:
        return criteria
    if criterion not in by_name:
        raise ValueError(f"{name} has no criterion {criterion!r}; it has {', '.join(by_name)}")
    return (by_name[criterion],)


def _as_exported(function: Callable, exercise: Exercise) -> Callable:
    """The function as the exported module would have it; as it is where its source cannot be had."""
    module = ModuleType(f"{PACKAGE}.{exercise.key}")
    module.__package__ = PACKAGE
    exec(compile(header(exercise.key), "<imports>", "exec"), module.__dict__)
    for filename, name in _cells(function, exercise).items():
        source = "".join(linecache.getlines(filename))  # "" if it cannot be had
        try:
            # Under the cell's own name, so that line numbers in messages are those of the cell.
            with _quiet():
                exec(compile(source, filename, "exec"), module.__dict__)
        except Exception as error:
            raise in_plain_words(
                AssertionError(
                    f"the cell of {name} does not run on its own: {_what_was_raised(error, {filename: name}, exercise)}"
                )
            ) from None
    return getattr(module, function.__name__, function)


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which check() does nothing: of a file, unlike a cell, the line that calls it is run again too."""
    global _running_again
    _running_again = True
    try:
        yield
    finally:
        _running_again = False


def _cells(function: Callable, exercise: Exercise) -> dict[str, str]:
    """The cells that are handed in with `function`: of each its file's name and a function that it defines, in order.

    They are its own and those of the parts above it, as far as the notebook has them: the work may be divided
    otherwise. A part that was imported from a file is in no cell.
    """
    function = inspect.unwrap(function)
    names = (*exercise.parts, exercise.function)
    above = [function.__globals__.get(name) for name in names[: names.index(function.__name__)]]
    parts = [inspect.unwrap(part) for part in above if callable(part)]
    cells = {
        one.__code__.co_filename: one.__name__
        for one in parts
        if getattr(one, "__globals__", None) is function.__globals__
    }
    cells.pop(function.__code__.co_filename, None)  # its own is the last, whatever else it defines
    return cells | {function.__code__.co_filename: function.__name__}


def _expect_arguments(function: Callable, exercise: Exercise) -> None:
    """The trainer calls by position, and other arguments are refused when a module is loaded."""
    yours, target = tuple(inspect.signature(function).parameters), exercise.arguments
    if yours != target:
        raise in_plain_words(
            AssertionError(
                f"the arguments of {exercise.function} are ({', '.join(yours)}); they must stay ({', '.join(target)})"
            )
        )


def _expect_exportable(function: Callable, exercise: Exercise) -> None:
    """The export reads a cell's text, and refuses what a notebook may well run: a definition under an `if`, a leftover
    raise of the stub's, an import from __future__ below others. Such a function would have no points."""
    notebook = new_notebook()
    cells = _cells(function, exercise)
    for filename, name in cells.items():
        grade_id = exercise.key if name == function.__name__ else name
        mark = {"nbgrader": {"solution": True, "grade_id": grade_id}}
        notebook.cells.append(new_code_cell("".join(linecache.getlines(filename)), metadata=mark))
    if not all(cell.source for cell in notebook.cells):
        return  # imported from a file, or its source cannot be had
    try:
        module_source(notebook, "this notebook", alone=not any(map(os.path.exists, cells)))
    except ExportError as error:
        refusal = re.sub(r"^this notebook, cell \w+ \(number \d+ from the top\)[,:] ", "", str(error)).replace(
            AGAIN, ""
        )
        raise in_plain_words(
            AssertionError(
                f"{function.__name__} computes what it should, but cannot be handed in as it stands: {refusal}"
            )
        ) from None


def _failure(criterion: Callable, function: Callable, exercise: Exercise) -> str | None:
    """Why the criterion does not hold; None if it does. The stub's NotImplementedError is passed on."""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a batch of one token: they would stand above the report, unexplained
            criterion(function)
    except Exception as error:
        if isinstance(error, NotImplementedError) and is_stub(error):
            raise
        if isinstance(error, AssertionError) and str(error):
            return str(error)
        return _what_was_raised(error, _cells(function, exercise), exercise)
    return None


def _what_was_raised(error: Exception, cells: dict[str, str], exercise: Exercise) -> str:
    """An exception in words: the line of the learner's code, and for a missing name the reason.

    `cells` as in _cells; the last is that of the function that is checked.
    """
    where = _where(error, cells)
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        if error.name == check.__name__:
            return f"it calls check(){where}\nOnly the function is handed in: call check() in the cell below."
        if error.name in exercise.parts:
            return (
                f"the name `{error.name}` is not defined{where}\nRun the solution cell that defines "
                f"`{error.name}`, then this check again; or do without it."
            )
        handed_in = "Only the solution cells are" if exercise.parts else "Only this cell is"
        place = "one of them" if exercise.parts else "this cell"
        return (
            f"the name `{error.name}` is not defined{where}\nIs it misspelt, or from another cell? {handed_in} handed "
            f"in: define `{error.name}` in {place}, or do without it."
        )
    return f"it raised {type(error).__name__}: {error}{where}"


def _where(error: Exception, cells: dict[str, str]) -> str:
    """The last line of the learner's code that the error came through."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in cells]
    if not lines:
        return ""
    last = lines[-1]
    cell = "its cell" if last.filename == [*cells][-1] else f"the cell of {cells[last.filename]}"
    return f" in line {last.lineno} of {cell}: {last.line}"


def _on_a_gpu(function: Callable, exercise: Exercise) -> str:
    """Costs nothing, since no exercise needs a GPU; but notebook 6 may run on one."""
    error, cells = mixed_devices(function, exercise), _cells(function, exercise)
    asks = any(re.search(r"cuda|get_device", line) for name in cells for line in linecache.getlines(name))
    if error is None or asks:  # on a GPU, it may go another way
        return ""
    return (
        f"→ On a GPU it would stop{_where(error, cells)}\n"
        f"This costs no point. Make new tensors by zeros_like(...), or with device={exercise.arguments[0]}.device."
    )


def _title(criterion: Callable) -> str:
    return f"✗ {criterion.__name__}: {criterion.__doc__.splitlines()[0]}"


def _report(criteria: tuple[Callable, ...], failures: dict[str, str], below: str) -> str:
    """A line for each criterion. Of those that fail only the first is explained: what the others would say is about
    numbers that may be wrong because of it, and sends learners to lines that are right."""
    wrap = partial(textwrap.wrap, width=96, subsequent_indent="    ", break_on_hyphens=False)
    lines = []
    for criterion in criteria:
        title = _title(criterion)
        lines.append(title if criterion.__name__ in failures else "✓" + title[1:])
        if criterion.__name__ == next(iter(failures), None):
            for line in failures[criterion.__name__].splitlines():
                lines += wrap(line, initial_indent="    ")
    if len(failures) > 1:
        lines.append("Begin with the first ✗: those below it may only follow from it. Check again once it holds.")
    return "\n".join([*lines, *(part for line in below.splitlines() for part in wrap(line))])
