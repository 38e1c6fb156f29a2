"""The reward: is the number that a response gives after #### the right one?

    1.0  the number after the first #### is right
    0.1  there is a number after the first ####, and it is wrong (well-formed)
    0.0  anything else

What the 0.1 invites: it pays for the form alone, and the cheapest way to the form is to write `#### 1` at
once, without any reasoning. Where reasoning is rarely right, or rarely gets as far as ####, this pays better,
and PPO will find it (reward hacking). So strict accuracy is logged apart from the reward, and 0.1 is small.
It is there to teach a form that the model does not know yet; where it does, set reward.well_formed to 0.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from course_utils.config import RewardConfig

# A number that stands alone: 18  -5  +5  18.00  .5  1,234,567.8  $5  $ -5  -$5  50%  and "18." without the
# full stop. No letter and no further digit may touch it: not 1e5, 5kg, 1,2,3 (wrong commas), 1/2, 3:30.
# Every repetition runs over one kind of character, so that nonsense takes time linear in its length.
_NUMBER = re.compile(
    r"(?:\$ ?)?(?P<sign>[-+]?)(?:\$ ?)?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?!\w|[^\w\s]\d)"
)
_MARK = re.compile(r"####[ \t]*")
_LAST_NUMBER = re.compile(r"(?<![\w.,])" + _NUMBER.pattern)


@dataclass(frozen=True)
class Score:
    """What one response earned."""

    reward: float
    correct: bool  # the number after the first #### is right
    flexible_correct: bool  # the last number anywhere in the response is right
    well_formed: bool  # a number comes directly after the first ####


def score(response: str, gold: str, reward: RewardConfig) -> Score:
    """Scores a response (cut at its end token, without its prompt) against the right answer, e.g. "70,000".

    Raises:
        ValueError: if `gold` is not a number.
    """
    right = strict_answer(f"#### {gold}")
    if right is None:
        raise ValueError(f"the right answer {gold!r} is not a number")
    answer = strict_answer(response)
    well_formed, correct = answer is not None, answer == right
    earned = reward.correct if correct else reward.well_formed if well_formed else 0.0
    return Score(earned, correct, flexible_answer(response) == right, well_formed)


def strict_answer(text: str) -> Decimal | None:
    """The number directly after the first ####, or None."""
    mark = _MARK.search(text)
    return _value(_NUMBER.match(text, mark.end())) if mark else None


def flexible_answer(text: str) -> Decimal | None:
    """The last number in the text, or None."""
    numbers = list(_LAST_NUMBER.finditer(text))
    return _value(numbers[-1] if numbers else None)


def _value(number: re.Match | None) -> Decimal | None:
    return Decimal(number["sign"] + number["digits"].replace(",", "")) if number else None
