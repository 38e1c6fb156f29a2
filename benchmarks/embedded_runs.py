"""Does the embedded default learn, and does each part of PPO earn its place? Runs, seeds, one JSON line a run.

    python benchmarks/embedded_runs.py --variants default --seeds 1 2 3 4 5
    python benchmarks/embedded_runs.py --variants no_critic no_clip no_kl lam_0 lam_1 --seeds 1 2 3
    python benchmarks/embedded_runs.py --report          # prints the table of docs/embedded_results.md

A line is appended to results/embedded_runs.jsonl when its run is finished; a run that is there is not repeated.
Settings were chosen on the validation splits; what is reported here are the test splits, 1,000 problems each.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

from course_utils.config import load_config
from course_utils.exercises import Exercises, load_exercises
from course_utils.export import export_all
from course_utils.trainer import Trainer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/embedded_runs.jsonl"
MEASURE_ONLY = 1e-12  # a coefficient that has no effect but keeps the reference loaded, so that the KL is measured
QUARTER = ["ppo.rollout_samples=32", "ppo.mini_batch_size=8"]  # a quarter of the responses in each step
VARIANTS = {  # what differs from the default: settings
    "default": [],
    "no_critic": ["ppo.vf_coeff=0"],
    "more_epochs": ["ppo.epochs=4"],
    "no_clip": ["ppo.epochs=4", "ppo.clip_ratio=1e9", "ppo.clip_range_value=1e9"],
    "no_kl": [f"ppo.kl_coeff={MEASURE_ONLY}"],
    "lam_0": ["ppo.lam=0.0"],
    "lam_1": ["ppo.lam=1.0"],
    "quarter": QUARTER,
    "quarter_lam_1": [*QUARTER, "ppo.lam=1.0"],
}


def exercises_of(variant: str, folder: Path) -> Exercises:
    exercises = load_exercises(folder)
    if variant == "no_critic":
        gae = exercises.compute_gae_advantages
        exercises = replace(
            exercises,
            compute_gae_advantages=lambda rewards, penalties, values, *rest: gae(
                rewards, penalties, torch.zeros_like(values), *rest
            ),
        )
    return exercises


def one_run(variant: str, seed: int, solutions: Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            ROOT / "configs/config_debug.yaml",
            [
                f"training.seed={seed}",
                f"training.output_dir={folder}/run",
                "training.save_interval=1000",
                "training.eval_interval=1000",
                "dataset.eval_samples=1000",
                *VARIANTS[variant],
            ],
        )
        trainer = Trainer(cfg, exercises_of(variant, solutions))
        before = {split: trainer.evaluate(split) for split in ("test", "test_wordings")}
        start = time.perf_counter()
        history = [trainer.ppo_step() for _ in range(cfg.training.total_ppo_steps)]
        seconds = time.perf_counter() - start
        after = {split: trainer.evaluate(split) for split in ("test", "test_wordings")}
    third = len(history) // 3
    explained = [line["rollout/explained_variance"] for line in history]
    return {
        "variant": variant,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "steps": len(history),
        **{f"before/{split}": result.accuracy for split, result in before.items()},
        **{f"after/{split}": result.accuracy for split, result in after.items()},
        "after/well_formed": after["test"].well_formed,
        "kl_end": mean(line["rollout/kl"] for line in history[-3:]),
        "kl_max": max(line["rollout/kl"] for line in history),
        "explained_variance": [mean(explained[i * third : (i + 1) * third]) for i in range(3)],
        "rewards": [round(line["rollout/reward_mean"], 4) for line in history],
    }


def finished() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def report(runs: list[dict]) -> str:
    """A table of medians with the lowest and highest run, a row a variant."""

    def spread(values, form="{:.0%}"):
        return f"{form.format(median(values))} ({form.format(min(values))} – {form.format(max(values))})"

    lines = [
        "| variant | seeds | test before | test after | unseen wordings after | well-formed | KL at the end "
        "| explained variance, last third | reward, mean of all steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        rows = [run for run in runs if run["variant"] == variant]
        if rows:
            lines.append(
                "| "
                + " | ".join(
                    [
                        variant,
                        str(len(rows)),
                        spread([r["before/test"] for r in rows]),
                        spread([r["after/test"] for r in rows]),
                        spread([r["after/test_wordings"] for r in rows]),
                        spread([r["after/well_formed"] for r in rows]),
                        spread([r["kl_end"] for r in rows], "{:.1f}"),
                        spread([r["explained_variance"][2] for r in rows], "{:.2f}"),
                        spread([mean(r["rewards"]) for r in rows], "{:.2f}"),
                    ]
                )
                + " |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        print(report(finished()))
        return
    with tempfile.TemporaryDirectory() as folder:
        solutions = Path(folder)
        export_all(ROOT, solutions)
        for seed in args.seeds:
            for variant in args.variants:
                if any(r["variant"] == variant and r["seed"] == seed for r in finished()):
                    continue
                run = one_run(variant, seed, solutions)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                print({k: v for k, v in run.items() if k != "rewards"}, flush=True)


if __name__ == "__main__":
    main()
