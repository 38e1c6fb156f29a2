"""The recorded run that notebook 6 lays yours beside: configs/config_debug.yaml with the course's solutions.

reference_run.jsonl, which benchmarks/record_reference_run.py writes, holds a line with the settings, the model and the
rewards of five other seeds, then the metrics of each step. Another machine rounds differently, and after some steps
that makes another run: the five seeds say how far apart two sound runs may be.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from course_utils.config import Config
from course_utils.run_folder import MAY_DIFFER, flat

RECORD = Path(__file__).with_suffix(".jsonl")
# Settings that do not change what is learned. The number of steps does: the schedule of the learning rate has it.
NO_MATTER = {*MAY_DIFFER, "dataset.eval_samples", "training.seed"} - {"training.total_ppo_steps"}


@dataclass(frozen=True)
class ReferenceRun:
    settings: dict  # key -> value, without those of NO_MATTER
    weights: str  # the SHA-256 of those of the embedded model that it began with
    seed_rewards: list[list[float]]  # the mean reward of each step, one list a seed
    history: list[dict]  # as read_metrics gives it


def reference_run() -> ReferenceRun:
    first, *history = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    return ReferenceRun(history=history, **first)


def differences(cfg: Config) -> list[str]:
    """The settings of `cfg` that make another run of it, each in words."""
    settings = reference_run().settings
    return [
        f"{key} is {value} here and {settings.get(key)} there"
        for key, value in compared_settings(cfg).items()
        if settings.get(key) != value
    ]


def compared_settings(cfg: Config) -> dict:
    """key -> value of all settings that change what is learned."""
    return {key: value for key, value in flat(asdict(cfg)).items() if key not in NO_MATTER}
