"""What the judge says of one exercise: criterion by criterion, in words that may be shown to the learner."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One criterion. All its points or none."""

    criterion: str  # "clipping": the end of the graded cell's grade_id, policy_loss_clipping
    passed: bool
    expected: str  # what the criterion asks for, in words
    advice: str = ""  # where it failed: what was seen and which hint to open


@dataclass(frozen=True)
class Verdict:
    """One exercise of one submission. Its inputs depend on the course's secret and the solution's source alone: the
    same source gets the same questions and, but for a time-out, an honest one the same verdict, whatever stands beside.
    """

    key: str  # of course_utils.exercises.EXERCISES
    results: tuple[Result, ...]
    misconception: str = ""  # the name of the mistake, where exactly that one was recognised
    advice: str = ""  # and one or two sentences on it
    problem: str = ""  # why nothing could be judged: an empty cell, a damaged notebook
    timed_out: bool = False  # a case had no answer in time, which may be a busy machine's fault: judged anew each time

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        data = json.loads(text)
        return cls(**data | {"results": tuple(Result(**result) for result in data["results"])})
