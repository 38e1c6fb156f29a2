"""Weights that are shared out learn what whole ones learn, and their checkpoints are anybody's."""

import shutil
import subprocess
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from course_utils import accelerator, fsdp
from course_utils.config import ConfigError, load_config
from course_utils.exercises import load_exercises
from course_utils.metrics import read_metrics
from course_utils.optimizer import make_optimizer
from course_utils.policy import ROWS_TOGETHER, load_actor
from course_utils.trainer import Trainer
from tests.conftest import ROOT
from tests.test_resume import without_times

SHARED = ["accelerate.commands.launch", "--config_file", "configs/accelerate/fsdp.yaml"]
WHOLE = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def train(launcher: list[str], overrides: list[str]) -> str:
    """What a run of two processes prints."""
    command = [*launcher, "-m", "course_utils.train", "--config", "configs/config_debug.yaml"]
    run = subprocess.run(
        [sys.executable, "-m", *command, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=250
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_two_processes_that_share_the_weights_out_learn_what_two_whole_models_learn(small_run, solutions, tmp_path):
    # Responses of real lengths, 16 of them in a process's mini-batch: then the processes sample for different times,
    # and one of them may have no padding where the other has.
    def overrides(name: str, *more: str) -> list[str]:
        settings = "ppo.rollout_samples=32", "ppo.mini_batch_size=32", "ppo.learning_rate=1e-3"
        folder = f"training.output_dir={tmp_path / name}"
        return ["--exercises", str(solutions), *small_run(*settings, folder, *more)]

    said = train(SHARED, overrides("shared"))
    assert said.count("FSDP: a model of 4 layers, sharded over 2 processes") == 2  # the actor, the reference
    assert "FSDP" not in train(WHOLE, overrides("whole"))
    shared, whole = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("shared", "whole"))
    assert len(shared) == len(whole) == 3
    for ours, theirs in zip(shared, whole):
        for name in ours.keys() - {name for name in ours if name.startswith("time/")}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), (ours["step"], name)

    # A checkpoint of shares is one of whole tensors, each written once.
    a, b = (load_file(tmp_path / name / "final/model.safetensors") for name in ("shared", "whole"))
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=1e-4)

    # Stopped after its second step, the run goes on as if it had not been.
    stopped = tmp_path / "shared"
    for name in ("step_3", "final"):
        shutil.rmtree(stopped / name)
    train(SHARED, overrides("shared", "training.resume=auto"))
    assert without_times(read_metrics(stopped / "metrics.jsonl")) == without_times(shared)

    # And one process alone goes on from it.
    alone = load_config(ROOT / "configs/config_debug.yaml", overrides("shared", "training.resume=auto")[2:])
    for name in ("step_3", "final"):
        shutil.rmtree(stopped / name)
    went_on = Trainer(alone, load_exercises(solutions))
    assert went_on.step == 2
    moments = went_on.optimizer.state_dict()["state"]
    saved = torch.load(stopped / "step_2/optimizer.pt", weights_only=True)["optimizer"]["state"]
    assert all(torch.equal(moments[i]["exp_avg_sq"], saved[i]["exp_avg_sq"]) for i in saved)
    assert [line["step"] for line in went_on.train()] == [3]


@pytest.mark.slow
def test_in_half_precision_too_the_copy_says_what_the_shared_model_says(small_run, solutions, tmp_path):
    # The reference's layers hold half-precision matrices beside float32 norms.
    half = "model.torch_dtype=bfloat16", "training.gradient_checkpointing=true", "training.total_ppo_steps=2"
    train(SHARED, ["--exercises", str(solutions), *small_run(*half, f"training.output_dir={tmp_path / 'half'}")])
    first, second = read_metrics(tmp_path / "half/metrics.jsonl")
    assert abs(first["rollout/kl"]) < 1e-6 < abs(second["rollout/kl"])
    assert second["params/max_ratio_deviation"] < 1e-5


def test_accelerate_reads_the_settings_for_fsdp():
    settings = load_config_from_file(str(ROOT / "configs/accelerate/fsdp.yaml"))
    assert settings.distributed_type == DistributedType.FSDP and settings.num_processes == 2
    assert settings.fsdp_config == {"fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}
    assert settings.mixed_precision == "no"


@pytest.mark.parametrize("setting", ["model.lora=4", "model.torch_dtype=float16"])
def test_what_fsdp_cannot_do_is_refused_before_anything_is_loaded(setting, small_config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(accelerator.Accelerator, "num_processes", 2)
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}.*FSDP"):
        accelerator.make_accelerator(small_config(setting))


def test_weights_that_only_one_process_would_load_are_refused(small_config, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")  # accelerate's own default
    with pytest.raises(ConfigError, match="fsdp_cpu_ram_efficient_loading.*fsdp.yaml"):
        fsdp.check(small_config())


def test_one_process_shares_nothing_out(small_config, solutions, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    run = Trainer(small_config("model.lora=4"), load_exercises(solutions))
    assert fsdp.shards(run.accelerator) == 1 and run.sampler is run.unwrapped


def test_processes_take_equally_many_passes_whether_or_not_there_is_padding(small_config, monkeypatch):
    actor = load_actor(small_config())
    passes, run = [], actor._run
    monkeypatch.setattr(actor, "_run", lambda ids, *args: passes.append(len(ids)) or run(ids, *args))
    ids, full = torch.randint(2, 600, (2 * ROWS_TOGETHER, 6)), torch.ones(2 * ROWS_TOGETHER, 6, dtype=torch.long)
    padded = full.clone()
    padded[0, :2] = 0
    at_once = actor(ids, full)
    assert passes == [2 * ROWS_TOGETHER]
    actor.sharded = True
    for mask in (padded, full):
        passes.clear()
        outputs = actor(ids, mask)
        assert passes == [ROWS_TOGETHER] * 2
    torch.testing.assert_close(outputs, at_once)


def test_8_bit_adam_is_left_out_and_said(small_config):
    actor, said = load_actor(small_config()), []
    actor.sharded = True
    make_optimizer(small_config("ppo.use_8bit_adam=true"), actor, torch.device("cuda"), said.append)
    assert said == ["ppo.use_8bit_adam does not know FSDP's weights: going on with 32-bit AdamW"]
