"""Builds the course's site: the student notebooks, executed, and the pages of docs/, as plain files.

    python docs/site/build.py build/site    # `make site`; then open build/site/index.html

Nobody's solution is in it. Exercise notebooks are executed with their stubs, and what a stub raises is left out; in
notebook 6 the course's own functions train the default run, of which only the figures and numbers are shown.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from sphinx.cmd.build import main as sphinx

from course_utils.exercises import EXERCISES
from course_utils.export import export_all
from course_utils.run_notebook import execute

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRAINING = ROOT / "notebooks/06_train_gsm8k/train_gsm8k.ipynb"  # nothing to solve in it
UNWRITTEN = "exercise \\d is not written yet: .*"  # what check() raises on a stub
WIDGET = "application/vnd.jupyter.widget-view+json"  # a slider; the picture of its start values stands below it


INDEX = "searchindex.js"  # which Sphinx writes, and hardly anybody else


class SiteError(Exception):
    """A notebook that cannot be shown as it should be."""


def build(release: Path, out: Path, overrides: list[str]) -> None:
    """Writes the site to `out`. `release` holds the student notebooks; `overrides` change the run of notebook 6.

    Raises:
        SiteError: `out` holds something else than an earlier site; a notebook is missing or fails.
    """
    if out.exists() and not out.is_dir() or out.is_dir() and any(out.iterdir()) and not (out / INDEX).exists():
        raise SiteError(f"{out} holds something else than an earlier site: name a new or an empty folder")
    exercises = sorted(release.glob("0[1-5]_*/*.ipynb"))
    if len(exercises) != len(EXERCISES):
        raise SiteError(
            f"{release} does not hold the {len(EXERCISES)} exercise notebooks: run `make release`, or name --release"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for name in ("index.md", "conf.py"):
            shutil.copy(HERE / name, source)
        shutil.copytree(ROOT / "docs", source / "docs", ignore=shutil.ignore_patterns("site"))
        shutil.copy(ROOT / "docs/training.png", source)
        for path in exercises:
            write(exercise(path), source, path)
        write(training(Path(folder), overrides), source, TRAINING)
        shutil.rmtree(out, ignore_errors=True)
        if sphinx(["-q", "-W", "--keep-going", "-d", str(Path(folder) / "trees"), str(source), str(out)]):
            raise SiteError("Sphinx met warnings, which stand above")


def exercise(path: Path) -> NotebookNode:
    """A student notebook with the outputs of every cell but those that need the function."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error" and not re.fullmatch(UNWRITTEN, output.evalue):
                raise SiteError(f"{path}, cell {cell.id}: {output.ename}: {output.evalue}")
    return notebook


def training(folder: Path, overrides: list[str]) -> NotebookNode:
    """Notebook 6 after a run with the course's functions."""
    export_all(ROOT, folder / "solutions")
    run = execute(
        TRAINING,
        str(ROOT / "configs/config_debug.yaml"),
        str(folder / "solutions"),
        [*overrides, f"training.output_dir={folder / 'outputs/debug'}"],
    )
    notebook = nbformat.read(run / TRAINING.name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = output.text.replace(f"{folder}/", "")
    return notebook


def write(notebook: NotebookNode, source: Path, path: Path) -> None:
    """The page of the assignment that `path` belongs to."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if output.output_type != "error" and WIDGET not in output.get("data", ())
            ]
    nbformat.write(notebook, source / f"{path.parent.name}.ipynb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--release", type=Path, default=ROOT / "autograder/release", help="the student notebooks")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the run in notebook 6")
    args = parser.parse_intermixed_args()
    try:
        build(args.release, args.out, args.overrides)
    except SiteError as error:
        sys.exit(f"error: {error}")
    print(args.out / "index.html")


if __name__ == "__main__":
    main()
