"""Executes the training notebook from the terminal and leaves everything that it made in the run's folder.

    python -m course_utils.run_notebook notebooks/06_train_gsm8k/train_gsm8k.ipynb --solutions

`make train` calls this. The notebook is executed as a learner would, cell by cell, with papermill; a progress bar
follows the run's metrics.jsonl.
"""

import argparse
import logging
import sys
import threading
from pathlib import Path

import papermill
from nbconvert import HTMLExporter
from nbformat.reader import NotJSONError
from tqdm import tqdm

from course_utils.config import Config, load_config
from course_utils.disk import writing
from course_utils.export import ExportError
from course_utils.metrics import read_metrics
from course_utils.plain_error import PlainError
from course_utils.run_folder import run_of
from course_utils.train import STOPPED, add_exercises, exercises_folder, summary


class NoRunError(PlainError):
    """A notebook that does not train."""


def follow(cfg: Config, already: Path | None, done: threading.Event) -> None:
    """Shows the finished PPO steps of the run until `done` is set."""
    with tqdm(total=cfg.training.total_ppo_steps, desc="PPO steps", unit="step") as bar:
        while not done.wait(0.5):
            folder = run_of(cfg)
            if folder and folder != already and (folder / "metrics.jsonl").exists():
                _show(bar, read_metrics(folder / "metrics.jsonl"))


def _show(bar: tqdm, history: list[dict]) -> None:
    bar.n = len(history)
    if history:
        bar.set_postfix_str(f"reward {history[-1]['rollout/reward_mean']:.2f}", refresh=False)
    bar.refresh()


def execute(notebook: Path, config: str, exercises: str, overrides: list[str]) -> Path:
    """Runs the notebook and returns the run's folder, which then also holds the notebook as .ipynb and .html.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the notebook with its error is in the run's folder, if the run
            came so far.
        NoRunError: it is another notebook than number 6.
    """
    output_dir = str(Path(load_config(config, overrides).training.output_dir).resolve())
    overrides = [*overrides, f"training.output_dir={output_dir}"]
    cfg = load_config(config, overrides)
    # With training.resume=auto the run that goes on is an old one, and its folder is the one to follow.
    already = None if cfg.training.resume == "auto" else run_of(cfg)
    executed = Path(output_dir).parent / f".running_{notebook.name}"
    with writing(executed):  # or papermill would find out, and not know what to do about it
        executed.parent.mkdir(parents=True, exist_ok=True)
        executed.touch()
        executed.unlink()
    parameters = {
        "CONFIG": str(Path(config).resolve()),
        "EXERCISES": str(Path(exercises).resolve()),
        "OVERRIDES": overrides,
    }
    done = threading.Event()
    bar = threading.Thread(target=follow, args=(cfg, already, done))
    bar.start()
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters,
            cwd=notebook.parent,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns that this machine could listen to itself
        )
    finally:
        done.set()
        bar.join()
        folder = run_of(cfg)
        trained = folder is not None and folder != already
        if trained and executed.exists():
            keep(executed, folder / notebook.name)
    if not trained:
        raise NoRunError(f"{notebook} has trained nothing; this command runs notebooks/06_train_gsm8k. See {executed}")
    return folder


def keep(executed: Path, target: Path) -> None:
    """Moves the executed notebook into the run's folder and writes it as HTML beside."""
    executed.replace(target)
    html, _ = HTMLExporter().from_filename(str(target))
    target.with_suffix(".html").write_text(html, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--config", default="configs/config_debug.yaml")
    add_exercises(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        folder = execute(args.notebook, args.config, exercises_folder(args), args.overrides)
    except (PlainError, ExportError, OSError) as error:
        sys.exit(f"error: {error}")
    except NotJSONError:
        sys.exit(f"error: {args.notebook} is no notebook; this command runs notebooks/06_train_gsm8k/train_gsm8k.ipynb")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"error: cell {error.exec_count} of {args.notebook} failed\n{error.ename}: {error.evalue}")
    print(summary(folder))
    print(
        f"notebook     {folder / args.notebook.name}\nas a page    {(folder / args.notebook.name).with_suffix('.html')}"
    )


if __name__ == "__main__":
    main()
