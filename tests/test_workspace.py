"""make release and make lab: what students get, and that nothing of theirs is ever overwritten."""

import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.workspace import copy_missing, main
from tests import warm

ROOT = Path(__file__).parents[1]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def lay_out(tmp_path):
    return main(
        [str(tmp_path / "workspace"), "--release", str(tmp_path / "release"), "--configs", str(tmp_path / "configs")]
    )


def test_a_workspace_mirrors_the_repository_and_keeps_what_is_there(tmp_path, capsys):
    write(tmp_path / "release/01_policy_loss/policy_loss.ipynb", "stub")
    write(tmp_path / "configs/config.yaml", "course")
    assert lay_out(tmp_path) == 0
    workspace = tmp_path / "workspace"
    mine = workspace / "notebooks/01_policy_loss/policy_loss.ipynb"
    assert files(workspace) == {
        "notebooks/01_policy_loss/policy_loss.ipynb": "stub",
        "configs/config.yaml": "course",
    }
    assert capsys.readouterr().out == f"new   {mine}\nnew   {workspace}/configs/config.yaml\n"

    mine.write_text("my work")
    write(workspace / "exercises/policy_loss.py", "exported")
    write(tmp_path / "release/01_policy_loss/policy_loss.ipynb", "stub, corrected")
    write(tmp_path / "release/02_value_loss/value_loss.ipynb", "a new one")
    assert lay_out(tmp_path) == 0
    assert files(workspace) == {
        "notebooks/01_policy_loss/policy_loss.ipynb": "my work",
        "notebooks/02_value_loss/value_loss.ipynb": "a new one",
        "configs/config.yaml": "course",
        "exercises/policy_loss.py": "exported",
    }
    assert f"kept  {mine}\n" in capsys.readouterr().out


def test_a_link_of_the_learners_is_theirs_even_if_it_leads_nowhere(tmp_path):
    write(tmp_path / "source/data.yaml", "course")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/data.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert copy_missing(tmp_path / "source", tmp_path / "target") == ([], [Path("data.yaml")])
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_checkpoints_and_caches_stay_behind(tmp_path):
    write(tmp_path / "source/04_gae/a.ipynb", "a")
    write(tmp_path / "source/04_gae/.ipynb_checkpoints/a-checkpoint.ipynb", "old")
    write(tmp_path / "source/__pycache__/a.pyc", "cache")
    assert copy_missing(tmp_path / "source", tmp_path / "target") == ([Path("04_gae/a.ipynb")], [])
    assert files(tmp_path / "target") == {"04_gae/a.ipynb": "a"}


def test_a_copy_that_breaks_off_leaves_no_half_file_to_be_kept(tmp_path, monkeypatch, capsys):
    write(tmp_path / "release/a.ipynb", "whole")
    write(tmp_path / "configs/config.yaml", "whole")

    def disk_full(source, target):
        Path(target).write_text("ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", disk_full)
    assert lay_out(tmp_path) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert files(tmp_path / "workspace") == {}
    monkeypatch.undo()
    assert lay_out(tmp_path) == 0
    assert files(tmp_path / "workspace/notebooks") == {"a.ipynb": "whole"}


def test_a_missing_release_is_an_error(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no folder"):
        copy_missing(tmp_path / "release", tmp_path / "workspace")
    assert lay_out(tmp_path) == 1
    assert str(tmp_path / "release") in capsys.readouterr().err


def test_the_release_has_the_stub_and_no_exported_solution(tmp_path):
    """make release's command on a course of two tiny notebooks, a solution exported beside each source."""
    shutil.copy(ROOT / "nbgrader_config.py", tmp_path)
    marks = {
        "grade_id": "policy_loss",
        "solution": True,
        "grade": False,
        "locked": False,
        "task": False,
        "schema_version": 3,
    }
    cell = new_code_cell(
        "def f():\n    ### BEGIN SOLUTION\n    return 'the answer'\n    ### END SOLUTION", metadata={"nbgrader": marks}
    )
    for assignment in ("01_policy_loss", "06_train_gsm8k"):
        write(tmp_path / "notebooks" / assignment / "policy_loss.py", "return 'the answer'")
        nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebooks" / assignment / "policy_loss.ipynb")
    write(tmp_path / "notebooks/06_train_gsm8k/picture.svg", "<svg/>")
    run = subprocess.run(
        [*warm.COMMAND, "-m", "nbgrader", "generate_assignment", "0[1-6]_*", "--force"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # for nbgrader_config.py's autograder
    )
    assert run.returncode == 0, run.stderr
    released = files(tmp_path / "autograder/release")
    assert sorted(released) == [
        "01_policy_loss/policy_loss.ipynb",
        "06_train_gsm8k/picture.svg",
        "06_train_gsm8k/policy_loss.ipynb",
    ]
    assert "NotImplementedError" in released["01_policy_loss/policy_loss.ipynb"]
    assert not any("the answer" in text for text in released.values())
    assert (tmp_path / "autograder/gradebook.db").exists()
    assert not (tmp_path / "gradebook.db").exists()
