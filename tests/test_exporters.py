"""grades.csv, and the CSV files for Canvas and Moodle."""

import csv
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from nbgrader.plugins import CsvExportPlugin

from autograder.exporters import CanvasExport, GradesExport, MoodleExport, harmless
from tests.class_of_students import new_course


@pytest.fixture
def gradebook(tmp_path):
    course = new_course(tmp_path)
    with Gradebook(f"sqlite:///{course.db}", "tinier_zero") as book:
        book.add_student("ada", first_name="Ada", last_name="Lovelace", email="ada@example.org", lms_user_id="101")
        book.add_student("=cmd|' /C calc'!A0", first_name="@SUM(1)", last_name="-2+3", email="+x@example.org")
        book.add_student('łucja, "q"')
        book.add_assignment("06_train_gsm8k")
        book.add_submission("01_policy_loss", "ada")
        book.find_grade("policy_loss_clipping", "policy_loss", "01_policy_loss", "ada").auto_score = 3
        book.find_grade("policy_loss_masking", "policy_loss", "01_policy_loss", "ada").manual_score = 1.5
        book.find_submission_notebook("policy_loss", "01_policy_loss", "ada").late_submission_penalty = 1
        book.add_submission("02_value_loss", "ada")
        book.find_submission_notebook("value_loss", "02_value_loss", "ada").late_submission_penalty = 5
        book.db.commit()
        yield book


def exported(plugin, gradebook) -> list[list[str]]:
    plugin.export(gradebook)
    text = Path(plugin.to).read_text(encoding="utf-8")
    assert all(line.startswith('"') and line.endswith('"') for line in text.splitlines())  # also for who splits at ;
    return list(csv.reader(text.splitlines()))


def test_grades_csv_has_nbgrader_s_columns_and_numbers_and_quotes_what_nbgrader_leaves_bare(gradebook, tmp_path):
    ours, theirs = ({"to": str(tmp_path / name), "student": ["ada"]} for name in ("ours.csv", "theirs.csv"))
    CsvExportPlugin(**theirs).export(gradebook)
    expected = list(csv.reader(Path(theirs["to"]).read_text().splitlines()))
    assert exported(GradesExport(**ours), gradebook) == [row for row in expected if row[0] != "06_train_gsm8k"]
    everybody = exported(GradesExport(to=str(tmp_path / "grades.csv")), gradebook)
    assert {len(row) for row in everybody} == {11} and len(everybody) == 1 + 5 * 3
    assert everybody[3][:4] == ["01_policy_loss", "", "", 'łucja, "q"']


def test_canvas(gradebook, tmp_path):
    assert exported(CanvasExport(to=str(tmp_path / "canvas.csv")), gradebook) == [
        [
            "Student",
            "ID",
            "SIS User ID",
            "SIS Login ID",
            "Section",
            "01_policy_loss",
            "02_value_loss",
            "03_entropy",
            "04_gae",
            "05_minibatch_update",
        ],
        ["    Points Possible", "", "", "", "", "10", "10", "10", "10", "10"],
        ["'-2+3, @SUM(1)", "", "", "'=cmd|' /C calc'!A0", "", "", "", "", "", ""],
        ["Lovelace, Ada", "101", "", "ada", "", "3.5", "0", "", "", ""],
        ['łucja, "q"', "", "", 'łucja, "q"', "", "", "", "", "", ""],
    ]


def test_moodle_for_some(gradebook, tmp_path):
    plugin = MoodleExport(to=str(tmp_path / "moodle.csv"), assignment=["04_gae", "01_policy_loss"], student=["ada"])
    assert exported(plugin, gradebook) == [
        ["ID number", "Username", "Email address", "04_gae (of 10)", "01_policy_loss (of 10)"],
        ["101", "ada", "ada@example.org", "", "3.5"],
    ]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"assignment": ["07_none"]}, "no assignment 07_none; there are: 01_policy_loss"),
        ({"student": ["eve"]}, "no student eve; there are: =cmd"),
        ({"to": "/nowhere/at/all.csv"}, "/nowhere/at/all.csv cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_an_exit_code(gradebook, tmp_path, monkeypatch, caplog, options, words):
    monkeypatch.chdir(tmp_path)
    plugin = CanvasExport(**options)
    plugin.log.propagate = True
    with pytest.raises(SystemExit) as caught:
        plugin.export(gradebook)
    assert caught.value.code == 1
    assert words in caplog.text
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠a"])
def test_formulas_get_an_apostrophe(cell):
    assert harmless(cell) == "'" + cell
    assert harmless("a" + cell) == "a" + cell
