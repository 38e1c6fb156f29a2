"""The one list of dependencies, its pins and conda's file agree, and what is imported is on the list."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions, entry_points
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from course_utils.exercises import EXERCISES
from course_utils.export import header

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_BY_MAKE = ("course", "cluster", "dev")
INDEX_NAMES = {"yaml": "pyyaml"}  # where a package is imported under another name than it is installed by
OWN = {"course_utils", "autograder", "tests"} | {path.stem for path in (ROOT / "tests").glob("*.py")}


def requirements(*extras):
    """Declared dependencies of the package with these extras, by name."""
    texts = PROJECT["dependencies"] + [text for e in extras for text in PROJECT["optional-dependencies"][e]]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def imported(paths, top_level_only=False):
    """The packages that these files import, by their names on the package index, each with one such file."""
    packages = {}
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in tree.body if top_level_only else ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            names = {module.split(".")[0] for module in modules} - OWN - sys.stdlib_module_names
            packages.update({canonicalize_name(INDEX_NAMES.get(name, name)): path.relative_to(ROOT) for name in names})
    return packages


def test_constraints_are_plain_exact_versions():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)]
    assert not wrong  # no local suffix such as +cpu, no file, no address
    assert not {"pip", "setuptools", "tinier-zero"} & {canonicalize_name(name) for name in pins()}
    assert pins()["torch"] == "2.13.0"


def test_every_dependency_that_make_installs_is_pinned_within_its_range():
    versions = {canonicalize_name(name): version for name, version in pins().items()}
    for name, requirement in requirements(*INSTALLED_BY_MAKE).items():
        assert name in versions, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(versions[name]), f"{requirement} excludes {versions[name]}"


def test_the_pins_fit_the_oldest_python_that_is_promised():
    """make installs them. Debian 12 has Python 3.11.2, and pip only says that no version satisfies the pin."""
    for name in ("README.md", "docs/instructor.md", "Makefile", ".ci/run"):
        assert "3.11 or newer" in (ROOT / name).read_text(), name
    installed = {canonicalize_name(found.name): found for found in distributions()}
    for name, version in pins().items():
        found = installed.get(canonicalize_name(name))
        if found and found.version == version:  # elsewhere newer ones may be tried
            asked = SpecifierSet(found.metadata.get("Requires-Python", ""))
            assert asked.contains("3.11.2"), f"{name}=={version} needs Python {asked}"


def test_no_dependency_is_capped_or_pinned():
    """Colab's and an instructor's own versions have to fit: only lower bounds."""
    everything = requirements(*PROJECT["optional-dependencies"]).values()
    assert {bound.operator for requirement in everything for bound in requirement.specifier} == {">="}
    assert PROJECT["requires-python"] == ">=3.10"


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert by_pip == {"pip": ["-c constraints.txt", f"-e .[{','.join(INSTALLED_BY_MAKE)}]"]}
    makefile = (ROOT / "Makefile").read_text()
    assert f"pip install -c constraints.txt -e '.[{','.join(INSTALLED_BY_MAKE)}]'" in makefile
    assert "Python 3.11" in (ROOT / "constraints.txt").read_text().partition("\n")[0]


def commands(text):
    """The command lines of a Makefile, a script or a page, without what differs between them."""
    lines = (re.split(r"\s+#", line)[0].strip() for line in text.splitlines())
    return {line.replace(".venv/bin/", "").replace('"', "'") for line in lines}


def test_binder_lays_out_the_workspace_that_make_lab_does():
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    shebang, comment, strict, *lines = script.read_text().splitlines()
    assert (shebang, strict) == ("#!/bin/bash", "set -e") and comment.startswith("#")
    assert len(lines) == 2 and set(lines) <= commands((ROOT / "Makefile").read_text())


@pytest.mark.slow
def test_what_students_have_on_a_hub_gives_no_answer_away(tmp_path):
    """The command of docs/instructor.md, with pip building the wheel only."""
    (command,) = re.findall(r"`([^`]+'\.\[course\]')`", (ROOT / "docs/instructor.md").read_text())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("course_utils", "autograder/rubrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "autograder/reference.py", tmp_path / "autograder/__init__.py")
    build = f"'{sys.executable}' -m pip wheel --no-deps --no-build-isolation --wheel-dir wheels"
    command = command.replace("pip install -c constraints.txt", build)
    subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("wheels/*.whl")
    packages = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
    assert {name for name in packages if not name.endswith(".dist-info")} == {"course_utils"}


def test_no_step_needs_make():
    """README.md has the commands of all targets, plain, and a target is one command."""
    section = (ROOT / "README.md").read_text().partition("## Install without `make`")[2].partition("\n## ")[0]
    named = commands(section) | set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", section))
    makefile = (ROOT / "Makefile").read_text()
    exercises = re.search(r"^EXERCISES \?= (.*)$", makefile, re.MULTILINE).group(1)
    recipes = commands("\n".join(re.findall(r"^\t(?!@)(.*)$", makefile, re.MULTILINE)))
    assert len(recipes) >= 12
    targets = re.findall(r"^[a-z]+:.*##.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    assert len(targets) >= 12 and [recipe.count("\n") for recipe in targets] == [1] * len(targets)
    for line in recipes - {"touch .venv/installed", "$(PYTHON) -m venv .venv"}:
        plain = re.sub(r"(cd workspace && )?PATH=\S+ ", "", line).replace("'$(EXERCISES)'", exercises)
        assert plain in named, f"README.md does not name {plain}"
    assert "cd workspace" in named


def test_everything_that_is_imported_is_declared():
    every_extra = requirements(*PROJECT["optional-dependencies"])
    for folder in ("course_utils", "autograder", "tests"):
        for name, path in imported((ROOT / folder).rglob("*.py")).items():
            assert name in every_extra, f"{path} imports {name}, which pyproject.toml does not list"


def test_every_core_dependency_is_imported():
    unused = set(requirements()) - set(imported((ROOT / "course_utils").rglob("*.py")))
    exported = "".join(header(key) for key in EXERCISES)
    assert [name for name in unused if not re.search(rf"^import {name}\b", exported, re.MULTILINE)] == []


def test_a_plain_install_can_train():
    """Without extras every module can be imported, but for the one that executes notebooks."""
    paths = [path for path in (ROOT / "course_utils").rglob("*.py") if path.name != "run_notebook.py"]
    for name, path in imported(paths, top_level_only=True).items():
        assert name in requirements(), f"{path} imports {name} at its top, which only an extra installs"


def test_a_dask_worker_has_what_grading_imports():
    """By the command of docs/instructor.md; its jobs are functions of autograder/grade.py."""
    section = (ROOT / "docs/instructor.md").read_text().partition("## On a Dask cluster")[2]
    installed = requirements(*re.search(r"-e '\.\[([\w,]+)\]'", section).group(1).split(","))
    needed = imported((ROOT / "autograder").glob("*.py"), top_level_only=True)
    assert "nbgrader" in needed
    missing = needed.keys() & requirements(*PROJECT["optional-dependencies"]).keys() - installed.keys()
    assert not missing, {name: needed[name] for name in missing}


def test_nbconvert_knows_the_exporter():
    (point,) = entry_points(group="nbconvert.exporters", name="nbgrader-module")
    assert point.load().__name__ == "ModuleExporter"
    assert PROJECT["entry-points"]["nbconvert.exporters"] == {point.name: point.value}


@pytest.mark.parametrize(
    "target", ["train", "test", "lab", "bundle", "release", "grade", "check", "instructor", "site", "bench", "help"]
)
def test_make_has_its_targets(target):
    """Not run here: make can plan it, and make help lists it."""

    def make(*arguments):
        command = ["make", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert f"make {target} " in make("help")
    assert make("--dry-run", target)
