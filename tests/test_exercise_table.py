"""Notebook 6's table of the five functions, and runs with stand-ins for those that are missing."""

import re
import shutil

import nbformat
import pytest

from course_utils.config import load_config
from course_utils.exercise_table import exercise_table
from course_utils.exercises import EXERCISES, STAND_INS, ExerciseError, load_exercises, missing_exercises
from course_utils.trainer import Trainer
from tests.conftest import ROOT


@pytest.fixture
def some(solutions, tmp_path, monkeypatch):
    """A function that makes a folder with these exercises only."""
    monkeypatch.chdir(ROOT)

    def folder(*keys):
        for key in keys:
            shutil.copy(solutions / f"{key}.py", tmp_path)
        return tmp_path

    return folder


def states(table):
    return re.findall(r"✓ yours|✗ missing|stand-in", re.sub("or <code>.*?</code>", "", table))


def test_the_table_says_what_is_in_and_which_notebook_to_open(some):
    folder = some("policy_loss", "gae")
    table = exercise_table(folder)
    assert states(table) == ["✓ yours", "✗ missing", "✗ missing", "✓ yours", "✗ missing"]
    assert all(
        (f"open <code>{e.notebook}" in table) == (e.key not in ("policy_loss", "gae")) for e in EXERCISES.values()
    )
    assert states(exercise_table(folder, stand_ins=True)) == ["✓ yours", "stand-in", "stand-in", "✓ yours", "stand-in"]


def test_a_notebook_that_has_changed_since_its_export_is_said(some):
    folder = some(*EXERCISES)
    assert "has changed" not in exercise_table(folder)
    (folder / "gae.py").write_text((folder / "gae.py").read_text() + "# older\n")
    assert exercise_table(folder).count("has changed since its export") == 1
    assert "notebooks/04_gae/gae.ipynb</code> has changed" in exercise_table(folder)


def test_functions_without_their_notebooks_are_no_older_ones(some, tmp_path, monkeypatch):
    """As in Colab, where the bundle brings the functions alone."""
    folder = some(*EXERCISES)
    monkeypatch.chdir(tmp_path)
    assert states(exercise_table(folder)) == ["✓ yours"] * 5 and "has changed" not in exercise_table(folder)


def test_nothing_stands_in_unless_it_is_asked_for(some):
    folder = some("policy_loss")
    with pytest.raises(ExerciseError, match="value_loss.py, entropy.py, gae.py"):
        load_exercises(folder)
    assert [e.key for e in missing_exercises(folder)] == ["value_loss", "entropy", "gae", "minibatch_update"]


@pytest.mark.parametrize("stand_ins, state", [(False, "missing"), (True, "a stand-in")])
def test_what_is_missing_is_called_a_stand_in_only_where_one_was_asked_for(some, stand_ins, state, capsys):
    """The cell with the course's run, after the settings and before anything was trained."""
    cells = nbformat.read(ROOT / "notebooks/06_train_gsm8k/train_gsm8k.ipynb", 4).cells
    [reference] = [cell.source for cell in cells if cell.id == "reference"]
    names = {"EXERCISES": some("policy_loss"), "STAND_INS": stand_ins, "missing_exercises": missing_exercises}
    exec(reference, names | {"cfg": load_config(ROOT / "configs/config_debug.yaml")})
    first, *reasons = capsys.readouterr().out.splitlines()
    assert first == "Not to be compared with the course's run:"
    assert reasons == [f"- {e.function} is {state}" for e in EXERCISES.values() if e.key != "policy_loss"]


@pytest.mark.parametrize("keys", [(), ("policy_loss", "gae"), ("minibatch_update",), tuple(EXERCISES)])
def test_a_run_of_some_exercises_and_stand_ins(some, small_config, keys):
    """Exercise 5 imports the losses: they come from the stand-ins where they are missing."""
    exercises = load_exercises(some(*keys), stand_ins=True)
    for e in EXERCISES.values():
        function = getattr(exercises, e.function)
        assert (STAND_INS == type(STAND_INS)(function.__code__.co_filename).parent) == (e.key not in keys)
    trainer = Trainer(small_config("training.total_ppo_steps=1"), exercises)
    before = trainer.unwrapped.value_head.weight.detach().clone()
    assert [metrics["step"] for metrics in trainer.train()] == [1]
    assert (trainer.unwrapped.value_head.weight != before).any()


def test_a_broken_module_is_no_missing_one(some):
    folder = some()
    (folder / "entropy.py").write_text("def compute_entropy_loss(:\n")
    with pytest.raises(ExerciseError, match="entropy.py, line 1"):
        load_exercises(folder, stand_ins=True)
