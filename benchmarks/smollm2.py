r"""The runs of docs/smollm2.md: SmolLM2-135M-Instruct on GSM8K, their steps, before and after.

    OMP_NUM_THREADS=1 python benchmarks/smollm2.py
    OMP_NUM_THREADS=1 python benchmarks/smollm2.py dataset.name=folder/with/gsm8k training.resume=auto
    OMP_NUM_THREADS=1 python benchmarks/smollm2.py --name smollm2_kl_0.03 ppo.kl_coeff=0.03 \
        training.total_ppo_steps=16 training.eval_interval=16 dataset.eval_samples=100 \
        training.output_dir=outputs/smollm2_kl_0.03                                    # and 0.06
    OMP_NUM_THREADS=1 python benchmarks/smollm2.py --name smollm2_kl_0.06_30 ppo.kl_coeff=0.06 \
        training.output_dir=outputs/smollm2_kl_0.06_30
    OMP_NUM_THREADS=1 python benchmarks/smollm2.py --name smollm2_kl_0.06_30_seed_2 ppo.kl_coeff=0.06 \
        training.seed=2 training.output_dir=outputs/smollm2_kl_0.06_30_seed_2          # and 3
    OMP_NUM_THREADS=1 python benchmarks/smollm2.py --seed 2                            # and 3: ten steps each
    OMP_NUM_THREADS=2 python benchmarks/smollm2.py --seed 1 ppo.learning_rate=3e-5     # and 2, 3, 42
    python benchmarks/smollm2.py --draw                                                # docs/smollm2.png

results/NAME.jsonl gets a line a PPO step, results/NAME.json the summary; with --seed only smollm2_seeds.jsonl gets
lines, and nothing is evaluated. The processor's seconds are those of all threads together; those of the first and the
last step include the evaluation.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import mean

from course_utils.config import Config, load_config
from course_utils.evaluate import wilson_interval
from course_utils.exercises import load_exercises
from course_utils.export import export_all
from course_utils.figures.show import BLUE, GREEN, GREY, ORANGE, new_figure
from course_utils.metrics import read_metrics
from course_utils.reward import score
from course_utils.samples import read_samples
from course_utils.trainer import Trainer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PICTURE = ROOT / "docs/smollm2.png"
THIN = {"lw": 1, "alpha": 0.5}  # of the other seeds


def shares(samples: list[dict], cfg) -> dict:
    """Of one evaluation: right and well-formed answers with their 95 % intervals, and the first answers."""
    scores = [score(sample["response"], sample["gold"], cfg.reward) for sample in samples]
    found = {"problems": len(scores), "characters": mean(len(sample["response"]) for sample in samples)}
    for name in ("correct", "well_formed", "flexible_correct"):
        count = sum(getattr(result, name) for result in scores)
        found[name] = [count / len(scores), *wilson_interval(count, len(scores))]
    return found | {"answers": [[sample["gold"], sample["response"]] for sample in samples[:10]]}


def train(cfg: Config, name: str, **more) -> Path:
    """Trains with `cfg` and appends a line a PPO step, with `more` in it, to results/NAME.jsonl; the run's folder."""
    with tempfile.TemporaryDirectory() as solutions:
        export_all(ROOT, solutions)
        trainer = Trainer(cfg, load_exercises(solutions))
        started = time.process_time()
        for metrics in trainer.train():
            now = time.process_time()
            with (RESULTS / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(more | metrics | {"time/processor_seconds": now - started}) + "\n")
            started = now
    return trainer.folder


def run(name: str, overrides: list[str]) -> None:
    cfg = load_config(ROOT / "configs/config_smollm2.yaml", overrides)
    folder = train(cfg, name)
    summary = {when: shares(read_samples(folder / f"samples_{when}.jsonl"), cfg) for when in ("before", "after")}
    summary["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def run_seed(seed: int, overrides: list[str]) -> None:
    settings = "dataset.eval_samples=1", "training.total_ppo_steps=10", f"training.seed={seed}"
    with tempfile.TemporaryDirectory() as folder:
        more = *settings, "training.save_interval=100", f"training.output_dir={folder}/run", *overrides
        cfg = load_config(ROOT / "configs/config_smollm2.yaml", more)
        train(cfg, "smollm2_seeds", seed=seed, learning_rate=cfg.ppo.learning_rate, kl_coeff=cfg.ppo.kl_coeff)


def other_seeds() -> list[list[dict]]:
    """The steps of each seed with the config's learning rate and price of the KL."""
    ppo = load_config(ROOT / "configs/config_smollm2.yaml").ppo
    same = {"learning_rate": ppo.learning_rate, "kl_coeff": ppo.kl_coeff}
    lines = [line for line in read_metrics(RESULTS / "smollm2_seeds.jsonl") if same.items() <= line.items()]
    return [[line for line in lines if line["seed"] == seed] for seed in sorted({line["seed"] for line in lines})]


def draw() -> None:
    figure = new_figure(3.2)
    panels = (
        (
            "Share of 24 sampled answers",
            (("rollout/well_formed", "well-formed", BLUE), ("rollout/accuracy", "right", GREEN)),
        ),
        ("Length of an answer (tokens)", (("rollout/response_length", "", GREY),)),
        ("KL to the reference (nats)", (("rollout/kl", "", ORANGE),)),
    )
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels):
        for metric, label, colour in lines:
            runs = [(history, THIN) for history in other_seeds() if metric != "rollout/accuracy"]
            runs.append((read_metrics(RESULTS / "smollm2_kl_0.03.jsonl"), {"ls": "--"}))
            for seed, style in (("", {}), ("_seed_2", THIN), ("_seed_3", THIN)):
                runs.append((read_metrics(RESULTS / f"smollm2_kl_0.06_30{seed}.jsonl"), {"ls": ":", **style}))
            runs.append((read_metrics(RESULTS / "smollm2.jsonl"), {"marker": "o", "ms": 3, "label": label or None}))
            for history, style in runs:
                points = [(line["step"], line[metric]) for line in history]
                axes.plot(*zip(*points), color=colour, **style)
        axes.set(title=title, xlabel="PPO step", ylim=(0, None))
        if len(lines) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 0.07), ncols=2, fontsize=8)  # where no curve is
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="smollm2", help="of the files in results/ (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--draw", action="store_true", help="only draw what is in results/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    if args.draw:
        draw()
    elif args.seed is not None:
        run_seed(args.seed, args.overrides)
    else:
        run(args.name, args.overrides)


if __name__ == "__main__":
    main()
