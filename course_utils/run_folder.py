"""Which folder a run writes to: a new one, or with training.resume=auto that of the run that was cut off."""

import errno
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, count, takewhile
from pathlib import Path

from course_utils.checkpoint import latest, step_of
from course_utils.config import KEYS, Config, ConfigError, read_yaml

# What may differ when a run goes on: where and how long, but not what is learned.
MAY_DIFFER = (
    "training.total_ppo_steps",
    "training.output_dir",
    "training.resume",
    "training.log_interval",
    "training.eval_interval",
    "training.save_interval",
    "training.device",
    "tracking",
    "wandb.report_to_wandb",
    "wandb.project",
    "wandb.name",
)
LAST_KEY = list(KEYS)[-1]  # that save_config writes


def open_run(cfg: Config) -> tuple[Path, Path | None]:
    """The run's folder, made if need be, and the checkpoint to go on from (None: from the start).

    A new run never writes into the folder of an old one: beside `outputs/debug` it makes `outputs/debug-2`.

    Raises:
        ConfigError: the run to go on with was started with other settings; no folder can be made there.
    """
    output_dir = Path(cfg.training.output_dir)
    try:
        if output_dir.is_file():
            raise FileExistsError(errno.EEXIST, "that is a file")
        last = last_run(output_dir)
        if cfg.training.resume == "auto" and last and not _is_finished(last, cfg.training.total_ppo_steps):
            _refuse_other_settings(cfg, last)
            return last, latest(last)
        folder = next(name for name in _names(output_dir) if not name.exists())
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"training.output_dir={output_dir} cannot be made: {error.strerror}. Name a folder, there already or "
            "not, in a place where you may write"
        ) from error
    return folder, None


def _is_finished(run: Path, steps: int) -> bool:
    """A run may have been killed between its last step and final/, which may be there from a shorter one."""
    last = latest(run)
    return step_of(run / "final") >= steps or last is not None and int(last.name.removeprefix("step_")) > steps


def last_run(output_dir: str | Path) -> Path | None:
    """The newest run of `output_dir`, or None if there was none."""
    return next(reversed(list(takewhile(Path.exists, _names(output_dir)))), None)


def _names(output_dir: str | Path) -> Iterator[Path]:
    """outputs/debug, outputs/debug-2, outputs/debug-3, ..."""
    base = Path(output_dir)
    return chain([base], (base.with_name(f"{base.name}-{number}") for number in count(2)))


def _refuse_other_settings(cfg: Config, folder: Path) -> None:
    before = _settings_of(folder)
    if before is None:
        return
    now = flat(asdict(cfg))
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]
    if changed:
        raise ConfigError(
            f"training.resume=auto found {folder}, which was started with other settings "
            f"({'; '.join(changed)}). Use the same ones, or training.resume=never for a new run"
        )


def _settings_of(folder: Path) -> dict | None:
    """The settings that a run was started with, None where it came to nothing before it wrote them."""
    saved = folder / "effective_config.yaml"
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
