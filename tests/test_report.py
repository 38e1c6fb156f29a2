"""The table and the class report: what they count, and that nothing of a submission gets through as HTML."""

import re
from html.parser import HTMLParser

from autograder.report import Graded, aligned, class_report, class_table, learner_table, one_line
from autograder.verdict import Result, Verdict

HOSTILE = "<script>alert(1)</script><img src=x onerror=y>'\"&"


def graded(student, key, *missed, max_score=10, tampering=(), ungraded="", **verdict):
    """One exercise of the criteria a (4 points), b and c (3 points each)."""
    points = {"a": 4, "b": 3, "c": 3}
    results = tuple(
        Result(name, name not in missed, f"expects {name}", f"look at {name}" if name in missed else "")
        for name in points
    )
    score = sum(value for name, value in points.items() if name not in missed)
    return Graded(student, f"0_{key}", Verdict(key, results, **verdict), score, max_score, tampering, ungraded)


def tables(page):
    """The text of each table's rows."""
    return [
        [re.sub("<[^>]*>", " ", row).split() for row in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)]
        for table in re.findall("<table>(.*?)</table>", page, re.DOTALL)
    ]


def test_the_table_has_the_exercises_in_their_order():
    table = class_table(
        [
            graded("ben", "gae", "a"),
            graded("anna", "policy_loss"),
            graded("ben", "policy_loss", "b"),
            graded("carl", "gae", "a", "b", "c", ungraded="killed"),
        ]
    )
    assert table == (
        "student  policy_loss  gae  total\n"
        "anna              10    -     10\n"
        "ben                7    6     13\n"
        "carl               -    ?      0"
    )


def test_the_report_counts():
    page = class_report(
        [
            graded("anna", "gae", "a", misconception="forgets the mask", advice="mask it"),
            graded("ben", "gae", "a", "b", misconception="forgets the mask", advice="mask it"),
            graded("carl", "gae", tampering=("test cell gae_a was edited",)),
            graded("dora", "gae", "a", "b", "c", problem="gae.ipynb is not a notebook."),
        ],
        "today",
    )
    distribution, missed, misconceptions, problems, tampering, students = tables(page)
    # 6, 3, 10 and 0 points
    assert distribution[1][:5] == ["gae", "4", "4.8", "4.5", "1"]
    assert 'aria-label="points: 1 with 0, 1 with 3, 1 with 6, 1 with 10"' in page
    assert missed[1:] == [["gae", "a", "2", "67%", "expects", "a"], ["gae", "b", "1", "33%", "expects", "b"]]
    assert misconceptions[1:] == [["gae", "forgets", "the", "mask", "2", "mask", "it"]]
    assert problems[1:] == [["dora", "gae", "gae.ipynb", "is", "not", "a", "notebook."]]
    assert tampering[1:] == [["carl", "gae", "test", "cell", "gae_a", "was", "edited"]]
    assert students[1:] == [["anna", "6", "6"], ["ben", "3", "3"], ["carl", "10", "10"], ["dora", "0", "0"]]


def test_what_could_not_be_graded_is_not_in_the_statistics():
    page = class_report([graded("anna", "gae"), graded("ben", "gae", "a", "b", "c", ungraded="its process died")], "")
    distribution, problems, students = tables(page)
    assert distribution[1][:3] == ["gae", "1", "10"]
    assert problems[1:] == [["ben", "gae", "its", "process", "died"]]
    assert students[2] == ["ben", "?", "0"]
    assert "None was missed." in page


class Tags(HTMLParser):
    """Notes every tag, and every attribute that could load or run something."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_nothing_of_a_submission_is_html():
    page = class_report(
        [
            graded(HOSTILE, "gae", "a", misconception=HOSTILE, advice=HOSTILE, tampering=(HOSTILE,), problem=HOSTILE),
            graded("ben", "gae", ungraded=HOSTILE),
        ],
        HOSTILE,
    )
    found = Tags(page)
    assert found.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "svg",
        "rect",
        "text",
    }
    assert not {name for name in found.attributes if name.startswith("on")} | (
        found.attributes & {"src", "href", "srcset", "action"}
    )
    assert page.count("&lt;script&gt;") == 9
    assert "default-src 'none'" in page


def test_names_that_a_file_or_a_terminal_cannot_show():
    odd = "a\x1b[31m\u202eb\udcffc\nd"
    assert one_line(odd) == "a\ufffd[31m\ufffdb\ufffdc d"
    assert one_line("x =\t10\u00a0%\r\n") == "x = 10\u00a0%"
    assert len(one_line("x" * 1000)) == 300
    for text in (class_table([graded(odd, "gae")]), class_report([graded(odd, "gae", tampering=(odd,))], "")):
        text.encode()
        assert "\x1b" not in text and "\u202e" not in text
    assert aligned([["a\nb", "1"]]) == "a b  1"


def test_an_empty_report_says_so():
    page = class_report([], "today")
    assert "0 students" in page and "Nothing was graded." in page


def test_a_learner_sees_what_is_missing_and_what_to_do():
    text = learner_table(
        [
            graded("you", "gae", "b", misconception="forgets the mask", advice="Mask it."),
            graded("you", "entropy", "a", "b", "c", problem="still unsolved"),
            graded("you", "value_loss", "b", "c"),
        ],
        {key: {"a": 4, "b": 3, "c": 3} for key in ("gae", "entropy", "value_loss")},
    )
    assert text.splitlines() == [
        "gae                7 of 10 points",
        "    [x] 4      a: expects a",
        "    [ ] 0 of 3 b: expects b",
        "               -> look at b",
        "    [x] 3      c: expects c",
        "    likely: forgets the mask. Mask it.",
        "entropy            0 of 10 points",
        "    still unsolved",
        "value_loss         4 of 10 points",
        "    [x] 4      a: expects a",
        "    [ ] 0 of 3 b: expects b",
        "               -> look at b",
        "    [ ] 0 of 3 c: expects c",
        "               -> look at c",
        "total              11 of 30 points",
    ]
