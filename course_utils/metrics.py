"""metrics.jsonl, one line a PPO step, and the numbers in it that the update does not return itself."""

import json
import os
from pathlib import Path
from statistics import mean

from torch import Tensor

from course_utils.disk import write_file, writing


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum() / mask.sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns) over the mask: 1 a perfect critic, 0 one that says a constant.

    All (N, R). Where the returns do not vary there is nothing to explain: 0.
    """

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    spread = variance(returns)
    return (1 - variance(returns - values) / spread).item() if spread > 0 else 0.0


def moving_average(values: list[float], window: int = 5) -> list[float]:
    """The mean of each value and up to window − 1 before it."""
    return [mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


class MetricsLog:
    """Appends one JSON line a step and keeps what was written if the process dies."""

    def __init__(self, path: Path, last_step: int = 0):
        """Opens `path` to go on after `last_step`: later lines, of steps that will be done again, are dropped."""
        self.path = path
        self.write([line for line in read_metrics(path) if line["step"] <= last_step] if path.exists() else [])

    def write(self, lines: list[dict]) -> None:
        """These in place of all that were there."""
        write_file("".join(json.dumps(line) + "\n" for line in lines), self.path)
        self._end = self.path.stat().st_size

    def append(self, metrics: dict) -> None:
        with writing(self.path), self.path.open("a") as file:
            if os.fstat(file.fileno()).st_size > self._end:
                file.truncate(self._end)  # what an attempt left that was stopped, or that the disk had no room for
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())
            self._end = os.fstat(file.fileno()).st_size


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl. A last line that a killed process left unfinished is not one of them."""
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
