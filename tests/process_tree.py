"""The processes below one, as Linux tells."""
import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """`pid` and all that it started, and so on."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    return [pid, *(below for child in children for below in tree(child))]


def all_gone(pids: list[int], seconds: float = 20) -> bool:
    """Whether all of them have ended, which a kill takes a moment for."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
