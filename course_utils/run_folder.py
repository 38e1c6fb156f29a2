"""Which folder a run writes to: a new one, or with training.resume=auto that of one that was cut off."""

import errno
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path

from course_utils.checkpoint import latest, recover, step_of
from course_utils.config import KEYS, Config, ConfigError, read_yaml

# What may differ when a run goes on: where, how long and in how much memory, but not what is learned.
MAY_DIFFER = (
    "ppo.batch_size",
    "training.total_ppo_steps",
    "training.output_dir",
    "training.resume",
    "training.log_interval",
    "training.eval_interval",
    "training.save_interval",
    "training.device",
    "training.gradient_checkpointing",
    "tracking",
    "wandb.report_to_wandb",
    "wandb.project",
    "wandb.name",
)
SETTINGS = "effective_config.yaml"
LAST_KEY = list(KEYS)[-1]  # that save_config writes there


def open_run(cfg: Config) -> tuple[Path, Path | None]:
    """The run's folder, made if need be, and the checkpoint to go on from (None: from the start).

    A new run never writes into a folder that is there: beside `outputs/debug` it makes `outputs/debug-2`.

    Raises:
        ConfigError: there are runs, but all were started with other settings; no folder can be made there.
    """
    output_dir = Path(cfg.training.output_dir)
    try:
        if output_dir.is_file():
            raise FileExistsError(errno.EEXIST, "that is a file")
        if output_dir.name in ("", ".."):
            raise OSError(errno.EINVAL, "that has no name")
        if cfg.training.resume == "auto":
            _refuse_other_settings(cfg)
            last = run_of(cfg)
            if last:
                recover(last)
            if last and not _is_finished(last, cfg.training.total_ppo_steps):
                return last, latest(last)
        return _new_folder(cfg), None
    except OSError as error:
        raise ConfigError(
            f"training.output_dir={output_dir} cannot be made: {error.strerror}. Name a folder, there already or "
            "not, in a place where you may write"
        ) from error


def _new_folder(cfg: Config) -> Path:
    """With a number above those of all runs, and of what else is there by this name."""
    output_dir = Path(cfg.training.output_dir)
    newest = next((number for number, _ in _runs(cfg)), 0)
    for number in count(newest + 1):
        folder = output_dir if number == 1 else output_dir.with_name(f"{output_dir.name}-{number}")
        with suppress(FileExistsError):  # perhaps of a run that starts at the same time
            folder.mkdir(parents=True)
            break
    return folder


def _is_finished(run: Path, steps: int) -> bool:
    """Whether the run has come to `steps` steps and to its end. final/ may be missing, since it was killed just before,
    be that of a shorter run, or be all that somebody kept."""
    last = latest(run)
    if last is None:
        return (run / "final").exists()
    return step_of(run / "final") >= steps or int(last.name.removeprefix("step_")) > steps


def run_of(cfg: Config) -> Path | None:
    """The newest run of cfg.training.output_dir with these settings; None where there is none."""
    for _, run in _runs(cfg):
        with suppress(ConfigError):  # damaged settings are nobody's
            if not _changes(cfg, run):
                return run
    return None


def _runs(cfg: Config) -> Iterator[tuple[int, Path]]:
    """The newest first: ..., (2, outputs/debug-2), (1, outputs/debug), as far as they are there and runs of this
    output_dir. Any of them may have been deleted, and outputs/debug-3 may be an output_dir of its own."""
    output_dir = Path(cfg.training.output_dir)
    numbered = [(1, output_dir)]
    for path in output_dir.parent.glob("*"):
        name, _, digits = path.name.rpartition("-")
        if name == output_dir.name and digits.isdecimal() and int(digits) > 1:
            numbered.append((int(digits), path))
    for number, folder in sorted(numbered, reverse=True):
        if came_to_something(folder) and (folder == output_dir or not _is_its_own(folder)):
            yield number, folder


def came_to_something(folder: Path) -> bool:
    """Whether a run that was started in this folder has written its settings, or a checkpoint."""
    return (folder / SETTINGS).exists() or latest(folder) is not None


def _is_its_own(folder: Path) -> bool:
    """Whether a run names this very folder as its output_dir."""
    with suppress(ConfigError):  # which is told where the settings are compared
        settings = _settings_of(folder) or {}
        return Path(str(settings.get("training.output_dir"))).name == folder.name
    return False


def _refuse_other_settings(cfg: Config) -> None:
    newest = next((run for _, run in _runs(cfg)), None)
    changed = _changes(cfg, newest) if newest else []
    if changed and not run_of(cfg):
        raise ConfigError(
            f"training.resume=auto found {newest}, which was started with other settings "
            f"({'; '.join(changed)}). Use the same ones, or training.resume=never for a new run"
        )


def _changes(cfg: Config, run: Path) -> list[str]:
    """The settings that decide what is learned and were others when the run was started, each in words. ConfigError:
    what it wrote of them is damaged."""
    before, now = _settings_of(run), flat(asdict(cfg))
    if before is None:
        return []
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]


def _settings_of(folder: Path) -> dict | None:
    """The settings that a run was started with, None where somebody has deleted them."""
    saved = folder / SETTINGS
    if not saved.exists():
        return None
    try:
        settings = read_yaml(saved)
        if LAST_KEY not in settings:
            raise ConfigError(f"{saved} breaks off before its end")
    except ConfigError as error:
        raise ConfigError(
            f"training.resume=auto found {folder}, but its settings are damaged: {error}. Delete that file to go on "
            "with the settings of now, which have to be the same, or set training.resume=never for a new run"
        ) from error
    return flat(settings)


def flat(tree: dict, prefix: str = "") -> dict:
    """{"ppo": {"gamma": 1}} as {"ppo.gamma": 1}."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
