"""The answers to the held-out problems before and after training, as the trainer wrote them, side by side."""

import json
from html import escape
from pathlib import Path

from course_utils.evaluate import wilson_interval
from course_utils.figures.table import html_table


def read_samples(path: Path) -> list[dict]:
    """One dict a problem: question, gold, response, correct.

    FileNotFoundError: the run has not come to its first, or its last, evaluation.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there yet: let the training cell run until it is")
    with path.open(encoding="utf-8") as lines:  # not splitlines(), for which an answer's U+2028 would end its line
        return [json.loads(line) for line in lines]


def accuracy_of(path: Path) -> float:
    samples = read_samples(path)
    return sum(sample["correct"] for sample in samples) / len(samples)


def accuracy_in_words(samples: list[dict]) -> str:
    right, count = sum(sample["correct"] for sample in samples), len(samples)
    low, high = wilson_interval(right, count)
    return f"{right / count:.1%}, 95 % interval {low:.1%} to {high:.1%} ({right} of {count})"


def before_and_after(before: list[dict], after: list[dict], count: int = 6) -> str:
    """An HTML table of the first `count` problems; `before` and `after` are about the same ones."""
    rows = [
        (f"{escape(old['question'])}<br><b>{escape(old['gold'])}</b>", _answer(old), _answer(new))
        for old, new in zip(before[:count], after)
    ]
    return html_table(("Problem and right answer", "Before", "After"), rows)


def _answer(sample: dict) -> str:
    mark = "✓ right" if sample["correct"] else "✗ wrong"
    return f"<b>{mark}</b><br>{escape(sample['response'].strip()).replace(chr(10), '<br>')}"
