"""The rebuilt notebook and the feedback in it: the course's cells, the learner's source, nothing that could run."""

import json
import re
from html.parser import HTMLParser

import nbformat
import pytest

from autograder import feedback
from autograder.master import ASSIGNMENTS, GradedCell, master, points, rebuilt, score
from autograder.verdict import Result, Verdict
from course_utils.checks.criteria import CRITERIA
from course_utils.exercises import EXERCISES
from tests.course import verdict
from tests.solutions import ROOT, solution_cells, solution_source

KEY = "policy_loss"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=\"alert('1')\">$\\href{javascript:alert(1)}{x}$\x1b[2J\u202e\ud800"
)


def outputs(notebook) -> list[dict]:
    return [output["data"] for cell in notebook.cells for output in cell.get("outputs", [])]


def solution(notebook, grade_id: str) -> str:
    (cell,) = (cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)
    return cell.source


# ------------------------------------------------------------------ what is graded


def test_assignments_are_the_folders_of_the_exercises():
    assert ASSIGNMENTS == {
        "01_policy_loss": "policy_loss",
        "02_value_loss": "value_loss",
        "03_entropy": "entropy",
        "04_gae": "gae",
        "05_minibatch_update": "minibatch_update",
    }


@pytest.mark.parametrize("key", EXERCISES)
def test_a_masters_graded_cells_are_those_of_its_notebook(key):
    found = master(key)
    assert (found.assignment, found.file) == tuple(EXERCISES[key].notebook.split("/")[1:])
    assert found.solution_ids == tuple(solution_cells(key)) and found.solution_ids[-1] == key
    assert [cell.criterion for cell in found.graded] == [criterion.__name__ for criterion in CRITERIA[key]]
    assert found.max_score == 10


def test_points_are_all_or_nothing_for_each_criterion():
    one = verdict(KEY, "clipping", "gradient")
    assert points(one) == {
        "policy_loss_worked_example": 0,
        "policy_loss_clipping": 3,
        "policy_loss_masking": 0,
        "policy_loss_gradient": 1,
        "policy_loss_metrics": 0,
    }
    assert score(one) == 4
    assert score(Verdict(KEY, ())) == 0
    assert score(Verdict(KEY, (Result("no_such", True, ""),))) == 0


# ------------------------------------------------------------------ the rebuilt notebook


@pytest.mark.parametrize("key", EXERCISES)
def test_rebuilt_is_the_courses_notebook_with_the_learners_source(key):
    answers = {grade_id: f"def mine():\n    return {grade_id!r}\n" for grade_id in master(key).solution_ids}
    notebook = rebuilt(key, {**answers, "unknown": "x"}, verdict(key))
    nbformat.validate(notebook)
    course = nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)
    assert len(notebook.cells) == len(course.cells)
    for cell, original in zip(notebook.cells, course.cells):
        assert cell.metadata == original.metadata and cell.cell_type == original.cell_type
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        assert cell.source == answers.get(grade_id, original.source)
        graded = cell.metadata.get("nbgrader", {}).get("grade", False)
        assert len(cell.get("outputs", [])) == (1 if graded else 0)


@pytest.mark.parametrize("key", EXERCISES)
def test_the_courses_solution_is_in_no_rebuilt_notebook(key):
    text = nbformat.writes(rebuilt(key, {}, verdict(key)))
    assert "No answer could be taken" in text
    bodies = [part.split("### END SOLUTION")[0] for part in solution_source(key).split("### BEGIN SOLUTION\n")[1:]]
    assert len(bodies) == len(master(key).solution_ids)
    for line in "".join(bodies).splitlines():
        assert json.dumps(line.strip()).strip('"') not in text or len(line.strip()) < 25, line


def test_a_part_that_was_not_handed_in_is_said_to_be_gone():
    notebook = rebuilt("minibatch_update", {"minibatch_update": "def mine(): ..."}, verdict("minibatch_update"))
    assert [solution(notebook, grade_id) for grade_id in master("minibatch_update").solution_ids] == [
        "# This cell is not in the notebook that was handed in.\n"
    ] * 2 + ["def mine(): ..."]


def test_rebuilding_leaves_the_master_as_it_was():
    rebuilt(KEY, {KEY: "spoilt"}, verdict(KEY))
    assert solution(rebuilt(KEY, {}, verdict(KEY)), KEY).startswith("# No answer")


def test_a_source_that_no_file_can_hold_is_made_printable():
    notebook = rebuilt(KEY, {KEY: "x = '\ud800\x00'"}, verdict(KEY))
    nbformat.writes(notebook).encode()
    assert solution(notebook, KEY) == "x = '\ufffd\ufffd'"


# ------------------------------------------------------------------ the feedback


def test_lines_of_blanks_are_shown_empty():
    """What colours the code on nbgrader's pages takes minutes for thousands of them."""
    notebook = rebuilt(KEY, {KEY: "x = 1  \n" + " \n" * 3 + "\ty = 2\u00a0"}, verdict(KEY))
    assert solution(notebook, KEY) == "x = 1\n\n\n\n\ty = 2"


def test_a_long_line_is_shown_cut():
    """Of 30,000 dots in a line the same takes 17 s."""
    notebook = rebuilt(KEY, {KEY: f"x = 1\ny = {'.' * 30_000}\nz = {'3' * 490}"}, verdict(KEY))
    assert solution(notebook, KEY) == f"x = 1\ny = {'.' * 496} … (cut)\nz = {'3' * 490}"


def test_each_graded_cell_says_passed_or_not_points_expected_and_advice():
    first, clipping, *_ = (data["text/plain"] for data in outputs(rebuilt(KEY, {}, verdict(KEY, "clipping"))))
    assert first == "Not passed: 0 of 2 points\nWhat is expected: worked_example in words\nAdvice: see hint 1"
    assert clipping == "Passed: 3 of 3 points\nWhat is expected: clipping in words"


def test_the_first_graded_cell_names_the_misconception_or_the_problem():
    one = verdict(KEY, misconception="max for min", advice="Take the smaller.", problem="cut off")
    first, *rest = (data["text/html"] for data in outputs(rebuilt(KEY, {}, one)))
    for words in ("max for min", "Take the smaller.", "cut off"):
        assert words in first
        assert not any(words in other for other in rest)


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, tuple(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


def test_nothing_of_a_verdict_can_run_or_grow():
    result = Result("clipping", False, HOSTILE, HOSTILE + "long " * 10_000)
    one = Verdict(KEY, (result,), misconception=HOSTILE, advice=HOSTILE, problem=HOSTILE * 1000)
    notebook = rebuilt(KEY, {}, one)
    nbformat.writes(notebook).encode()
    for data in outputs(notebook):
        tags = Tags(data["text/html"])
        assert set(tags.found) <= {("div", ("class", "style")), ("p", ("style",)), ("b", ())}
        assert "tex2jax_ignore" in data["text/html"]  # nor is anything typeset
        assert len(data["text/plain"]) < 5 * feedback.LONGEST
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", data["text/html"])
    assert "<script>alert(1)</script>" in Tags(outputs(notebook)[0]["text/html"]).text  # shown as text
    assert "… (cut)" in outputs(notebook)[0]["text/plain"]


def test_printable_keeps_other_peoples_writing():
    for text in ("naïve Łódź 名前\n\tx", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b"):
        assert feedback.printable(text) == text
    assert feedback.printable("a\rb\x85\u2028\x7f") == "a\ufffdb\ufffd\ufffd\ufffd"


def test_one_point_is_singular():
    cell = GradedCell("a_b", "b", 1.0, "")
    assert feedback.outputs([cell], Verdict("a", ()))["a_b"]["data"]["text/plain"] == "Not passed: 0 of 1 point"
