"""Metrics go to a tracker beside metrics.jsonl, and a tracker that is not there is said before anything is loaded."""

import sys

import pytest

from course_utils import accelerator, policy, train
from course_utils.config import ConfigError
from course_utils.exercises import load_exercises
from course_utils.metrics import read_metrics
from course_utils.run_folder import run_of
from course_utils.trainer import Trainer


def events_of(folder) -> dict[str, list[float]]:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {name: [event.value for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.mark.slow
def test_tensorboard_shows_what_metrics_jsonl_holds(small_config, solutions):
    trainer = Trainer(small_config("tracking=tensorboard", "training.total_ppo_steps=2"), load_exercises(solutions))
    list(trainer.train())
    shown, written = events_of(trainer.folder / "tinier-zero"), read_metrics(trainer.folder / "metrics.jsonl")
    for name in ("rollout/reward_mean", "loss/policy", "rollout/kl"):
        assert shown[name] == pytest.approx([line[name] for line in written], rel=1e-5)


class Tracked:
    """An Accelerator's calls to its trackers."""

    def __init__(self, monkeypatch, failing=None):
        self.kwargs, self.logged = {}, []
        monkeypatch.setattr(accelerator, "get_available_trackers", lambda: ["wandb", "trackio"])
        monkeypatch.setattr(accelerator.Accelerator, "init_trackers", self.start)
        monkeypatch.setattr(accelerator.Accelerator, "log", lambda _, values, step: self.logged.append((step, values)))
        self.failing = failing

    def start(self, project, init_kwargs):
        if self.failing:
            raise self.failing
        self.kwargs = init_kwargs


@pytest.mark.slow
def test_wandb_writes_into_the_runs_folder_and_gets_the_step_apart(small_config, solutions, monkeypatch):
    """trackio keeps the name `step` for itself and warns of a metric with it."""
    tracked = Tracked(monkeypatch)
    trainer = Trainer(
        small_config("wandb.report_to_wandb=true", "wandb.name=mine", "training.total_ppo_steps=1"),
        load_exercises(solutions),
    )
    list(trainer.train())
    assert tracked.kwargs == {"wandb": {"name": "mine", "dir": str(trainer.folder)}, "trackio": {"name": "mine"}}
    ((step, values),) = tracked.logged
    (written,) = read_metrics(trainer.folder / "metrics.jsonl")
    assert step == 1 and written == {"step": 1, **values}


def test_no_evaluation_is_kept_from_a_tracker(small_config, solutions, monkeypatch):
    tracked = Tracked(monkeypatch)
    settings = "log_interval=4", "eval_interval=3", "total_ppo_steps=5", "save_interval=5"
    cfg = small_config("wandb.report_to_wandb=true", *(f"training.{setting}" for setting in settings))
    list(Trainer(cfg, load_exercises(solutions)).train())
    assert [(step, "eval/accuracy" in values) for step, values in tracked.logged] == [
        (1, False),
        (3, True),
        (4, False),
        (5, True),
    ]
    assert "before/accuracy" in tracked.logged[0][1]


def test_a_tracker_that_does_not_start_is_said_before_a_model_is_loaded(small_config, solutions, monkeypatch):
    Tracked(monkeypatch, failing=RuntimeError("No API key configured."))
    monkeypatch.setattr(policy, "load_actor", lambda *_: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="does not start: No API key configured. Run `wandb login`"):
        Trainer(small_config("tracking=wandb"), load_exercises(solutions))
    with pytest.raises(ConfigError, match="does not start: No API key configured. tracking=none"):
        Trainer(small_config("tracking=trackio"), load_exercises(solutions))
    assert run_of(small_config()) is None  # or the next run would be called run-2


@pytest.mark.slow
def test_wandb_offline_leaves_nothing_but_its_folder_in_the_run(small_config, solutions, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    token = "hf_not_to_be_found_anywhere"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(small_config("tracking=wandb", "training.total_ppo_steps=1"), load_exercises(solutions))
    list(trainer.train())
    assert [path.name for path in tmp_path.iterdir()] == [trainer.folder.name]
    assert list(trainer.folder.glob("wandb/offline-run-*/*.wandb"))
    assert all(token.encode() not in path.read_bytes() for path in trainer.folder.rglob("*") if path.is_file())


def test_ctrl_c_says_how_to_go_on(solutions, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["train", "--config", "configs/config_debug.yaml", "--exercises", str(solutions)])
    with pytest.raises(SystemExit, match="stopped: .*training.resume=auto"):
        train.main()


@pytest.mark.parametrize(
    "override, package",
    [
        ("tracking=tensorboard", "tensorboard"),
        ("tracking=trackio", "trackio"),
        ("tracking=wandb", "wandb"),
        ("wandb.report_to_wandb=true", "wandb"),
    ],
)
def test_a_missing_package_is_said_with_its_command_before_a_model_is_loaded(
    override, package, small_config, solutions, monkeypatch
):
    monkeypatch.setattr(accelerator, "get_available_trackers", list)
    monkeypatch.setattr(policy, "load_tokenizer", lambda cfg: pytest.fail("too late"))
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        Trainer(small_config(override), load_exercises(solutions))


def test_an_unknown_tracker_is_refused(small_config):
    with pytest.raises(ConfigError, match="tracking=tensorbord must be one of none, tensorboard, wandb, trackio"):
        small_config("tracking=tensorbord")


@pytest.mark.parametrize("override", ["traking=wandb", "model=tiny"])
def test_keys_at_the_top_are_checked_as_others_are(override, small_config):
    with pytest.raises(ConfigError, match="tracking" if override.startswith("tra") else "model is a section"):
        small_config(override)


@pytest.mark.slow
def test_a_hub_token_is_in_no_file_of_a_run(small_config, solutions, monkeypatch, capfd):
    token = "hf_not_to_be_found_anywhere"
    monkeypatch.setenv("HF_TOKEN", token)
    trainer = Trainer(small_config("training.total_ppo_steps=1"), load_exercises(solutions))
    list(trainer.train())
    files = [path for path in trainer.folder.rglob("*") if path.is_file()]
    assert len(files) > 5 and all(token.encode() not in path.read_bytes() for path in files)
    assert token not in "".join(capfd.readouterr())
