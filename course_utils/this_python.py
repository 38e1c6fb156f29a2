"""How a message names the Python that it comes from, for a command to be typed."""

import sys


def this_python() -> str:
    """With its path: a terminal's own `python` may be another one, without the course. PowerShell, in which a quoted
    name is only a text, runs it by &."""
    return f'& "{sys.executable}"' if sys.platform == "win32" else f'"{sys.executable}"'
