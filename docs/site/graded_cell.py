"""README.md's picture of two graded cells, as JupyterLab shows them: one that fails, and one that passes.

    python docs/site/graded_cell.py

Needs chromium. The solution is that of notebook 1 without its clipping.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # tests/ has JupyterLab in a browser

from course_utils.exercises import EXERCISES  # noqa: E402
from tests.jupyter_lab import Notebook, lab  # noqa: E402

PICTURE = ROOT / "docs/graded_cell.png"
SHOWN = ["setup", "exercise", "graded-clipping", "graded-masking"]
CLIPPED, PLAIN = "torch.min(ratio * advantages, clipped_ratio * advantages)", "ratio * advantages"


def main() -> None:
    notebook = nbformat.read(ROOT / EXERCISES["policy_loss"].notebook, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in SHOWN]
    exercise, fails = notebook.cells[1:3]
    fails.metadata["tags"] = ["raises-exception"]  # the cell below it is run all the same
    assert CLIPPED in exercise.source, f"the solution of notebook 1 has no {CLIPPED}: adapt this script"
    exercise.source = exercise.source.replace(CLIPPED, PLAIN)
    with TemporaryDirectory() as folder:
        root = Path(folder, "root")
        root.mkdir()
        nbformat.write(notebook, root / "policy_loss.ipynb")
        with lab(root, Path(folder, "home")) as (server, browser):
            page = Notebook(browser, server, "policy_loss.ipynb")
            page.run_all()
            page.cell(0).click()  # away from the last cell, which would show its tools
            page.cell(3).scroll_into_view_if_needed()
            boxes = [page.cell(index).bounding_box() for index in (2, 3)]
            left, top = boxes[0]["x"], boxes[0]["y"]
            bottom = boxes[1]["y"] + boxes[1]["height"]
            clip = {"x": left, "y": top, "width": boxes[0]["width"], "height": bottom - top}
            page.page.screenshot(path=PICTURE, clip=clip)
            page.close()


if __name__ == "__main__":
    main()
