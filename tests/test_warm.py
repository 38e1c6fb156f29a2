"""A warm process is to its caller what a process of its own would be."""

import os
import signal
import subprocess
import time

import pytest

from tests import warm

pytestmark = pytest.mark.skipif(not warm.LINUX, reason="elsewhere than on Linux every process starts cold")
SAY = "import os, sys; print(sys.argv, os.getcwd(), os.environ['X'], sys.stdin.read(), 'torch' in sys.modules)"


def python(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([*warm.COMMAND, *arguments], capture_output=True, text=True, **more)


def test_arguments_folder_environment_and_streams_are_the_callers(tmp_path):
    given = {"cwd": tmp_path, "env": {**os.environ, "X": "y"}, "input": "in"}
    assert python("-c", SAY, "a", **given).stdout == f"['-c', 'a'] {tmp_path} y in True\n"
    (tmp_path / "say.py").write_text(SAY)
    assert python("say.py", "a", **given).stdout == f"['say.py', 'a'] {tmp_path} y in True\n"
    assert python("-m", "say", "a", **given).stdout == f"['{tmp_path}/say.py', 'a'] {tmp_path} y in True\n"
    assert python("-c", "import say", cwd="/", env={**os.environ, "X": "y", "PYTHONPATH": str(tmp_path)}).stdout


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('error: no')", 1, "error: no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_the_end_is_the_forks(source, code, said):
    run = python("-c", source)
    assert run.returncode == code and run.stderr.endswith(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_fork_too(number, tmp_path):
    source = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen([*warm.COMMAND, "-c", source], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) != 0
    fork = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{fork}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_server_it_is_python_itself():
    """As for a benchmark, which uses the tests' course."""
    alone = {name: value for name, value in os.environ.items() if name != warm.SOCKET}
    run = python("-c", "import sys; print(sys.argv[1], 'torch' in sys.modules)", "x", env=alone)
    assert (run.stdout, run.stderr, run.returncode) == ("x False\n", "", 0)
