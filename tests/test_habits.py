"""What CONTRIBUTING.md asks of every change: lint, types, notebooks without outputs."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_output

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*/*.ipynb"))
HOOKS = {
    hook["id"]: hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]
}


def run(command: str, *arguments: object) -> subprocess.CompletedProcess:
    """A command of this Python's environment, with `arguments`, in the root."""
    program, *options = command.split()
    return subprocess.run(
        [Path(sys.executable).parent / program, *options, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_hooks_have_the_pinned_versions():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(pin in pins for hook in HOOKS.values() for pin in hook["additional_dependencies"])


def test_ruff_has_nothing_to_say_of_code_and_notebooks():
    result = run(HOOKS["ruff"]["entry"])
    assert result.returncode == 0, result.stdout
    looked_at = run(HOOKS["ruff"]["entry"], "--show-files").stdout
    assert all(str(path) in looked_at for path in [*NOTEBOOKS, ROOT / "autograder/judge.py"])


def test_code_and_notebooks_are_laid_out_by_ruff():
    result = run(HOOKS["ruff-format"]["entry"], "--check")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_the_types_agree():
    result = run("mypy")
    assert result.returncode == 0, result.stdout


def test_nbstripout_takes_outputs_away_and_nothing_else(tmp_path):
    copies = [Path(shutil.copy(source, tmp_path)) for source in NOTEBOOKS]
    for copy in copies:
        executed = nbformat.read(copy, as_version=4)
        for cell in executed.cells:
            if cell.cell_type == "code":
                cell.execution_count, cell.outputs = 7, [new_output("stream", text="seen")]
        nbformat.write(executed, copy)
    result = run(HOOKS["nbstripout"]["entry"], *copies)
    assert result.returncode == 0, result.stderr
    for source, copy in zip(NOTEBOOKS, copies):
        assert copy.read_bytes() == source.read_bytes(), source


@pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and a clone; an archive holds no .git"
)
def test_git_and_nbdime_know_notebooks():
    drivers = subprocess.run(
        ["git", "check-attr", "diff", "merge", "--", NOTEBOOKS[0].relative_to(ROOT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert drivers.count("jupyternotebook") == 2
