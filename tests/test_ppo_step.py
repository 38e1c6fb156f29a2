"""The measurement of a PPO step: its protocol on a tiny model, its fit, its tables."""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import optimizer, rollout, trainer
from course_utils.policy import ActorCritic
from course_utils.trainer import Trainer
from tests import warm
from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
TINY = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
JOB = {
    "n": 4,
    "prompt_len": 5,
    "resp_len": 6,
    "minibatches": 2,
    "epochs": 2,
    "steps": 2,
    "warmup": 1,
    "threads": 1,
    "seed": 0,
}


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("ppo_step")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def tiny(bench):
    with bench.model_folder(TINY) as folder:
        yield folder


def answer(script: str, *arguments: str, **job) -> dict:
    """What a contender prints for one JSON line, which must be all that it prints: two steps and the memory."""
    done = subprocess.run(
        [*warm.COMMAND, BENCHMARKS / script, *arguments],
        input=json.dumps(JOB | job) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name in ("step_s", "rollout_s", "reference_s", "update_s"):
        assert len(result[name]) == 2 and all(seconds > 0 for seconds in result[name])
    for parts in zip(result["step_s"], result["rollout_s"], result["reference_s"], result["update_s"]):
        assert parts[0] >= sum(parts[1:])
    assert result["peak_rss_mb"] >= result["loaded_rss_mb"] > 50
    return result


@pytest.mark.parametrize("command", [("ppo_step.py", "--stdin"), ("ppo_step_floor.py", "--response-logits")])
def test_one_line_in_one_line_out_and_no_response_ends_early(tiny, command):
    result = answer(*command, model_dir=str(tiny))
    assert result["tokens"] == [24, 24]  # 4 responses of 6 tokens in each of the two counted steps


LONG = {"prompt_len": 500, "resp_len": 500}  # together beyond the 512 tokens that the model reads
BAD_LINES = {
    "": "'' is not one line of JSON",
    "{'n': 4}": "is not one line of JSON",
    "[1]": "[1] is not a JSON object with the keys n, prompt_len",
    json.dumps(JOB): "the key model_dir is missing",
    json.dumps({key: JOB[key] for key in JOB if key != "epochs"}): "the key epochs is missing",
    json.dumps(JOB | {"model_dir": "TINY", "n": "4"}): "n='4' must be a whole number, at least 1",
    json.dumps(JOB | {"model_dir": "TINY", "n": True}): "n=True must be a whole number, at least 1",
    json.dumps(JOB | {"model_dir": "TINY", "steps": 0}): "steps=0 must be a whole number, at least 1",
    json.dumps(JOB | {"model_dir": "TINY", "warmup": -1}): "warmup=-1 must be a whole number, at least 0",
    json.dumps(JOB | {"model_dir": 7}): "model_dir=7 must be the folder of a Hugging Face model",
    json.dumps(JOB | {"model_dir": "not/there"}): "model_dir='not/there' must be the folder of a Hugging Face model",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_that_is_no_job_is_told_by_the_name_of_its_key(bench, tiny, line):
    protocol = importlib.import_module("ppo_step_protocol")
    with pytest.raises(ValueError, match="^[^\n]*" + re.escape(BAD_LINES[line])):
        protocol.read_job(line.replace("TINY", str(tiny)))


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"vocab_size": "many"}'])
def test_a_folder_with_a_broken_config_is_named(bench, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    protocol = importlib.import_module("ppo_step_protocol")
    with pytest.raises(ValueError, match=f"^model_dir='{tmp_path}' must be .*with config.json: [^\n]*$"):
        protocol.read_job(json.dumps(JOB | {"model_dir": str(tmp_path)}))


@pytest.mark.parametrize(
    ("line", "told"),
    [("{}\n", "the key n is missing"), (json.dumps(JOB | LONG | {"model_dir": "TINY"}), "reads only 512. Lower one")],
)
def test_bad_input_is_one_plain_line_and_a_failure(tiny, line, told):
    command = [*warm.COMMAND, BENCHMARKS / "ppo_step.py", "--stdin"]
    done = subprocess.run(command, input=line.replace("TINY", str(tiny)), capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert told in done.stderr and done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_with_prompts_a_response_ends_at_eos(tiny):
    """An untrained model gives every token about 1 in 64: of 8 rows of 100 tokens some end."""
    prompts = [[5, 6, 7], [8, 9]]
    for command in (("ppo_step.py", "--stdin"), ("ppo_step_floor.py",)):
        result = answer(*command, model_dir=str(tiny), prompts=prompts, n=8, resp_len=100)
        assert all(8 <= tokens < 800 for tokens in result["tokens"])


class Counted:
    """A recorder of two steps without a clock, and what the trainer measured in them."""

    total = 2

    def __init__(self, job: dict, monkeypatch):
        self.job, self.metrics = job, []
        ppo_step = Trainer.ppo_step

        def noted(trainer):
            self.metrics.append(ppo_step(trainer))
            return self.metrics[-1]

        monkeypatch.setattr(Trainer, "ppo_step", noted)
        self.begin = self.finish = lambda: None
        self.end = lambda **_: None


@pytest.fixture
def two_steps(bench):
    """Of our step with the embedded model, in the test's own process: run(without) gives the metrics of each."""

    def run(without: str = "") -> list[dict]:
        with pytest.MonkeyPatch.context() as patch:
            gains = importlib.import_module("ppo_step_gains")
            places = [
                (trainer, "collect"),
                (trainer, "score_logprobs"),
                (rollout, "generate"),
                (ActorCritic, "forward"),
                (ActorCritic, "_run"),
                (Trainer, "__init__"),
                (optimizer, "partial"),
            ]
            for place, name in places:
                patch.setattr(place, name, getattr(place, name))  # so that it is put back at the end
            before = [getattr(place, name) for place, name in places]
            if without:
                gains.WITHOUT[without]()
                assert sum(getattr(*place) is not was for place, was in zip(places, before)) == 1
            recorder = Counted(
                JOB
                | {"model_dir": str(bench.EMBEDDED), "prompts": bench.embedded_prompts()[:16], "n": 4, "resp_len": 30},
                patch,
            )
            bench.step_ours(recorder)
            return recorder.metrics

    return run


def test_without_a_saving_the_step_computes_the_same(bench, two_steps):
    gains, ours = importlib.import_module("ppo_step_gains"), two_steps()
    assert [*gains.WITHOUT, "huge_pages", "kept_memory"] == list(bench.SAVINGS)
    same = [name for name in ours[0] if name.startswith(("loss/", "rollout/"))]
    for saving in gains.WITHOUT:
        for metrics, wanted in zip(two_steps(saving), ours, strict=True):
            assert {name: metrics[name] for name in same} == pytest.approx(
                {name: wanted[name] for name in same}, rel=1e-2, abs=1e-4
            ), saving


def test_memory_for_large_tensors_comes_in_huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this machine has no transparent huge pages")
    script = "import course_utils, torch; x = torch.ones(16 << 20); print(open('/proc/self/smaps_rollup').read())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    (huge,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("AnonHugePages"))
    assert int(huge) > 32 << 10  # KB, of the tensor's 64 MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no such rule")
def test_memory_is_kept_for_the_next_tensors():
    script = """
import course_utils, resource, torch
def three_tensors():
    a = torch.ones(7 << 20)  # 28 MB
    b = a * 2
    return a + b
for round in range(20):
    if round == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    three_tensors()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""
    # Dask leaves a threshold of its own in the environment of whoever starts its workers.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 100  # pages taken from the kernel; by glibc's own rule more than ten thousand


def test_contenders_make_their_steps_in_turns(bench, tiny, tmp_path):
    """Each stand-in writes its name when a step begins."""
    log = tmp_path / "log"
    script = tmp_path / "stand_in.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from ppo_step_protocol import Recorder
recorder = Recorder()
for _ in range(recorder.total):
    recorder.begin()
    print("noise that must not reach the protocol")
    open({str(log)!r}, "a").write(sys.argv[1])
    recorder.end(rollout_s=0.0, reference_s=0.0, update_s=0.0, tokens=1)
recorder.finish()
""")
    results = bench.measure({name: [sys.executable, script, name] for name in "ab"}, JOB | {"model_dir": str(tiny)})
    assert log.read_text() == "ababab"
    assert [len(result["step_s"]) for result in results.values()] == [2, 2]


def test_a_contender_that_fails_is_named_with_its_error(bench, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such model')")
    with pytest.raises(RuntimeError, match=r"broken\.py(.|\n)*no such model"):
        bench.measure({"broken": [sys.executable, script]}, JOB)


def test_the_fitted_exponent(bench):
    sizes = [1, 2, 4, 8, 16]
    assert bench.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_the_counted_work_of_a_step(bench):
    """By hand: 16·(4·16 + 3·32) + 16·64 = 3584 weights; 4 rows of 11 tokens, each 3584 + 1·16·11 = 3760."""
    assert bench.work(TINY, JOB) == (3584, 4 * 11 * 3760)


def test_the_report(bench):
    of = {"steps": 2, "cpu": "X", "threads": 2, "python": "3.11", "torch": "2", "transformers": "5", "date": "d"}
    result = {
        "step_s": [1.0, 3.0],
        "rollout_s": [0.5, 1.5],
        "reference_s": [0.1, 0.3],
        "update_s": [0.4, 1.2],
        "tokens": [10, 30],
        "peak_rss_mb": 700.4,
        "loaded_rss_mb": 400.0,
    }
    floor = result | {"step_s": [2.0, 3.0]}
    line = {"workload": "W", "contender": "ours", **bench.summary(result, floor), **of}
    growth = [
        {"grows": "rollouts", "size": size, "work": float(size), "step_s": [0, size**0.5, 9], "peak_rss_mb": 5}
        for size in (1, 16)
    ]
    without = [line | {"contender": name} for name in ("ours", *bench.SAVINGS)]
    page = bench.report([line], without, growth)
    # Steps over the floor's: 0.5 and 1; the quartiles of seconds and ratios lie between the two.
    assert "| ours | 0.75 (0.62 – 0.88) | 2.00 (1.50 – 2.50) | 50% / 10% / 40% | 10 | 700 (400) |" in page
    assert page.count("| 0.75 (0.62 – 0.88) | 700 |\n") == 1 + len(bench.SAVINGS)
    assert "| rollouts | 1 – 16 | 1.00 · 4.00 | 0.50 | 1.00 | 5 – 5 |" in page
    assert "## W\n" in page and "$" not in page
