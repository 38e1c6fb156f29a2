"""Python with torch and transformers imported already: what the tests start notebooks' kernels and commands with.

Importing them takes 9 s of a slow core, and the tests start a hundred processes that need them. So one process, the
server, imports them once, and each of those processes is a fork of it, with the arguments, the environment, the folder
and the standard streams of whoever asked. Who asks is this file again: it stands there for the fork, hands on signals,
ends as the fork ends, and takes it along when it is killed.

    python tests/warm.py                              # the server; ends with its standard input
    python -I -S tests/warm.py -m course_utils.train  # as `python -m course_utils.train`
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys

SOCKET = "WARM_PYTHON"  # the environment variable that says where the server listens
LINUX = sys.platform == "linux"  # elsewhere each process starts cold
COMMAND = [sys.executable, "-I", "-S", __file__] if LINUX else [sys.executable]  # stands for [sys.executable]
IMPORTS = (
    "torch",
    "transformers.modeling_utils",
    "transformers.trainer_utils",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "matplotlib.pyplot",
    "nbconvert",
    "ipykernel.kernelapp",
    "ipywidgets",
)


def ask(arguments: list[str]) -> int:
    """Has the server run these arguments of `python`; gives the exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(os.environ[SOCKET])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        fork = int(server.recv(100))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: os.killpg(fork, received))
        code = os.waitstatus_to_exitcode(int(server.recv(100)))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if code < 0:  # a signal ended it
        os.kill(os.getpid(), -code)
    return code


def serve() -> list[str]:
    """Forks for each who asks, until standard input ends. Returns in a fork alone, with its arguments."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(os.environ[SOCKET])
    listening.listen()
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        asking, _ = listening.accept()
        for module in IMPORTS:  # now, since most runs of a single test file ask for nothing
            importlib.import_module(module)
        gc.freeze()  # or a fork would spend 2 s on taking all of them apart at its end
        keeper = os.fork()
        if keeper == 0 and os.fork() == 0:  # twice, so that nobody has to wait for keepers
            listening.close()
            return keep(asking)
        if keeper == 0:
            os._exit(0)
        os.waitpid(keeper, 0)
        asking.close()
    sys.exit()


def keep(asking: socket.socket) -> list[str]:
    """Forks and stays between the fork and who asked for it. Returns in the fork alone, with its arguments."""
    message, streams, _, _ = socket.recv_fds(asking, 1 << 20, 3)
    fork = os.fork()
    if fork == 0:
        os.setsid()
        asking.send(str(os.getpid()).encode())  # when it leads a group, to which signals go
        asking.close()
        return become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(fork)
    forsaken = ended not in select.select([ended, asking], [], [])[0]
    if forsaken:
        os.killpg(fork, signal.SIGKILL)
    _, status = os.waitpid(fork, 0)
    if not forsaken:
        asking.send(str(status).encode())
    os._exit(0)


def become(request: dict, streams: list[int]) -> list[str]:
    """Makes this process one that was started with `request`; gives its arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["arguments"]


def run(option: str, *arguments: str) -> None:
    """As `python option arguments` does: -m and a module, -c and a source, or a file."""
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if option == "-m":
        sys.argv, sys.path[:1] = list(arguments), [os.getcwd(), *filter(None, added)]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.argv, sys.path[:1] = ["-c", *arguments[1:]], ["", *filter(None, added)]
        exec(arguments[0], {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:1] = [option, *arguments], [os.path.dirname(os.path.abspath(option)), *filter(None, added)]
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:]:
        if SOCKET not in os.environ:  # no tests: a benchmark that uses their course
            os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
        sys.exit(ask(sys.argv[1:]))
    run(*serve())
