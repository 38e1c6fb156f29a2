"""What a PPO step takes on a GPU: seconds, tokens a second and peak memory, by model, precision and optimizer.

    bash benchmarks/gpu.sh               # on a machine with an NVIDIA GPU; under ten minutes
    python benchmarks/gpu.py --device cpu --only embedded     # what can be tried without one

Models other than the embedded one have random weights in the shapes of those that they are named after, so nothing is
downloaded; responses have one length. Each case runs in a process of its own and, on a GPU, adds a line to
results/gpu.jsonl. The last case takes the first steps of one seed with the embedded model on the GPU and on the CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from course_utils.config import load_config
from course_utils.exercises import load_exercises
from course_utils.export import export_all
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
CASES = [  # shape, overrides, memory cap in GB
    ("embedded", ["model.torch_dtype=float32"], None),
    ("embedded", ["model.torch_dtype=bfloat16"], None),
    ("SmolLM2-135M", ["model.torch_dtype=float32"], None),
    ("SmolLM2-135M", ["model.torch_dtype=bfloat16"], None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=float32"], None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=bfloat16"], None),
    ("Qwen2.5-0.5B", ["model.torch_dtype=float16", "ppo.use_8bit_adam=true", CHECKPOINTING], T4),
    ("Qwen2.5-1.5B", ["model.torch_dtype=float16", LORA, CHECKPOINTING], T4),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", CHECKPOINTING], None),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", "ppo.use_8bit_adam=true", CHECKPOINTING], None),
    ("Qwen1.5-1.8B", ["model.torch_dtype=bfloat16", LORA, CHECKPOINTING], 24.0),
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


def model_folder(shape: str, folder: Path) -> Path:
    """A Hugging Face folder of that shape with random weights; the embedded model's tokenizer serves all."""
    if shape == "embedded":
        return EMBEDDED_MODEL
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = SHAPES[shape]
    config.eos_token_id, config.pad_token_id = 1, 0
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def make_trainer(shape: str, overrides: list[str], device: str, folder: Path) -> Trainer:
    export_all(ROOT, folder / "solutions")
    cfg = load_config(
        ROOT / "configs/config_debug.yaml",
        [
            f"model.name={model_folder(shape, folder / 'model')}",
            f"model.tokenizer_name={EMBEDDED_MODEL}",
            f"training.device={device}",
            f"training.output_dir={folder / 'run'}",
            *overrides,
        ],
    )
    return Trainer(cfg, load_exercises(folder / "solutions"))


def one_case(shape: str, overrides: list[str], cap: float | None, device: str) -> dict:
    """Medians over STEPS steps, and the peak of what PyTorch held."""
    gpu = device == "cuda"
    if cap and gpu:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 1e9 / torch.cuda.mem_get_info()[1]))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(shape, [*SIZES, *overrides], device, Path(folder))
        steps = [trainer.ppo_step(step) for step in range(1, STEPS + 2)][1:]
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
        **middle,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
        "mini_batch_size": trainer.cfg.ppo.mini_batch_size,
        "batch_size": trainer.cfg.ppo.batch_size,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "torch": torch.__version__,
    }


def one_seed_on_both(device: str) -> dict:
    """The first steps of the default run on `device` and on the CPU: the same numbers, but for rounding."""
    rewards = []
    for where in (device, "cpu"):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer("embedded", ["training.total_ppo_steps=34"], where, Path(folder))
            rewards.append([trainer.ppo_step(step)["rollout/reward_mean"] for step in range(1, 4)])
    return {
        "shape": "embedded",
        "rewards_here": rewards[0],
        "rewards_on_cpu": rewards[1],
        "largest_difference": max(abs(a - b) for a, b in zip(*rewards)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", help="cases of this shape")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # what the process of one case is given
    args = parser.parse_args()
    if args.case is not None:
        found = one_case(*args.case, args.device) if args.case else one_seed_on_both(args.device)
        print("RESULT " + json.dumps(found))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no CUDA GPU here; --device cpu --only embedded tries the script itself")
    for case in [*(case for case in CASES if args.only in (None, case[0])), []]:
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, __file__, "--device", args.device, "--case", json.dumps(case)],
            capture_output=True,
            text=True,
        )
        results = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        # A case that fails is a result too: the others go on, and the reason is kept.
        line = (
            json.loads(results[0][7:])
            if results
            else {"shape": case[0] if case else "one seed", "case": case, "error": run.stderr.strip().splitlines()[-1:]}
        )
        line["seconds_in_all"] = round(time.monotonic() - start, 1)
        print(json.dumps(line), flush=True)
        if args.device == "cuda":
            with RESULTS.open("a") as lines:
                lines.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
