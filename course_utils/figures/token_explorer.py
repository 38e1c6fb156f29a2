"""The tokens of one response in HTML, each coloured by a number that it has: to read, and to point at.

The HTML is what JupyterLab's sanitiser leaves of any: no script, no <style>, no radio buttons (it disables them and
drops their names). <details> remains, and so do style and title on an element.
"""

from collections.abc import Sequence
from html import escape
from math import floor, log10

from IPython.display import HTML, display
from torch import Tensor

from course_utils.figures.show import BLUE, ORANGE

STRONGEST = 0.75  # of the full colour, so that black can be read on it
TOKEN = "padding: 2px 1px; border: 1px solid #bbbbbb; color: #000000; background-color: {}"
TEXT = "font-family: monospace; line-height: 2; white-space: pre-wrap; word-wrap: break-word"


def explore_tokens(tokens: list[str], quantities: dict[str, Tensor]) -> None:
    """Shows the response once for each quantity, all but the first folded up; pointing at a token tells all numbers.

    Args:
        tokens: the text of each
        quantities: name -> (len(tokens),)
    """
    columns = [[f"{name} {text}" for text in _texts(_numbers(tokens, values))] for name, values in quantities.items()]
    hints = [", ".join(texts) for texts in zip(*columns)]
    display(
        HTML(
            "".join(
                f'<details{"" if i else " open"}><summary style="cursor: pointer"><b>{escape(name)}</b></summary>'
                f"{tokens_html(tokens, name, values, hints)}</details>"
                for i, (name, values) in enumerate(quantities.items())
            )
        )
    )


def tokens_html(tokens: list[str], name: str, values: Tensor | Sequence[float], hints: list[str] | None = None) -> str:
    """The response with each token on its colour, a scale, and the extremes in words.

    Args:
        tokens: the text of each
        name: what the values are
        values: (len(tokens),); 0 is white, blue is above it, orange below
        hints: shown when pointing at a token; by default its value
    """
    numbers, shares = _numbers(tokens, values), (-1, -0.5, 0, 0.5, 1)
    limit = _limit(numbers)
    hints = hints or [f"{name} {text}" for text in _texts(numbers)]
    spans = [
        _span(token, diverging(value / limit), f"token {i}: {hint}")
        for i, (token, value, hint) in enumerate(zip(tokens, numbers, hints, strict=True), start=1)
    ]
    scale = " ".join(
        f'<span style="{TOKEN.format(diverging(share))}">&nbsp;{text}&nbsp;</span>'
        for share, text in zip(shares, _texts([share * limit for share in shares]))
    )
    return (
        f'<div style="{TEXT}">{"".join(spans)}</div>'
        f"<div>{escape(name)}: {scale} {escape(_extremes(tokens, numbers))}</div>"
    )


def diverging(share: float) -> str:
    """A colour from orange (−1) over white (0) to blue (1); what lies beyond gets the colour of the end."""
    end = BLUE if share > 0 else ORANGE
    weight = STRONGEST * min(abs(share), 1)
    return "#" + "".join(f"{round(255 + weight * (int(end[i : i + 2], 16) - 255)):02x}" for i in (1, 3, 5))


def visible(token: str) -> str:
    """A token in one line, so that a new line or a token of spaces can be seen."""
    return (token if token.strip(" ") else token.replace(" ", "␣")).replace("\n", "↵").replace("\t", "→").strip(" ")


def signed(value: float, places: int = 2) -> str:
    return f"{round(value, places) + 0:+.{places}f}".replace("-", "−")  # + 0 turns −0 into 0


def _texts(numbers: list[float]) -> list[str]:
    """With two places, or as many as the largest needs for two digits: penalties may all be small."""
    places = max(2, 1 - floor(log10(_limit(numbers))))
    return [signed(number, places) for number in numbers]


def _limit(numbers: list[float]) -> float:
    return max(map(abs, numbers), default=0) or 1


def _numbers(tokens: list[str], values: Tensor | Sequence[float]) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(numbers)} values: there must be one value for each token")
    return numbers


def _span(token: str, colour: str, hint: str) -> str:
    text = escape(token).replace("\n", "↵<br>").replace("\t", "→")
    return f'<span style="{TOKEN.format(colour)}" title="{escape(hint)}">{text}</span>'


def _extremes(tokens: list[str], numbers: list[float]) -> str:
    if not numbers:
        return "no tokens"
    texts, ends = _texts(numbers), {"highest": max, "lowest": min}
    found = [(end, numbers.index(pick(numbers))) for end, pick in ends.items()]
    return ", ".join(f"{end} {texts[i]} at token {i + 1} “{visible(tokens[i])}”" for end, i in found)
