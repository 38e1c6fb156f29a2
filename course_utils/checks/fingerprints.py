"""Names the misconception behind a wrong answer, from fingerprints of typical wrong solutions.

A fingerprint is what such a solution does on the exercise's probe. `python -m autograder.misconceptions` writes
fingerprints.json; neither those solutions nor the right ones are in this package.
"""

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from course_utils.checks.behaviour import Fact, same
from course_utils.checks.probes import PROBES

FINGERPRINTS = Path(__file__).with_name("fingerprints.json")


def probed(key: str, function: Callable) -> list[Fact]:
    """What `function` does on the probe of exercise `key`. The random state stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a batch of one token, as in check()
        torch.manual_seed(0)
        return PROBES[key](function)


def recognised(key: str, function: Callable) -> tuple[str, str] | None:
    """Name and advice of the misconception of which `function` does exactly what is typical; None if of none."""
    facts = probed(key, function)
    for known in _fingerprints()[key]:
        if same(facts, known["facts"]):
            return known["name"], known["advice"]
    return None


@cache
def _fingerprints() -> dict[str, list[dict]]:
    return json.loads(FINGERPRINTS.read_text(encoding="utf-8"))
