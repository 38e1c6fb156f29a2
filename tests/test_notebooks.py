"""The five exercise notebooks: their form, that each runs from top to bottom, what a student gets of them."""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, LockCells

from course_utils.checks.criteria import CRITERIA
from course_utils.exercises import EXERCISES
from course_utils.export import IMPORTS
from tests.solutions import ROOT

KEYS = list(EXERCISES)


def read(key: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)


def marks(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def graded_cells(notebook) -> list:
    return [cell for cell in notebook.cells if marks(cell).get("grade")]


def solution_cells(notebook) -> list:
    return [cell for cell in notebook.cells if marks(cell).get("solution")]


def solution_cell(notebook):
    """The one that defines the exercise's function; the parts are above it."""
    return solution_cells(notebook)[-1]


def functions_of(cell) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]


def regions(cell) -> list[str]:
    """What is the learner's to write."""
    return re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell.source, re.DOTALL)


def student_version(key: str) -> nbformat.NotebookNode:
    """What `nbgrader generate_assignment` makes of the notebook, without a gradebook."""
    notebook, resources = read(key), {}
    for preprocessor in (ClearSolutions, LockCells, CheckCellMetadata, ClearOutput):
        notebook, resources = preprocessor().preprocess(notebook, resources)
    return notebook


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor comment, nor docstring."""
    tree = ast.parse(source)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return sum(
        1
        for number, line in enumerate(source.splitlines(), start=1)
        if number not in docstrings and line.strip() and not line.strip().startswith("#")
    )


# ------------------------------------------------------------------ form


@pytest.mark.parametrize("key", KEYS)
def test_a_notebook_is_valid_and_without_outputs(key):
    notebook = read(key)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    # from the JSON: nbformat.read would quietly mend a duplicate
    ids = [cell["id"] for cell in json.loads((ROOT / EXERCISES[key].notebook).read_text())["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("key", KEYS)
def test_a_notebook_has_a_solution_cell_for_each_function_and_ten_points(key):
    notebook = read(key)
    cells, functions = solution_cells(notebook), (*EXERCISES[key].parts, EXERCISES[key].function)
    for cell, function in zip(cells, functions, strict=True):
        own = marks(cell)["grade_id"]
        assert own == key if cell is cells[-1] else own.startswith(f"{key}_")
        assert marks(cell) == {
            "schema_version": 3,
            "grade_id": own,
            "solution": True,
            "grade": False,
            "locked": False,
            "task": False,
        }
        assert [f.name for f in functions_of(cell)] == [function]
        check_cell = notebook.cells[notebook.cells.index(cell) + 1]
        assert check_cell.source == f"check({function})"
    graded = graded_cells(notebook)
    assert sum(marks(cell)["points"] for cell in graded) == 10
    assert 3 <= len(graded) <= 5
    for cell, criterion in zip(graded, CRITERIA[key], strict=True):
        points = marks(cell)["points"]
        assert points > 0
        assert marks(cell) == {
            "schema_version": 3,
            "grade_id": f"{key}_{criterion.__name__}",
            "solution": False,
            "grade": True,
            "locked": True,
            "task": False,
            "points": points,
        }
        word = "point" if points == 1 else "points"
        assert cell.source == f'check({EXERCISES[key].function}, "{criterion.__name__}")  # {points} {word}'


@pytest.mark.parametrize("key", KEYS)
def test_grade_ids_are_unique(key):
    grade_ids = [marks(cell)["grade_id"] for cell in read(key).cells if marks(cell)]
    assert len(set(grade_ids)) == len(grade_ids)


@pytest.mark.parametrize("key", KEYS)
def test_code_fits_the_page(key):
    for cell in read(key).cells:
        if cell.cell_type != "code":
            continue
        assert all(len(line) <= 88 for line in cell.source.splitlines()), cell.id
        if not marks(cell).get("solution"):
            assert code_lines(cell.source) <= 15, cell.id
    for cell in solution_cells(read(key)):
        (function,), (region,) = functions_of(cell), regions(cell)
        assert len(ast.get_docstring(function).splitlines()) <= 25, function.name
        assert 3 <= code_lines(f"def written():\n{region}") - 1 <= 15, function.name
        signature = function.body[0].lineno - function.lineno
        assert code_lines(ast.get_source_segment(cell.source, function)) - signature <= 25, function.name


@pytest.mark.parametrize("key", KEYS)
def test_the_stub_has_the_exercise_s_signature_with_types_and_shapes(key):
    exercise = EXERCISES[key]
    (function,) = functions_of(solution_cell(student_version(key)))
    assert tuple(argument.arg for argument in function.args.args) == exercise.arguments
    assert "(B, R" in ast.get_docstring(function) or key == "minibatch_update"


@pytest.mark.parametrize("key", KEYS)
def test_every_stub_is_typed_and_documented_and_raises(key):
    for cell in solution_cells(student_version(key)):
        (function,) = functions_of(cell)
        assert len(cell.source.splitlines()) <= 25  # the docstring with every shape included
        arguments = function.args.args
        assert all(argument.annotation or argument.arg in ("cfg", "ppo") for argument in arguments)
        assert function.returns is not None
        docstring = ast.get_docstring(function)
        assert all(argument.arg in docstring for argument in arguments)
        assert "Args:" in docstring and "Returns:" in docstring
        given, _, after = ast.unparse(function.body[1:]).partition("raise NotImplementedError()")
        assert not re.search(r"\b(if|for|while|return)\b", given), "the stub must raise whatever it is given"
        assert key == "minibatch_update" or given == after == ""


@pytest.mark.parametrize("key", KEYS)
def test_what_the_checks_ask_for_stands_in_the_docstring(key):
    """That no input is changed; of the update also who shuffles, and what a mini-batch counts in a mean."""
    (function,) = functions_of(solution_cell(read(key)))
    docstring = " ".join(ast.get_docstring(function).split())
    assert re.search(r"leaves its inputs as they are|collated_buffer: .*; left as they are", docstring)
    if key == "minibatch_update":
        assert "shuffled by torch" in docstring and "means over the mini-batches (each counts once)" in docstring


@pytest.mark.parametrize("key", KEYS)
def test_the_setup_imports_what_the_exported_module_will(key):
    notebook = read(key)
    setup = next(cell for cell in notebook.cells if cell.id == "setup")
    assert setup.source.startswith(IMPORTS)


@pytest.mark.parametrize("key", KEYS)
def test_the_path_through_a_notebook(key):
    """Idea, formula with table and source, example by hand, exercise, check right under it, three hints."""
    cells = read(key).cells
    ids = [cell.id for cell in cells]
    path = [
        "title",
        "setup",
        "idea",
        "formula",
        "example",
        "example-table",
        "exercise",
        "check",
        "hints",
        "graded-text",
        "recap",
    ]
    assert [i for i in ids if i in path] == path
    assert ids.index("check") == ids.index("exercise") + 1
    by_id = dict(zip(ids, cells, strict=True))
    assert by_id["check"].source == f"check({EXERCISES[key].function})"
    formula = by_id["formula"].source
    assert "$$" in formula and "| symbol | variable | shape | where it comes from |" in formula
    table = [line for line in formula.splitlines() if line.startswith("|")]
    sizes = {
        size for line in table for shape in re.findall(r"\(([A-Z](?:, [A-Z])*),?\)", line) for size in shape.split(", ")
    }
    prose = re.sub(r"^\|.*|\$.*?\$", "", formula, flags=re.MULTILINE)
    assert sizes and all(re.search(rf"\b{size}\b", prose) for size in sizes), (
        sizes
    )  # whoever begins here must know them
    assert re.search(r"https://arxiv.org/abs/\d{4}\.\d{5}", formula)
    hints = by_id["hints"].source
    assert re.findall(r"<summary>Hint (\d)", hints) == ["1", "2", "3"]
    assert hints.count("<details>") == hints.count("</details>") == hints.count("<summary>")


# ------------------------------------------------------------------ the student's version


@pytest.mark.parametrize("key", KEYS)
def test_a_student_version_holds_no_line_of_the_solution(key):
    """Neither in its code nor in its hints."""
    given = "\n".join(cell.source for cell in student_version(key).cells)
    assert "SOLUTION" not in given
    written = "".join(region for cell in solution_cells(read(key)) for region in regions(cell))
    lines = [line.split("  #")[0].strip() for line in written.splitlines()]
    lines = [line for line in lines if len(line) > 25]
    assert lines and not [line for line in lines if line in given]


# ------------------------------------------------------------------ running them


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all, so that torch is imported once; each notebook starts with an empty namespace."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    yield manager
    manager.shutdown_kernel(now=True)


def run(kernel: KernelManager, notebook, folder: Path) -> nbformat.NotebookNode:
    """The notebook, executed in its folder; errors stay in the outputs."""
    notebook.cells.insert(0, new_code_cell(f"%reset -f\n%cd -q {folder}"))
    NotebookClient(notebook, km=kernel, timeout=120, allow_errors=True).execute(cleanup_kc=False)
    return notebook


def errors(notebook) -> dict[str, nbformat.NotebookNode]:
    """The error of each cell that has one, by the cell's id."""
    return {
        cell.id: output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    }


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_source_notebook_runs_from_top_to_bottom(key, kernel):
    notebook = run(kernel, read(key), (ROOT / EXERCISES[key].notebook).parent)
    assert errors(notebook) == {}
    assert not [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]
    printed = "\n".join(
        o.text for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "text" in o
    )
    assert max(map(len, printed.splitlines())) <= 120  # JupyterLab breaks a longer line inside a word
    check_cell = next(cell for cell in notebook.cells if cell.id == "check")
    picture, report = check_cell.outputs
    assert "✓ yours is the target" in picture.data["text/html"] and "✗" not in picture.data["text/html"]
    assert report.text.count("✓") == len(CRITERIA[key])


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_student_version_fails_at_its_stub_and_says_so(key, kernel, tmp_path):
    exercise = EXERCISES[key]
    notebook = run(kernel, student_version(key), tmp_path)
    found = errors(notebook)
    checks = {cell.id: re.match(r"check\((\w+)", cell.source) for cell in notebook.cells}
    unwritten = {cell_id: call[1] for cell_id, call in checks.items() if call}
    assert list(found) == list(unwritten)
    for cell_id, error in found.items():
        assert error.ename == "NotImplementedError"
        fill_in = f"fill in {unwritten[cell_id]} above, in the place of its `raise`"
        message = f"exercise {exercise.number} is not written yet: {fill_in}"
        assert error.evalue == message
        assert error.traceback == [f"NotImplementedError: {message}"]


@pytest.mark.slow
def test_a_solution_that_leans_on_another_cell_is_found_out_in_the_kernel(kernel, tmp_path):
    """The function works in the notebook, but would not in the module that is handed in."""
    notebook = read("entropy")
    cell = solution_cell(notebook)
    position = notebook.cells.index(cell)
    helper = new_code_cell("def my_log_softmax(x):\n    return F.log_softmax(x, dim=-1)")
    works = new_code_cell("compute_entropy_loss(example.logits_new, example.response_mask)", id="works")
    notebook.cells[position : position + 1] = [helper, cell, works]
    own = "F.log_softmax(logits_new.float(), dim=-1)"
    assert own in cell.source
    cell.source = cell.source.replace(own, "my_log_softmax(logits_new)")
    run(kernel, notebook, tmp_path)
    found = errors(notebook)
    assert "works" not in found
    assert found["check"].ename == "AssertionError"
    report = next(cell for cell in notebook.cells if cell.id == "check").outputs[0].text
    line = 1 + cell.source[: cell.source.index("my_log_softmax")].count("\n")
    assert f"the name `my_log_softmax` is not defined in line {line} of its cell" in report
