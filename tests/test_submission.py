"""Reading what was handed in: of a submission nothing counts but the solution cells' source, and nothing breaks."""

import copy
import json
import os
from datetime import datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from autograder import submission, tampering
from autograder.feedback import printable
from autograder.master import ASSIGNMENTS, master
from autograder.submission import MAX_SOURCE, find, moment, read, receipt
from course_utils.exercises import EXERCISES
from course_utils.export import read_exercise
from tests.course import cell, hand_in, notebook
from tests.right_solutions import right_solutions
from tests.solutions import ROOT, solution_cells, solution_source, stub_source

MARKS = "".join(mark * 7000 for mark in "\u0345\u0301\u0316\u0334")  # of four classes, the highest first


def nested_finally(depth: int) -> str:
    """Of which Python would make 30 ** depth copies of what is innermost."""
    lines = ["def compute_policy_loss(x):"]
    for n in range(1, depth + 1):
        lines += [" " * n + "try:", *[" " * n + " if x: return"] * 30, " " * n + "finally:"]
    return "\n".join([*lines, " " * (depth + 1) + "x"])


KEY = "policy_loss"


def read_one(tmp_path, data, key=KEY):
    hand_in(tmp_path, "ada", key, data)
    return read(tmp_path, "ada", key)


def with_source(source: object) -> dict:
    data = notebook(KEY)
    cell(data, KEY)["source"] = source
    return data


# ------------------------------------------------------------------ what counts


def test_a_cell_that_needs_course_utils_has_a_plain_reason(tmp_path):
    found = read_one(tmp_path, with_source("from course_utils.check import check\n" + solution_source(KEY)))
    assert found.module is None and "line 1: course_utils is not there where this is graded" in found.problem


@pytest.mark.parametrize("key", EXERCISES)
def test_a_submission_becomes_the_module_that_the_exporter_makes(tmp_path, key):
    found = read_one(tmp_path, notebook(key), key)
    assert found.problem == "" and found.tampering == ()
    assert found.cell_sources == solution_cells(key)
    assert (key, found.module) == read_exercise(ROOT / EXERCISES[key].notebook)


def edited_tests(data):
    for one in data["cells"]:
        if one["metadata"].get("nbgrader", {}).get("grade"):
            one["source"] = "print('passed')"


def more_points(data):
    cell(data, "policy_loss_clipping")["metadata"]["nbgrader"]["points"] = 1000


def metadata_of_the_solution(data):
    cell(data, KEY)["metadata"] |= {"tags": ["raises-exception"], "collapsed": True}
    cell(data, KEY)["metadata"]["nbgrader"] |= {"grade": True, "solution": False, "points": 50, "locked": "x"}


def solution_turned_to_text(data):
    cell(data, KEY).update(cell_type="markdown")


def own_cells(data):
    data["cells"].insert(0, {"cell_type": "code", "metadata": {}, "source": "import os; os._exit(1)", "outputs": 7})
    data["cells"].append(
        {
            "cell_type": "markdown",
            "metadata": {"nbgrader": {"grade": True, "points": 90, "grade_id": "extra"}},
            "source": ["a"],
        }
    )


def odd_cells(data):
    data["cells"] += [
        None,
        3,
        [],
        {},
        {"metadata": 5},
        {"metadata": {"nbgrader": []}, "source": {}},
        {"metadata": {"nbgrader": {"grade_id": ["x"]}, "tags": {"a": 1}}, "source": [1]},
    ]


def no_test_cells(data):
    data["cells"] = [cell(data, KEY)]


def other_kernel(data):
    data["metadata"] = {"kernelspec": {"name": "bash"}, "nbgrader": "no"}


def pasted_twice(data):
    again = copy.deepcopy(cell(data, KEY))
    again["source"] = [line for line in again["source"]] + ["\n\n"]
    data["cells"].append(again)


@pytest.mark.parametrize(
    "change",
    [
        edited_tests,
        more_points,
        metadata_of_the_solution,
        solution_turned_to_text,
        own_cells,
        odd_cells,
        no_test_cells,
        other_kernel,
        pasted_twice,
    ],
)
def test_only_the_solution_cells_source_counts(tmp_path, change):
    data = notebook(KEY)
    change(data)
    found = read_one(tmp_path, data)
    assert found.problem == ""
    assert found.cell_sources == solution_cells(KEY)
    assert found.module == read_exercise(ROOT / EXERCISES[KEY].notebook)[1]


@pytest.mark.parametrize(
    "source",
    [
        solution_source(KEY).replace("\n", "\r\n"),
        solution_source(KEY).splitlines(keepends=True),
    ],
)
def test_line_ends_and_lists_of_lines_do_not_matter(tmp_path, source):
    found = read_one(tmp_path, with_source(source))
    assert found.module == read_exercise(ROOT / EXERCISES[KEY].notebook)[1]


def test_a_byte_order_mark_does_not_matter(tmp_path):
    assert read_one(tmp_path, b"\xef\xbb\xbf" + json.dumps(notebook(KEY)).encode()).problem == ""


# ------------------------------------------------------------------ an exercise in several solution cells

PARTS = [grade_id for grade_id in master("minibatch_update").solution_ids if grade_id != "minibatch_update"]
ALONE = right_solutions("minibatch_update")["one function, a counter"]  # does without the parts


def left_as_it_was(data, grade_id):
    cell(data, grade_id)["source"] = stub_source(solution_cells("minibatch_update")[grade_id])


def emptied(data, grade_id):
    cell(data, grade_id)["source"] = ""


def deleted(data, grade_id):
    data["cells"].remove(cell(data, grade_id))


@pytest.mark.parametrize("change", [left_as_it_was, emptied, deleted])
def test_a_part_is_needed_only_where_it_is_used(tmp_path, change):
    assert len(PARTS) == 2
    data = notebook("minibatch_update")
    for grade_id in PARTS:
        change(data, grade_id)
    problem = read_one(tmp_path, data, "minibatch_update").problem
    assert ("still unsolved" if change is left_as_it_was else "no solution cell has a 'def minibatch_loss'") in problem
    cell(data, "minibatch_update")["source"] = ALONE
    hand_in(tmp_path, "bob", "minibatch_update", data)
    found = read(tmp_path, "bob", "minibatch_update")
    assert found.problem == "" and ALONE.strip() in found.module
    assert set(found.cell_sources) == {"minibatch_update", *([] if change is deleted else PARTS)}


def test_parts_come_into_the_module_in_the_learners_order(tmp_path):
    data = notebook("minibatch_update")
    moved = cell(data, PARTS[0])
    data["cells"].remove(moved)
    data["cells"].append(moved)
    module = read_one(tmp_path, data, "minibatch_update").module
    assert module.index("def run_ppo_update_epoch(") < module.index("def response_outputs(")


# ------------------------------------------------------------------ damaged notebooks

WHOLE = json.dumps(notebook(KEY)).encode()
NUMBER = 1 + notebook(KEY)["cells"].index(cell(notebook(KEY), KEY))  # of the solution cell, from the top
LAST = len(notebook(KEY)["cells"])
OLD = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": notebook(KEY)["cells"]}]}
DIFFERENT = {**notebook(KEY), "cells": notebook(KEY)["cells"] + [cell(with_source("x = 1"), KEY)]}


@pytest.mark.parametrize(
    "data, words",
    [
        (WHOLE[: len(WHOLE) // 2], "damaged: it is cut off"),
        (b"", "damaged: it is cut off"),
        (b"\x00" * 100, "damaged"),
        (b"\xff\xfe" + WHOLE, "not text in UTF-8"),
        (b"PK\x03\x04 a zip", "damaged"),
        (b"[1, 2]", "not a notebook"),
        (b"{}", "not a notebook"),
        (b"[" * 1_000_000, "damaged"),
        (b'{"nbformat": 4, "cells": ' + b'{"a":' * 100_000, "damaged"),
        (b'{"nbformat": 4, "x": ' + b"9" * 100_000 + b"}", "damaged"),
        (OLD, "another format than 4"),
        ({**notebook(KEY), "nbformat": "4"}, "another format than 4"),
        ({"nbformat": 4}, "no list of cells"),
        ({"nbformat": 4, "cells": {"a": 1}}, "no list of cells"),
        ({"nbformat": 4, "cells": []}, "Solution cell policy_loss is missing"),
        (notebook("gae"), "holds exercise 4, gae"),
        (DIFFERENT, f"Cells number {NUMBER} and {LAST + 1} from the top are all marked as solution cell policy_loss"),
        (with_source(5), "has no text"),
        (with_source([["a"]]), "has no text"),
        (with_source(""), "empty: it holds no code"),
        (with_source("def compute_policy_loss(:"), f"(number {NUMBER} from the top), line 1: syntax error"),
        (with_source("%%bash\nrm -rf /"), "IPython magics"),
        (with_source("x = '\ud800'"), "Python cannot read it"),
        (with_source("x = 1\x00"), "null bytes"),
        (with_source("(" * 5000), "syntax error"),
        (with_source("-" * 29_000 + "1"), "Python cannot read it"),
        (with_source("#" * (MAX_SOURCE + 1)), "at most 30,000 are read"),
        (with_source(f"a{MARKS} = 1"), "accents in a row on one letter"),  # two minutes of Python's time
        (with_source("a" + "\u0f73" * 20_000 + " = 1"), "accents in a row on one letter"),  # each is made of two
        (with_source(nested_finally(4)), "too much code: a `finally` is compiled again for every way out"),
        ({"nbformat": 4, "cells": [{}] * 1001}, "has 1001 cells; at most 1000 are read"),
        (with_source("def compute_policy_loss():\n    raise NotImplementedError()"), "still unsolved"),
        (with_source("def other(): pass"), "function missing"),
    ],
)
def test_a_damaged_notebook_has_a_problem_in_plain_words(tmp_path, data, words):
    found = read_one(tmp_path, data)
    assert words in found.problem
    assert found.module is None
    assert "Traceback" not in found.problem and "export again" not in found.problem
    found.problem.encode()  # no lone surrogate is left in it


def test_a_submission_with_a_problem_fails_every_criterion_in_words(tmp_path):
    failed = read_one(tmp_path, b"").failed()
    assert [result.criterion for result in failed.results] == [one.criterion for one in master(KEY).graded]
    assert not any(result.passed for result in failed.results)
    assert all(result.expected for result in failed.results)
    assert "damaged" in failed.problem


# ------------------------------------------------------------------ files and folders


def test_a_missing_or_renamed_notebook_is_named(tmp_path):
    folder = hand_in(tmp_path, "ada", KEY)
    (folder / "policy_loss.ipynb").rename(folder / "policy_loss (1).ipynb")
    assert (
        "only policy_loss (1).ipynb. Hand in your notebook as policy_loss.ipynb" in read(tmp_path, "ada", KEY).problem
    )
    (folder / "policy_loss (1).ipynb").unlink()
    assert "no notebook was handed in" in read(tmp_path, "ada", KEY).problem
    assert "not a folder" in read(tmp_path, "nobody", KEY).problem


@pytest.mark.parametrize("place", ["01_policy_loss/policy_loss.ipynb", "01_policy_loss.zip", "Policy_Loss.IPYNB"])
def test_what_was_handed_in_in_its_place_is_named(tmp_path, place):
    folder = hand_in(tmp_path, "ada", KEY)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "policy_loss.ipynb").rename(folder / place)
    (folder / "timestamp.txt").write_text("2026-11-22 10:00:00 UTC")
    problem = read(tmp_path, "ada", KEY).problem
    assert problem.startswith(
        f"policy_loss.ipynb is not there, only {place.partition('/')[0]}. Hand in your notebook as"
    )


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    folder = hand_in(tmp_path, "ada", KEY)
    os.truncate(folder / "policy_loss.ipynb", 200_000_000)
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("opened"))
    assert "has 200.0 MB; at most 5 MB are read" in read(tmp_path, "ada", KEY).problem


def test_nothing_but_a_plain_file_is_opened(tmp_path):
    path = hand_in(tmp_path, "ada", KEY) / "policy_loss.ipynb"
    path.rename(tmp_path / "elsewhere.ipynb")
    path.symlink_to(tmp_path / "elsewhere.ipynb")
    found = read(tmp_path, "ada", KEY)
    assert "symbolic link" in found.problem and found.tampering == ("policy_loss.ipynb is a symbolic link",)
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert "not a file" in read(tmp_path, "ada", KEY).problem
    path.unlink()
    path.mkdir()
    assert "not a file" in read(tmp_path, "ada", KEY).problem


def test_linked_folders_are_not_followed(tmp_path):
    hand_in(tmp_path, "ada", KEY)
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / master(KEY).assignment).symlink_to(tmp_path / "ada" / master(KEY).assignment)
    assert "symbolic link" in read(tmp_path, "bob", KEY).problem
    (tmp_path / "eve").symlink_to(tmp_path / "ada")
    assert "symbolic link" in read(tmp_path, "eve", KEY).problem
    found, refused = find(tmp_path)
    assert found == [("ada", KEY), ("bob", KEY)]
    assert len(refused) == 1 and "eve" in refused[0] and "symbolic link" in refused[0]


def test_a_file_beside_the_students_folders_is_reported_and_what_a_mac_s_zip_adds_is_nobody(tmp_path):
    hand_in(tmp_path, "ada", KEY)
    (tmp_path / "__MACOSX/01_policy_loss").mkdir(parents=True)
    (tmp_path / "__MACOSX/01_policy_loss/._policy_loss.ipynb").write_bytes(b"\0")
    for name in ("bob_4711_policy_loss.ipynb", ".DS_Store"):
        (tmp_path / name).write_text("")
    found, (line,) = find(tmp_path)
    assert found == [("ada", KEY)]
    assert line.startswith(
        f"{tmp_path / 'bob_4711_policy_loss.ipynb'} is not graded: it is no folder. A notebook belongs"
    )


def test_work_that_lies_under_no_assignments_name_is_reported(tmp_path):
    """Nobody would miss it: the table shows it as not handed in."""
    hand_in(tmp_path, "ada", KEY)
    names = ["01_Policy_Loss", "policy_loss", "policy_loss.ipynb", os.fsdecode(b"\xff")]
    for name in (*names, "06_train_gsm8k", ".DS_Store"):
        (tmp_path / "ada" / name).mkdir()
    found, refused = find(tmp_path)
    assert found == [("ada", KEY)] and len(refused) == len(names)
    for name, line in zip(names, refused):
        assert line.startswith(f"{printable(str(tmp_path / 'ada' / name))} is not graded: no assignment has this name.")
        assert line.isprintable() and "01_policy_loss, 02_value_loss" in line


@pytest.mark.parametrize(
    "student", ["Łukasz", "a b", "o'brien", "a(1)", "x@y.edu", "a+b", "{x}", "名", "%s", "a" * 128]
)
def test_odd_names_are_students(tmp_path, student):
    hand_in(tmp_path, student, KEY)
    assert find(tmp_path) == ([(student, KEY)], [])
    assert read(tmp_path, student, KEY).problem == ""


@pytest.mark.parametrize(
    "student",
    [
        "<script>",
        "a[1]",
        "a*",
        "a?",
        "a\nb",
        "\x1b[31m",
        " a",
        "a ",
        "\u202eada",
        ".ada",
        "-rf",
        "=1+1",
        "@SUM(1)",
        "a,b",
        "a;b",
        'a"b',
        "+1",
        "a#1",
        "Jose\u0301",
        "a" * 129,
        os.fsdecode(b"\xff"),
    ],
)
def test_other_names_are_reported_in_one_line_and_stop_nobody(tmp_path, student):
    hand_in(tmp_path, student, KEY)
    hand_in(tmp_path, "ada", KEY)
    found, (line,) = find(tmp_path)
    assert found == [("ada", KEY)]
    assert line.isprintable() and "is not graded" in line


def test_a_disk_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    """An error in the middle of a file has no name of a file with it."""
    hand_in(tmp_path, "ada", KEY)
    monkeypatch.setattr(submission, "_bytes", Mock(side_effect=OSError(5, "Input/output error")))
    assert read(tmp_path, "ada", KEY).problem == "The file cannot be read: Input/output error."


def test_a_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    for student in ("ada", "bob"):
        hand_in(tmp_path, student, KEY)

    def listdir(folder):
        if folder == tmp_path / "bob":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    listed = os.listdir
    monkeypatch.setattr(submission.os, "listdir", listdir)  # since root reads everything
    found, (line,) = find(tmp_path)
    assert (
        found == [("ada", KEY)] and line == f"{tmp_path / 'bob'} is not graded: it cannot be read (Permission denied)."
    )


def test_find_takes_the_graded_assignments_only(tmp_path):
    for key in ("gae", KEY):
        hand_in(tmp_path, "ada", key)
    (tmp_path / "ada/06_train_gsm8k").mkdir()
    (tmp_path / ".ipynb_checkpoints/01_policy_loss").mkdir(parents=True)
    assert find(tmp_path) == ([("ada", KEY), ("ada", "gae")], [])
    assert find(tmp_path / "nowhere") == ([], [])
    assert list(ASSIGNMENTS.values()) == list(EXERCISES)


@pytest.mark.parametrize(("seconds", "year"), [(2**33, "2242-"), (10**15, "9999-"), (-(10**15), "1970-")])
def test_a_folder_of_the_far_future_or_past_has_a_date(tmp_path, monkeypatch, seconds, year):
    hand_in(tmp_path, "ada", KEY)
    monkeypatch.setattr(submission.os, "lstat", lambda _: SimpleNamespace(st_mtime=float(seconds)))
    assert submission.modified(tmp_path).startswith(year)


def test_a_receipt_is_taken_as_far_as_it_can_be_used(tmp_path):
    folder = hand_in(tmp_path, "ada", KEY)
    assert receipt(tmp_path, "ada", KEY) == submission.Receipt("", "", submission.modified(folder))
    (folder / "timestamp.txt").write_text("2026-11-22 21:58:14.187512 UTC\n")
    (folder / "submission_secret.txt").write_text("s3cret")
    found = receipt(tmp_path, "ada", KEY)
    assert (found.timestamp, found.secret) == ("2026-11-22 21:58:14.187512 UTC", "s3cret")
    for forged in (
        "yesterday",
        "99999-99-99",
        "1 2 3",
        "x" * 2000,
        "9" * 900,
        "2026-01-01 " * 50,
        "\x00",
        "9" * 34 + "h",
        "0001-01-01 00:00:00 UTC",
        "9999-12-31 23:59:59 UTC",
    ):
        (folder / "timestamp.txt").write_text(forged)
        assert receipt(tmp_path, "ada", KEY).timestamp == "", forged
    (folder / "timestamp.txt").unlink()
    (folder / "timestamp.txt").symlink_to("/etc/hostname")
    (folder / "submission_secret.txt").write_bytes(b"\xff")
    assert receipt(tmp_path, "ada", KEY) == submission.Receipt("", "", submission.modified(folder))
    assert receipt(tmp_path, "bob", KEY) == submission.Receipt("", "", "")


def test_a_newer_hand_in_that_comes_while_one_is_read_is_newer_than_the_receipt(tmp_path, monkeypatch):
    folder, notebook = hand_in(tmp_path, "ada", KEY), submission._notebook
    (folder / "timestamp.txt").write_text("2026-11-22 10:00:00 UTC")

    def collected_meanwhile(raw, key):
        (folder / "timestamp.txt").write_text("2026-11-23 10:00:00 UTC")
        return notebook(raw, key)

    monkeypatch.setattr(submission, "_notebook", collected_meanwhile)
    assert read(tmp_path, "ada", KEY).receipt.timestamp == "2026-11-22 10:00:00 UTC"


# ------------------------------------------------------------------ what was tried


def test_attempts_on_the_tests_are_listed(tmp_path):
    data = notebook(KEY)
    more_points(data)
    cell(data, "policy_loss_masking")["source"] = "pass"
    cell(data, "policy_loss_gradient")["metadata"]["tags"] = ["skip-execution"]
    cell(data, "policy_loss_metrics")["metadata"]["nbgrader"]["locked"] = False
    data["cells"].remove(cell(data, "policy_loss_worked_example"))
    own_cells(data)
    cell(data, KEY)["metadata"]["nbgrader"]["points"] = 5
    cell(data, KEY)["metadata"]["tags"] = ["raises-exception"]
    assert read_one(tmp_path, data).tampering == (
        f"cell number {LAST + 1} is marked as graded: extra",
        "solution cell policy_loss has tags: raises-exception",
        "solution cell policy_loss is marked as graded",
        "test cell policy_loss_clipping has 1000 points instead of 3",
        "test cell policy_loss_gradient has tags: skip-execution",
        "test cell policy_loss_masking was edited",
        "test cell policy_loss_metrics is marked differently",
        "test cell policy_loss_worked_example is gone",
    )


def test_files_that_would_shadow_or_configure_something_are_listed(tmp_path):
    folder = hand_in(tmp_path, "ada", KEY)
    for name in (
        "torch.py",
        "course_utils.py",
        "sitecustomize.py",
        "evil.pth",
        "notes.txt",
        "policy_loss.py",
        "my_plots.py",
        "second.ipynb",
    ):
        (folder / name).write_text("raise SystemExit")
    (folder / "numpy").mkdir()
    (folder / "gradebook").symlink_to("/work")
    assert read(tmp_path, "ada", KEY).tampering == (
        "course_utils.py shadows a module",
        "evil.pth would configure a tool that ran in the folder",
        "gradebook is a symbolic link",
        "numpy shadows a module",
        "second.ipynb is another notebook",
        "sitecustomize.py would configure a tool that ran in the folder",
        "torch.py shadows a module",
    )


@pytest.mark.parametrize(
    "source, words",
    [
        ("import __main__", "imports __main__ (line 1)"),
        ("import os.path as p", "imports os.path (line 1)"),
        ("def f():\n    from subprocess import run", "imports from subprocess (line 2)"),
        ("from . import value_loss", "imports from . (line 1)"),
        ("open('/etc/passwd')", "uses open (line 1)"),
        ("\neval('1')", "uses eval (line 2)"),
        ("__import__('o' + 's')", "uses __import__ (line 1)"),
        ("f.__globals__['x']", "uses __globals__ (line 1)"),
        ("torch.allclose = lambda *a: True", "changes torch…allclose (line 1)"),
        ("nn.functional.softmax = None", "changes nn…softmax (line 1)"),
        ("torch.load('x')", "uses load (line 1)"),
    ],
)
def test_what_a_solution_reaches_for_is_listed(source, words):
    assert tampering.in_source(source) == (f"the solution {words}",)


@pytest.mark.parametrize("source", ["f(x).data = 1", "del x[0].grad", "f(x).load", "def f(:", "x = 1\x00"])
def test_what_a_solution_does_to_its_own_is_not_listed_and_stops_nothing(source):
    assert tampering.in_source(source) == ()


@pytest.mark.parametrize("key", EXERCISES)
def test_the_courses_own_solutions_try_nothing(key):
    assert tampering.in_source(solution_source(key)) == ()


def test_each_attempt_is_bounded_and_printable(tmp_path):
    data = notebook(KEY)
    cell(data, "policy_loss_masking")["metadata"]["tags"] = ["\x1b[2J\u202e" + "x" * 100_000]
    (line,) = read_one(tmp_path, data).tampering
    assert len(line) < 250 and line.isprintable()


def test_attempts_are_bounded(tmp_path):
    data = notebook(KEY)
    data["cells"] += [
        {"cell_type": "code", "source": "", "metadata": {"nbgrader": {"grade": True, "grade_id": str(n)}}}
        for n in range(900)
    ]
    cell(data, KEY)["source"] = "\n".join(f"import os.a{n}" for n in range(1000))
    folder = hand_in(tmp_path, "ada", KEY, data)
    for number in range(100):
        (folder / f"torch.{number}.py").write_text("")
    found = read(tmp_path, "ada", KEY).tampering
    assert len(found) == 3 * tampering.MOST


@pytest.mark.parametrize(
    "zone, hour",
    [("UTC", 10), ("CET", 9), ("Europe/Berlin", 9), ("EST5EDT", 15), ("+0100", 9), ("-03", 13), ("+05:30", 4.5)],
)
def test_a_time_zone_is_a_name_or_a_number(zone, hour):
    assert moment(f"2026-11-22 10:00:00.5 {zone}") == datetime(2026, 11, 22, 0, 0, 0, 500_000) + timedelta(hours=hour)


@pytest.mark.parametrize(
    "zone", ["/tmp/zone", ":/tmp/zone", "../../tmp/zone", "Europe/../../../tmp/zone", "é", "\udcff"]
)
def test_and_never_a_path(zone, monkeypatch):
    """dateutil would open it."""
    monkeypatch.setattr(submission, "parse_utc", lambda text: pytest.fail(text))
    assert moment(f"2026-11-22 10:00:00 {zone}") is None
