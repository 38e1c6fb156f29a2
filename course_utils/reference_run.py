"""The recorded run that notebook 6 lays yours beside: configs/config_debug.yaml with the course's solutions.

    OMP_NUM_THREADS=2 python -m course_utils.reference_run     # records it anew: three minutes, in the repository

reference_run.jsonl holds a line with the settings and the rewards of five other seeds (from benchmarks/), then the
metrics of each step. Another machine rounds differently, and after some steps that makes another run: the five seeds
say how far apart two sound runs may be.
"""
import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from course_utils.config import Config, load_config
from course_utils.exercises import EXERCISES, load_exercises
from course_utils.export import export_notebook
from course_utils.trainer import Trainer
from course_utils.whole_file import write_whole

RECORD = Path(__file__).with_suffix(".jsonl")
NO_MATTER = {  # for what is learned
    "dataset.eval_samples", "ppo.batch_size", "training.seed", "training.log_interval",
    "training.save_interval", "training.eval_interval", "training.output_dir", "training.device", "training.resume"}


@dataclass(frozen=True)
class ReferenceRun:
    settings: dict  # key -> value, without those of NO_MATTER
    seed_rewards: list[list[float]]  # the mean reward of each step, one list a seed
    history: list[dict]  # as read_metrics gives it


def reference_run() -> ReferenceRun:
    first, *history = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    return ReferenceRun(history=history, **first)


def differences(cfg: Config) -> list[str]:
    """The settings of `cfg` that make another run of it, each in words."""
    settings = reference_run().settings
    return [f"{key} is {value} here and {settings.get(key)} there" for key, value in _settings(cfg).items()
            if settings.get(key) != value]


def _settings(cfg: Config) -> dict:
    return {f"{section}.{key}": value for section, entries in asdict(cfg).items() if section != "wandb"
            for key, value in entries.items() if f"{section}.{key}" not in NO_MATTER}


def record(config: str, seeds: Path) -> None:
    """Trains with the solutions in notebooks/ and writes RECORD; `seeds` is the file of benchmarks/embedded_runs.py."""
    others = [run for run in map(json.loads, seeds.read_text().splitlines()) if run["variant"] == "default"]
    with tempfile.TemporaryDirectory() as folder:
        for exercise in EXERCISES.values():
            export_notebook(exercise.notebook, folder)
        cfg = load_config(config, [f"training.output_dir={folder}/run"])
        history = list(Trainer(cfg, load_exercises(folder)).train())
    first = {"settings": _settings(cfg), "seed_rewards": [run["rewards"] for run in others]}
    lines = [first, *({name: round(value, 5) for name, value in line.items() if not name.startswith("time/")}
                      for line in history)]
    write_whole("".join(json.dumps(line) + "\n" for line in lines), RECORD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/config_debug.yaml")
    parser.add_argument("--seeds", type=Path, default=Path("benchmarks/results/embedded_runs.jsonl"))
    args = parser.parse_args()
    record(args.config, args.seeds)
    print(f"written: {RECORD}")


if __name__ == "__main__":
    main()
