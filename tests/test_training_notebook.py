"""Notebook 6 and the command line: the same run, from a notebook and from a terminal."""
import json
import subprocess
import sys

import nbformat
import pytest

from course_utils.train import main
from tests.conftest import ROOT

NOTEBOOK = "notebooks/06_train_gsm8k/train_gsm8k.ipynb"


@pytest.mark.slow
def test_the_training_notebook_leaves_everything_in_the_runs_folder(small_run, solutions, tmp_path):
    done = subprocess.run([sys.executable, "-m", "course_utils.run_notebook", NOTEBOOK, "--exercises", str(solutions),
                           *small_run()], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = tmp_path / "run"
    assert "held-out accuracy" in done.stdout and str(folder / "final") in done.stdout
    assert "PPO steps" in done.stderr
    assert {"train_gsm8k.ipynb", "train_gsm8k.html", "training.png", "metrics.jsonl", "effective_config.yaml",
            "samples_before.jsonl", "samples_after.jsonl", "step_2", "step_3", "final"} <= {
                path.name for path in folder.iterdir()}
    page = (folder / "train_gsm8k.html").read_text()
    assert 'alt="PPO step 3: reward' in page and "Before" in page
    cells = nbformat.read(folder / "train_gsm8k.ipynb", 4).cells
    dashboards = [output for cell in cells for output in cell.get("outputs", [])
                  if "PPO step" in output.get("data", {}).get("text/html", "")]
    assert len(dashboards) == 1  # drawn anew in place, not one below the other


@pytest.mark.slow
def test_a_failing_cell_is_said_in_one_message(small_run, tmp_path):
    done = subprocess.run([sys.executable, "-m", "course_utils.run_notebook", NOTEBOOK, "--exercises",
                           str(tmp_path / "nothing"), *small_run()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "01_policy_loss/policy_loss.ipynb" in done.stderr and "Traceback" not in done.stderr


def test_the_training_notebook_is_plain_source():
    notebook = nbformat.read(ROOT / NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 15
        assert all(len(line) <= 120 for line in cell.source.splitlines())


def test_the_command_line_trains(small_run, solutions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", "--config", "configs/config_debug.yaml", "--exercises", str(solutions),
                                      *small_run("training.total_ppo_steps=1")])
    main()
    out = capsys.readouterr().out
    assert "held-out accuracy" in out
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text())["step"] == 1
    assert (tmp_path / "run/training.png").stat().st_size > 10_000


@pytest.mark.parametrize("arguments, complaint", [
    (["--config", "configs/none.yaml"], "configs/none.yaml"),
    (["--config", "configs/config_debug.yaml", "ppo.clip_rato=0.1"], "clip_ratio"),
    (["--config", "configs/config_debug.yaml", "training.device=cuda:7"], "training.device=cuda:7"),
    (["--config", "configs/config_debug.yaml", "model.name=nobody/nothing"], "model.name=embedded"),
    (["--config", "configs/config_debug.yaml", "dataset.name=nobody/nothing"], "nobody/nothing"),
    (["--config", "configs/config_debug.yaml", "wandb.report_to_wandb=true"], "pip install wandb"),
])
def test_bad_input_is_one_clear_message(arguments, complaint, solutions, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "--exercises", str(solutions),
                                      f"training.output_dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith("error: ") and complaint in str(stopped.value)
