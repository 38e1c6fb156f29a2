"""Grade-school problems in GSM8K's own format, made by rule: the course's data set when there is no network.

A problem is a kind (what is computed), three numbers and a wording (wordings.yaml). Numbers and wordings are
split apart, so that no two splits share what they are meant to test:

    split                  numbers      wordings     what it is for
    train                  train        train        warm start and PPO
    validation             validation   train        choosing settings, the curve during training
    validation_wordings    validation   validation   the same, in sentences never seen in training
    test                   test         train        reported results: unseen numbers
    test_wordings          test         test         reported results: unseen numbers in unseen sentences
"""
import hashlib
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

import yaml

SPLITS = {
    "train": ("train", "train"),
    "validation": ("validation", "train"),
    "validation_wordings": ("validation", "validation"),
    "test": ("test", "train"),
    "test_wordings": ("test", "test"),
}
_WORDINGS_OF = {"train": slice(None, -3), "validation": slice(-3, -2), "test": slice(-2, None)}

SMALL, MEDIUM = range(2, 10), range(2, 20)
NUMBERS = {  # every (a, b, c) of a kind; all results are whole numbers above 0
    "packs_plus": [(a, b, c) for a, b, c in product(SMALL, SMALL, MEDIUM)],
    "packs_minus": [(a, b, c) for a, b, c in product(SMALL, SMALL, MEDIUM) if a * b > c],
    "share_sum": [(c * q - b, b, c) for b, c, q in product(MEDIUM, SMALL, SMALL) if c * q - b > 1],
    "earn_spend": [(a, b, c) for a, b, c in product(range(20, 40), MEDIUM, MEDIUM)],
    "more_than": [(a, b, 0) for a, b in product(range(2, 41), MEDIUM)],
    "split_plus": [(c * q, b, c) for b, c, q in product(MEDIUM, SMALL, SMALL)],
    "change": [(a, b, a * b + rest) for a, b, rest in product(SMALL, SMALL, MEDIUM)],
    "share_rest": [(c * q + b, b, c) for b, c, q in product(MEDIUM, SMALL, SMALL)],
}
STEPS = {  # the two steps of a kind; {x} is the result of the first
    "packs_plus": ("{a}*{b}", "{x}+{c}"),
    "packs_minus": ("{a}*{b}", "{x}-{c}"),
    "share_sum": ("{a}+{b}", "{x}/{c}"),
    "earn_spend": ("{a}+{b}", "{x}-{c}"),
    "more_than": ("{a}+{b}", "{a}+{x}"),
    "split_plus": ("{a}/{c}", "{x}+{b}"),
    "change": ("{a}*{b}", "{c}-{x}"),
    "share_rest": ("{a}-{b}", "{x}/{c}"),
}
KINDS = tuple(STEPS)


@dataclass(frozen=True)
class Draw:
    """One problem before it is written down: its kind, its numbers, its question and what it counts."""

    kind: str
    numbers: tuple[int, int, int]
    question: str
    unit: str

    def steps(self, templates: tuple[str, str] | None = None) -> list[tuple[str, int]]:
        """[(expression, result), (expression, result)] of these step templates, the right ones by default."""
        values, results = dict(zip("abc", self.numbers)), []
        for template in templates or STEPS[self.kind]:
            expression = template.format(**values)
            values["x"] = calculate(expression)
            results.append((expression, values["x"]))
        return results

    def answer(self) -> str:
        """The right solution as GSM8K writes it: <<24+5=29>> after each step, `#### 29` in the last line."""
        (first, x), (second, y) = self.steps()
        return f"That is <<{first}={x}>>{x} {self.unit}.\nThen it is <<{second}={y}>>{y} {self.unit}.\n#### {y}"


def calculate(expression: str) -> int:
    """The value of `n+m`, `n-m`, `n*m` or `n/m` (rounded down) for whole numbers n and m."""
    for sign, operation in {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}.items():
        left, found, right = expression.partition(sign)
        if found:
            return operation(int(left), int(right))
    raise ValueError(f"no operation in {expression!r}")


@cache
def wordings() -> dict:
    return yaml.safe_load(files(__package__).joinpath("wordings.yaml").read_text(encoding="utf-8"))


@cache
def numbers_of(kind: str, part: str) -> tuple[tuple[int, int, int], ...]:
    """The numbers of a kind that belong to `part`: by their hash, a tenth to validation and a tenth to test."""
    def part_of(numbers):
        tenth = hashlib.sha256(repr((kind, numbers)).encode()).digest()[0] % 10
        return {0: "test", 1: "validation"}.get(tenth, "train")

    return tuple(numbers for numbers in NUMBERS[kind] if part_of(numbers) == part)


def draw(split: str, rng: random.Random, kind: str) -> Draw:
    """One problem of `kind`: its numbers, its three sentences and its people and things drawn independently."""
    numbers_part, wordings_part = SPLITS[split]
    texts = wordings()
    numbers = rng.choice(numbers_of(kind, numbers_part))
    name, friend = rng.sample(texts["names"], 2)
    items = rng.choice(texts["items"])
    sentences = [rng.choice(texts["kinds"][kind][role][_WORDINGS_OF[wordings_part]])
                 for role in ("first", "second", "question")]
    question = " ".join(sentences).format(**dict(zip("abc", numbers)), name=name, friend=friend, items=items)
    unit = "dollars" if kind in ("earn_spend", "change") else items
    return Draw(kind, numbers, question, unit)


def draws(split: str, count: int, seed: int = 0) -> list[Draw]:
    """`count` different problems of `split`, the eight kinds in turn; the same ones for the same seed.

    Raises:
        ValueError: for a split that is not in SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"the embedded problems have no split {split!r}; there are {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {seed}")
    found: dict[str, Draw] = {}
    while len(found) < count:
        problem = draw(split, rng, KINDS[len(found) % len(KINDS)])
        found.setdefault(problem.question, problem)
    return list(found.values())
