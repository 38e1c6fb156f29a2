"""Exporting a notebook to a module: what comes over, what is refused, and how the refusal reads."""

import ast
import logging
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils.exercises import EXERCISES
from course_utils.export import ExportError, ModuleExporter, export_notebook, header, main

SOLVED = """\
def compute_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):
    \"\"\"Loss (), share of clipped tokens (), approximate KL ().\"\"\"
    ### BEGIN SOLUTION
    ratio = torch.exp(log_probs_new - log_probs_old)
    return -(ratio * advantages).mean(), 0.0, 0.0
    ### END SOLUTION
"""


def solution_cell(source, grade_id="policy_loss", **marks):
    marks = {
        "grade_id": grade_id,
        "solution": True,
        "grade": False,
        "locked": False,
        "task": False,
        "schema_version": 3,
        **marks,
    }
    return new_code_cell(source, metadata={"nbgrader": marks})


def write_notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def write_exercise(path, source, grade_id="policy_loss"):
    return write_notebook(
        path, new_markdown_cell("# Policy loss"), new_code_cell("print('play')"), solution_cell(source, grade_id)
    )


def refusal(path, tmp_path):
    """The message with which the notebook is refused; nothing may have been written."""
    with pytest.raises(ExportError) as error:
        export_notebook(path, tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
    return str(error.value)


def test_a_module_is_title_imports_and_solution_cells(tmp_path):
    notebook = write_notebook(
        tmp_path / "my.ipynb",
        new_markdown_cell("# Policy loss"),
        new_code_cell("left_out = 1"),
        new_markdown_cell("A written answer", metadata={"nbgrader": {"grade_id": "essay", "solution": True}}),
        solution_cell(SOLVED),
        solution_cell("assert left_out", "test", solution=False, grade=True, locked=True),
        solution_cell("def my_part(x):\n    return x\n", "more"),
    )
    module = export_notebook(notebook, tmp_path / "out")
    assert module == tmp_path / "out" / "policy_loss.py"
    assert (
        module.read_text()
        == """\
'Exercise 1, exported from my.ipynb: change it there.'

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compute_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):
    \"\"\"Loss (), share of clipped tokens (), approximate KL ().\"\"\"
    ratio = torch.exp(log_probs_new - log_probs_old)
    return -(ratio * advantages).mean(), 0.0, 0.0


def my_part(x):
    return x
"""
    )
    assert list(module.parent.iterdir()) == [module]  # no partial file stays


def test_a_notebook_with_the_line_ends_of_windows_gives_the_same_module(tmp_path):
    here = export_notebook(write_exercise(tmp_path / "a.ipynb", SOLVED), tmp_path / "here")
    there = export_notebook(write_exercise(tmp_path / "a.ipynb", SOLVED.replace("\n", "\r\n")), tmp_path / "there")
    assert there.read_bytes() == here.read_bytes()


def test_only_the_fifth_exercise_imports_from_the_first_three():
    for key in EXERCISES:
        relative = {
            alias.name
            for node in ast.walk(ast.parse(header(key)))
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for alias in node.names
        }
        assert relative == (
            {"compute_policy_loss", "compute_value_loss", "compute_entropy_loss"}
            if key == "minibatch_update"
            else set()
        )


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_grade_id_says_which_exercise_it_is(tmp_path, exercise):
    source = f"def {exercise.function}({', '.join(exercise.arguments)}):\n    return 1"
    module = export_notebook(write_exercise(tmp_path / "renamed (1).ipynb", source, exercise.key), tmp_path)
    assert module.name == f"{exercise.key}.py"


def test_a_name_with_quotes_cannot_put_code_into_the_module(tmp_path):
    notebook = write_exercise(tmp_path / "'\"\"\"\nimport os\n'''.ipynb", SOLVED)
    tree = ast.parse(export_notebook(notebook, tmp_path / "out").read_text())
    assert ast.get_docstring(tree, clean=False).startswith('Exercise 1, exported from \'"""\nimport os')
    assert {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names} == {
        "math",
        "numpy",
        "torch",
        "torch.nn.functional",
    }


def test_nobodys_preprocessor_changes_what_is_exported(tmp_path):
    class Vandal:
        enabled = True

        def __call__(self, notebook, resources):
            notebook.cells = []
            return notebook, resources

    exporter = ModuleExporter()
    exporter.register_preprocessor(Vandal())
    text, _ = exporter.from_filename(str(write_exercise(tmp_path / "a.ipynb", SOLVED)))
    assert "def compute_policy_loss" in text


@pytest.mark.parametrize(
    ("source", "line", "text", "problem"),
    [
        ("def compute_policy_loss(a):\n    x = = 3\n    return x", 2, "x = = 3", "syntax error"),
        ("def compute_policy_loss(a):\n", 1, "def compute_policy_loss(a):", "on line 1"),
        ("x = 1\nreturn x", 2, "return x", "syntax error: 'return' outside function"),
        (SOLVED + "\nfrom __future__ import division", 8, "from __future__ import division", "syntax error"),
        ("# YOUR CODE HERE\nraise NotImplementedError()", 2, "raise NotImplementedError()", "still unsolved"),
        (
            "def compute_policy_loss(a):\n    b = a\n    if b:\n        raise NotImplementedError\n    return b",
            4,
            "raise NotImplementedError",
            "still unsolved",
        ),
        (
            "def compute_policy_loss(a):\n    try:\n        a = a + 1\n    finally:\n        raise NotImplementedError",
            5,
            "raise NotImplementedError",
            "still unsolved",
        ),
        (
            SOLVED + "\ndef compute_policy_loss(a):\n    raise NotImplementedError('later')",
            9,
            "raise NotImplementedError('later')",
            "still unsolved",
        ),
        (
            "def ratio():\n    raise NotImplementedError()\n\ndef mean():\n    return ratio()\n\n"
            "def compute_policy_loss(a):\n    return mean()",
            2,
            "raise NotImplementedError()",
            "still unsolved",
        ),
        ("%matplotlib inline\n" + SOLVED, 1, "%matplotlib inline", "IPython magics"),
        ("\n%%time\nit's = 3\n" + SOLVED, 2, "%%time", "IPython magics"),
        (SOLVED + "\nfiles = !ls", 8, "files = !ls", "IPython magics"),
        (SOLVED + "\ntorch.exp?", 8, "torch.exp?", "IPython magics"),
        ("import math, course_utils.check\n" + SOLVED, 1, "import math, course_utils.check", "course_utils is not"),
        (
            SOLVED.replace("    ratio", "    from course_utils import worked_example\n    ratio"),
            4,
            "from course_utils import worked_example",
            "course_utils is not there where this is graded",
        ),
    ],
)
def test_a_refusal_names_notebook_cell_line_and_text(tmp_path, source, line, text, problem):
    notebook = write_exercise(tmp_path / "notebooks" / "policy_loss.ipynb", source)
    message = refusal(notebook, tmp_path)
    assert message.startswith(f"{notebook}, cell policy_loss (number 3 from the top), line {line}: ")
    assert problem in message
    assert f"\n    {text}\n" in message
    assert message.endswith("Correct the notebook, save it, and export again.")


PLAIN = "def run_ppo_update_epoch(a, b, c, d, e, f):\n    return minibatch_loss(a)\n"


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (["", "# mine is below\n"], PLAIN.replace("minibatch_loss", "sum")),
        (["def minibatch_loss(a):\n    return a", ""], PLAIN),
        (["", ""], "def minibatch_loss(a):\n    return a\n\n\n" + PLAIN),
        (["", ""], "minibatch_loss = sum\n" + PLAIN),
        (["", ""], "from math import floor as minibatch_loss\n" + PLAIN),
        ([], PLAIN.replace("    return", "    def minibatch_loss(x): return x\n    return")),
        ([], PLAIN.replace("    return", "    minibatch_loss = lambda x: x\n    return")),
        ([], "if math.pi > 3:\n    def minibatch_loss(x): return x\n" + PLAIN),
    ],
)
def test_the_parts_of_an_exercise_may_be_anywhere_in_its_cells(tmp_path, parts, source):
    cells = [solution_cell(text, f"part_{i}") for i, text in enumerate(parts)]
    notebook = write_notebook(tmp_path / "a.ipynb", *cells, solution_cell(source, "minibatch_update"))
    text = export_notebook(notebook, tmp_path).read_text()
    assert text.endswith("\n\n\n" + source) and "\n\n\n\n" not in text


@pytest.mark.parametrize("parts", [[], [""], ["# def minibatch_loss(a): ..."], ["def other(a):\n    return a"]])
def test_a_part_that_is_used_and_nowhere_defined_is_named(tmp_path, parts):
    cells = [solution_cell(text, f"part_{i}") for i, text in enumerate(parts)]
    notebook = write_notebook(tmp_path / "a.ipynb", *cells, solution_cell(PLAIN, "minibatch_update"))
    message = refusal(notebook, tmp_path)
    assert f"cell minibatch_update (number {len(parts) + 1} from the top): function missing" in message
    assert "no solution cell has a 'def minibatch_loss' at its left margin" in message


def test_of_several_stubs_the_first_is_named(tmp_path):
    stubs = [solution_cell(f"def {name}(a):\n    raise NotImplementedError\n") for name in ("minibatch_loss", "other")]
    own = "def run_ppo_update_epoch(a):\n    other(minibatch_loss(a))\n    raise NotImplementedError\n"
    for number, cell in enumerate(stubs):
        cell.metadata.nbgrader.grade_id = f"part_{number}"
    notebook = write_notebook(tmp_path / "a.ipynb", *stubs, solution_cell(own, "minibatch_update"))
    assert "cell part_0 (number 1 from the top), line 2: still unsolved" in refusal(notebook, tmp_path)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "empty"),
        ("# nothing but a comment\n", "empty"),
        ("def compute_loss(a):\n    return a", "function missing: no solution cell has a 'def compute_"),
        ("x = '\x00'", "null bytes"),
        ("x = '\ud800'", "surrogates not allowed"),
        ("x = " + "-" * 100_000 + "1", "Python cannot read it"),
    ],
)
def test_a_refusal_without_a_line_names_notebook_and_cell(tmp_path, source, problem):
    notebook = new_notebook(cells=[solution_cell(source)])
    with pytest.raises(ExportError) as error:
        ModuleExporter().from_notebook_node(notebook, {"metadata": {"name": "a", "path": "b"}})
    where = f"{os.path.join('b', 'a.ipynb')}, cell policy_loss (number 1 from the top)"
    assert str(error.value).startswith(f"{where}: ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        SOLVED + "    raise NotImplementedError()\n",
        "def compute_policy_loss(a):\n    raise NotImplementedError()\n\n" + SOLVED,
        "def not_called():\n    raise NotImplementedError()\n\n" + SOLVED,
        SOLVED + "\nword = 'raise NotImplementedError' or r'\\d' or '\\d'\n",
        "try:\n    import course_utils\nexcept ImportError:\n    pass\n\n" + SOLVED,
        "def not_called():\n    from course_utils.check import check\n\n" + SOLVED,
        "from .course_utils import mine\nimport course_utils_of_mine\n" + SOLVED,
    ],
    ids=[
        "below the return",
        "an older stub above",
        "in a function not used",
        "in a string",
        "an import that may fail",
        "an import that never runs",
        "of another package",
    ],
)
def test_a_working_answer_is_not_refused_for_what_never_runs(tmp_path, source, recwarn):
    assert export_notebook(write_exercise(tmp_path / "a.ipynb", source), tmp_path).exists()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([], r"no solution cell: .*grade_ids policy_loss, .*\(found: none\)"),
        ([solution_cell(SOLVED, "polcy_loss")], r"no solution cell: .*\(found: polcy_loss\)"),
        ([solution_cell(SOLVED, solution=False)], "no solution cell"),
        (
            [solution_cell(SOLVED), new_code_cell(""), solution_cell(SOLVED)],
            "duplicate solution cell: cells number 1 and 3 .* policy_loss",
        ),
        ([solution_cell(SOLVED), solution_cell(SOLVED, "gae")], "several exercises .* policy_loss, gae"),
    ],
)
def test_it_takes_exactly_one_exercise_a_notebook(tmp_path, cells, problem):
    notebook = write_notebook(tmp_path / "a.ipynb", *cells)
    message = refusal(notebook, tmp_path)
    assert message.startswith(f"{notebook}: ")
    assert re.search(problem, message)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"cells": [',
        b"[]",
        b"\xff\xfe",
        b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        b'{"cells": [{"cell_type": "code", "metadata": {"nbgrader": [1]}, "source": "x"}], "metadata": {}, '
        b'"nbformat": 4, "nbformat_minor": 4}',
        b'{"cells": [{"cell_type": "code", "metadata": {"nbgrader": {"solution": true}}, "source": "x"}], '
        b'"metadata": {}, "nbformat": 4, "nbformat_minor": 4}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    notebook = tmp_path / "a.ipynb"
    notebook.write_bytes(content)
    assert refusal(notebook, tmp_path).startswith(f"{notebook}: ")


def test_a_missing_file_and_a_folder_that_cannot_be_written_are_named(tmp_path):
    assert "nowhere.ipynb: cannot be read" in refusal(tmp_path / "nowhere.ipynb", tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="policy_loss.py: cannot be written"):
        export_notebook(write_exercise(tmp_path / "a.ipynb", SOLVED), tmp_path / "file")


def test_a_write_that_fails_leaves_the_old_module_whole(tmp_path, monkeypatch):
    notebook = write_exercise(tmp_path / "a.ipynb", SOLVED)
    module = export_notebook(notebook, tmp_path / "out")
    before = module.read_text()
    write_exercise(notebook, SOLVED.replace("0.0", "1.0"))

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", no_space)
    with pytest.raises(ExportError, match="No space left on device"):
        export_notebook(notebook, tmp_path / "out")
    assert module.read_text() == before
    assert list(module.parent.iterdir()) == [module]


def test_the_plain_command_goes_on_and_reports_every_failure(tmp_path, capsys):
    good = write_exercise(tmp_path / "good.ipynb", SOLVED)
    again = write_exercise(tmp_path / "good-Copy1.ipynb", SOLVED.replace("0.0", "1.0"))
    stub = write_exercise(tmp_path / "stub.ipynb", "raise NotImplementedError()", "gae")
    gone = tmp_path / "gone.ipynb"
    code = main([*map(str, (stub, good, gone, again)), "--to", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert code == 1
    assert out == f"{good} -> {tmp_path / 'out' / 'policy_loss.py'}\n"
    assert "0.0" in (tmp_path / "out" / "policy_loss.py").read_text()  # the first one, not the copy
    assert [str(path) in err for path in (stub, gone, again)] == [True, True, True]
    assert err.endswith("3 of 4 notebooks were not exported.\n")
    assert main([str(good), "--to", str(tmp_path / "out")]) == 0


HELPER = """\
def helper(rows):
    for row in rows:
        try:
            return row
        finally:
            print(row)
"""


def test_an_honest_finally_is_exported(tmp_path):
    notebook = write_exercise(tmp_path / "a.ipynb", f"{HELPER}\n\n{SOLVED}")
    assert HELPER in export_notebook(notebook, tmp_path / "out").read_text()


def test_a_long_table_is_exported(tmp_path):
    table = f"TABLE = [{'0, ' * 100_000}]"
    module = export_notebook(write_exercise(tmp_path / "a.ipynb", f"{table}\n\n\n{SOLVED}"), tmp_path / "out")
    assert table in module.read_text()


def test_ways_out_of_a_finally_are_counted_too(tmp_path):
    """Each return of the inner `finally` takes the outer one with it, once more for every copy of the inner."""
    returns, much = "            if f: return 1\n" * 50, "        f()\n" * 1000
    bomb = f"def f():\n    try:\n        try:\n            pass\n        finally:\n{returns}    finally:\n{much}"
    assert "too much code" in refusal(write_exercise(tmp_path / "a.ipynb", f"{bomb}\n\n{SOLVED}"), tmp_path)


def test_a_pattern_that_the_shell_did_not_expand_is_expanded(tmp_path, capsys):
    """Windows' shells leave it to the program."""
    good = write_exercise(tmp_path / "good.ipynb", SOLVED)
    write_exercise(tmp_path / "stub.ipynb", "raise NotImplementedError()", "gae")
    assert main([str(tmp_path / "*.ipynb"), "--to", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out == f"{good} -> {tmp_path / 'out' / 'policy_loss.py'}\n"
    assert main([str(tmp_path / "*.nb"), "--to", str(tmp_path / "out")]) == 1
    assert f"{tmp_path / '*.nb'}: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "given"), [("loss-Copy1", "policy_loss"), ("mine", "mine")])
def test_the_module_has_the_name_of_the_exercise_unless_another_is_asked_for(asked, given):
    """nbconvert's unique_key is the notebook's own name, or what --output says."""
    resources = {"metadata": {"name": "loss-Copy1", "path": ""}, "unique_key": asked}
    _, resources = ModuleExporter().from_notebook_node(new_notebook(cells=[solution_cell(SOLVED)]), resources)
    assert resources["unique_key"] == given


def test_a_refusal_is_logged_without_a_traceback():
    record = logging.LogRecord(
        "x",
        logging.ERROR,
        "x.py",
        1,
        "Error while converting '%s'",
        ("a.ipynb",),
        (ExportError, ExportError("a.ipynb, cell gae"), None),
    )
    assert all(test(record) for test in ModuleExporter().log.filters)
    assert (record.getMessage(), record.exc_info) == ("a.ipynb, cell gae", None)


def test_nbconvert_finds_the_exporter_and_prints_a_refusal_cleanly(tmp_path):
    """The command itself: two notebooks in one call, the second one a stub."""
    write_exercise(tmp_path / "loss-Copy1.ipynb", SOLVED)
    write_exercise(tmp_path / "stub.ipynb", "raise NotImplementedError()")
    run = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "nbgrader-module", "loss-Copy1.ipynb", "stub.ipynb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    module = (tmp_path / "policy_loss.py").read_text()
    assert module.startswith("'Exercise 1, exported from loss-Copy1.ipynb")
    assert not (tmp_path / "stub.py").exists()
    assert "ERROR | stub.ipynb, cell policy_loss (number 3 from the top), line 1: still" in run.stderr
    assert "Traceback" not in run.stderr
