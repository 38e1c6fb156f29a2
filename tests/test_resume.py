"""A run that is killed and resumed ends with exactly the metrics of one that was not."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_utils.checkpoint import CheckpointError, latest, restore, step_of
from course_utils.config import ConfigError, save_config
from course_utils.exercises import load_exercises
from course_utils.metrics import MetricsLog, read_metrics
from course_utils.policy import ModelError
from course_utils.run_folder import open_run, run_of
from course_utils.trainer import Trainer
from tests.conftest import ROOT


def without_times(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in history]


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(small_run, small_config, solutions, tmp_path):
    settings = ("training.total_ppo_steps=5", "training.save_interval=2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    list(Trainer(small_config(*settings, f"training.output_dir={whole}"), load_exercises(solutions)).train())

    def in_step_four() -> bool:
        return (killed / "metrics.jsonl").exists() and len(read_metrics(killed / "metrics.jsonl")) == 3

    def while_a_checkpoint_is_written() -> bool:
        return (killed / ".step_4.partial").exists()

    settings += "training.resume=auto", f"training.output_dir={killed}"
    again = [
        sys.executable,
        "-m",
        "course_utils.train",
        "--config",
        "configs/config_debug.yaml",
        "--exercises",
        str(solutions),
        *small_run(*settings),
    ]
    for moment in (in_step_four, while_a_checkpoint_is_written):
        process = subprocess.Popen(again, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not moment():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (killed / "step_2").exists() and not (killed / "step_4").exists()
    list(Trainer(small_config(*settings), load_exercises(solutions)).train())

    expected, found = (without_times(read_metrics(folder / "metrics.jsonl")) for folder in (whole, killed))
    assert found == expected
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    assert not list(killed.glob(".*"))


def test_a_finished_run_is_not_resumed_but_a_longer_one_goes_on(small_config, solutions):
    exercises = load_exercises(solutions)
    list(Trainer(small_config("training.total_ppo_steps=1"), exercises).train())
    changes = "training.total_ppo_steps=2", "training.eval_interval=1", "wandb.project=p", "wandb.name=n"
    longer = Trainer(small_config(*changes, "training.resume=auto"), exercises)
    assert longer.step == 1 and [line["step"] for line in longer.train()] == [2]
    fresh = Trainer(small_config("training.total_ppo_steps=2", "training.resume=auto"), exercises)
    assert fresh.step == 0 and fresh.folder != longer.folder


@pytest.mark.parametrize(
    "place, reason",
    [("/proc/run", "No such file"), ("{file}/run", "Not a directory"), ("{file}", "that is a file")],
)
@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_place_where_no_folder_can_be_is_named(small_config, tmp_path, place, reason, resume):
    (tmp_path / "file").touch()
    place = place.format(file=tmp_path / "file")
    with pytest.raises(ConfigError, match=f"training.output_dir={place} cannot be made: {reason}.*Name a folder"):
        open_run(small_config(f"training.output_dir={place}", f"training.resume={resume}"))


def what_it_left(folder) -> dict[str, bytes]:
    """The files that say what came out; metrics without times."""
    kept = {name: (folder / name).read_bytes() for name in ("samples_after.jsonl", "final/model.safetensors")}
    return kept | {"metrics": without_times(read_metrics(folder / "metrics.jsonl"))}


def test_a_run_killed_between_its_last_step_and_final_is_finished(small_config, solutions):
    exercises = load_exercises(solutions)
    first = Trainer(small_config("training.total_ppo_steps=1"), exercises)
    list(first.train())
    whole = what_it_left(first.folder)
    shutil.rmtree(first.folder / "final")  # the state that SIGKILL leaves there: final/ is renamed when it is whole
    again = Trainer(small_config("training.total_ppo_steps=1", "training.resume=auto"), exercises)
    assert again.folder == first.folder and list(again.train()) == [] and what_it_left(first.folder) == whole
    # The same where final/ is of a shorter run, and the run of two steps was meant to be longer: no evaluation yet.
    for _ in Trainer(small_config("training.resume=auto"), exercises).train():
        break
    shorter = Trainer(small_config("training.total_ppo_steps=2", "training.resume=auto"), exercises)
    assert shorter.folder == first.folder and shorter.step == 2 and list(shorter.train()) == []
    assert [line["step"] for line in read_metrics(shorter.log.path)] == [1, 2]
    assert "eval/accuracy" in read_metrics(shorter.log.path)[-1] and step_of(first.folder / "final") == 2
    assert Trainer(small_config("training.total_ppo_steps=2", "training.resume=auto"), exercises).folder != first.folder


def test_what_a_shortened_run_leaves_is_of_its_own_end(small_config, solutions):
    """Killed after an evaluation in step 2, resumed from step 1 as a run of one step."""
    exercises, settings = load_exercises(solutions), ("training.eval_interval=1", "training.save_interval=1")
    whole = Trainer(small_config(*settings, "training.total_ppo_steps=1"), exercises)
    list(whole.train())
    killed = Trainer(small_config(*settings, "training.output_dir=" + str(whole.folder.with_name("killed"))), exercises)
    for metrics in killed.train():
        if metrics["step"] == 2:
            break
    shutil.rmtree(killed.folder / "step_2")
    (killed.folder / "samples_after.jsonl").write_text("those of step 2")  # which might be the same
    cfg = small_config(*settings, "training.total_ppo_steps=1", f"training.output_dir={killed.folder}")
    again = Trainer(replace(cfg, training=replace(cfg.training, resume="auto")), exercises)
    assert again.folder == killed.folder and list(again.train()) == []
    assert (again.folder / "samples_after.jsonl").read_bytes() == (whole.folder / "samples_after.jsonl").read_bytes()
    assert [line["step"] for line in read_metrics(again.log.path)] == [1]


@pytest.mark.parametrize("text", ["", "ppo:\n  epo", "ppo: {", "- 1\n", "\0"])
def test_damaged_settings_are_told_in_one_message(small_config, text):
    folder, _ = open_run(small_config())
    (folder / "effective_config.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"run, but its settings are damaged: .*effective_config.yaml.*Delete that file"
    ):
        open_run(small_config("training.resume=auto"))
    (folder / "effective_config.yaml").unlink()
    (folder / "step_1").mkdir()
    assert open_run(small_config("training.resume=auto")) == (folder, folder / "step_1")


def test_damaged_settings_are_told_of_a_later_run_too(small_config):
    begin(small_config())
    (begin(small_config()) / "effective_config.yaml").write_text("ppo: {")
    with pytest.raises(ConfigError, match="run-2, but its settings are damaged"):
        open_run(small_config("training.resume=auto"))


@pytest.mark.parametrize("there", [True, False])
def test_a_process_killed_while_it_writes_the_settings_leaves_what_was_there(small_config, tmp_path, there):
    path = tmp_path / "effective_config.yaml"
    if there:
        save_config(small_config(), path)
    before = path.read_text() if there else None
    child = os.fork()
    if not child:  # the kernel kills it in the middle of the file
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        save_config(small_config("ppo.epochs=7"), path)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ
    assert (path.read_text() if path.exists() else None) == before


def test_resuming_with_other_settings_is_refused(small_config, solutions):
    exercises = load_exercises(solutions)
    next(Trainer(small_config("training.save_interval=1"), exercises).train())
    with pytest.raises(ConfigError, match=r"ppo.clip_ratio: 0.2 -> 0.3"):
        Trainer(small_config("training.resume=auto", "training.save_interval=1", "ppo.clip_ratio=0.3"), exercises)


def test_a_damaged_checkpoint_is_named(small_config, solutions):
    exercises = load_exercises(solutions)
    trainer = Trainer(small_config("training.save_interval=1"), exercises)
    next(trainer.train())
    not_one = "step_1 is not a checkpoint that can be resumed"
    for name, error, message in (  # each is read before the last one
        ("trainer_state.json", CheckpointError, not_one),
        ("optimizer.pt", CheckpointError, not_one),
        ("optimizer.pt", CheckpointError, f"{not_one}: EOFError"),
        ("value_head.safetensors", ModelError, "cannot load '.*step_1'(.|\n)*delete its folder"),
    ):
        (trainer.folder / "step_1" / name).write_bytes(b"" if "EOF" in message else b"no checkpoint")
        with pytest.raises(error, match=message):
            Trainer(small_config("training.resume=auto", "training.save_interval=1"), exercises)


def test_a_checkpoint_of_the_other_adam_is_refused_before_a_rollout(small_config, solutions):
    exercises = load_exercises(solutions)
    trainer = Trainer(small_config("training.save_interval=1"), exercises)
    next(trainer.train())
    eight_bits = torch.optim.SGD(trainer.actor.parameters())  # or whatever is no AdamW
    with pytest.raises(CheckpointError, match="written with 32-bit Adam, and here it is the 8-bit one"):
        restore(trainer.folder / "step_1", eight_bits, trainer.lr_scheduler, sharded=False)
    file = trainer.folder / "step_1/optimizer.pt"
    saved = torch.load(file, weights_only=True)
    for moments in saved["optimizer"]["state"].values():  # as bitsandbytes names them
        moments["state1"] = moments.pop("exp_avg")
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match="written with 8-bit Adam, and here it is the 32-bit one"):
        Trainer(small_config("training.resume=auto", "training.save_interval=1"), exercises)


def test_a_checkpoint_from_before_the_first_update_can_be_resumed(small_config, solutions):
    """As of a run whose steps so far all overflowed float16: Adam has no numbers yet."""
    trainer = Trainer(small_config(), load_exercises(solutions))
    trainer.save("step_1")
    assert restore(trainer.folder / "step_1", trainer.optimizer, trainer.lr_scheduler, sharded=False) == {"step": 0}


def test_a_half_written_last_line_of_the_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "rew')
    MetricsLog(path, last_step=2).append({"step": 3})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize("text", ['{"step": 1}\n', '{"st'])
def test_a_line_whose_writing_was_stopped_is_there_once(tmp_path, text):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 0})
    with log.path.open("a") as file:
        file.write(text)  # of an append() that did not return
    log.append({"step": 1})
    log.append({"step": 2})
    assert [line["step"] for line in read_metrics(log.path)] == [0, 1, 2]


def test_a_line_of_the_metrics_is_on_the_disk_when_its_step_counts(tmp_path, monkeypatch):
    log, on_disk = MetricsLog(tmp_path / "metrics.jsonl"), []
    monkeypatch.setattr(os, "fsync", lambda _: on_disk.append(log.path.read_text()))
    log.append({"step": 1})
    assert on_disk == ['{"step": 1}\n']


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(small_config, solutions, monkeypatch):
    trainer, flushed, whole = Trainer(small_config(), load_exercises(solutions)), set(), []

    def rename(partial, target):
        whole.append({path.stat().st_ino for path in [partial, *partial.rglob("*")]} <= flushed)
        os.rename(partial, target)

    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", rename)
    trainer.save("step_1")
    assert whole == [True]


def test_a_checkpoint_that_cannot_be_replaced_is_still_there(small_config, solutions, monkeypatch):
    trainer = Trainer(small_config(), load_exercises(solutions))
    trainer.save("step_1")

    def rename(old, new):
        if old.name == ".step_1.partial":
            raise OSError(5, "Input/output error")
        os.rename(old, new)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CheckpointError, match="The last good checkpoint is .*step_1"):
        trainer.save("step_1")
    assert (trainer.folder / "step_1/optimizer.pt").exists() and not list(trainer.folder.glob(".*"))
    monkeypatch.undo()
    for what in ("partial", "replaced"):
        (trainer.folder / f".step_1.{what}/old").mkdir(parents=True)  # of a process that was killed in the middle
    trainer.save("step_1")
    assert (trainer.folder / "step_1/optimizer.pt").exists() and not list(trainer.folder.glob(".*"))
    assert not (trainer.folder / "step_1/old").exists()


def test_the_latest_checkpoint_is_the_one_with_the_largest_number(tmp_path):
    assert latest(tmp_path) is None
    for name in ("step_9", "step_10", "step_11-copy"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) == tmp_path / "step_10"


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"step": null}', None])
def test_a_folder_that_tells_no_step_has_none_behind_it(tmp_path, state):
    if state is not None:
        (tmp_path / "trainer_state.json").write_text(state)
    assert step_of(tmp_path) == 0


def begin(cfg) -> Path:
    """The folder of a new run, with what the trainer first writes there."""
    folder, _ = open_run(cfg)
    save_config(cfg, folder / "effective_config.yaml")
    return folder


def test_a_checkpoint_that_was_being_replaced_when_the_process_was_killed_comes_back(small_config):
    run = begin(small_config())
    for name in (".step_2.replaced", ".step_1.replaced", "step_1", ".step_2.partial"):
        (run / name).mkdir()
    assert open_run(small_config("training.resume=auto")) == (run, run / "step_2")
    assert (run / ".step_1.replaced").exists()  # a newer step_1 is there


def test_of_a_finished_run_final_may_be_kept_alone(small_config):
    run = begin(small_config())
    (run / "final").mkdir()
    assert open_run(small_config("training.resume=auto", "training.total_ppo_steps=99"))[0].name == "run-2"


def test_another_output_dir_that_ends_in_a_number_is_no_run_of_this_one(small_config, tmp_path):
    other = begin(small_config(f"training.output_dir={tmp_path / 'run-3'}", "ppo.lam=0.5"))
    begin(small_config(f"training.output_dir={tmp_path / 'run-1'}", "ppo.lam=0.5"))
    first = begin(small_config("training.resume=auto"))
    assert (first.name, begin(small_config()).name, begin(small_config()).name) == ("run", "run-2", "run-4")
    assert open_run(small_config(f"training.output_dir={other}", "ppo.lam=0.5", "training.resume=auto"))[0] == other


@pytest.mark.parametrize("place", [".", "/", ".."])
def test_a_place_without_a_name_is_refused(small_config, place):
    with pytest.raises(ConfigError, match="cannot be made: that has no name"):
        open_run(small_config(f"training.output_dir={place}"))


def test_the_newest_run_goes_on(small_config):
    runs = [begin(small_config()) for _ in range(3)]
    assert open_run(small_config("training.resume=auto"))[0] == runs[-1]


def test_a_run_that_was_deleted_hides_none_and_its_number_stays_free(small_config):
    first, _, third = (begin(small_config()) for _ in range(3))
    shutil.rmtree(first)
    assert open_run(small_config("training.resume=auto"))[0] == run_of(small_config()) == third
    assert open_run(small_config())[0].name == "run-4"


def test_a_start_that_came_to_nothing_does_not_stand_in_the_way_of_a_run(small_config):
    begun = begin(small_config())
    open_run(small_config())  # and killed before it wrote its settings
    assert open_run(small_config("training.resume=auto"))[0] == run_of(small_config()) == begun
    with pytest.raises(ConfigError, match="found .*run, which was started with other settings"):
        open_run(small_config("ppo.lam=0.5", "training.resume=auto"))


def test_an_experiment_after_it_does_not_stand_in_the_way_of_a_run(small_config):
    for setting in ("ppo.lam=0.95", "ppo.lam=0"):
        begin(small_config(setting))
    assert open_run(small_config("ppo.lam=0.95", "training.resume=auto"))[0].name == "run"
    assert open_run(small_config("ppo.lam=0", "training.resume=auto"))[0].name == "run-2"
    with pytest.raises(ConfigError, match=r"found .*run-2, .*other settings \(ppo.lam: 0.0 -> 0.5\)"):
        open_run(small_config("ppo.lam=0.5", "training.resume=auto"))


def test_a_run_may_go_on_elsewhere_in_less_memory_and_be_watched_otherwise(small_config, tmp_path):
    folder = begin(small_config())
    moved = folder.rename(tmp_path / "moved")  # as the message of a full disk advises
    watched = "training.log_interval=7 training.save_interval=7 tracking=tensorboard wandb.report_to_wandb=true".split()
    smaller = "ppo.batch_size=1", "training.gradient_checkpointing=true"  # which change nothing that is learned
    changes = f"training.output_dir={moved}", "training.device=cuda", *smaller, *watched
    assert open_run(small_config(*changes, "training.resume=auto")) == (moved, None)


def test_a_setting_that_only_one_version_of_the_course_knows_is_another_setting(small_config):
    folder = begin(small_config())
    text = (folder / "effective_config.yaml").read_text()
    (folder / "effective_config.yaml").write_text(text.replace("  gamma:", "  discount:"))
    with pytest.raises(ConfigError, match="ppo.discount: 0.985 -> None; ppo.gamma: None -> 0.985"):
        open_run(small_config("training.resume=auto"))
