"""What several test files share: the solutions as modules, and a run small enough for a test."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import warm

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reached for the network would hang, not fail
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` runs a process a core
ROOT = Path(__file__).parent.parent
LONGEST = (
    "test_attacks",
    "test_browser",
    "test_grade",
    "test_judge",
    "test_memory",
    "test_resume",
    "test_site",
    "test_term",
    "test_trainer",
    "test_training_notebook",
)


def pytest_configure(config):
    """One server of warm processes for all tests; every kernel that is started below here comes from it."""
    if not warm.LINUX or warm.SOCKET in os.environ:  # the latter in the processes that run tests side by side
        return
    folder = tempfile.TemporaryDirectory()
    kernel = Path(folder.name) / "kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [*warm.COMMAND, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}))
    os.environ["JUPYTER_PATH"] = folder.name
    os.environ[warm.SOCKET] = f"{folder.name}/warm"
    server = subprocess.Popen([sys.executable, warm.__file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(server.communicate)  # the end of its standard input, for which it waits


def pytest_collection_modifyitems(items):
    """The longest files first: one that was begun last would run alone."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def solutions(tmp_path_factory) -> Path:
    """A folder with the five solutions, exported from the notebooks in this tree."""
    from course_utils.export import export_all

    folder = tmp_path_factory.mktemp("solutions")
    export_all(ROOT, folder)
    return folder


@pytest.fixture
def small_run(tmp_path):
    """A function that gives the overrides of a run of seconds, with more of them as arguments."""

    def overrides(*more: str) -> list[str]:
        return [
            "ppo.rollout_samples=16",
            "ppo.batch_size=16",
            "ppo.mini_batch_size=8",
            "ppo.epochs=2",
            "training.total_ppo_steps=3",
            "training.eval_interval=3",
            "training.save_interval=2",
            "dataset.eval_samples=8",
            "dataset.max_gen_length=24",
            f"training.output_dir={tmp_path / 'run'}",
            *more,
        ]

    return overrides


@pytest.fixture
def small_config(small_run):
    from course_utils.config import load_config

    return lambda *more: load_config(ROOT / "configs/config_debug.yaml", small_run(*more))


@pytest.fixture(scope="session")
def released_course(tmp_path_factory) -> Path:
    """A copy of the course after `make release`, one for all processes. Not to be changed: see the fixture `course`."""
    from tests.course import copy_code, nbgrader

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # of this process; all share the folder above
        folder = folder.parent
    course, done = folder / "course/tinier-zero", folder / "released"
    with (folder / "releasing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first to come makes it
        if not done.exists():
            copy_code(course)
            run = nbgrader(course, "generate_assignment", "0[1-6]_*", "--force")
            assert run.returncode == 0, run.stderr
            assert "Warning" not in run.stderr and "WARNING" not in run.stderr, run.stderr
            done.touch()
    return course


@pytest.fixture
def course(released_course, tmp_path) -> Path:
    """A test's own copy of the course after `make release`."""
    import shutil

    return Path(shutil.copytree(released_course, tmp_path / "tinier-zero"))
