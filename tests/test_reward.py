"""The reward: which texts hold which answer, what they earn, and that no text breaks it."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.config import RewardConfig
from course_utils.reward import Score, flexible_answer, score, strict_answer

REWARD = RewardConfig(correct=1.0, well_formed=0.1)


@pytest.mark.parametrize(
    "written, number",
    [
        ("18", "18"),
        (" 18 ", "18"),
        ("18.", "18"),
        ("18.00", "18"),
        ("18,", "18"),
        ("18\nand more", "18"),
        ("$18", "18"),
        ("$ 18.50", "18.5"),
        ("50%", "50"),
        ("-5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("+5", "5"),
        ("1,234", "1234"),
        ("$1,234,567.80", "1234567.8"),
        ("1234567", "1234567"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("007", "7"),
        ("18 eggs", "18"),
        ("18**", "18"),
        ("18<|im_end|>", "18"),
    ],
)
def test_number_after_the_mark(written, number):
    assert strict_answer(f"So it is.\n#### {written}") == Decimal(number)
    assert strict_answer(f"####{written}") == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "18",
        "The answer is 18",
        "####",
        "#### ",
        "#### -",
        "#### $",
        "#### .",
        "#### ,5",
        "#### eighteen",
        "####\n18",
        "#### x = 18",
        "### 18",
        "##### 18",
        "#### 1,2,3",
        "#### 1,23",
        "#### 12345,678",
        "#### 1e5",
        "#### 5kg",
        "#### 1.2.3",
        "#### 1/2",
        "#### 3:30",
        "#### ٣",
        "#### 1٣",
        "#### ²",
        "#### nan",
        "#### inf",
        "#### 1_000",
        "#### - 5",
    ],
)
def test_no_number_after_the_mark(text):
    assert strict_answer(text) is None
    assert score(text, "5", REWARD).reward == 0.0


def test_first_mark_counts():
    assert strict_answer("#### 3\n#### 4") == 3
    assert strict_answer("#### none\n#### 4") is None


@pytest.mark.parametrize(
    "text, number",
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.", "18"),
        ("It is 18. Or 1,900.50?", "1900.5"),
        ("20-5", "5"),
        ("- 5 apples", "5"),
        ("from 3 to -4", "-4"),
        ("#### 18", "18"),
        ("18 of 1e5", "18"),
        ("50%.", "50"),
    ],
)
def test_last_number(text, number):
    assert flexible_answer(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "1e5", "x2", "٣"])
def test_no_last_number(text):
    assert flexible_answer(text) is None


@pytest.mark.parametrize(
    "response, expected",
    [
        ("9*2 = 18\n#### 18", Score(1.0, correct=True, flexible_correct=True, well_formed=True)),
        ("#### 18\nI used 2 steps.", Score(1.0, correct=True, flexible_correct=False, well_formed=True)),
        ("#### 17", Score(0.1, correct=False, flexible_correct=False, well_formed=True)),
        ("#### 17, no: 18", Score(0.1, correct=False, flexible_correct=True, well_formed=True)),
        ("The answer is 18.", Score(0.0, correct=False, flexible_correct=True, well_formed=False)),
        ("I do not know.", Score(0.0, correct=False, flexible_correct=False, well_formed=False)),
    ],
)
def test_score(response, expected):
    assert score(response, "18", REWARD) == expected


def test_amounts_come_from_the_config():
    reward = RewardConfig(correct=3.0, well_formed=0.5)
    assert [score(f"#### {n}", "18", reward).reward for n in (18, 17)] == [3.0, 0.5]


def test_comparison_is_exact():
    assert score("#### 0.3", "0.30", REWARD).correct
    assert not score("#### 0.30000000000000001", "0.3", REWARD).correct  # equal as floats
    assert not score("#### 100000000000000000001", "100000000000000000000", REWARD).correct


def test_gold_must_be_a_number():
    with pytest.raises(ValueError, match="'many' is not a number"):
        score("#### 5", "many", REWARD)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "${:,}", "{}.00", "{:,}%", " {:,}. "]))
def test_every_way_of_writing_a_number_is_right(number, form):
    assert score("Reasoning.\n#### " + form.format(number), str(number), REWARD).reward == 1.0


@given(st.text(alphabet=st.one_of(st.sampled_from("#$-+,.%eE 0123456789\n٣²"), st.characters())))
def test_no_text_breaks_it(text):
    result = score("#### " + text, "5", REWARD)
    assert result.reward == (1.0 if result.correct else 0.1 if result.well_formed else 0.0)


@pytest.mark.parametrize("piece", ["9", "1,", "1,111", "111,", "1.", "$", "-", "- ", "#### ", "#", ".", "%"])
@pytest.mark.parametrize("end", ["", "x", ",5"])
def test_nonsense_takes_no_time(piece, end):
    start = time.perf_counter()
    score("#### " + piece * 20_000 + end, "5", REWARD)
    assert time.perf_counter() - start < 1.0
