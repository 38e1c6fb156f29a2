"""The bank of misconceptions: for each exercise typical wrong solutions, as edits of the course's own solution.

    wrong_source("gae", misconception)      # the text of the wrong module
    python -m autograder.misconceptions     # writes course_utils/checks/fingerprints.json from them

They are told apart by what they do, never by their source: the judge runs them on the inputs of a failed
verdict, check() in the learner's notebook compares with the fingerprints. So no two of an exercise may behave
alike, and none like the solution; tests/test_misconceptions.py shows both.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

from autograder.misconceptions import entropy, gae, minibatch_update, policy_loss, value_loss
from autograder.misconceptions.misconception import Misconception
from course_utils.exercises import EXERCISES
from course_utils.export import read_exercise

__all__ = ["BANK", "Misconception", "named", "solution_source", "wrong_module", "wrong_source"]

ROOT = Path(__file__).parents[2]
BANK: dict[str, tuple[Misconception, ...]] = {
    "policy_loss": policy_loss.MISCONCEPTIONS,
    "value_loss": value_loss.MISCONCEPTIONS,
    "entropy": entropy.MISCONCEPTIONS,
    "gae": gae.MISCONCEPTIONS,
    "minibatch_update": minibatch_update.MISCONCEPTIONS,
}


def named(key: str, name: str) -> Misconception:
    """The misconception of exercise `key` that has this name. KeyError if there is none."""
    return {misconception.name: misconception for misconception in BANK[key]}[name]


@cache
def solution_source(key: str) -> str:
    """The text of the solution's module, exported from the source notebook."""
    return read_exercise(ROOT / EXERCISES[key].notebook)[1]


def wrong_source(key: str, misconception: Misconception) -> str:
    """The text of the module with the mistake: each edit replaces a text that occurs exactly once.

    ValueError: an old text is not there, or more than once: the solution in the notebook has changed.
    """
    source = solution_source(key)
    for old, new in misconception.edits:
        if source.count(old) != 1:
            raise ValueError(
                f"{EXERCISES[key].notebook} has {source.count(old)} times {old!r} where "
                f"autograder/misconceptions/{key}.py, {misconception.name!r}, expects it once. "
                "Adapt the edit to the solution."
            )
        source = source.replace(old, new)
    return source


def wrong_module(key: str, misconception: Misconception) -> ModuleType:
    """The module with the mistake, executed: trusted code. Its relative imports find the stand-in losses."""
    module = ModuleType(f"course_utils.stand_ins.{key}")
    module.__package__ = "course_utils.stand_ins"
    exec(compile(wrong_source(key, misconception), f"<{misconception.name}>", "exec"), module.__dict__)
    return module
