"""The token explorer: HTML that survives JupyterLab's sanitiser, in colours that say what the numbers say."""

import re
from html.parser import HTMLParser

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from course_utils.figures.token_explorer import diverging, explore_tokens, signed, tokens_html, visible

TOKENS = [" 4", "<b>", "&\n", "<|end|>"]
VALUES = torch.tensor([0.5, -1.0, 0.0, 0.25])


class Page(HTMLParser):
    """The elements, their attributes, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def tokens(self) -> list[dict]:
        return [attributes for _, attributes in self.elements if "title" in attributes]


def colours(attributes: dict) -> tuple[int, ...]:
    (value,) = re.findall(r"background-color: #(\w{6})$", attributes["style"])
    return tuple(bytes.fromhex(value))


def luminance(colour: tuple[int, ...]) -> float:
    """Of WCAG 2.2."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def rgb(share: float) -> tuple[int, ...]:
    return tuple(bytes.fromhex(diverging(share)[1:]))


# ------------------------------------------------------------------ the colours


def test_the_scale_runs_from_orange_over_white_to_blue():
    assert diverging(0) == "#ffffff"
    assert diverging(1) == diverging(7) == "#4095c5"  # 255 - 0.75 * (255 - 0x00, 0x72, 0xB2)
    assert diverging(-1) == diverging(-7) == "#e08640"  # 255 - 0.75 * (255 - 0xD5, 0x5E, 0x00)
    assert [rgb(x)[0] for x in (0, 0.25, 0.5, 1)] == [255, 207, 159, 64]


@pytest.mark.parametrize("share", [-1, -0.5, 0, 0.5, 1])
def test_black_can_be_read_on_every_colour(share):
    assert (luminance(rgb(share)) + 0.05) / 0.05 > 4.5  # WCAG AA


def test_the_ends_differ_for_those_who_see_no_red_or_no_green():
    """Viénot, Brettel and Mollon 1999: such eyes see little more than blue and a mean of red and green."""
    orange, white, blue = (rgb(share) for share in (-1, 0, 1))
    yellow_blue = [(0.3 * r + 0.6 * g) / 0.9 - b for r, g, b in (orange, white, blue)]
    assert yellow_blue[0] > 90 and yellow_blue[1] == 0 and yellow_blue[2] < -60


def test_each_token_has_the_colour_of_its_value():
    spans = Page(tokens_html(TOKENS, "advantage", VALUES)).tokens()
    assert [colours(span) for span in spans] == [rgb(0.5), rgb(-1), rgb(0), rgb(0.25)]


def test_the_colour_of_the_text_does_not_depend_on_the_theme():
    page = Page(tokens_html(TOKENS, "advantage", VALUES))
    assert all(re.search(r"(^|; )color: #000000;", span["style"]) for span in page.tokens())


# ------------------------------------------------------------------ the text


def test_tokens_are_escaped_and_a_new_line_can_be_seen():
    html = tokens_html(TOKENS, "advantage", VALUES)
    assert Page(html).text.startswith(" 4<b>&↵<|end|>")
    assert "↵<br>" in html and "<b>" not in html
    assert visible(" 4") == "4" and visible("  ") == "␣␣" and visible(".\n") == ".↵"


def test_pointing_at_a_token_tells_its_number():
    titles = [span["title"] for span in Page(tokens_html(TOKENS, "<A>", VALUES)).tokens()]
    assert titles == ["token 1: <A> +0.50", "token 2: <A> −1.00", "token 3: <A> +0.00", "token 4: <A> +0.25"]


def test_the_extremes_are_told_in_words_and_the_scale_has_its_numbers():
    text = Page(tokens_html(TOKENS, "advantage", VALUES)).text
    assert text.endswith("highest +0.50 at token 1 “4”, lowest −1.00 at token 2 “<b>”")
    assert re.findall(r"[+−]\d\.\d\d", text)[:5] == ["−1.00", "−0.50", "+0.00", "+0.50", "+1.00"]


def test_small_numbers_have_two_digits():
    html = tokens_html(["a", "b"], "KL", [0.0123, -0.0004])
    assert [span["title"] for span in Page(html).tokens()] == ["token 1: KL +0.012", "token 2: KL +0.000"]
    assert "highest +0.012 at" in html and "−0.006" in html


def test_zeros_and_no_tokens_are_harmless():
    assert Page(tokens_html(["a", "b"], "KL", [0.0, 0.0])).text.startswith("ab")
    assert "no tokens" in tokens_html([], "KL", [])
    assert signed(-0.001) == "+0.00"


def test_a_wrong_number_of_values_is_refused():
    with pytest.raises(ValueError, match="4 tokens and 3 values"):
        tokens_html(TOKENS, "advantage", VALUES[:3])
    with pytest.raises(ValueError, match="4 tokens and 3 values"):
        explore_tokens(TOKENS, {"advantage": VALUES, "value": VALUES[:3]})


# ------------------------------------------------------------------ all quantities


def explorer() -> Page:
    InteractiveShell.instance()
    with capture_output() as captured:
        explore_tokens(TOKENS, {"advantage": VALUES, "value": VALUES * 10})
    (output,) = captured.outputs
    return Page(output.data["text/html"])


def test_the_first_quantity_is_open_and_the_others_are_folded():
    page = explorer()
    assert [attributes for tag, attributes in page.elements if tag == "details"] == [{"open": None}, {}]
    assert page.text.startswith("advantage") and page.text.count("<|end|>") == 2


def test_every_token_tells_all_quantities_and_has_the_colour_of_its_own():
    spans = explorer().tokens()
    assert len(spans) == 8
    assert spans[1]["title"] == spans[5]["title"] == "token 2: advantage −1.00, value −10.00"
    assert [colours(span) for span in spans[:4]] == [colours(span) for span in spans[4:]]


def test_only_what_jupyterlab_s_sanitiser_leaves_is_used():
    """Of version 4.6: elements and attributes; each style below was seen to pass its patterns."""
    for tag, attributes in explorer().elements:
        assert tag in {"div", "span", "br", "b", "details", "summary"}
        assert set(attributes) <= {"style", "title"} | ({"open"} if tag == "details" else set())
        for style in attributes.get("style", "").split("; "):
            assert style.split(":")[0] in {
                "",
                "color",
                "background-color",
                "padding",
                "border",
                "cursor",
                "font-family",
                "line-height",
                "white-space",
                "word-wrap",
            }
