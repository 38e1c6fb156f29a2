"""PPO from the command line, with the functions that notebook 6 uses.

    python -m course_utils.train --config configs/config_debug.yaml --solutions training.total_ppo_steps=20
    python -m course_utils.train --config configs/config.yaml --exercises exercises ppo.learning_rate=5e-7
    accelerate launch --num_processes 2 -m course_utils.train --config configs/config.yaml  # on two GPUs

Without a GPU `accelerate launch` starts one process only; two are

    python -m torch.distributed.run --standalone --nproc_per_node=2 -m course_utils.train --config ...

The settings are explained in course_utils/config.py.
"""

import argparse
import sys
from pathlib import Path

from accelerate import notebook_launcher
from tqdm import tqdm  # not tqdm.auto: Jupyter drops the widgets of processes that notebook 6 launches

from course_utils.config import load_config
from course_utils.disk import writing
from course_utils.exercises import load_exercises
from course_utils.export import ExportError, export_all
from course_utils.figures.dashboard import save_training_figure
from course_utils.metrics import read_metrics
from course_utils.plain_error import PlainError
from course_utils.run_folder import SETTINGS
from course_utils.samples import accuracy_of
from course_utils.trainer import Trainer

SOLUTIONS = "build/solutions"
STOPPED = (
    "\nstopped: finished steps are in metrics.jsonl of the run's folder; training.resume=auto goes on from its last "
    "checkpoint"
)


def run(config: str, exercises: str, overrides: list[str], stand_ins: bool = False) -> Path:
    """Trains to the end and returns the run's folder."""
    trainer = Trainer(load_config(config, overrides), load_exercises(exercises, stand_ins))
    main = trainer.accelerator.is_main_process
    trainer.accelerator.print(f"run folder: {trainer.folder}")
    total, every = trainer.cfg.training.total_ppo_steps, trainer.cfg.training.log_interval
    with tqdm(total=total, initial=trainer.step, desc="PPO steps", disable=not main) as bar:
        for metrics in trainer.train():
            bar.update()
            if metrics["step"] % every == 0:
                bar.set_postfix_str(f"reward {metrics['rollout/reward_mean']:.2f}, KL {metrics['rollout/kl']:.2f}")
    if main:
        with writing(trainer.folder / "training.png"):
            save_training_figure(read_metrics(trainer.folder / "metrics.jsonl"), trainer.folder / "training.png")
        trainer.accelerator.print(summary(trainer.folder))
    return trainer.folder


def run_in_processes(count: int, *arguments) -> None:
    """run(*arguments) in `count` processes, started from a notebook."""
    any_free_port = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    notebook_launcher(run, arguments, count, **any_free_port)


def summary(folder: Path) -> str:
    """Held-out accuracy before and after, and where everything is."""
    before, after = (accuracy_of(folder / f"samples_{when}.jsonl") for when in ("before", "after"))
    return (
        f"held-out accuracy {before:.1%} -> {after:.1%}\n"
        f"metrics      {folder / 'metrics.jsonl'}\n"
        f"figure       {folder / 'training.png'}\n"
        f"samples      {folder / 'samples_before.jsonl'} and samples_after.jsonl\n"
        f"settings     {folder / SETTINGS}\n"
        f"checkpoints  {folder / 'step_*'}\n"
        f"final model  {folder / 'final'}"
    )


def add_exercises(parser: argparse.ArgumentParser) -> None:
    """--exercises FOLDER or --solutions."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--exercises",
        default="exercises",
        metavar="FOLDER",
        help="folder of your exported exercises (default: %(default)s)",
    )
    which.add_argument(
        "--solutions", action="store_true", help=f"the solutions in notebooks/, exported to {SOLUTIONS} first"
    )


def exercises_folder(args: argparse.Namespace) -> str:
    """The folder that --exercises or --solutions means. ExportError: a solution cannot be exported."""
    if not args.solutions:
        return args.exercises
    export_all(Path(), SOLUTIONS)
    return SOLUTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, e.g. configs/config_debug.yaml")
    add_exercises(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any setting, e.g. ppo.learning_rate=5e-7")
    args = parser.parse_intermixed_args()
    try:
        run(args.config, exercises_folder(args), args.overrides)
    except (PlainError, ExportError, OSError) as error:  # OSError: such as a full disk
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
