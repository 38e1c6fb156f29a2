"""Notebook 6 and the command line: the same run, from a notebook and from a terminal."""
import json
import socket
import subprocess
import sys
from contextlib import suppress

import nbformat
import papermill
import pytest
from transformers import AutoModelForCausalLM

from course_utils.metrics import read_metrics
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
    assert len(dashboards(folder / "train_gsm8k.ipynb")) == 1  # shown anew in place, not one below the other


def dashboards(notebook):
    """The HTML of the live figures in an executed notebook."""
    pages = [output.get("data", {}).get("text/html", "")
             for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
    return [page for page in pages if "<progress" in page]


@pytest.mark.slow
def test_the_training_notebook_trains_in_two_processes(small_run, solutions, tmp_path):
    with socket.socket() as other:  # somebody else's training, on the port that Accelerate takes by default
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # it is taken already
            other.bind(("127.0.0.1", 29500))
            other.listen()
        papermill.execute_notebook(
            ROOT / NOTEBOOK, tmp_path / "executed.ipynb", cwd=ROOT, progress_bar=False, execution_timeout=250,
            parameters={"EXERCISES": str(solutions), "NUM_PROCESSES": 2,
                        "OVERRIDES": small_run("training.total_ppo_steps=2", "training.eval_interval=2")})
    folder = tmp_path / "run"
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2]
    [figure] = dashboards(tmp_path / "executed.ipynb")
    assert "step 2 of 2" in figure and 'alt="PPO step 2: reward' in figure
    assert not any(path.name.startswith("run-") for path in tmp_path.iterdir())  # one run, not one a process
    AutoModelForCausalLM.from_pretrained(folder / "final")


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
