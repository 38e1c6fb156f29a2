"""Notebook 6 and the command line: the same run, from a notebook and from a terminal."""

import json
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import nbformat
import papermill
import pytest
from jupyter_client import KernelManager
from nbformat.v4 import new_code_cell, new_notebook
from transformers import AutoModelForCausalLM

from course_utils import run_notebook, train
from course_utils.config import load_config
from course_utils.export import ExportError
from course_utils.metrics import read_metrics
from course_utils.train import main
from tests import warm
from tests.conftest import ROOT

NOTEBOOK = "notebooks/06_train_gsm8k/train_gsm8k.ipynb"


@pytest.mark.slow
def test_the_training_notebook_leaves_everything_in_the_runs_folder(small_run, solutions, tmp_path):
    done = subprocess.run(
        [*warm.COMMAND, "-m", "course_utils.run_notebook", NOTEBOOK, "--exercises", str(solutions), *small_run()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "run"
    assert "held-out accuracy" in done.stdout
    told = "metrics.jsonl training.png samples_before.jsonl effective_config.yaml step_* final train_gsm8k.ipynb"
    assert all(str(folder / name) in done.stdout for name in told.split())
    assert "PPO steps" in done.stderr and "warning" not in done.stderr.lower()
    assert {
        "train_gsm8k.ipynb",
        "train_gsm8k.html",
        "training.png",
        "metrics.jsonl",
        "effective_config.yaml",
        "samples_before.jsonl",
        "samples_after.jsonl",
        "step_2",
        "step_3",
        "final",
    } <= {path.name for path in folder.iterdir()}
    page = (folder / "train_gsm8k.html").read_text()
    assert 'alt="PPO step 3: reward' in page and "Before" in page and "advantage" in page
    assert "The KL runs away" in page and "Not to be compared with the course's run" in page
    assert len(dashboards(folder / "train_gsm8k.ipynb")) == 1  # shown anew in place, not one below the other


def dashboards(notebook):
    """The HTML of the live figures in an executed notebook."""
    pages = [
        output.get("data", {}).get("text/html", "")
        for cell in nbformat.read(notebook, 4).cells
        for output in cell.get("outputs", [])
    ]
    return [page for page in pages if "<progress" in page]


@pytest.mark.slow
def test_the_training_notebook_trains_in_two_processes(small_run, solutions, tmp_path):
    with socket.socket() as other:  # somebody else's training, on the port that Accelerate takes by default
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # it is taken already
            other.bind(("127.0.0.1", 29500))
            other.listen()
        papermill.execute_notebook(
            ROOT / NOTEBOOK,
            tmp_path / "executed.ipynb",
            cwd=ROOT,
            progress_bar=False,
            execution_timeout=250,
            parameters={
                "EXERCISES": str(solutions),
                "NUM_PROCESSES": 2,
                "OVERRIDES": small_run("training.total_ppo_steps=2", "training.eval_interval=2"),
            },
        )
    folder = tmp_path / "run"
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2]
    [figure] = dashboards(tmp_path / "executed.ipynb")
    assert "step 2 of 2" in figure and 'alt="PPO step 2: reward' in figure
    assert not any(path.name.startswith("run-") for path in tmp_path.iterdir())  # one run, not one a process
    AutoModelForCausalLM.from_pretrained(folder / "final")


@pytest.fixture
def kernel():
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str((ROOT / NOTEBOOK).parent))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_stopping_the_training_cell_keeps_the_run_usable(small_run, solutions, tmp_path, kernel):
    """The cells below work on the model as it is; the training cell, run again, goes on with the next step. All of it
    with stand-ins for four functions."""
    (tmp_path / "mine").mkdir()
    shutil.copy(solutions / "policy_loss.py", tmp_path / "mine")
    manager, client = kernel
    overrides = small_run("training.total_ppo_steps=4", "training.eval_interval=4", "training.save_interval=4")
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / NOTEBOOK, 4).cells if cell.cell_type == "code"}
    cells["parameters"] += f"\nEXERCISES, STAND_INS, OVERRIDES = {str(tmp_path / 'mine')!r}, True, {overrides}"
    shown = {}

    def execute(name, stop_at=None):
        """Runs a cell, and interrupts the kernel when it shows `stop_at`; gives what it prints or shows at last."""
        pages = []

        def hook(message):
            page = message["content"].get("data", {}).get("text/html", "") or message["content"].get("text", "")
            pages.append(page)
            if stop_at and stop_at in page and "stopped" not in page:
                manager.interrupt_kernel()

        reply = client.execute_interactive(cells[name], output_hook=hook, timeout=120)["content"]
        assert reply["status"] == "ok", (name, reply)
        shown[name] = next(filter(None, reversed(pages)), "")
        return shown[name]

    names = list(cells)
    for name in names[: names.index("train")]:
        execute(name)
    assert shown["functions"].count("yours") == 1 and shown["functions"].count("stand-in:") == 4
    stopped = execute("train", stop_at="step 2 of 4")
    assert "step 2 of 4: stopped" in stopped and 'alt="PPO step 2' in stopped
    for name in names[names.index("train") + 1 :]:
        execute(name)
    assert "compute_gae_advantages is a stand-in" in shown["reference"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run/step_2")
    finished = execute("train")
    assert "step 4 of 4" in finished and "stopped" not in finished
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4]
    assert not (tmp_path / "run-2").exists()


@pytest.mark.slow
def test_a_failing_cell_is_said_in_one_message(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["run_notebook", NOTEBOOK, "--exercises", str(tmp_path / "nothing"), *small_run()])
    with pytest.raises(SystemExit, match="01_policy_loss/policy_loss.ipynb") as stopped:
        run_notebook.main()
    assert "Traceback" not in str(stopped.value)


@pytest.mark.slow
def test_a_notebook_that_does_not_train_is_said(small_run, solutions, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = ["run_notebook", str(tmp_path / "other.ipynb"), "--exercises", str(solutions), *small_run()]
    monkeypatch.setattr(sys, "argv", given)
    (tmp_path / "other.ipynb").write_text("# no notebook")
    with pytest.raises(SystemExit, match="other.ipynb is no notebook; .*06_train_gsm8k"):
        run_notebook.main()
    cells = [new_code_cell("CONFIG = EXERCISES = OVERRIDES = None", metadata={"tags": ["parameters"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "other.ipynb")
    with pytest.raises(SystemExit, match="other.ipynb has trained nothing.*06_train_gsm8k. See .*running_other.ipynb"):
        run_notebook.main()


def test_no_place_for_the_executed_notebook_is_said_in_one_message(small_run, solutions, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    place = f"training.output_dir={tmp_path / 'file' / 'run'}"
    monkeypatch.setattr(sys, "argv", ["run_notebook", NOTEBOOK, "--exercises", str(solutions), *small_run(), place])
    with pytest.raises(SystemExit, match="error: could not write .*/file/.running_.*training.output_dir"):
        run_notebook.main()


def test_the_training_notebook_is_plain_source():
    notebook = nbformat.read(ROOT / NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 15
            assert all(len(line) <= 88 for line in cell.source.splitlines())
        assert all(len(line) <= 120 for line in cell.source.splitlines())


def test_a_change_of_the_settings_is_not_taken_for_a_run_that_goes_on():
    [train] = [cell.source for cell in nbformat.read(ROOT / NOTEBOOK, 4).cells if cell.id == "train"]
    [line] = [line for line in train.splitlines() if line.startswith("assert")]
    config = ROOT / "configs/config_debug.yaml"
    cell = {"load_config": load_config, "CONFIG": config, "OVERRIDES": [], "cfg": load_config(config)}
    exec(line, cell)
    with pytest.raises(AssertionError, match="OVERRIDES changed"):
        exec(line, cell | {"OVERRIDES": ["ppo.lam=0"]})


def test_the_command_line_trains_and_goes_on(small_run, solutions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def trained(*overrides: str) -> tuple[str, str]:
        """What it prints, and its progress bar."""
        command = "train", "--config", "configs/config_debug.yaml", "--exercises", str(solutions)
        monkeypatch.setattr(sys, "argv", [*command, *small_run(*overrides)])
        main()
        return capsys.readouterr()

    out, bar = trained("training.total_ppo_steps=1")
    assert "held-out accuracy" in out and "1/1 [" in bar and ", reward 0." in bar
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text())["step"] == 1
    assert (tmp_path / "run/training.png").stat().st_size > 10_000
    out, bar = trained("training.total_ppo_steps=2", "training.eval_interval=1", "training.resume=auto")
    assert "1/2 [" in bar and "2/2 [" in bar


@pytest.mark.parametrize(
    "command, runs, given",
    [(train, "run", ()), (run_notebook, "execute", (Path(NOTEBOOK),))],
)
def test_solutions_are_exported_first_and_what_stops_that_is_one_clear_message(command, runs, given, monkeypatch):
    called = []
    monkeypatch.setattr(train, "export_all", lambda *given: called.append(given))
    monkeypatch.setattr(command, runs, lambda *given: called.append(given) or Path("run"))
    monkeypatch.setattr(command, "summary", str)
    arguments = [*map(str, given), "--config", "mine.yaml", "--solutions", "ppo.epochs=1"]
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()
    assert called == [(Path(), train.SOLUTIONS), (*given, "mine.yaml", train.SOLUTIONS, ["ppo.epochs=1"])]
    for error in (ExportError("unfinished"), OSError("no space")):
        monkeypatch.setattr(train, "export_all", Mock(side_effect=error))
        with pytest.raises(SystemExit, match=f"^error: {error}$"):
            command.main()
    arguments[-2:] = ["--exercises", train.SOLUTIONS]  # what is there already, by whomever
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()
    assert called[2:] == [(*given, "mine.yaml", train.SOLUTIONS, [])]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--config", "configs/none.yaml"], "configs/none.yaml"),
        (["--config", "configs/config_debug.yaml", "ppo.clip_rato=0.1"], "clip_ratio"),
        (["--config", "configs/config_debug.yaml", "training.device=cuda:7"], "training.device=cuda:7"),
        (["--config", "configs/config_debug.yaml", "model.name=nobody/nothing"], "model.name=embedded"),
        (["--config", "configs/config_debug.yaml", "dataset.name=nobody/nothing"], "nobody/nothing"),
        (["--config", "configs/config_debug.yaml", "wandb.report_to_wandb=true"], "pip install wandb"),
    ],
)
def test_bad_input_is_one_clear_message(arguments, complaint, solutions, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        sys, "argv", ["train", *arguments, "--exercises", str(solutions), f"training.output_dir={tmp_path / 'run'}"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith("error: ") and complaint in str(stopped.value)
