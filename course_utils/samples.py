"""The answers to the held-out problems before and after training, as the trainer wrote them, side by side."""
import json
from html import escape
from pathlib import Path

CELL = "<td style='text-align:left'>"  # on each cell: JupyterLab's own rule for them beats the table's


def read_samples(path: Path) -> list[dict]:
    """One dict a problem: question, gold, response, correct."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def accuracy_of(path: Path) -> float:
    samples = read_samples(path)
    return sum(sample["correct"] for sample in samples) / len(samples)


def before_and_after(folder: Path, count: int = 6) -> str:
    """An HTML table of the first `count` problems of a run."""
    pairs = list(zip(*(read_samples(folder / f"samples_{when}.jsonl") for when in ("before", "after"))))[:count]
    rows = "".join(
        f"<tr>{CELL}{escape(before['question'])}<br><b>{escape(before['gold'])}</b></td>{_answer(before)}{_answer(after)}"
        "</tr>" for before, after in pairs)
    titles = ("Problem and right answer", "Before", "After")
    heads = "".join(f"{CELL.replace('td', 'th')}{title}</th>" for title in titles)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _answer(sample: dict) -> str:
    mark = "✓ right" if sample["correct"] else "✗ wrong"
    return f"{CELL}<b>{mark}</b><br>{escape(sample['response'].strip()).replace(chr(10), '<br>')}</td>"
