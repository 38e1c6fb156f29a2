"""A verdict as the outputs of a notebook's graded cells, which nbgrader's feedback pages and the formgrader show.

What a verdict says may hold a learner's own lines and file names. All of it is made printable, cut to a length and
escaped here, at one place; no page runs or typesets it.
"""

import html
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbformat import NotebookNode
from nbformat.v4 import new_output

from autograder.verdict import Result, Verdict

if TYPE_CHECKING:
    from autograder.master import GradedCell

LONGEST = 2000  # characters of any one text
LONGEST_LINE = 300  # of what stands in a table or a message
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, which colour-blind readers can tell apart
KEPT = "\n\t\u200c\u200d"  # not "printable"; the last two join letters of Persian, of Hindi, and emoji


def outputs(graded: "Sequence[GradedCell]", verdict: Verdict) -> dict[str, NotebookNode]:
    """One output for each graded cell, by grade_id; the first also says what holds for the whole exercise."""
    results = {result.criterion: result for result in verdict.results}
    made = {}
    for number, cell in enumerate(graded):
        lines = _whole_exercise(verdict) if number == 0 else []
        lines += _criterion(results.get(cell.criterion), cell.points)
        color = BLUE if cell.criterion in results and results[cell.criterion].passed else ORANGE
        made[cell.grade_id] = new_output(
            "display_data",
            data={
                "text/html": _html(lines, color),
                "text/plain": "\n".join(f"{title}: {text}" for title, text in lines),
            },
        )
    return made


def _whole_exercise(verdict: Verdict) -> list[tuple[str, str]]:
    lines = []
    if verdict.problem:
        lines.append(("This exercise could not be graded", bounded(verdict.problem)))
    if verdict.misconception:
        lines.append(("The likely mistake", bounded(verdict.misconception)))
    if verdict.advice:
        lines.append(("Advice", bounded(verdict.advice)))
    return lines


def _criterion(result: Result | None, points: float) -> list[tuple[str, str]]:
    word = "point" if points == 1 else "points"
    if result is None:
        return [("Not passed", f"0 of {points:g} {word}")]
    lines = [
        ("Passed", f"{points:g} of {points:g} {word}") if result.passed else ("Not passed", f"0 of {points:g} {word}"),
        ("What is expected", bounded(result.expected)),
    ]
    if result.advice:
        lines.append(("Advice", bounded(result.advice)))
    return lines


def _html(lines: list[tuple[str, str]], color: str) -> str:
    # MathJax passes over tex2jax_ignore: a $...$ in a learner's line stays what it is.
    body = "".join(
        f'<p style="margin: 0.3em 0; white-space: pre-wrap"><b>{html.escape(title)}:</b> {html.escape(text)}</p>'
        for title, text in lines
    )
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="border-left: 5px solid {color}; padding-left: 0.8em">'
        f"{body}</div>"
    )


def bounded(text: str) -> str:
    """Printable, and at most LONGEST characters."""
    text = printable(text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " … (cut)"


def one_line(text: object) -> str:
    """Printable, on one line, of at most LONGEST_LINE characters."""
    text = printable(" ".join(str(text).splitlines()).replace("\t", " "))
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"


def printable(text: str) -> str:
    """Without what no file or page can hold, or what deceives the eye: lone surrogates, control characters, marks
    that turn the direction of writing. Line ends, tabs and spaces stay."""
    return "".join(
        c if c.isprintable() or c in KEPT or unicodedata.category(c) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
