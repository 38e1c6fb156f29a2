"""The processes below one, as Linux tells."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path


def tree(pid: int) -> list[int]:
    """`pid` and all that it started, and so on."""
    children = []
    for file in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended since it was listed
            children += map(int, file.read_text().split())
    return [pid, *(below for child in children for below in tree(child))]


def running(pid: int) -> bool:
    """One that has ended, and that nobody has asked for yet (Z, a zombie), does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids: Iterable[int], seconds: float = 20) -> bool:
    """Whether all of them have ended, which a kill takes a moment for."""
    pids, deadline = list(pids), time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
