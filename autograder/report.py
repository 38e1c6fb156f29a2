"""What an instructor sees of a class: the table student x exercise, and an HTML report that stands by itself.

Names, advice and tampering come from submissions. So whatever is shown is made printable first, and in HTML escaped by
the one function that makes the cells.
"""

import html
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autograder.feedback import BLUE, one_line
from autograder.verdict import Verdict
from course_utils.exercises import EXERCISES

WHOSE = "Scores are the judge's: before late penalties and before changes made by hand."


@dataclass(frozen=True)
class Graded:
    """One exercise of one student."""

    student: str
    assignment: str
    verdict: Verdict
    score: float
    max_score: float
    tampering: tuple[str, ...] = ()  # what the submission tried, in words
    ungraded: str = ""  # why there is no verdict yet: nothing is in the gradebook
    overruled: bool = False  # points given by hand hold, though the judge's have changed since


def unfinished(graded: Sequence[Graded]) -> list[str]:
    """A line on each exercise that was not judged to the end."""
    return [
        one_line(
            f"{one.student}, {one.verdict.key} was not finished in time: 0 points for what it did not answer. It is "
            "judged again in the next run: on a quiet machine, if this one was busy."
        )
        for one in graded
        if one.verdict.timed_out
    ]


def overruled(graded: Sequence[Graded]) -> list[str]:
    """A line on each exercise whose points somebody has to look at again."""
    return [
        one_line(
            f"{one.student}, {one.verdict.key}: points that were given by hand hold, though the judge's have changed "
            "since. Look at it in the formgrader's Manual Grading."
        )
        for one in graded
        if one.overruled
    ]


# ---------------------------------------------------------------- terminal


def class_table(graded: Sequence[Graded]) -> str:
    """Student x exercise. "-": not handed in, "?": could not be graded."""
    keys = _keys(graded)
    by_student = _by_student(graded)
    rows = [["student", *keys, "total"]]
    for student, exercises in by_student.items():
        total = sum(one.score for one in exercises.values())
        rows.append([student, *(_score(exercises.get(key)) for key in keys), f"{total:g}"])
    return aligned(rows)


def learner_table(graded: Sequence[Graded], points: dict[str, dict[str, float]]) -> str:
    """One's own exercises: each criterion with its points, and advice where there is something to do."""
    lines = []
    for one in graded:
        lines.append(f"{one.verdict.key:<18} {one.score:g} of {one.max_score:g} points")
        if problem := one.verdict.problem or one.ungraded:
            lines.append(f"    {one_line(problem)}")
            continue
        for result in one.verdict.results:
            worth = points[one.verdict.key][result.criterion]
            mark = f"[x] {worth:g}" if result.passed else f"[ ] 0 of {worth:g}"
            lines.append(f"    {mark:<10} {result.criterion}: {one_line(result.expected)}")
            if result.advice and not result.passed:
                lines.append(f"               -> {one_line(result.advice)}")
        if one.verdict.misconception:
            lines.append(f"    likely: {one_line(one.verdict.misconception)}. {one_line(one.verdict.advice)}")
    total, most = sum(one.score for one in graded), sum(one.max_score for one in graded)
    return "\n".join([*lines, f"{'total':<18} {total:g} of {most:g} points"])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest text; the first to the left, numbers to the right."""
    rows = [[one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def _keys(graded: Iterable[Graded]) -> list[str]:
    found = {one.verdict.key for one in graded}
    return [key for key in EXERCISES if key in found]


def _by_student(graded: Iterable[Graded]) -> dict[str, dict[str, Graded]]:
    students: dict[str, dict[str, Graded]] = {}
    for one in sorted(graded, key=lambda one: one.student):
        students.setdefault(one.student, {})[one.verdict.key] = one
    return students


def _score(one: Graded | None) -> str:
    if one is None:
        return "-"
    return "?" if one.ungraded else f"{one.score:g}"


# ---------------------------------------------------------------- HTML

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 2rem } caption { text-align: left; color: #555 }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left; vertical-align: top }
td.number { text-align: right } thead { background: #eee } svg { display: block }
"""


def class_report(graded: Sequence[Graded], made: str) -> str:
    """The whole page. `made` says when; there is nothing in it that runs or is loaded from elsewhere."""
    students = len({one.student for one in graded})
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>Class report</title><style>{STYLE}</style></head><body>",
            f"<h1>Class report</h1><p>{students} students, {len(graded)} exercises handed in, {_escaped(made)}. "
            f"{WHOSE}</p>",
            "<h2>Scores by exercise</h2>",
            _distribution(graded),
            "<h2>Criteria most often missed</h2>",
            _missed(graded),
            "<h2>Misconceptions</h2>",
            _misconceptions(graded),
            "<h2>Nothing to judge</h2>",
            _problems(graded),
            "<h2>Tried something</h2>",
            _tampering(graded),
            "<h2>Students</h2>",
            _students(graded),
            "</body></html>\n",
        ]
    )


def _escaped(text: object) -> str:
    return html.escape(one_line(text), quote=True)


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> str:
    """Every cell escaped here; a number is aligned right."""
    body = ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    if not body:
        return f"<p>{_escaped(nothing)}</p>"
    head = "".join(f'<th scope="col">{_escaped(heading)}</th>' for heading in headings)
    return (
        f"<table><caption>{_escaped(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table>"
    )


def _cell(cell: object) -> str:
    if isinstance(cell, _Bars):
        return f"<td>{cell.svg()}</td>"
    if isinstance(cell, (int, float)):
        return f'<td class="number">{cell:g}</td>'
    return f"<td>{_escaped(cell)}</td>"


@dataclass(frozen=True)
class _Bars:
    """How many have 0 points, 1 point, ...; drawn as one bar each."""

    counts: tuple[int, ...]

    def svg(self) -> str:
        width, height = 16, 48  # pixels
        words = ", ".join(f"{count} with {points}" for points, count in enumerate(self.counts) if count)
        bars = [
            f'<rect x="{i * width + 1}" y="{height - height * n / max(self.counts):.1f}" width="{width - 2}" '
            f'height="{height * n / max(self.counts):.1f}" fill="{BLUE}"><title>{n} with {i}</title></rect>'
            f'<text x="{(i + 0.5) * width}" y="{height + 11}" font-size="10" text-anchor="middle">{i}</text>'
            for i, n in enumerate(self.counts)
        ]
        size = f'width="{width * len(self.counts)}" height="{height + 14}"'
        return f'<svg role="img" aria-label="points: {words}" {size}>{"".join(bars)}</svg>'


def _judged(graded: Iterable[Graded]) -> list[Graded]:
    return [one for one in graded if not one.ungraded]


def _distribution(graded: Sequence[Graded]) -> str:
    rows = []
    for key in _keys(graded):
        scores = [(one.score, one.max_score) for one in _judged(graded) if one.verdict.key == key]
        if scores:
            count = Counter(int(score) for score, _ in scores)  # 7.5 points stand under 7
            bars = _Bars(tuple(count[points] for points in range(int(scores[0][1]) + 1)))
            points = [score for score, _ in scores]
            rows.append(
                (
                    key,
                    len(points),
                    round(statistics.mean(points), 1),
                    statistics.median(points),
                    sum(score == most for score, most in scores),
                    bars,
                )
            )
    return _table(
        "How many students have how many points",
        ("exercise", "handed in", "mean", "median", "full marks", "students by points"),
        rows,
        "Nothing was graded.",
    )


def _missed(graded: Sequence[Graded]) -> str:
    results = [
        (one.verdict.key, result)
        for one in _judged(graded)
        if not one.verdict.problem
        for result in one.verdict.results
    ]
    asked = Counter((key, result.criterion) for key, result in results)
    missed = Counter((key, result.criterion) for key, result in results if not result.passed)
    expected = {(key, result.criterion): result.expected for key, result in results}
    rows = [(*what, count, f"{count / asked[what]:.0%}", expected[what]) for what, count in missed.most_common()]
    return _table(
        "Of the submissions that could be judged",
        ("exercise", "criterion", "missed by", "share", "what it expects"),
        rows,
        "None was missed.",
    )


def _misconceptions(graded: Sequence[Graded]) -> str:
    named = [one.verdict for one in _judged(graded) if one.verdict.misconception]
    counts = Counter((verdict.key, verdict.misconception) for verdict in named)
    advice = {(verdict.key, verdict.misconception): verdict.advice for verdict in named}
    rows = [(*what, count, advice[what]) for what, count in counts.most_common()]
    return _table(
        "Wrong solutions that behave exactly as a known mistake",
        ("exercise", "misconception", "students", "advice that they were given"),
        rows,
        "None was recognised.",
    )


def _problems(graded: Sequence[Graded]) -> str:
    rows = [
        (one.student, one.verdict.key, one.ungraded or one.verdict.problem)
        for one in graded
        if one.ungraded or one.verdict.problem
    ]
    return _table(
        "Empty, damaged, or not gradable", ("student", "exercise", "why"), rows, "Every submission could be judged."
    )


def _tampering(graded: Sequence[Graded]) -> str:
    rows = [(one.student, one.verdict.key, what) for one in graded for what in one.tampering]
    return _table(
        "None of this changed a score. Talk to the student before you judge: some of it happens by accident.",
        ("student", "exercise", "what"),
        rows,
        "No submission did.",
    )


def _students(graded: Sequence[Graded]) -> str:
    keys = _keys(graded)
    rows = [
        (student, *(_score(exercises.get(key)) for key in keys), sum(one.score for one in exercises.values()))
        for student, exercises in _by_student(graded).items()
    ]
    return _table("-: not handed in, ?: could not be graded", ("student", *keys, "total"), rows, "None.")
