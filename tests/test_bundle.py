"""The bundle for Google Colab: what is in it, and that a notebook with nothing but it runs to its end.

Colab itself is stood in for by a Python that has the course's dependencies, a google.colab, and no course.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PathDistribution, files, requires
from pathlib import Path
from types import SimpleNamespace
from zipfile import Path as PathInZip
from zipfile import ZipFile

import nbformat
import papermill
import pytest
import torch
import yaml
from packaging.requirements import Requirement

from course_utils import bundle, bundle_main, colab
from course_utils.config import load_config
from course_utils.exercises import EXERCISES
from course_utils.metrics import read_metrics
from course_utils.workspace import main as lay_out_workspace
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*/*.ipynb"))
GOOGLE_COLAB = """\
class files:
    @staticmethod
    def upload():
        import os, shutil
        name = shutil.copy(os.environ["UPLOADED"], ".")
        return {os.path.basename(name): b""}
"""


@pytest.fixture(scope="module")
def bundled(solutions, tmp_path_factory) -> Path:
    """The bundle that a learner makes in a workspace, with all five functions."""
    workspace = tmp_path_factory.mktemp("home") / "workspace"
    assert (
        lay_out_workspace([str(workspace), "--release", str(ROOT / "notebooks"), "--configs", str(ROOT / "configs")])
        == 0
    )
    shutil.copytree(solutions, workspace / "exercises")
    subprocess.run([sys.executable, "-m", "course_utils.bundle"], cwd=workspace, check=True)
    return workspace / "build" / bundle.BUNDLE


def unpacked(bundled: Path, folder: Path) -> Path:
    with ZipFile(bundled) as archive:
        archive.extractall(folder)
    return folder


# ------------------------------------------------------------------ what is in it


@pytest.mark.slow
def test_the_bundle_has_the_settings_the_functions_and_notebook_6(bundled, solutions, tmp_path):
    found = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in unpacked(bundled, tmp_path).rglob("*")
        if path.is_file()
    }
    (wheel,) = (name for name in found if name.endswith(".whl"))
    given = {f"exercises/{e.module_file}": solutions / e.module_file for e in EXERCISES.values()}
    given |= {f"configs/{path.name}": path for path in (ROOT / "configs").glob("*.yaml")}
    given |= {str(bundle.NOTEBOOK): ROOT / bundle.NOTEBOOK, "__main__.py": Path(bundle_main.__file__)}
    assert found == {name: path.read_bytes() for name, path in given.items()} | {wheel: found[wheel]}


@pytest.mark.slow
def test_the_wheel_is_all_of_course_utils_and_nothing_of_the_autograder(bundled, tmp_path):
    (wheel,) = unpacked(bundled, tmp_path).glob("*.whl")
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == {
            str(path.relative_to(ROOT))
            for path in (ROOT / "course_utils").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert (
            archive.read("course_utils/embedded/model/model.safetensors")
            == (ROOT / "course_utils/embedded/model/model.safetensors").read_bytes()
        )
    (info,) = (path for path in PathInZip(wheel).iterdir() if path.name.endswith(".dist-info"))
    declared = PathDistribution(info)
    assert declared.metadata["Name"] == "tinier-zero"
    assert [point.name for point in declared.entry_points] == ["nbgrader-module"]
    assert not any("autograder" in file.name for file in declared.files)


def test_what_is_not_exported_yet_is_said_and_left_out(solutions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(bundle, "build_wheel", lambda folder: Path(shutil.copy(ROOT / "LICENSE", folder / "a.whl")))
    shutil.copy(solutions / "gae.py", tmp_path)
    (tmp_path / "diary.py").write_text("mine")
    bundle.main(["--exercises", str(tmp_path), "--to", str(tmp_path / "new/a.zip")])
    said = capsys.readouterr().out
    assert f"without exercise 1: {tmp_path} has no policy_loss.py" in said and "gae" not in said
    with ZipFile(tmp_path / "new/a.zip") as archive:
        assert [name for name in archive.namelist() if name.endswith(".py")] == ["__main__.py", "exercises/gae.py"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_another_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"error: {tmp_path} has no configs/ .* run this in your workspace"):
        bundle.main([])
    assert not any(tmp_path.iterdir())


def test_a_course_without_its_source_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "PACKAGE", tmp_path / "site-packages/course_utils")
    with pytest.raises(bundle.BundleError, match="no pyproject.toml beside it. Use the environment of a clone"):
        bundle.build_wheel(tmp_path)


def test_a_wheel_that_pip_cannot_build_is_told_and_leaves_the_old_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    failed = SimpleNamespace(returncode=1, stderr="No module named 'setuptools'")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    (tmp_path / "a.zip").write_text("old")
    with pytest.raises(SystemExit, match="error: pip could not build the wheel of .*\n.*No module named 'setuptools'"):
        bundle.main(["--to", str(tmp_path / "a.zip")])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.zip", "old")]


# ------------------------------------------------------------------ the notebooks' first cells


def first_cells(path: Path) -> tuple[str, str]:
    card, code = nbformat.read(path, 4).cells[:2]
    assert (card.cell_type, code.cell_type, code.id) == ("markdown", "code", "colab")
    return card.source, code.source


def test_every_notebook_begins_with_the_badge_and_the_same_cell():
    training = first_cells(NOTEBOOKS[-1])[1]
    for path in NOTEBOOKS:
        card, code = first_cells(path)
        assert '<a href="https://colab.research.google.com/"><kbd>Open in Colab</kbd></a>' in card
        # A badge opens its notebook wherever else there is one; this one cannot, and the line beside it says so.
        assert "opens Colab's start page. Choose **Upload**" in card and bundle.BUNDLE in card
        assert training.startswith(code) and bundle.BUNDLE in code


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cell_does_nothing_visible_elsewhere(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(first_cells(path)[1], names)
    assert capfd.readouterr() == ("", "") and not any(tmp_path.iterdir())
    assert names.keys() <= {"__builtins__", "runpy", "sys", "ZipFile", "is_zipfile"}


@pytest.mark.parametrize("chosen", [[], ["train_gsm8k.ipynb"], ["tinier_zero_colab.zip"], ["tinier-zero-main.zip"]])
def test_an_upload_that_is_no_bundle_says_what_to_do(chosen, tmp_path, monkeypatch):
    """Cancelled, the notebook itself, an upload that broke off, which is not taken from the folder later on, and the
    repository."""
    monkeypatch.chdir(tmp_path)
    for name in chosen:
        Path(name).write_bytes(b"PK\3\4" if name == bundle.BUNDLE else b'{"cells": null}')
        if name == "tinier-zero-main.zip":
            with ZipFile(name, "w") as archive:
                archive.writestr("tinier-zero-main/README.md", "")
    asked = SimpleNamespace(files=SimpleNamespace(upload=lambda: dict.fromkeys(chosen)))
    monkeypatch.setitem(sys.modules, "google.colab", asked)
    with pytest.raises(AssertionError, match="no tinier_zero_colab.zip: run this cell again"):
        exec(first_cells(NOTEBOOKS[0])[1], {})


def test_the_bundle_is_found_in_google_drive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, started = f"/content/drive/MyDrive/{bundle.BUNDLE}", []
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(files=None))
    monkeypatch.setattr("zipfile.is_zipfile", lambda path: path == place)
    monkeypatch.setattr("zipfile.ZipFile", lambda path: SimpleNamespace(namelist=lambda: ["__main__.py"]))
    monkeypatch.setattr("runpy.run_path", lambda path, run_name: started.append((path, run_name)))
    exec(first_cells(NOTEBOOKS[0])[1], {})
    assert started == [(place, "__main__")]


def test_a_folder_in_the_place_of_the_bundle_is_said(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="error: docs is a folder: name a file, such as docs/tinier_zero_colab.zip"):
        bundle.main(["--to", "docs"])


def test_what_pip_complains_of_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ZipFile("bundle.zip", "w") as archive:
        archive.writestr("broken-1-py3-none-any.whl", "not a wheel")
    with pytest.raises(RuntimeError, match="could not install broken-1(.|\n)+invalid"):
        bundle_main.install(Path("bundle.zip"))


# ------------------------------------------------------------------ the GPU


@pytest.mark.parametrize(
    "gigabytes, config",
    [
        (15, "config_colab"),
        (24, "config_colab"),
        (42, "config"),
        (85, "config"),
        (8, "config_debug"),
        (None, "config_debug"),
    ],
)
def test_colab_takes_the_config_that_fits_its_gpu(gigabytes, config, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    gpu = SimpleNamespace(name="Some GPU", total_memory=(gigabytes or 0) * 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gigabytes is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert colab.fitting_config() == colab.DEFAULT  # not in Colab
    monkeypatch.setitem(sys.modules, "google.colab", None)
    assert colab.fitting_config() == f"configs/{config}.yaml"
    load_config(colab.fitting_config())

    installed = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: installed.append(command[-1]) or SimpleNamespace(stdout="")
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    colab.prepare_training()
    said = capsys.readouterr().out
    assert f"CONFIG will be configs/{config}.yaml" in said
    assert ("Some GPU" in said) == (gigabytes is not None) and ("No GPU" in said) == (gigabytes is None)
    assert installed == (["bitsandbytes"] if config != "config_debug" else [])


def test_colab_installs_what_is_missing_alone_and_shows_what_pip_complains_of(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(colab, "fitting_config", lambda: "configs/config_colab.yaml")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="T4", total_memory=15.8e9)
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for pip, told in ("", "bitsandbytes is installed, for 8-bit Adam.\n"), ("ERROR: no network", "ERROR: no network\n"):
        monkeypatch.setattr(subprocess, "run", lambda *_, pip=pip, **__: SimpleNamespace(stdout=pip))
        colab.prepare_training()
        words = f"T4 with 16 GB, so CONFIG will be configs/config_colab.yaml.\n{told}"
        assert capsys.readouterr().out == words
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it is there already"))
    colab.prepare_training()


# ------------------------------------------------------------------ running it


def usual_packages() -> set[str]:
    """The entries in site-packages of what the trainer needs, a kernel, widgets and pip: nothing of the course's
    extras, and not the course."""
    todo, seen, found = [*map(Requirement, ("tinier-zero", "ipykernel", "ipywidgets", "pip"))], set(), set()
    while todo:
        need = todo.pop()
        if (need.name, *need.extras) in seen:
            continue
        seen.add((need.name, *need.extras))
        if need.name != "tinier-zero":
            found |= {Path(file).parts[0] for file in files(need.name)} - {"..", "__pycache__"}
        for line in requires(need.name) or []:
            more = Requirement(line)
            if not more.marker or any(more.marker.evaluate({"extra": extra}) for extra in ("", *need.extras)):
                todo.append(more)
    return found


@pytest.fixture
def colab_machine(tmp_path, monkeypatch, bundled) -> SimpleNamespace:
    """A Python with what Colab has of the course's needs and without the course, as the kernel "colab" in an empty
    folder."""
    venv, content, libraries = tmp_path / "venv", tmp_path / "content", tmp_path / "libraries"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    libraries.mkdir()
    for entry in usual_packages():
        (libraries / entry).symlink_to(Path(sysconfig.get_path("purelib"), entry))
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "google").mkdir()
    (site / "google/colab.py").write_text(GOOGLE_COLAB)
    (site / "colab.pth").write_text(f"{libraries}\nimport google.colab\n")
    content.mkdir()
    kernel = tmp_path / "jupyter/kernels/colab/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps(
            {
                "display_name": "Colab",
                "language": "python",
                "argv": [str(venv / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("UPLOADED", str(bundled))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing may have to be downloaded
    monkeypatch.delenv("PYTHONPATH", raising=False)
    machine = SimpleNamespace(python=venv / "bin/python", site=site, content=content)
    assert "No module named 'course_utils'" in python(machine, "import course_utils")
    return machine


def python(machine: SimpleNamespace, code: str) -> str:
    """What the machine's Python prints."""
    return subprocess.run(
        [machine.python, "-c", code],
        cwd=machine.content,
        text=True,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def execute(machine: SimpleNamespace, notebook: Path, **parameters) -> dict[str, str]:
    """Runs the notebook there; what each cell shows, as text, by the cell's id."""
    executed = machine.content.parent / "executed.ipynb"
    papermill.execute_notebook(
        notebook,
        executed,
        parameters,
        cwd=machine.content,
        kernel_name="colab",
        progress_bar=False,
        execution_timeout=250,
    )
    return {cell.id: str(cell.get("outputs", "")) for cell in nbformat.read(executed, 4).cells}


@pytest.mark.slow
def test_notebook_6_trains_with_nothing_but_the_bundle(colab_machine, bundled, small_run, tmp_path):
    notebook = unpacked(bundled, tmp_path / "at hand") / bundle.NOTEBOOK
    shown = execute(colab_machine, notebook, OVERRIDES=small_run("training.total_ppo_steps=2"))
    assert "5 of your 5 functions" in shown["colab"] and "CONFIG will be configs/config_debug.yaml" in shown["colab"]
    assert shown["functions"].count("yours") == 5
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2]
    used = yaml.safe_load((tmp_path / "run/effective_config.yaml").read_text())
    assert used["model"]["name"] == "embedded"
    # The machine's own packages are as they were, and the course is not the one of this tree.
    assert [path.name for path in colab_machine.site.glob("*.dist-info")] == ["tinier_zero-0.1.0.dist-info"]
    assert str(colab_machine.site) in python(colab_machine, "import course_utils; print(course_utils.__file__)")


@pytest.mark.slow
def test_an_exercise_is_checked_with_nothing_but_the_bundle(colab_machine, bundled, tmp_path, monkeypatch):
    """The bundle lies in the folder already, so that no upload is asked for."""
    monkeypatch.delenv("UPLOADED")
    shutil.copy(bundled, colab_machine.content)
    notebook = nbformat.read(ROOT / EXERCISES["entropy"].notebook, 4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("colab", "setup", "exercise", "check")]
    nbformat.write(notebook, tmp_path / "entropy.ipynb")
    shown = execute(colab_machine, tmp_path / "entropy.ipynb")
    assert "The course is installed" in shown["colab"] and "tinier-zero" in shown["setup"]
    assert "yours is the target" in shown["check"] and "✗" not in shown["check"]


def test_a_newer_bundle_replaces_the_functions_in_the_same_kernel(tmp_path, monkeypatch):
    """Corrected, bundled and uploaded again under the same name: no old directory of the zip is used."""
    monkeypatch.chdir(tmp_path)
    said = []
    monkeypatch.setattr(
        subprocess, "run", lambda args, **_: said.append(args) or SimpleNamespace(returncode=0, stdout="")
    )
    Path("exercises").mkdir()
    Path("exercises/entropy.py").touch()  # of an earlier bundle that had it
    for text in ("first", "a longer second"):
        with ZipFile(bundle.BUNDLE, "w") as archive:
            archive.write(bundle_main.__file__, "__main__.py")
            archive.writestr("exercises/gae.py", text)
            archive.writestr(f"{text}.whl", "")
        runpy.run_path(bundle.BUNDLE, run_name="__main__")
        assert Path("exercises/gae.py").read_text() == text and not Path("exercises/entropy.py").exists()
        # Or pip would leave the earlier bundle's wheel, of the same version.
        assert said[-1][-3:] == ["--force-reinstall", "--no-deps", f"{text}.whl"]
