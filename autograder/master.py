"""The course's own notebooks: what is graded, for how many points, and a submission's notebook rebuilt from them."""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder import feedback
from autograder.verdict import Verdict
from course_utils.exercises import EXERCISES

ROOT = Path(__file__).resolve().parents[1]
# An assignment is a folder of notebooks/, as nbgrader has it; each graded one holds one exercise.
ASSIGNMENTS = {Path(exercise.notebook).parent.name: exercise.key for exercise in EXERCISES.values()}
GONE = "# This cell is not in the notebook that was handed in.\n"
LONGEST_LINE = 500  # characters that are shown of it
NO_ANSWER = "# No answer could be taken from the notebook that was handed in. The first graded cell below says why.\n"


@dataclass(frozen=True)
class GradedCell:
    """A graded cell: one criterion of the exercise."""

    grade_id: str  # "policy_loss_clipping"
    criterion: str  # "clipping"
    points: float
    source: str


@dataclass(frozen=True)
class Master:
    """One exercise's notebook, as far as grading goes."""

    key: str
    assignment: str  # "01_policy_loss"
    notebook: str  # "policy_loss", nbgrader's name of it: the file's without .ipynb
    solution_ids: tuple[str, ...]  # grade_ids of the cells that are the learner's
    graded: tuple[GradedCell, ...]

    @property
    def file(self) -> str:
        return f"{self.notebook}.ipynb"

    @property
    def max_score(self) -> float:
        return sum(cell.points for cell in self.graded)


@cache
def master(key: str) -> Master:
    """The master of exercise `key`, read from notebooks/ once."""
    path = ROOT / EXERCISES[key].notebook
    marked = [(cell, cell.metadata["nbgrader"]) for cell in _notebook(key).cells if "nbgrader" in cell.metadata]
    return Master(
        key=key,
        assignment=path.parent.name,
        notebook=path.stem,
        solution_ids=tuple(marks["grade_id"] for _, marks in marked if marks["solution"]),
        graded=tuple(
            GradedCell(
                marks["grade_id"], marks["grade_id"].removeprefix(f"{key}_"), float(marks["points"]), cell.source
            )
            for cell, marks in marked
            if marks["grade"]
        ),
    )


def points(verdict: Verdict) -> dict[str, float]:
    """Points by grade_id. A criterion that the verdict does not name has none."""
    passed = {result.criterion for result in verdict.results if result.passed}
    return {cell.grade_id: cell.points if cell.criterion in passed else 0.0 for cell in master(verdict.key).graded}


def score(verdict: Verdict) -> float:
    return sum(points(verdict).values())


def rebuilt(key: str, cell_sources: dict[str, str], verdict: Verdict) -> NotebookNode:
    """The course's notebook with the learner's solution cells and the feedback.

    `cell_sources`, by grade_id, is all that is taken of a submission. The course's own solution is never in the
    result, nor is an output or another cell of the submission.
    """
    notebook = copy.deepcopy(_notebook(key))
    outputs = feedback.outputs(master(key).graded, verdict)
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id in master(key).solution_ids:
            source = feedback.printable(cell_sources.get(grade_id, GONE if cell_sources else NO_ANSWER))
            cell.source = "\n".join(_shown(line.rstrip()) for line in source.split("\n"))
        elif grade_id in outputs:
            cell.outputs = [outputs[grade_id]]
    return notebook


def _shown(line: str) -> str:
    """What colours the code on nbgrader's pages takes quadratic time for long lines of dots, as for blanks."""
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " … (cut)"


@cache
def _notebook(key: str) -> NotebookNode:
    return nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)
