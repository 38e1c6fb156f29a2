"""A short training run of the embedded model, in which one of the five functions is the one to look at."""

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from course_utils.config import Config, load_config
from course_utils.embedded import weights_sha256
from course_utils.exercises import EXERCISES, LOSSES, STAND_INS, load_exercises
from course_utils.metrics import masked_mean
from course_utils.trainer import Trainer

RUN = Path(__file__).parent / "run.yaml"
OVERRIDES = {  # exercise key -> in what its runs differ from run.yaml
    # Several epochs on each rollout: that is where clipping has work to do.
    "policy_loss": [
        "ppo.epochs=4",
        "ppo.learning_rate=2e-4",
        "ppo.kl_coeff=0.02",
        "ppo.max_grad_norm=1.0",
    ],
    "value_loss": ["ppo.clip_range_value=0.05"],  # or a single epoch would clip nothing
    "entropy": ["ppo.entropy_coeff=0.15"],
}


def settings_of(key: str, *more: str) -> Config:
    return load_config(RUN, [*OVERRIDES.get(key, []), *more])


def fingerprint(key: str) -> str:
    """Tells whether recorded runs were made with the settings and the model of now."""
    settings = json.dumps(asdict(settings_of(key)), sort_keys=True)
    return hashlib.sha256(f"{settings} {weights_sha256()}".encode()).hexdigest()[:16]


class WatchedTrainer(Trainer):
    """Measures the entropy of the policy itself: what the update logs comes from the function that may be wrong."""

    def rollout(self, step: int):
        buffer, scores = super().rollout(step)
        self.entropy = -masked_mean(buffer["logprobs"], buffer["response_attention_mask"]).item()
        return buffer, scores

    def ppo_step(self) -> dict:
        return super().ppo_step() | {"rollout/entropy": self.entropy}  # nats a token, on the sampled tokens


def short_run(key: str, function: Callable, *overrides: str) -> Iterator[dict]:
    """The metrics of each step with `function` as exercise `key`, and stand-ins for the other four.

    TrainingError, or whatever the function raises: the run had to stop.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = settings_of(key, f"training.output_dir={folder}/run", *overrides)
        exercises = replace(load_exercises(STAND_INS), **{EXERCISES[key].function: function})
        with _losses_put_back(exercises.run_ppo_update_epoch):
            trainer = WatchedTrainer(cfg, exercises)
            for _ in range(cfg.training.total_ppo_steps):
                yield trainer.ppo_step()


@contextmanager
def _losses_put_back(update: Callable) -> Iterator[None]:
    """A trainer puts its losses where `update` looks for them: of a function written in a notebook, among the names of
    that notebook, where the learner's own may be."""
    names = getattr(inspect.unwrap(update), "__globals__", {})
    before = {name: names[name] for name in LOSSES if name in names}
    try:
        yield
    finally:
        for name in LOSSES:
            names.pop(name, None)
        names.update(before)
