"""What does a second process bring? PPO steps of one amount of work, shared out. One JSON line a run.

    python benchmarks/processes.py                        # 5 rounds of 5 steps with each of CONTENDERS
    python benchmarks/processes.py --rounds 1 --steps 1   # does it run?
    python benchmarks/processes.py --report               # the table of the results that are there

A run is the trainer's own, with the embedded model and rollouts of one size for all processes together. The
contenders take turns, run by run, so that a busy minute meets them all, and a speed-up is that of two runs of one
round. A learning rate near zero keeps the responses, and with them the work, the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np

from autograder.grade import cores
from course_utils.export import export_all
from course_utils.metrics import read_metrics

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/processes.jsonl"
CONTENDERS = {  # processes, threads of each, more of the environment; the first is what the others are compared with
    "1 × 1": (1, 1, {}),
    "2 × 1": (2, 1, {}),
    "2 × 1, FSDP": (2, 1, {"ACCELERATE_USE_FSDP": "true"}),
    "1 × 2": (1, 2, {}),
}
PARTS = "rollout", "reference", "update"
WORK = [
    "ppo.rollout_samples=128",
    "ppo.batch_size=128",
    "ppo.mini_batch_size=32",
    "ppo.epochs=2",
    "ppo.learning_rate=1e-9",
    "ppo.value_learning_rate=1e-9",
    "ppo.min_lr=0",
    "dataset.eval_samples=1",
    "training.eval_interval=1000",
    "training.save_interval=1000",
]


def run(processes: int, threads: int, environment: dict, steps: int, solutions: Path) -> dict:
    """Trains `steps` steps and one before them that is not counted; lists over the counted ones."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",  # any free port
                f"--nproc_per_node={processes}",
                "-m",
                "course_utils.train",
                "--config",
                "configs/config_debug.yaml",
                "--exercises",
                str(solutions),
                *WORK,
                f"training.total_ppo_steps={steps + 1}",
                f"training.output_dir={folder}/run",
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | environment,
        )
        counted = read_metrics(Path(folder) / "run/metrics.jsonl")[1:]
    seconds = np.array([line["time/step_seconds"] for line in counted])
    shares = {part: np.array([line[f"time/{part}_share"] for line in counted]) for part in PARTS}
    return {
        "step_s": seconds.round(3).tolist(),
        **{f"{part}_s": (share * seconds).round(3).tolist() for part, share in shares.items()},
        "tokens": [round(128 * line["rollout/response_length"]) for line in counted],
    }


def report(lines: list[dict]) -> str:
    """Medians and quartiles over all steps of a contender, and its speed-up in each round."""
    rows = [
        "| processes × threads | seconds a step | " + " | ".join(PARTS) + " | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    first = [line for line in lines if line["contender"] == next(iter(CONTENDERS))]
    for name in CONTENDERS:
        own = [line for line in lines if line["contender"] == name]
        gains = [np.median(a["step_s"]) / np.median(b["step_s"]) for a, b in zip(first, own)]
        parts = [np.concatenate([line[f"{part}_s"] for line in own]) for part in ("step", *PARTS)]
        cells = [name, *map(spread, parts), " · ".join(f"{gain:.2f}" for gain in gains)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def spread(values) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} – {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as solutions:
        export_all(ROOT, Path(solutions))
        for _ in range(0 if args.report else args.rounds):
            for name, contender in CONTENDERS.items():
                line = {
                    "date": str(date.today()),
                    "cores": cores(),
                    "contender": name,
                    "rollouts": 128,
                    **run(*contender, args.steps, Path(solutions)),
                }
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(report([json.loads(line) for line in RESULTS.read_text().splitlines()]))


if __name__ == "__main__":
    main()
