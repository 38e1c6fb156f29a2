"""Which folder a run writes to: a new one, or with training.resume=auto that of the run that was cut off."""

from collections.abc import Iterator
from itertools import chain, count, takewhile
from pathlib import Path

from omegaconf import OmegaConf

from course_utils.checkpoint import latest
from course_utils.config import Config, ConfigError

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


def open_run(cfg: Config) -> tuple[Path, Path | None]:
    """The run's folder, made if need be, and the checkpoint to go on from (None: from the start).

    A new run never writes into the folder of an old one: beside `outputs/debug` it makes `outputs/debug-2`.

    Raises:
        ConfigError: the run to go on with was started with other settings.
    """
    last = last_run(cfg.training.output_dir)
    if cfg.training.resume == "auto" and last:
        found = latest(last)
        if not found or int(found.name.removeprefix("step_")) < cfg.training.total_ppo_steps:
            _refuse_other_settings(cfg, last)
            return last, found
    folder = next(name for name in _names(cfg.training.output_dir) if not name.exists())
    folder.mkdir(parents=True)
    return folder, None


def last_run(output_dir: str | Path) -> Path | None:
    """The newest run of `output_dir`, or None if there was none."""
    return next(reversed(list(takewhile(Path.exists, _names(output_dir)))), None)


def _names(output_dir: str | Path) -> Iterator[Path]:
    """outputs/debug, outputs/debug-2, outputs/debug-3, ..."""
    base = Path(output_dir)
    return chain([base], (base.with_name(f"{base.name}-{number}") for number in count(2)))


def _refuse_other_settings(cfg: Config, folder: Path) -> None:
    saved = folder / "effective_config.yaml"
    if not saved.exists():
        return
    before = flat(OmegaConf.to_container(OmegaConf.load(saved)))
    now = flat(OmegaConf.to_container(OmegaConf.structured(cfg)))
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


def flat(tree: dict, prefix: str = "") -> dict:
    """{"ppo": {"gamma": 1}} as {"ppo.gamma": 1}."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
