"""The worker process in its sandbox, as the judge sees it: bubblewrap's namespaces, limits and deadlines.

Inside are this Python's files, read-only, worker.py and an empty /tmp; no network, no other process, nobody's home.
"""

import contextlib
import io
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from autograder import worker
from course_utils.plain_error import PlainError

WORKER = Path(worker.__file__)
START_SECONDS, CASE_SECONDS = 120, 20  # a right answer takes a tenth of one: room for a busy machine
MOST_THREADS, LOOK_SECONDS = 16, 0.05  # a right answer needs one; seconds between two looks at how many there are
LARGEST_TEXT, LARGEST_TENSORS = 1 << 18, 1 << 20  # bytes of an answer; all of an exercise's are kept until the last
MEGABYTE = 1 << 20
LIMITS = {"CPU": 60, "AS": 1536 * MEGABYTE, "FSIZE": MEGABYTE, "NOFILE": 64, "NPROC": 64, "SIGPENDING": 64, "CORE": 0}
LIBRARIES = "bin", "lib", "lib64"  # of a prefix, what Python and torch need
DTYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


class NoSandbox(PlainError):
    """No sandbox can be had on this machine, or no process without one; the message says why and what to do."""


class SlowStart(Exception):
    """The sandbox did not start in time, which says nothing about the submission and little about the machine."""


class WorkerFailed(Exception):
    """The worker gave no usable answer; the message says in plain words what it did."""


class TimedOut(WorkerFailed):
    """There was no answer in time: for what the submission did, or because the machine had no time for it."""


def command(sandboxed: bool) -> list[str]:
    """The command line that starts the worker."""
    python = [sys.executable, "-I", "-B", str(WORKER)]
    if not sandboxed:
        return python
    bubblewrap = shutil.which("bwrap")
    if not bubblewrap:
        raise NoSandbox(
            "bubblewrap is missing, and without it a submission could read and write your files. On "
            "Debian or Ubuntu: apt install bubblewrap; on other Linuxes the package has the same name. "
            "macOS has none: grade on Linux. --no-sandbox runs the submissions unprotected."
        )
    site = Path(sysconfig.get_path("purelib")).resolve()
    mounts, hidden = _mounts(site)
    isolated = (
        "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session "
        "--as-pid-1 "  # or bubblewrap's own process would be it, and its memory open to the submission
        "--uid 65534 --gid 65534 --cap-drop ALL --clearenv --proc /proc --dev /dev"
    )
    return [
        bubblewrap,
        *isolated.split(),
        *("--size", str(16 * MEGABYTE), "--tmpfs", "/tmp"),  # first: Python's files may lie somewhere in /tmp
        *mounts,
        *("--ro-bind", str(WORKER), "/worker.py"),
        *(argument for path in (*hidden, "/proc", "/dev", "/") for argument in ("--remount-ro", path)),
        *("--chdir", "/tmp", "--setenv", "OMP_NUM_THREADS", "1"),
        *(str(Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name), "-I", "-B", "-c"),
        f"import sys; sys.path.append({str(site)!r}); sys.argv = ['/worker.py']; "
        "exec(compile(open('/worker.py').read(), '/worker.py', 'exec'))",
    ]


def _mounts(site: Path) -> tuple[list[str], list[str]]:
    """bubblewrap's options for what can be read of this Python, and the folders that are hidden in it."""
    course = WORKER.resolve().parents[1]
    # Not all of a prefix: nbgrader keeps its exchange in /usr/local/share, and a container its course in /usr/src.
    libraries = [Path(prefix, name) for prefix in (sys.base_prefix, "/usr", "/usr/local") for name in LIBRARIES]
    readable = {str(path.resolve()) for path in (*libraries, Path(sysconfig.get_path("stdlib")), site) if path.exists()}
    hidden = {  # a course that lies in there all the same, or is installed, not checked out
        str(path)
        for path in (course, site / "autograder", site / "course_utils")
        if path.is_dir() and any(path.is_relative_to(folder) for folder in readable)
    } - readable
    bound = []
    for path in sorted(readable | hidden):  # the outer ones first, or they would cover the inner ones
        bound += ["--ro-bind", path, path] if path in readable else ["--tmpfs", path]
    links = sorted({str(path) for path in libraries if path.is_symlink()})
    for path in (*links, "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives"):
        if Path(path).is_symlink():
            bound += ["--symlink", os.readlink(path), path]
        elif Path(path).exists():
            bound += ["--ro-bind", path, path]
    return bound, sorted(hidden)


class Worker:
    """A worker process. Everything that it is told and everything that it says goes through `ask`."""

    def __init__(self, sandboxed: bool = True):
        self.command, self.sandboxed = command(sandboxed), sandboxed
        self.process: subprocess.Popen | None = None
        self.scratch: tempfile.TemporaryDirectory | None = None  # the working folder where there is no sandbox

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process and waits until it has imported torch. NoSandbox: it cannot. SlowStart: not in time."""
        if not self.sandboxed:
            self.scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.scratch.name if self.scratch else None,
                env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},  # or numpy starts one a core, and they are counted
                start_new_session=True,
                bufsize=0,
            )
            try:
                self._read(START_SECONDS)
            except TimedOut as failure:
                self.stop()
                raise SlowStart(
                    f"the sandbox did not start within {START_SECONDS} seconds. Grade again when this machine has less "
                    "to do, or with fewer --workers"
                ) from failure
            except WorkerFailed as failure:
                self.stop()
                errors.seek(0)
                said = errors.read(2000).decode(errors="replace").strip() or str(failure)
                raise NoSandbox(self._no_start(said)) from failure

    def _no_start(self, said: str) -> str:
        if not self.sandboxed:
            return f"the process that runs the submissions does not start: {said}"
        return (
            f"the sandbox does not start: {said}\nA container or a kernel setting may forbid user "
            "namespaces (sysctl kernel.unprivileged_userns_clone=1, or "
            "kernel.apparmor_restrict_unprivileged_userns=0). --no-sandbox runs the submissions "
            "unprotected."
        )

    def stop(self) -> None:
        """Kills the process and with it, since it is the first of its namespace, everything in the sandbox."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None
            if self.scratch:
                self.scratch.cleanup()

    def ask(
        self, message: dict, tensors: dict[str, Tensor], seconds: float = CASE_SECONDS, *, until: float = math.inf
    ) -> tuple[dict, dict]:
        """Sends a frame and waits for the answer, for so many seconds and at most until `until`, by time.monotonic().
        WorkerFailed, TimedOut: there is none, or it is none; the process is gone."""
        try:
            deadline = min(time.monotonic() + seconds, until)
            self._send(message, tensors, deadline)
            return self._read(deadline - time.monotonic())
        except WorkerFailed:
            self.stop()
            raise
        except OSError as error:
            self.stop()
            raise WorkerFailed("it ended") from error

    def _send(self, message: dict, tensors: dict[str, Tensor], deadline: float) -> None:
        """A process that does not read must not stop the judge."""
        frame, pipe = io.BytesIO(), self.process.stdin.fileno()
        worker.write_frame(frame, message, tensors)
        left = memoryview(frame.getvalue())
        while left:
            self._wait(deadline, writable=[pipe])
            left = left[os.write(pipe, left[: select.PIPE_BUF]) :]

    def _read(self, seconds: float) -> tuple[dict, dict[str, Tensor]]:
        deadline = time.monotonic() + seconds
        text_length, data_length = worker.HEAD.unpack(self._exactly(worker.HEAD.size, deadline))
        if text_length > LARGEST_TEXT or data_length > LARGEST_TENSORS:
            raise WorkerFailed("its answer is too large")
        text, data = self._exactly(text_length, deadline), self._exactly(data_length, deadline)
        if int.from_bytes(data[:8], "little") > LARGEST_TEXT:  # its list of tensors: of empty ones 60 bytes take 1,000
            raise WorkerFailed("its answer is too large")
        try:
            message, tensors = json.loads(text), safetensors.torch.load(data)
        except Exception as error:  # whatever json and safetensors meet in a forged one
            raise WorkerFailed("its answer cannot be read") from error
        if not isinstance(message, dict) or {tensor.dtype for tensor in tensors.values()} - DTYPES:
            raise WorkerFailed("its answer cannot be read")
        return message, tensors

    def _exactly(self, count: int, deadline: float) -> bytes:
        pieces, pipe = [], self.process.stdout.fileno()
        while count:
            self._wait(deadline, readable=[pipe])
            piece = os.read(pipe, min(count, 1 << 16))
            if not piece:
                raise WorkerFailed("it ended")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _wait(self, deadline: float, readable: Iterable[int] = (), writable: Iterable[int] = ()) -> None:
        """Until the pipe is. TimedOut: it was not in time. WorkerFailed: there are too many threads. Each would have as
        much of the machine as another student's only one, and where root grades the kernel sets no limit."""
        while True:
            if most_threads(self.process.pid) > MOST_THREADS:
                raise WorkerFailed(f"it started more than {MOST_THREADS} threads")
            left = max(0.0, deadline - time.monotonic())
            if any(select.select(readable, writable, [], min(left, LOOK_SECONDS))):
                return
            if not left:
                raise TimedOut("it took too long")


def most_threads(process: int) -> int:
    """Of the process with this number and those below it, the most that one has. 0 where the system does not say."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return max(os.stat(f"/proc/{process}/task").st_nlink - 2, *map(most_threads, map(int, children)), 0)
    except OSError:  # it has ended, or this is no Linux
        return 0
