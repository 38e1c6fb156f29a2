"""Writes the fingerprints of the bank, which check() compares with: python -m autograder.misconceptions"""

import json

from autograder.misconceptions import BANK, wrong_module
from course_utils.checks.behaviour import stored
from course_utils.checks.fingerprints import FINGERPRINTS, probed
from course_utils.exercises import EXERCISES


def fingerprints_text() -> str:
    """The file's text: one line a misconception."""
    exercises = []
    for key, bank in BANK.items():
        lines = []
        for misconception in bank:
            function = getattr(wrong_module(key, misconception), EXERCISES[key].function)
            line = {"name": misconception.name, "advice": misconception.advice, "facts": stored(probed(key, function))}
            lines.append(json.dumps(line, ensure_ascii=False))
        exercises.append(f'"{key}": [\n' + ",\n".join(lines) + "\n]")
    return "{\n" + ",\n".join(exercises) + "\n}\n"


if __name__ == "__main__":
    FINGERPRINTS.write_text(fingerprints_text(), encoding="utf-8")
    print(f"{FINGERPRINTS}: {', '.join(f'{len(bank)} of {key}' for key, bank in BANK.items())}")
