"""What a PPO step takes on a GPU: seconds, tokens a second and peak memory, by model, precision and optimizer.

    bash benchmarks/gpu.sh               # on a machine with an NVIDIA GPU; under ten minutes
    python benchmarks/gpu.py --device cpu --only embedded     # what can be tried without one

Models other than the embedded one have random weights in the shapes of those that they are named after, so nothing is
downloaded; responses have one length. Each case adds a line to results/gpu.jsonl if it ran on a GPU. Some go without
CUDA graphs, or with too little memory for their batches. The last line holds the first steps of one seed with the
embedded model, on the GPU and on the CPU.
"""

import argparse
import gc
import io
import json
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from course_utils import decoding
from course_utils.config import load_config
from course_utils.decoding import GrowingCache
from course_utils.exercises import load_exercises
from course_utils.export import export_all
from course_utils.memory import estimate
from course_utils.policy import EMBEDDED_MODEL
from course_utils.trainer import Trainer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/gpu.jsonl"
SHAPES: dict[str, PretrainedConfig] = {
    "SmolLM2-135M": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-0.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-1.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "Qwen1.5-1.8B": Qwen2Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=False,
    ),
}
LORA, CHECKPOINTING = "model.lora=16", "training.gradient_checkpointing=true"
T4 = 15.0  # GB of memory that PyTorch can use on Colab's free GPU
ALL_AT_ONCE = "ppo.mini_batch_size=32"
GRAPHS = "CUDA graphs"
CASES = [  # shape, overrides, memory cap in GB, what it goes without
    ("embedded", ["model.torch_dtype=float32"], None, None),
    ("embedded", ["model.torch_dtype=float32"], None, GRAPHS),
    ("embedded", ["model.torch_dtype=bfloat16"], None, None),
    ("SmolLM2-135M", ["model.torch_dtype=float32"], None, None),
    ("SmolLM2-135M", ["model.torch_dtype=bfloat16"], None, None),
    ("SmolLM2-135M", ["model.torch_dtype=bfloat16"], None, GRAPHS),
    ("SmolLM2-135M", ["model.torch_dtype=float32", ALL_AT_ONCE], 6.0, None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=float32"], None, None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=bfloat16"], None, None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=bfloat16"], None, GRAPHS),
    ("Qwen2.5-0.5B", ["model.torch_dtype=float16", "ppo.use_8bit_adam=true", CHECKPOINTING], T4, None),
    ("Qwen2.5-1.5B", ["model.torch_dtype=float16", LORA, CHECKPOINTING], T4, None),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", CHECKPOINTING], None, None),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", "ppo.use_8bit_adam=true", CHECKPOINTING], None, None),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", LORA, CHECKPOINTING], 24.0, None),
]
SIZES = [
    "dataset.max_gen_length=128",
    "generation.min_new_tokens=128",
    "ppo.rollout_samples=32",
    "ppo.batch_size=32",
    "ppo.mini_batch_size=4",
    "ppo.epochs=1",
]
STEPS = 3  # after one that is not counted


def model_folder(shape: str, models: Path, device: str) -> Path:
    """A Hugging Face folder of that shape with random weights; the embedded model's tokenizer serves all."""
    if shape == "embedded":
        return EMBEDDED_MODEL
    folder = models / shape
    if not folder.exists():
        torch.manual_seed(0)
        config = SHAPES[shape]
        config.eos_token_id, config.pad_token_id = 1, 0
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)
    return folder


def make_trainer(shape: str, overrides: list[str], device: str, models: Path, folder: Path) -> Trainer:
    export_all(ROOT, folder / "solutions")
    cfg = load_config(
        ROOT / "configs/config_debug.yaml",
        [
            f"model.name={model_folder(shape, models, device)}",
            f"model.tokenizer_name={EMBEDDED_MODEL}",
            f"training.device={device}",
            f"training.output_dir={folder / 'run'}",
            *overrides,
        ],
    )
    return Trainer(cfg, load_exercises(folder / "solutions"))


def going_without(what: str | None):
    """A block in which sampling has no CUDA graphs, if that is `what`."""
    without_graphs = mock.patch.object(decoding, "make_cache", lambda actor, steps, device: GrowingCache(actor))
    return without_graphs if what == GRAPHS else nullcontext()


@contextmanager
def memory_of(cap: float | None):
    """A block that begins with nothing on the GPU and cannot take more than `cap` GB."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if cap:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 1e9 / torch.cuda.mem_get_info()[1]))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def one_case(
    shape: str, overrides: list[str], cap: float | None, without: str | None, device: str, models: Path
) -> dict:
    """Medians over STEPS steps, and the peak of what PyTorch held in all of them."""
    gpu = device == "cuda"
    model_folder(shape, models, device)
    with tempfile.TemporaryDirectory() as folder, going_without(without), memory_of(cap) if gpu else nullcontext():
        trainer = make_trainer(shape, [*SIZES, *overrides], device, models, Path(folder))
        asked = estimate(trainer.unwrapped.model.config, trainer.cfg)
        steps = [trainer.ppo_step() for _ in range(STEPS + 1)][1:]
    middle = {
        name: median(step[name] for step in steps)
        for name in (
            "time/step_seconds",
            "time/tokens_per_second",
            "time/rollout_share",
            "time/reference_share",
            "time/update_share",
            "params/max_ratio_deviation",
        )
    }
    return {
        "shape": shape,
        "overrides": overrides,
        "cap_gb": cap,
        "without": without,
        **middle,
        "rollout_seconds": median(step["time/step_seconds"] * step["time/rollout_share"] for step in steps),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
        "estimated_gb": asked.peak / 1e9,
        "mini_batch_size": trainer.cfg.ppo.mini_batch_size,
        "batch_size": trainer.cfg.ppo.batch_size,
        "optimizer": type(trainer.optimizer).__name__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def one_seed_on_both(device: str) -> dict:
    """The first steps of the default run on `device` and on the CPU: the same numbers, but for rounding, until a token
    is sampled that lies on the edge between two. Then the runs part."""
    names = "rollout/reward_mean", "rollout/kl", "loss/policy", "loss/value", "params/grad_norm"
    found = []
    for where in (device, "cpu"):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer("embedded", ["training.total_ppo_steps=34"], where, Path(folder), Path(folder))
            steps = [trainer.ppo_step() for _ in range(3)]
            found.append({name: [step[name] for step in steps] for name in names})
    return {"shape": "embedded", "one seed": {"here": found[0], "on the CPU": found[1]}}


def measured(case: tuple, device: str, models: Path) -> dict:
    """The line of a case. That it failed is a result too: the others go on."""
    start, said = time.monotonic(), io.StringIO()
    try:
        with redirect_stdout(said):
            line = one_case(*case, device, models)
    except Exception as error:
        line = {"case": case, "error": f"{type(error).__name__}: {error}"}
    notes = [text for text in said.getvalue().splitlines() if "out of memory" in text or "needs about" in text]
    return line | {"said": notes, "seconds_in_all": round(time.monotonic() - start, 1)}


def record(line: dict, device: str) -> None:
    print(json.dumps(line), flush=True)
    if device == "cuda":
        with RESULTS.open("a") as lines:
            lines.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", help="cases of this shape")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no CUDA GPU here; --device cpu --only embedded tries the script itself")
    with tempfile.TemporaryDirectory() as models:
        for case in CASES:
            if args.only in (None, case[0]):
                record(measured(case, args.device, Path(models)), args.device)
    record(one_seed_on_both(args.device), args.device)


if __name__ == "__main__":
    main()
