"""A disk that fills while a run writes to it: a small one of memory, in a mount namespace of its own."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from course_utils.checkpoint import CheckpointError, latest
from course_utils.disk import WriteError, could_not_write
from course_utils.exercises import load_exercises
from course_utils.metrics import MetricsLog
from course_utils.trainer import Trainer
from course_utils.whole_file import write_whole
from tests.conftest import ROOT

SMALL_DISK = 'mkdir -p "$1" && mount -t tmpfs -o size=24m none "$1" && shift && exec "$@"'
FILL_IT = """
import json, os, shutil, sys
from pathlib import Path
from course_utils.config import load_config, save_config
from course_utils.evaluate import Evaluation
from course_utils.exercises import load_exercises
from course_utils.metrics import MetricsLog
from course_utils.plain_error import PlainError
from course_utils.trainer import Trainer

disk, solutions, *overrides = sys.argv[1:]
trainer = Trainer(load_config("configs/config_debug.yaml", overrides), load_exercises(solutions))
folder, config = trainer.folder, trainer.folder / "effective_config.yaml"
answers = Evaluation(0.5, 0, 1, 0.5, 0.5, 1, [{"response": "x" * 100}])
trainer.save("step_1")
trainer.log.append({"step": 1})
whole = sorted(path.name for path in folder.iterdir())

def told(room, write):
    filler = Path(disk) / "filler"
    with filler.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - room))
    try:
        write()
    except PlainError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        filler.unlink()

print(json.dumps([
    told(0, lambda: trainer.save("step_2")),
    told(2**20, lambda: trainer.save("step_2")),  # the weights take 2 MB
    told(3 * 2**20, lambda: trainer.save("step_2")),  # then the tokenizer, the optimizer
    told(0, lambda: save_config(trainer.cfg, config)),
    told(0, lambda: trainer._save_samples("samples_before.jsonl", answers)),
    told(0, lambda: trainer.log.append({"step": "x" * 5000})),  # more than the last block of the file holds
    told(0, lambda: MetricsLog(trainer.log.path, 1)),
]))
assert sorted(path.name for path in folder.iterdir()) == whole
assert load_config(config) == trainer.cfg
"""


def test_each_file_that_does_not_fit_is_named_and_what_is_there_stays(small_run, solutions, tmp_path):
    disk = tmp_path / "disk"
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", SMALL_DISK, "-", str(disk)]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace for a small disk here")
    run = subprocess.run(
        [*namespace, sys.executable, "-c", FILL_IT, disk, solutions, *small_run(f"training.output_dir={disk}/run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    *checkpoints, config, samples, line, log = json.loads(run.stdout.splitlines()[-1])
    for message in checkpoints:
        assert message.startswith(f"CheckpointError: could not write {disk}/run/step_2: the disk is full. ")
        assert f"The last good checkpoint is {disk}/run/step_1. Free some space" in message
    for name, message in (
        ("effective_config.yaml", config),
        ("samples_before.jsonl", samples),
        ("metrics.jsonl", line),
        ("metrics.jsonl", log),
    ):
        assert message.startswith(f"WriteError: could not write {disk}/run/{name}: the disk is full. Free some space")
        assert "training.output_dir" in message and message.endswith("training.resume=auto.")


def test_a_limit_that_cuts_the_weights_off_loses_nothing(small_config, solutions):
    trainer = Trainer(small_config(), load_exercises(solutions))
    trainer.save("step_1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(CheckpointError, match="step_2: .*os error 27.*step_1. Make it possible.*resume=auto"):
            trainer.save("step_2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert latest(trainer.folder).name == "step_1" and not list(trainer.folder.glob(".*"))


def test_the_disk_is_asked_before_a_cut_off_checkpoint_is_deleted(small_config, solutions, monkeypatch):
    """torch.save says no number."""
    trainer = Trainer(small_config(), load_exercises(solutions))
    partial = trainer.folder / ".step_1.partial"
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError("failed writing file")))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if partial.exists() else 2**30))
    with pytest.raises(CheckpointError, match="the disk is full. There is no earlier checkpoint."):
        trainer.save("step_1")


def test_the_error_of_a_file_that_does_not_fit_names_it(tmp_path, monkeypatch):
    """A full disk itself says no name."""

    def no_space(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(OSError) as error:
        write_whole("text", tmp_path / "a.csv")
    assert error.value.filename == str(tmp_path / "a.csv")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_metrics_line_that_does_not_fit_is_told(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(WriteError, match="could not write .*metrics.jsonl: the disk is full. Free some space"):
        log.append({"step": 1})


def test_a_used_up_quota_is_a_full_disk(tmp_path):
    message = could_not_write(tmp_path / "file", OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert "file: the disk is full. Free some space" in message


def test_two_processes_that_write_one_file_leave_it_whole(tmp_path, monkeypatch):
    path, replace = tmp_path / "file", Path.replace

    def while_another_writes(partial, target):
        monkeypatch.setattr(Path, "replace", replace)
        other = os.fork()
        if not other:
            write_whole("theirs", path)
            os._exit(0)
        assert os.waitpid(other, 0)[1] == 0 and path.read_text() == "theirs"
        replace(partial, target)

    monkeypatch.setattr(Path, "replace", while_another_writes)
    write_whole("ours", path)
    assert Path.replace is replace  # the other one did write, and what was there was replaced, not overwritten
    assert path.read_text() == "ours" and list(tmp_path.iterdir()) == [path]
