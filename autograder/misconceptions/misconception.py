"""What an entry of the bank is."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Misconception:
    """A typical mistake. `edits` turn the solution's source into the wrong one, each (old, new) in turn."""
    name: str  # unique within its exercise; learner and instructor read it
    advice: str  # one or two sentences to the learner, which do not give the line away
    edits: tuple[tuple[str, str], ...]
