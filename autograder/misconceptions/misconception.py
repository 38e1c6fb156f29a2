"""What an entry of the bank is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Misconception:
    """A typical mistake. `edits` turn the solution's source into the wrong one, each (old, new) in turn."""

    name: str  # unique within its exercise; learner and instructor read it
    advice: str  # one or two sentences to the learner, which do not give the line away
    edits: tuple[tuple[str, str], ...]


# The advice to whoever makes this mistake in one of the three losses.
MASK_AS_INDEX = (
    "The mask picks whole rows: a tensor of whole numbers in brackets is read as row numbers 0 and 1. "
    "Compare it with 1 first, or multiply by it."
)
