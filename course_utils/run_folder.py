"""Which folder a run writes to: a new one, or with training.resume=auto that of one that was cut off."""

import errno
from collections.abc import Iterator
from contextlib import suppress
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
        ConfigError: there are runs, but all were started with other settings; no folder can be made there.
    """
    output_dir = Path(cfg.training.output_dir)
    try:
        if output_dir.is_file():
            raise FileExistsError(errno.EEXIST, "that is a file")
        if cfg.training.resume == "auto":
            _refuse_other_settings(cfg)
            last = run_of(cfg)
            if last and not _is_finished(last, cfg.training.total_ppo_steps):
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


def run_of(cfg: Config) -> Path | None:
    """The newest run of cfg.training.output_dir with these settings, or that came to nothing before it wrote any; None
    where there is none."""
    for run in _runs(cfg):
        with suppress(ConfigError):  # damaged settings are nobody's
            if not _changes(cfg, run):
                return run
    return None


def _runs(cfg: Config) -> list[Path]:
    """The newest first."""
    return [*takewhile(Path.exists, _names(cfg.training.output_dir))][::-1]


def _names(output_dir: str | Path) -> Iterator[Path]:
    """outputs/debug, outputs/debug-2, outputs/debug-3, ..."""
    base = Path(output_dir)
    return chain([base], (base.with_name(f"{base.name}-{number}") for number in count(2)))


def _refuse_other_settings(cfg: Config) -> None:
    for newest in _runs(cfg)[:1]:
        changed = _changes(cfg, newest)
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
