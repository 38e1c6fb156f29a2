"""The estimate of memory against what a run really takes at its peak, here in the memory of a CPU process."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig, LlamaForCausalLM, Qwen2Config

from course_utils.config import ConfigError, load_config
from course_utils.memory import Memory, check_gpu, estimate, main
from course_utils.policy import load_shape
from tests.test_policy import ARCHITECTURES

ROOT = Path(__file__).parent.parent
DEEP = {
    "vocab_size": 640,
    "hidden_size": 384,
    "intermediate_size": 1056,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
}
WORDY = {
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CASES = {  # shape, tokens of each response, more settings
    "layers": (DEEP, 40, []),
    "layers recomputed": (DEEP, 40, ["training.gradient_checkpointing=true"]),
    "logits, short responses": (WORDY, 8, []),
    "logits, long responses": (WORDY, 48, []),
}
# Or the peak holds what malloc keeps of freed tensors: 350 to 550 MB for the same work.
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
STEPS = """
import gc, json, os, sys
from pathlib import Path
from course_utils.config import load_config, of_one_process
from course_utils.exercises import load_exercises
from course_utils.memory import estimate
from course_utils.policy import EMBEDDED_MODEL, load_shape
from course_utils.trainer import Trainer

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def one_step(response, *more):
    cfg = load_config("configs/config_debug.yaml", [
        "dataset.max_prompt_length=50", "dataset.eval_samples=1", "ppo.rollout_samples=12", "ppo.batch_size=12",
        "ppo.mini_batch_size=12", f"dataset.max_gen_length={response}", f"generation.min_new_tokens={response}",
        f"training.output_dir={folder / 'run'}", *more])
    Trainer(cfg, exercises).ppo_step()
    return cfg

cases, folder, exercises = json.loads(sys.argv[1]), Path(sys.argv[2]), load_exercises(Path(sys.argv[3]))
one_step(2)  # what the libraries take
found = {}
for name, (_, response, more) in cases.items():
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    cfg = one_step(response, f"model.name={folder / name}", f"model.tokenizer_name={EMBEDDED_MODEL}", *more)
    measured, processes = memory("VmHWM") - before, int(os.environ.get("WORLD_SIZE", 1))
    found[name] = estimate(load_shape(cfg), of_one_process(cfg, processes), processes).peak, measured
if os.environ.get("RANK", "0") == "0":
    print(json.dumps(found))
"""


def measure(launcher: list[str], cases: dict, folder: Path, solutions: Path) -> dict[str, tuple[int, int]]:
    """Case -> bytes of a PPO step at its peak in a process, estimated and measured, one after the other."""
    for name, (shape, _, _) in cases.items():
        LlamaForCausalLM(LlamaConfig(**shape, eos_token_id=1, pad_token_id=0)).save_pretrained(folder / name)
    script = folder / "steps.py"
    script.write_text(STEPS)
    run = subprocess.run(
        [sys.executable, *launcher, script, json.dumps(cases), folder, solutions],
        cwd=ROOT,
        env=os.environ | RETURN_AT_ONCE | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def peaks(solutions, tmp_path_factory) -> dict[str, tuple[int, int]]:
    return measure([], CASES, tmp_path_factory.mktemp("peaks"), solutions)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_a_step_is_what_was_estimated(case, peaks):
    hold(*peaks[case])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux's /proc")
def test_the_peak_of_a_step_is_what_was_estimated_where_two_processes_share_the_weights_out(solutions, tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/fsdp.yaml"]
    case = "layers"
    hold(*measure(launcher, {case: CASES[case]}, tmp_path, solutions)[case])


def hold(estimated: int, measured: int) -> None:
    assert 0.8 < estimated / measured < 1.25, f"{estimated / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured"


def test_parts_of_a_model_whose_numbers_are_known(small_config):
    """Qwen2.5-0.5B has 494,032,768 weights, and 2 heads of 64 numbers for keys and values in each of 24 layers."""
    shape = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    cfg = load_config(ROOT / "configs/config_colab.yaml")
    found, weights = estimate(shape, cfg), 494_032_768
    matrices = 357_826_560  # of them, without the embedding, which is the head too
    assert found.weights == 4 * weights
    assert found.reference == 4 * (weights - matrices) + 2 * matrices  # as float16 multiplies them
    assert found.optimizer == 2 * weights  # two numbers of 8 bits a weight
    cache = 2 * 24 * 2 * 64 * (320 + 256) * 2  # float16
    assert found.sampling == 32 * (cache + 4 * 151936 * 4)


def test_half_precision_halves_the_reference_and_counts_the_rounded_weights(monkeypatch):
    monkeypatch.setattr("course_utils.memory._activations", lambda *_: 0)
    shape = LlamaConfig(**WORDY | {"tie_word_embeddings": False})
    matrices, head, norms = 2 * (4 * 64**2 + 3 * 64 * 176), 32000 * 64, 5 * 64

    def found(*overrides):
        return estimate(shape, load_config(ROOT / "configs/config_debug.yaml", overrides))

    whole, half, recomputed = (
        found(),
        found("model.torch_dtype=bfloat16"),
        found("model.torch_dtype=bfloat16", "training.gradient_checkpointing=true"),
    )
    assert whole.reference == 4 * (matrices + 2 * head + norms)
    assert half.reference == whole.reference - 2 * (matrices + head)  # the embedding stays float32
    assert half.update - whole.update == 2 * (matrices + head)  # kept for the backward pass
    assert recomputed.update - whole.update == 2 * head  # a layer's are made anew
    frozen = found("model.lora=4", "model.torch_dtype=bfloat16")  # are half already
    assert frozen.update == found("model.lora=4").update


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_an_estimate(architecture):
    """A run on a GPU begins with it."""
    shape = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    found = estimate(shape, load_config(ROOT / "configs/config_debug.yaml"))
    assert found.weights < found.kept < found.peak


def test_where_the_width_of_the_mlp_has_no_name_it_is_four_times_the_hidden_one():
    cfg = load_config(ROOT / "configs/config_debug.yaml")
    small, large = (estimate(GPT2Config(vocab_size=50, n_embd=32, n_head=2, n_layer=layers), cfg) for layers in (1, 2))
    weights = large.weights - small.weights  # of a layer, and of its gradients
    numbers = 4 * 32 + 5 * 32 + 2 * 32 + 4 * 128  # norms; products; keys and values; MLP
    assert large.update - small.update == weights + 32 * 128 * numbers * 4
    cfg.training.gradient_checkpointing = True  # one layer at a time, and what goes into each
    recomputed = estimate(GPT2Config(vocab_size=50, n_embd=32, n_head=2, n_layer=2), cfg)
    assert large.update - recomputed.update == 32 * 128 * (numbers - 2 * 32) * 4


def test_a_head_may_be_wider_than_its_share_of_the_hidden_numbers():
    cfg = load_config(ROOT / "configs/config_debug.yaml")
    usual, wide = (estimate(LlamaConfig(**DEEP | {"head_dim": width}), cfg) for width in (64, 128))
    tokens, layers, heads = 128, 4, 6
    assert wide.sampling - usual.sampling == cfg.ppo.batch_size * tokens * layers * 2 * heads * 64 * 4


def test_the_peak_is_what_is_kept_and_the_larger_of_sampling_and_update():
    assert Memory(1, 2, 4, 8, sampling=32, update=16).peak == Memory(1, 2, 4, 8, sampling=16, update=32).peak == 47


def test_without_a_kl_penalty_there_is_no_reference():
    shape = LlamaConfig(**DEEP)
    with_one, without = (
        estimate(shape, load_config(ROOT / "configs/config_debug.yaml", [f"ppo.kl_coeff={beta}"])) for beta in (1, 0)
    )
    assert without.reference == 0 and without.kept == with_one.kept - with_one.reference < with_one.kept


def test_lora_needs_no_reference_and_little_for_the_optimizer():
    shape = LlamaConfig(**DEEP)
    whole, adapters = (
        estimate(shape, load_config(ROOT / "configs/config_debug.yaml", [f"model.lora={rank}"])) for rank in (0, 4)
    )
    assert adapters.reference == 0 and adapters.optimizer < whole.optimizer / 20
    assert adapters.weights == pytest.approx(whole.weights, rel=0.1)  # float32 here: the frozen ones are as large
    half = load_config(ROOT / "configs/config_debug.yaml", ["model.lora=4", "model.torch_dtype=bfloat16"])
    assert adapters.weights - estimate(shape, half).weights == whole.weights / 2


def test_four_processes_with_fsdp_hold_a_quarter_of_what_is_trained_and_a_copy_to_sample_with():
    cfg = load_config(ROOT / "configs/config_debug.yaml", ["model.torch_dtype=bfloat16", "ppo.use_8bit_adam=true"])
    shape = LlamaConfig(**WORDY | {"tie_word_embeddings": True})
    alone, shared = estimate(shape, cfg), estimate(shape, cfg, 4)
    embedding, weights = 32000 * 64, alone.weights / 4
    assert shared.weights == alone.weights / 4 and shared.optimizer == alone.optimizer / 4
    assert alone.copy == 0 and shared.copy == alone.reference == 4 * shared.reference
    # A quarter of the gradients; but the embedding's are whole, and so is it.
    assert shared.update - alone.update == 2 * 4 * embedding - 0.75 * 4 * weights
    cfg.training.device = "cuda"  # where one process alone has 8-bit Adam
    assert (estimate(shape, cfg).optimizer, estimate(shape, cfg, 2).optimizer) == (2 * weights, 4 * weights)
    assert estimate(shape, cfg, 2).copy == shared.copy


def test_a_gpu_that_is_too_small_is_said_before_anything_is_loaded(small_config):
    cfg, said = small_config(), []
    shape = load_shape(cfg)
    memory = estimate(shape, cfg)
    check_gpu(shape, cfg, 1.01 * memory.peak, said.append)
    assert not said
    check_gpu(shape, cfg, 0.99 * memory.peak, said.append)
    assert len(said) == 1
    said.clear()
    check_gpu(shape, cfg, 1.01 * memory.kept, said.append)
    assert len(said) == 1 and "batches are halved" in said[0]
    with pytest.raises(ConfigError, match="model.lora=16"):
        check_gpu(shape, cfg, 0.99 * memory.kept, said.append)
    kept = estimate(shape, cfg, 2).kept  # of each of two processes, to which LoRA is no way out
    with pytest.raises(ConfigError, match="Use more GPUs, a smaller model or another engine"):
        check_gpu(shape, cfg, 0.99 * kept, said.append, 2)


@pytest.mark.parametrize("architecture", ["mamba", "rwkv", "gemma3"])
def test_a_model_of_another_build_has_an_estimate(architecture):
    """Without attention there is no cache that grows; one that reads pictures has a part for text."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    text = small | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64}
    seen = small | {"num_attention_heads": 2, "intermediate_size": 64}
    sizes = {"text_config": text, "vision_config": seen} if architecture == "gemma3" else small
    shape = AutoConfig.for_model(architecture, **sizes)
    memory = estimate(shape, load_config(ROOT / "configs/config_debug.yaml"))
    assert 0 < memory.kept < memory.peak < 1e9


@pytest.mark.parametrize("kind", [AttributeError, KeyError, RuntimeError])  # of several models of transformers
def test_what_cannot_be_estimated_stops_no_run(small_config, monkeypatch, kind):
    monkeypatch.setattr("course_utils.memory.estimate", Mock(side_effect=kind("no attribute 'heads'")))
    cfg, said = small_config(), []
    check_gpu(load_shape(cfg), cfg, 1e9, said.append)
    assert len(said) == 1 and said[0].startswith("how much memory embedded needs is not estimated: ")
    assert "no attribute 'heads'" in said[0]


def test_the_command_prints_each_part_of_a_process_and_the_peak(monkeypatch, capsys):
    cfg = load_config(ROOT / "configs/config_debug.yaml", ["ppo.mini_batch_size=8"])
    half = replace(cfg, ppo=replace(cfg.ppo, mini_batch_size=4))  # a process's share
    memory = estimate(load_shape(cfg), half, 2)
    arguments = ["--config", str(ROOT / "configs/config_debug.yaml"), "--fsdp", "2", "ppo.mini_batch_size=8"]
    monkeypatch.setattr("sys.argv", ["memory", *arguments])
    main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    parts = asdict(memory) | {"peak": memory.peak}
    assert lines == [[part, f"{size / 1e9:.2f}", "GB"] for part, size in parts.items()]


@pytest.mark.parametrize(
    "fsdp, complaint",
    [
        (["0"], "--fsdp 0: it is a number"),
        (["3"], "mini_batch_size=32 cannot be shared by 3"),
        (["2", "ppo.rollout_samples=33"], "rollout_samples=33 cannot be shared by 2"),
    ],
)
def test_processes_that_there_cannot_be_are_said(fsdp, complaint, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["memory", "--config", "configs/config_debug.yaml", "--fsdp", *fsdp])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert complaint in f"{stopped.value} {capsys.readouterr().err}"


def test_a_config_that_is_wrong_is_said_without_a_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["memory", "--config", "configs/config_debug.yaml", "ppo.clip_ration=0.1"])
    with pytest.raises(SystemExit, match="error: .*clip_ration"):
        main()
