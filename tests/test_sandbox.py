"""The sandbox from inside: what a submission sees, what it may do, and that nothing is left when it is over."""

import platform
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autograder import sandbox
from autograder.sandbox import NoSandbox, SlowStart, TimedOut, Worker, WorkerFailed
from autograder.verdict_cache import VerdictCache, course_secret
from tests.class_of_students import new_course
from tests.course import copy_code
from tests.obedient_judge import verdict_of
from tests.process_tree import all_gone, tree

needs_sandbox = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
ROOT = Path(__file__).parent.parent


def load(worker: Worker, body: str, **limits: int) -> dict:
    source = f"import torch\n\ndef compute_policy_loss(x):\n    {body}\n"
    return worker.ask(
        {
            "kind": "load",
            "source": source,
            "key": "policy_loss",
            "limits": sandbox.LIMITS | limits,
            "function": "compute_policy_loss",
        },
        {},
    )[0]


def call(worker: Worker, seconds: float = 20) -> dict:
    return worker.ask({"kind": "call", "args": ["x"], "wrt": [], "seed": 0}, {"x": torch.ones(2)}, seconds)[0]


def inside(body: str) -> dict:
    """What a submission's function answers."""
    with Worker() as worker:
        assert load(worker, body) == {"loaded": True}
        return call(worker)


@pytest.fixture(scope="module")
def worker():
    with Worker() as process:
        yield process


def in_turn(worker: Worker, body: str, seconds: float = 20) -> dict:
    """The same, in a process that other tests share."""
    assert load(worker, body) == {"loaded": True}
    told = call(worker, seconds)
    if "ended" not in told:
        assert worker.ask({"kind": "end"}, {})[0] == {"ended": True}
    return told


@needs_sandbox
@pytest.mark.parametrize(
    "path",
    [
        ROOT / "notebooks",
        ROOT / "autograder/rubrics",
        ROOT / "autograder/reference.py",
        ROOT / "course_utils",
        ROOT / "tests",
        Path.home() / ".bashrc",
        "/etc/passwd",
        "/usr/local/share",  # nbgrader's own place for the exchange, with everybody's submissions
        "/usr/src",
        "/var",
        "/home",
    ],
    ids=str,
)
def test_what_is_not_its_own_is_not_there(worker, path):
    told = in_turn(worker, f"return __import__('os').lstat({str(path)!r})")
    assert told["error"]["type"] == "FileNotFoundError", told


def refused(*call: object) -> str:
    """A system call that raises as Python's own would."""
    return (
        f"(lambda c: c.CDLL(None, use_errno=True).syscall{call} < 0 and (_ for _ in ()).throw("
        "OSError(c.get_errno(), '')))(__import__('ctypes'))"
    )


X86 = platform.machine() == "x86_64"


SEARCH = """import os
    found = [path for path in {paths} if os.path.lexists(path)]
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders.remove("proc")
        for path in (os.path.join(folder, name) for name in folders + files):
            of = os.lstat(path)
            if (of.st_dev, of.st_ino) in {identities}:
                found.append(path)
    raise ValueError(found[:2])"""


@needs_sandbox
def test_nothing_of_a_course_in_use_is_anywhere_inside(worker, tmp_path):
    """Neither under its own path nor, by device and inode, under any other."""
    copy_code(tmp_path)
    course = new_course(tmp_path / "autograder")
    secret, verdicts = course.folder / "secret.key", course.folder / "verdicts"
    course_secret(secret)
    VerdictCache(verdicts, "1").store(verdict_of("gae"), "", sandboxed=True)
    submitted = course.hand_in("another", "gae")
    paths = [
        course.db,
        secret,
        verdicts,
        *verdicts.iterdir(),
        submitted,
        submitted.parents[2],
        *tmp_path.glob("notebooks/*/*.ipynb"),
        *tmp_path.glob("autograder/rubrics/*.py"),
        *tmp_path.glob("autograder/misconceptions/*.py"),
        tmp_path / "autograder/reference.py",
        tmp_path,
        Path.home(),
        ROOT,
        ROOT / "notebooks",
        ROOT / "autograder/rubrics",
    ]
    assert len(paths) > 25
    search = SEARCH.format(
        paths=[str(path) for path in paths if path not in (Path.home(), ROOT)],  # may hold .venv
        identities={(path.stat().st_dev, path.stat().st_ino) for path in paths},
    )
    assert in_turn(worker, search, seconds=120)["error"]["message"] == "[]"


@needs_sandbox
def test_what_lies_in_a_folder_of_pythons_is_hidden_and_no_place_to_write(tmp_path, monkeypatch):
    """A course in /usr/src with its environment in it, and the project installed there a second time."""
    course, site = tmp_path / "src/course", tmp_path / "src/course/.venv/site"
    files = course / "secret.key", course / "autograder/worker.py", site / "autograder/reference.py", site / "torch.py"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    paths = {"stdlib": str(tmp_path), "purelib": str(site)}
    monkeypatch.setattr(sandbox, "sysconfig", SimpleNamespace(get_path=paths.get))
    monkeypatch.setattr(sandbox, "WORKER", course / "autograder/worker.py")
    look = f"""import os
print(*(int(os.path.exists(path)) for path in {[*map(str, files)]}))
for folder in {[str(course), str(site), str(site / "autograder")]}:
    try:
        open(folder + "/new", "w")
    except OSError as error:
        print(error.strerror)"""
    told = subprocess.run([*sandbox.command(True)[:-1], look], capture_output=True, text=True)
    assert told.stdout.splitlines() == ["0 0 0 1", *["Read-only file system"] * 3]


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("open('/usr/x', 'w')", "OSError"),
        ("open('/x', 'w')", "OSError"),
        ("open('/dev/shm/x', 'w')", "OSError"),
        ("open('/worker.py', 'a')", "OSError"),
        ("__import__('os').fork()", "PermissionError"),
        ("__import__('subprocess').run(['/bin/true'])", "PermissionError"),
        ("__import__('os').execv('/bin/true', ['true'])", "PermissionError"),
        ("__import__('os').kill(1, 9)", "PermissionError"),
        ("__import__('socket').socket()", "PermissionError"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("open(f'/proc/{__import__(\"os\").getppid()}/mem', 'rb')", "PermissionError"),
        ("open('/proc/1/mem', 'rb')", "PermissionError"),  # the namespace's first process, without a filter
        ("__import__('resource').prlimit(__import__('os').getppid(), 7)", "PermissionError"),
        ("__import__('resource').setrlimit(7, (999, 999))", "ValueError"),
        ("open('/tmp/x', 'wb').write(bytes(2 << 20))", "OSError"),
        ("torch.zeros(1 << 30)", "RuntimeError"),
        ("bytearray(1 << 32)", "MemoryError"),
        ("__import__('mmap').mmap(-1, 1 << 32, 2)", "OSError"),  # MAP_PRIVATE
        ("__import__('mmap').mmap(-1, 4096)", "PermissionError"),  # shared: what is unmapped of it may stay
        ("__import__('mmap').mmap(__import__('os').open('/dev/zero', 2), 4096)", "PermissionError"),
        ("__import__('os').memfd_create('x')", "PermissionError"),
        ("__import__('os').setxattr('/tmp', 'user.x', b'x')", "PermissionError"),  # not of the 16 MB of /tmp
        ("__import__('os').setxattr('/tmp', 'user.x', b'x', follow_symlinks=False)", "PermissionError"),
        ("__import__('os').setxattr(__import__('os').open('/tmp', 0), 'user.x', b'x')", "PermissionError"),
        # timer_create takes a signal that may come of what one user may have; the numbers are x86-64's and arm64's.
        (
            "[0 for n in range(99) if (c := __import__('ctypes')).CDLL(None).syscall("
            f"{222 if X86 else 107}, 1, 0, c.byref(c.c_int())) and 1 / 0]",
            "ZeroDivisionError",
        ),
        ("__import__('sys').exit(3)", "SystemExit"),
        ("__import__('fcntl').fcntl(open(torch.__file__), 1024, 1)", "PermissionError"),  # F_SETLEASE, F_WRLCK
        ("__import__('fcntl').flock(open(torch.__file__), 2)", "PermissionError"),
        ("__import__('fcntl').lockf(open('/tmp/x', 'w'), 6)", "PermissionError"),  # LOCK_EX | LOCK_NB: F_SETLK
        ("__import__('fcntl').lockf(open('/tmp/x', 'w'), 2)", "PermissionError"),
        ("__import__('fcntl').fcntl(open('/tmp/x', 'w'), 37, bytes(32))", "PermissionError"),  # F_OFD_SETLK
        ("__import__('os').fsync(__import__('os').open(torch.__file__, 0))", "PermissionError"),
        ("__import__('os').fdatasync(__import__('os').open(torch.__file__, 0))", "PermissionError"),
        ("__import__('fcntl').ioctl(__import__('os').open('/dev/ptmx', 2), 0x5423, bytes(4))", "PermissionError"),
        # The machine's own, which belong to root. The mode is the one that they have.
        ("__import__('os').chmod('/dev/null', 0o666)", "PermissionError"),
        ("__import__('os').chmod('/dev/null', 0o666, follow_symlinks=False)", "PermissionError"),
        ("__import__('os').fchmod(__import__('os').open('/dev/zero', 0), 0o666)", "PermissionError"),
        ("__import__('os').chown('/dev/null', -1, -1)", "PermissionError"),
        ("__import__('os').lchown('/dev/null', -1, -1)", "PermissionError"),
        ("__import__('os').fchown(__import__('os').open('/dev/zero', 0), -1, -1)", "PermissionError"),
        ("__import__('os').utime('/dev/null')", "PermissionError"),
        ("open('/proc/1/autogroup', 'w')", "OSError"),  # a priority too
        ("open('/proc/self/autogroup', 'w')", "OSError"),
        ("open('/proc/1/oom_score_adj', 'w')", "OSError"),
        ("__import__('os').setpriority(0, 1, 19)", "PermissionError"),  # of the namespace's first process
        ("__import__('os').sched_setaffinity(1, {0})", "PermissionError"),
        ("__import__('os').sched_setscheduler(1, 5, __import__('os').sched_param(0))", "PermissionError"),  # SCHED_IDLE
        ("__import__('os').sched_setparam(1, __import__('os').sched_param(0))", "PermissionError"),
        *[
            (refused(*call), "PermissionError")
            for call in (
                (129, 1, 9, bytes(128)),  # rt_sigqueueinfo
                (250, 0, -3, 1),  # keyctl: the session's keyring
                (29, 0, 4096, 0o1600),  # shmget; then shmat, msgget, semget, mq_open, memfd_secret
                (30, 0, 0, 0),
                (68, 0, 0o1600),
                (64, 0, 1, 0o1600),
                (240, b"/x", 0o102, 0o600, 0),
                (447, 0),
                (317, 0, 0, 0),  # seccomp, and the same by prctl
                (157, 22, 1, 0),
                (56, 0x50F00 - 0x400, 0, 0, 0, 0),  # clone: a thread with open files of its own
                (436, 3000, 3001, 2),  # close_range: the same
                (197, b"/dev/null", b"user.x"),  # removexattr, quotactl, tee
                (179, 0x800001, 0, 0, 0),
                (276, 0, 1, 1, 0),
                (278, 1, 0, 0, 0),  # vmsplice, splice
                (275, 0, 0, 1, 0, 4096, 0),
                (157, 41, 0, 0, 0, 0),  # prctl: PR_SET_THP_DISABLE, PR_SET_DUMPABLE
                (157, 4, 1, 0, 0, 0),
                (323, 1),  # userfaultfd
                (90, b"/dev/null", 0o666),  # chmod, fchmodat2, utime, utimes, futimesat
                (452, -100, b"/dev/null", 0o666, 0),
                (132, b"/dev/null", 0),
                (235, b"/dev/null", 0),
                (261, -100, b"/dev/null", 0),
                (469, -100, b"/dev/null", 0, 0, 0),  # file_setattr
                (253,),  # inotify_init, inotify_init1, fanotify_init, io_setup
                (294, 0),
                (300, 0, 0),
                (206, 1, 0),
                (162, 0),  # sync, syncfs
                (306, 0),
                (251, 1, 1, 0x6007),  # ioprio_set, sched_setattr
                (314, 1, bytes(56), 0),
                (444, 0, 0, 1),  # landlock_create_ruleset: a set has 65,536 rules, and nobody counts the sets
            )
            if X86
        ],
    ],
)
def test_what_it_may_not_do(worker, body, error):
    assert in_turn(worker, f"return {body}")["error"]["type"] == error


@needs_sandbox
def test_its_threads_are_counted_from_outside():
    body = (
        "import threading, time\n"
        "    for n in range(500):\n"
        "        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n"
        "        time.sleep(0.002)\n"
    )
    with Worker() as worker:
        load(worker, body)
        with pytest.raises(WorkerFailed, match="it started more than 16 threads"):
            call(worker)
        assert worker.process is None


@needs_sandbox
def test_what_it_may_do(worker):
    body = (
        "__import__('threading').Thread(target=print, args=('out',)).start(); "
        "open('/tmp/scratch', 'w').write('x'); __import__('warnings').warn('w'); "
        "print('o' * 10**6, file=__import__('sys').stderr); return x * 2"
    )
    assert in_turn(worker, body)["parts"] == [{"kind": "tensor", "requires_grad": False}]


@needs_sandbox
def test_the_environment_is_cleared_and_nobody_is_home(worker):
    told = in_turn(worker, "import os; raise ValueError(sorted(os.environ), os.getuid(), len(os.listdir('/tmp')))")
    names, user, _ = eval(told["error"]["message"], {"__builtins__": {}})  # our own function's words
    assert set(names) <= {"OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "PWD", "LC_CTYPE"} and user == 65534


@needs_sandbox
def test_one_exercise_leaves_nothing_for_the_next(worker):
    in_turn(worker, "torch.exp = None; import builtins; builtins.print = None; return x")
    assert "error" not in in_turn(worker, "print(torch.exp(x)); return x")


@needs_sandbox
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import signal\n    for n in (*range(1, 9), *range(10, 19), *range(20, 32)): signal.signal(n, signal.SIG_IGN)\n"
        "    while True: pass",
    ],
    ids=["loop", "loop that ignores signals"],
)
def test_a_hang_ends_at_its_deadline_with_every_process(body):
    with Worker() as worker:
        load(worker, body)
        inside = tree(worker.process.pid)
        assert len(inside) >= 3  # bubblewrap, the worker, its child
        with pytest.raises(WorkerFailed, match="too long"):
            call(worker, seconds=1)
        assert worker.process is None
        assert all_gone(inside)


@needs_sandbox
def test_of_two_deadlines_the_earlier_holds():
    with Worker() as worker:
        load(worker, "__import__('time').sleep(0.5)")
        with pytest.raises(TimedOut):
            worker.ask({"kind": "call", "args": ["x"], "wrt": [], "seed": 0}, {"x": torch.ones(2)}, until=0)


@needs_sandbox
@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n    while True: pass"],
    ids=["loop", "loop that ignores the signal"],
)
def test_who_computes_for_too_long_is_killed_and_the_process_goes_on(worker, body):
    assert load(worker, body, CPU=1) == {"loaded": True}
    assert call(worker, seconds=120) == {"ended": True, "killed": True}
    assert "parts" in in_turn(worker, "return x")


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os._exit(0)", "ended"),
        ("import ctypes; ctypes.string_at(0)", "ended"),
    ],
)
def test_a_dead_child_is_said_and_the_process_goes_on(worker, body, words):
    assert words in in_turn(worker, body)
    assert "parts" in in_turn(worker, "return x")


@needs_sandbox
def test_a_page_is_a_small_one(worker):
    """Of a huge page the limit on memory counts what is mapped, and 4 KB of it keep all 2 MB."""
    body = "raise ValueError([line for line in open('/proc/self/status') if line.startswith('THP_enabled')])"
    assert "THP_enabled:\\t0" in in_turn(worker, body)["error"]["message"]


@needs_sandbox
def test_a_signal_by_way_of_a_pipe_does_not_reach_the_process_that_goes_on(worker):
    """Whoever owns a pipe is told by a signal of its choice that there is something to read."""
    body = """import fcntl, os, signal
    ear, mouth = os.pipe()
    fcntl.fcntl(ear, fcntl.F_SETOWN, 1)
    fcntl.fcntl(ear, 10, signal.SIGINT)  # F_SETSIG
    fcntl.fcntl(ear, fcntl.F_SETFL, os.O_ASYNC)
    os.write(mouth, b"x")
    return x"""
    assert "parts" in in_turn(worker, body)


@needs_sandbox
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("b'\\xff' * 100", "too large"),
        ("__import__('struct').pack('<IIQ', 0, 1 << 20, 1 << 19) + bytes(1 << 20)", "too large"),  # its list of tensors
        ("__import__('struct').pack('<II', 4, 4) + b'{}{}' + bytes(4)", "cannot be read"),
        ("__import__('struct').pack('<II', 2, 8) + b'[]' + bytes(8)", "cannot be read"),
        ("__import__('struct').pack('<II', 100000, 8) + b'[' * 100000 + bytes(8)", "cannot be read"),
    ],
)
def test_a_forged_frame_is_refused(data, words):
    body = (
        f"import os, sys\n    data = {data}\n    for fd in range(3, 20):\n        try: os.write(fd, data)\n"
        "        except OSError: pass\n    return x"
    )
    with Worker() as worker:
        load(worker, body)
        with pytest.raises(WorkerFailed, match=words):
            call(worker)


def test_without_bubblewrap_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(NoSandbox, match="apt install bubblewrap.*--no-sandbox"):
        Worker()


def test_a_sandbox_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr(sandbox, "command", lambda sandboxed: ["/bin/sh", "-c", "echo no namespaces here >&2; exit 1"])
    with pytest.raises(NoSandbox, match="no namespaces here(?s:.*)user namespaces"):
        Worker().start()


def test_where_there_is_no_sandbox_a_start_that_fails_does_not_advise_to_do_without_one(monkeypatch):
    monkeypatch.setattr(sandbox, "command", lambda sandboxed: ["/bin/sh", "-c", "echo no torch here >&2; exit 1"])
    with pytest.raises(NoSandbox, match="^the process that runs the submissions does not start: no torch here$"):
        Worker(sandboxed=False).start()


def test_a_start_that_takes_too_long_is_no_missing_sandbox(monkeypatch):
    monkeypatch.setattr(sandbox, "START_SECONDS", 0.2)
    monkeypatch.setattr(sandbox, "command", lambda sandboxed: ["/bin/sleep", "60"])
    worker = Worker()
    with pytest.raises(SlowStart, match="did not start within 0.2 seconds. Grade again"):
        worker.start()
    assert worker.process is None


def test_unprotected_it_runs_too():
    with Worker(sandboxed=False) as worker:
        assert load(worker, "return x + 1") == {"loaded": True}
        assert call(worker)["parts"][0]["kind"] == "tensor"


def test_unprotected_too_it_starts_with_one_thread_on_however_many_cores():
    """numpy's library starts one a core where nothing else is said: with more than 16 that is too many."""
    with Worker(sandboxed=False) as worker:
        assert sandbox.most_threads(worker.process.pid) <= 1


@needs_sandbox
def test_a_sandbox_leaves_no_folder_outside_should_it_be_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    with Worker():
        assert not list(tmp_path.iterdir())


def test_unprotected_too_there_is_an_empty_folder_to_work_in():
    with Worker(sandboxed=False) as worker:
        assert load(worker, "open('notes.txt', 'w').close(); import os; return torch.ones(len(os.listdir()))")
        told, found = worker.ask({"kind": "call", "args": ["x"], "wrt": [], "seed": 0}, {"x": torch.ones(2)})
        assert "error" not in told and len(found["out0"]) == 1
        folder = Path(worker.scratch.name)
    assert not folder.exists()


def test_the_worker_holds_no_answer():
    text = Path(sandbox.WORKER).read_text()
    for secret in ("reference", "rubric", "clamp(1 - clip_ratio", "rsqrt", "log_softmax"):
        assert f"import {secret}" not in text and f"from autograder.{secret}" not in text
    assert "log_softmax" not in text and "gamma" not in text
