"""Two processes learn what one learns; accelerate's settings for them."""

import importlib
import json
import re
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from course_utils import accelerator, trainer
from course_utils.config import ConfigError, load_config
from course_utils.exercises import load_exercises
from course_utils.metrics import read_metrics
from course_utils.trainer import Trainer
from tests.conftest import ROOT

GPU_PAGE = (ROOT / "docs/gpu.md").read_text()


@pytest.mark.slow
def test_two_cpu_processes_give_the_result_of_one(small_run, small_config, solutions, tmp_path):
    # Responses of one length and one mini-batch an epoch: then the mean over processes of their means over tokens
    # is the mean over all tokens, and the shuffling within a process changes nothing.
    settings = (
        "generation.min_new_tokens=40",
        "dataset.max_gen_length=40",
        "ppo.mini_batch_size=16",
        "ppo.learning_rate=1e-3",
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",  # any free port
            "--nproc_per_node=2",
            "-m",
            "course_utils.train",
            "--config",
            "configs/config_debug.yaml",
            "--exercises",
            str(solutions),
            *small_run(*settings, f"training.output_dir={tmp_path / 'two'}"),
        ],
        cwd=ROOT,
        check=True,
        timeout=250,
    )
    two = read_metrics(tmp_path / "two/metrics.jsonl")
    one = list(Trainer(small_config(*settings), load_exercises(solutions)).train())
    assert len(one) == len(two) == 3
    # Some answers are right: rewards would change if a response met the problem of another row.
    assert sum(line["rollout/accuracy"] for line in one) > 0
    for alone, shared in zip(one, two):
        for name in alone.keys() - {name for name in alone if name.startswith("time/")}:
            assert shared[name] == pytest.approx(alone[name], rel=2e-3, abs=2e-4), (alone["step"], name)


def test_the_figures_of_the_page_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("processes")
    lines = [json.loads(line) for line in benchmark.RESULTS.read_text().splitlines()]
    seconds = [re.search(r"\| ([\d.]+) \(", row).group(1) for row in benchmark.report(lines).splitlines()[2:]]
    one, two, shared, threads = (f"{float(number):.1f} s with" for number in seconds)
    text = " ".join(GPU_PAGE.split())
    assert f"takes {one} one process" in text and f", {shared} two that share" in text
    assert f"{two} two (" in text and f"{threads} one process of two threads" in text


def test_accelerate_reads_the_settings_for_several_gpus():
    settings = load_config_from_file(str(ROOT / "configs/accelerate/several_gpus.yaml"))
    assert settings.distributed_type == DistributedType.MULTI_GPU and settings.num_processes == 2
    assert settings.mixed_precision == "no" and not settings.use_cpu  # precision is model.torch_dtype's affair


@pytest.mark.parametrize("command", re.findall(r"accelerate launch (.*?)\n```", GPU_PAGE, re.DOTALL))
def test_the_commands_for_several_gpus_share_their_mini_batches_out(command):
    words = command.replace("\\\n", " ").split()
    processes, config = (words[words.index(name) + 1] for name in ("--num_processes", "--config"))
    ppo, alone = (load_config(ROOT / config, overrides).ppo for overrides in ([w for w in words if "=" in w], []))
    assert ppo.mini_batch_size % int(processes) == ppo.rollout_samples % int(processes) == 0
    # An optimizer step means as many responses as that of one GPU.
    assert ppo.mini_batch_size * ppo.gradient_accumulation_steps == (
        alone.mini_batch_size * alone.gradient_accumulation_steps
    )


def test_accelerates_own_settings_do_not_change_the_precision_and_gradients_are_held_once(small_config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate config` may have said for all programs
    AcceleratorState._reset_state(reset_partial_state=True)
    made = accelerator.make_accelerator(small_config())
    assert made.mixed_precision == "no" and made.native_amp is False
    assert made.ddp_handler.gradient_as_bucket_view


def test_a_process_scores_as_many_rows_at_a_time_as_it_updates(small_config, solutions, monkeypatch):
    run, chunks = Trainer(small_config(), load_exercises(solutions)), []
    buffer, _ = run.rollout(1)
    monkeypatch.setattr(Trainer, "cfg_of_process", small_config("ppo.mini_batch_size=2"))  # of 4 processes
    monkeypatch.setattr(trainer, "score_logprobs", lambda _model, rows, chunk: chunks.append(chunk) or rows["logprobs"])
    run.reference_logprobs(buffer)
    assert chunks == [2]


@pytest.mark.parametrize("kind", accelerator.OTHER_SHARDING)
def test_other_ways_to_share_the_weights_out_are_refused(kind, small_config, monkeypatch):
    class Sharing(Accelerator):
        distributed_type = kind  # which a CPU cannot be set to

    monkeypatch.setattr(accelerator, "Accelerator", Sharing)
    with pytest.raises(ConfigError, match=f"accelerate is set to {kind.value}.*fsdp.yaml"):
        accelerator.make_accelerator(small_config())
