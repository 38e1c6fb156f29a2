"""Right solution cells, written as differently as people write. One file an exercise; `# %% name` starts a cell."""

import re
from pathlib import Path


def right_solutions(key: str) -> dict[str, str]:
    """Name -> source of a solution cell of exercise `key`."""
    text = Path(__file__).with_name(f"{key}.txt").read_text(encoding="utf-8")
    _, *parts = re.split(r"^# %% (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2]))
