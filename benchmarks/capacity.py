"""How much memory, disk and processor time does a learner need, and how much memory a grading worker? One JSON line, in
MB of 1,000,000 bytes and in seconds of one core.

    python benchmarks/capacity.py          # some ten minutes, on Linux; the training notebook trains whole

Memory is what processes take at their peak. Of a kernel it is resident memory, with the libraries' files, which
kernels on one machine share and containers do not. Of grading it is what a second worker adds to the first, libraries
counted once. Disk is a folder's files, after the notebooks ran and were saved with their outputs. Processor time is
that of a kernel, from its start until all cells have run once; where nothing else runs.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from datetime import date
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tests/ has the server and the tree of processes

from autograder.master import ASSIGNMENTS, master  # noqa: E402
from benchmarks.class_grading import lay_out  # noqa: E402
from course_utils.exercises import EXERCISES  # noqa: E402
from course_utils.export import export_all  # noqa: E402
from course_utils.run_notebook import execute  # noqa: E402
from tests.course import nbgrader  # noqa: E402
from tests.jupyter_lab import Server  # noqa: E402
from tests.process_tree import tree  # noqa: E402

RESULTS = ROOT / "benchmarks/results/capacity.jsonl"
TRAINING = ROOT / "notebooks/06_train_gsm8k/train_gsm8k.ipynb"


def shared_out(pid: int) -> float:
    """MB of a process, its share of what others have mapped too; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def resident_peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def processor_seconds(pid: int) -> float:
    """Of all threads of a process, since its start."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]  # in user mode, in the kernel
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


class Peak:
    """What a function says at most, asked ten times a second while the block runs."""

    def __init__(self, function):
        self.function, self.found, self.ended = function, 0.0, threading.Event()

    def __enter__(self) -> "Peak":
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.ended.wait(0.1):
            self.found = max(self.found, self.function())

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def server(folder: Path) -> float:
    """JupyterLab with its extensions, when its page was asked for."""
    (folder / "root").mkdir()
    running = Server(folder / "root", folder / "home")
    try:
        running.wait()
        running.ask("GET", "lab/api/settings")
        return resident_peak(running.process.pid)
    finally:
        running.stop()


def exercise(path: Path, saved: Path) -> tuple[float, float]:
    """Memory and processor time of a kernel that ran the source notebook of an exercise. That is then saved with its
    outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(saved.parent)}})
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        kernel = client.km.provisioner.process.pid
        found = resident_peak(kernel), processor_seconds(kernel)
    nbformat.write(notebook, saved)
    return found


def training(folder: Path) -> tuple[float, float]:
    """Memory and processor time of the kernel of notebook 6 in the default run, which is left in `folder`."""
    export_all(ROOT, folder / "exercises")
    here = os.getpid()
    with (
        Peak(lambda: of_kernel(resident_peak, here)) as memory,
        Peak(lambda: of_kernel(processor_seconds, here)) as time,
    ):
        execute(
            TRAINING,
            str(ROOT / "configs/config_debug.yaml"),
            str(folder / "exercises"),
            [f"training.output_dir={folder / 'outputs/debug'}"],
        )
    return memory.found, time.found


def of_kernel(measured, root: int) -> float:
    """`measured` of the kernel below the process `root`; 0 where there is none."""
    for pid in tree(root)[1:]:
        with suppress(FileNotFoundError, ProcessLookupError, StopIteration):  # it ends just now
            if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return measured(pid)
    return 0.0


def grading(course: Path, workers: int) -> float:
    """All processes of `autograder grade` together, where nothing was graded before."""
    command = [sys.executable, "-m", "autograder", "grade", f"--workers={workers}"]
    run = subprocess.Popen(command, cwd=course, env=os.environ | {"PYTHONPATH": str(course)})
    with Peak(lambda: sum(map(shared_out, tree(run.pid)))) as peak:
        if run.wait():
            sys.exit("autograder grade failed")
    return peak.found


def rounded(found):
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    return round(found, 1) if isinstance(found, float) else found


def main() -> None:
    found: dict = {"date": str(date.today())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["server"] = server(folder)
        saved = folder / "saved"
        saved.mkdir()
        kernels = {key: exercise(ROOT / EXERCISES[key].notebook, saved / master(key).file) for key in EXERCISES}
        found["notebooks_with_outputs"] = size(saved)
        kernels["training"] = training(folder / "work")
        found["kernel"] = {key: memory for key, (memory, _) in kernels.items()}
        found["kernel_seconds"] = {key: seconds for key, (_, seconds) in kernels.items()}
        found["default_run"] = size(folder / "work/outputs")
        students, totals = 4, []
        for workers in (1, 2):
            course = folder / f"course{workers}"
            lay_out(course, students)
            totals.append(grading(course, workers))
        found["grading_one_worker"], found["grading_second_worker"] = totals[0], totals[1] - totals[0]
        for assignment in ASSIGNMENTS:
            if (made := nbgrader(course, "generate_feedback", assignment)).returncode:
                sys.exit(made.stderr)
        for kind in ("autograded", "feedback"):
            found[f"{kind}_a_student"] = size(course / "autograder" / kind) / students
    line = json.dumps(rounded(found))
    print(line)
    with RESULTS.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
