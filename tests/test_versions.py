"""What a notebook says about versions: one line where they suffice, the remedy where they do not."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import nbformat
import pytest
from packaging.requirements import Requirement

from course_utils import versions
from course_utils.exercises import EXERCISES
from course_utils.this_python import this_python
from course_utils.versions import VersionError, check_versions
from tests.solutions import ROOT


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these versions are installed; None stands for a missing package."""

    def pretend(**found):
        def look_up(name):
            if name in found and found[name] is None:
                raise PackageNotFoundError(name)
            return found.get(name) or version(name)

        monkeypatch.setattr(versions, "version", look_up)

    return pretend


def test_one_line_names_the_versions(capsys):
    check_versions()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"✓ Python 3\.\d+\.\d+, torch \d\S+, transformers \d\S+, tinier-zero \d\S+", line)
    assert f"torch {version('torch')}," in line


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("torch", "2.3.1+cpu", "here is 2.3.1+cpu"),
        ("transformers", "4.57.1", "here is 4.57.1"),
        ("omegaconf", None, "it is not installed"),
    ],
)
def test_an_old_or_missing_package_is_named_with_the_command(installed, name, found, words):
    installed(**{name: found})
    (need,) = (
        f"{need.name}{need.specifier}"
        for need in map(Requirement, requires("tinier-zero"))
        if need.name == name and not need.marker  # a marker is an extra's
    )
    with pytest.raises(VersionError) as caught:
        check_versions()
    assert f"{need} ({words})" in str(caught.value)
    assert f'    "{sys.executable}" -m pip install --upgrade "{need}"\n' in str(caught.value)


def test_a_command_to_be_typed_runs_in_powershell_too(monkeypatch):
    assert this_python() == f'"{sys.executable}"'
    monkeypatch.setattr(sys, "platform", "win32")
    assert this_python() == f'& "{sys.executable}"'


def test_all_old_packages_are_in_one_command(installed):
    installed(torch="1.13", transformers="4.0")
    with pytest.raises(RuntimeError, match=r'--upgrade "torch>=\S+" "transformers>=\S+"\n'):
        check_versions()


@pytest.mark.parametrize("newer", ["99.0", "99.0.dev20270101+cpu"])
def test_newer_and_preview_versions_are_fine(installed, newer, capsys):
    installed(torch=newer)
    check_versions()
    assert f"torch {newer}," in capsys.readouterr().out


@pytest.mark.parametrize("key", EXERCISES)
def test_a_setup_cell_asks_for_versions_before_it_needs_them(installed, monkeypatch, key):
    installed(transformers="4.50")
    monkeypatch.setitem(sys.modules, "course_utils.check", None)  # which imports what an old transformers has not
    notebook = nbformat.read(ROOT / EXERCISES[key].notebook, 4)
    (setup,) = (cell for cell in notebook.cells if cell.id == "setup")
    with pytest.raises(VersionError, match="the course needs transformers"):
        exec(setup.source, {})


def test_extras_are_not_asked_for(installed):
    installed(ipywidgets=None, distributed=None)
    check_versions()


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.9.18")
    with pytest.raises(VersionError, match="runs Python 3.9.18, and the course needs >=3.10"):
        check_versions()


def test_a_preview_of_python_is_fine(monkeypatch, capsys):
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.99.0rc1")
    check_versions()
    assert "Python 3.99.0rc1" in capsys.readouterr().out


def test_a_course_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(versions, "COURSE", "no-such-course")
    with pytest.raises(VersionError, match=r'no-such-course is not installed[\s\S]*-m pip install -e "\.\[course\]"'):
        check_versions()


def test_the_message_comes_without_traceback():
    assert VersionError("too old")._render_traceback_() == ["VersionError: too old"]
