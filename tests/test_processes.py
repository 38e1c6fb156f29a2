"""Two processes learn what one learns."""
import subprocess
import sys

import pytest

from course_utils.exercises import load_exercises
from course_utils.metrics import read_metrics
from course_utils.trainer import Trainer
from tests.conftest import ROOT


@pytest.mark.slow
def test_two_cpu_processes_give_the_result_of_one(small_run, small_config, solutions, tmp_path):
    # Responses of one length and one mini-batch an epoch: then the mean over processes of their means over tokens
    # is the mean over all tokens, and the shuffling within a process changes nothing.
    settings = ("generation.min_new_tokens=40", "dataset.max_gen_length=40", "ppo.mini_batch_size=16",
                "ppo.learning_rate=1e-3")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
              "--rdzv_endpoint", "localhost:0", "-m", "course_utils.train"]
    subprocess.run([sys.executable, *launch, "--config", "configs/config_debug.yaml", "--exercises", str(solutions),
                    *small_run(*settings, f"training.output_dir={tmp_path / 'two'}")], cwd=ROOT, check=True,
                   timeout=250)
    two = read_metrics(tmp_path / "two/metrics.jsonl")
    one = list(Trainer(small_config(*settings), load_exercises(solutions)).train())
    assert len(one) == len(two) == 3
    # Some answers are right: rewards would change if a response met the problem of another row.
    assert sum(line["rollout/accuracy"] for line in one) > 0
    for alone, shared in zip(one, two):
        for name in alone.keys() - {name for name in alone if name.startswith("time/")}:
            assert shared[name] == pytest.approx(alone[name], rel=2e-3, abs=2e-4), (alone["step"], name)
