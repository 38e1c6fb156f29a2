"""The answers to the held-out problems before and after training, as the trainer wrote them, side by side."""
import json
from html import escape
from pathlib import Path


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
        f"<tr><td>{escape(before['question'])}<br><b>{escape(before['gold'])}</b></td>{_cell(before)}{_cell(after)}</tr>"
        for before, after in pairs)
    return ("<table style='text-align:left'><thead><tr><th>Problem and right answer</th><th>Before</th><th>After</th>"
            f"</tr></thead><tbody>{rows}</tbody></table>")


def _cell(sample: dict) -> str:
    mark = "✓ right" if sample["correct"] else "✗ wrong"
    return f"<td><b>{mark}</b><br>{escape(sample['response'].strip()).replace(chr(10), '<br>')}</td>"
