"""The trusted side: draws inputs, asks the worker, compares with the reference, and says what it found in words."""

import contextlib
import functools
import hashlib
import hmac
import importlib
import math
import secrets
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy
import torch

from autograder import misconceptions, reference, worker
from autograder.feedback import bounded
from autograder.misconceptions.minibatch_update import ANOTHER_GENERATOR
from autograder.rubrics import Draw, error_in_words
from autograder.sandbox import LIMITS, TimedOut, Worker, WorkerFailed
from autograder.verdict import Result, Verdict
from course_utils.checks.criteria import CRITERIA
from course_utils.exercises import EXERCISES

HERE = Path(__file__).parent
MAKE_A_VERDICT = (
    *(HERE / f"{name}.py" for name in ("judge", "reference", "sandbox", "worker", "verdict", "feedback")),
    *HERE.glob("rubrics/*.py"),
    *HERE.glob("misconceptions/*.py"),
    *HERE.parent.glob("course_utils/checks/*.py"),  # what a criterion expects, in words
    *(HERE.parent / f"course_utils/{name}.py" for name in ("worked_example", "exercises")),
    # The wrong solutions are made from the right ones.
    *(HERE.parent / exercise.notebook for exercise in EXERCISES.values()),
)
VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MAKE_A_VERDICT))).hexdigest()[:16]
KILLED = "its process was killed, for the time that it took or because the machine had no memory left"
NO_RESULT = "its answer does not have the form of a result"
EXERCISE_SECONDS = 120  # room for one hang in each criterion; a right answer to all cases takes a few seconds
SAME = 1e-3  # how close a misconception's numbers are to those of a submission that made it
REFERENCES = {
    "policy_loss": reference.policy_loss,
    "value_loss": reference.value_loss,
    "entropy": reference.entropy,
    "gae": reference.gae,
    "minibatch_update": None,  # it replays
}


def criteria(key: str) -> dict[str, str]:
    """The criteria of an exercise, in the order of its graded cells, with what each expects in words."""
    return {criterion.__name__: criterion.__doc__.splitlines()[0] for criterion in CRITERIA[key]}


def judge(sources: dict[str, str], secret: bytes, sandboxed: bool = True) -> dict[str, Verdict]:
    """The verdicts on one student's exported modules, exercise key -> module text, with one sandbox for all.

    NoSandbox: the machine has none.
    """
    torch.set_num_threads(1)
    with Worker(sandboxed) as process:
        return {key: judge_exercise(process, key, source, secret) for key, source in sources.items()}


def judge_exercise(process: Worker, key: str, source: str, secret: bytes) -> Verdict:
    seed = hmac.digest(secret, f"{key}\n{source}".encode(errors="surrogatepass"), "sha256")
    rubric = importlib.import_module(f"autograder.rubrics.{key}")
    cases = rubric.cases(Draw(int.from_bytes(seed[:7], "big")))
    questioning = Questioning(process, key, source)
    answers = questioning.answers(cases)
    if questioning.unloadable:
        return without_points(key, bounded(f"{questioning.unloadable}."), questioning.timed_out)
    problems = {}  # criterion -> what is wrong in its first failed case, without a full stop
    for case, (told, tensors) in zip(cases, answers):
        if {case.criterion, case.requires} & problems.keys():
            continue
        if problem := told.get("failed") or _guarded(NO_RESULT, case.problem, told, tensors, REFERENCES[key], source):
            problems[case.criterion] = bounded(str(problem))
    if hasattr(rubric, "across"):
        problems = _guarded({"minibatches": NO_RESULT}, rubric.across, cases, answers) | problems
    # Failed criteria first: there another mistake most often answers otherwise, and need not be asked the rest.
    pairs = sorted(zip(cases, answers), key=lambda pair: pair[0].criterion not in problems)
    found = _guarded(None, recognise, key, *map(list, zip(*pairs))) if problems else None
    return Verdict(
        key,
        tuple(
            Result(
                name,
                name not in problems,
                expected,
                f"{problems[name]}. See hint {rubric.HINTS[name]}." if name in problems else "",
            )
            for name, expected in criteria(key).items()
        ),
        found.name if found else "",
        found.advice if found else "",
        timed_out=questioning.timed_out,
    )


def without_points(key: str, problem: str, timed_out: bool = False) -> Verdict:
    """The verdict where nothing could be judged, and why."""
    results = tuple(Result(name, False, expected) for name, expected in criteria(key).items())
    return Verdict(key, results, problem=problem, timed_out=timed_out)


def _guarded(otherwise, function: Callable, *args):
    """function(*args), which looks at answers. Their form is the submission's to choose, and no form that the judge
    stumbles over is worth a point."""
    try:
        return function(*args)
    except Exception:
        return otherwise


class Questioning:
    """Puts the cases of an exercise to the worker, and begins again after a case that ended it.

    Such a case has cost its criterion, so the criterion's other cases are not asked: a submission that hangs everywhere
    takes CASE_SECONDS for each criterion and no more. One that makes each answer wait has EXERCISE_SECONDS for all.
    """

    def __init__(self, process: Worker, key: str, source: str):
        self.process, self.key, self.source = process, key, source
        self.loaded = False  # whether a child is there that has loaded the module
        self.failed: dict[str, str] = {}  # criterion -> what happened
        self.refused = ""  # why no further case is asked
        self.unloadable = ""  # why none at all could be asked
        self.timed_out = False  # whether any case had no answer in time
        self.until = time.monotonic() + EXERCISE_SECONDS

    def answers(self, cases: list) -> list[tuple[dict, dict]]:
        found = [self._answer(case) for case in cases]
        if self.loaded:
            self._end()
        return found

    def _answer(self, case) -> tuple[dict, dict]:
        if not self.refused and time.monotonic() > self.until:
            self.timed_out, self.refused = True, f"no time was left of the {EXERCISE_SECONDS} seconds for all cases"
        if not (self.refused or case.criterion in self.failed or self.loaded):
            self._load()
        if self.refused:
            return {"failed": self.refused}, {}
        if case.criterion not in self.failed:
            message, inputs = case.request()
            told, tensors = self._put(message, inputs)
            if "failed" not in told:
                return told, tensors
            self.failed[case.criterion] = str(told["failed"])
        return {"failed": self.failed[case.criterion]}, {}

    def _load(self) -> None:
        told, _ = self._put(
            {
                "kind": "load",
                "source": self.source,
                "key": self.key,
                "limits": LIMITS,
                "function": EXERCISES[self.key].function,
            }
        )
        self.loaded = told == {"loaded": True}
        if not self.loaded:
            why = error_in_words(told["error"], self.source) if "error" in told else told.get("failed", NO_RESULT)
            self.refused = f"the solution cell does not run on its own: {why}"
            if not self.failed:  # or it has run before, and what it answered then counts
                self.unloadable = self.refused
            self._end()

    def _put(self, message: dict, tensors: dict | None = None) -> tuple[dict, dict]:
        """The child's answer; {"failed": in words} where it has ended too."""
        told, found = self._ask(message, tensors, self.until)
        if "ended" not in told:
            return told, found
        self._end()  # its child may only say so, and live
        self.timed_out |= "killed" in told  # for its time, or by the machine: another run may end otherwise
        return {"failed": f"it gave no result: {KILLED if 'killed' in told else 'it ended the process'}"}, {}

    def _end(self) -> None:
        """Ends the child."""
        if self.process.process:
            self._ask({"kind": "end"})
            self._settle()

    def _settle(self) -> None:
        """After a child has ended, the worker has to echo a nonce. One that says anything else has been tampered with,
        or found files left in its scratch folder: another takes its place."""
        self.loaded, nonce = False, secrets.token_hex(8)
        if self.process.process and self._ask({"kind": "ping", "nonce": nonce})[0] != {"pong": nonce}:
            self.process.stop()

    def _ask(self, message: dict, tensors: dict | None = None, until: float = math.inf) -> tuple[dict, dict]:
        """The answer; {"failed": in words}, the judge's own, where the process ended, hangs or makes no sense, and is
        gone."""
        try:
            if self.process.process is None:
                self.process.start()
            told, found = self.process.ask(message, tensors or {}, until=until)
            return {name: value for name, value in told.items() if name != "failed"}, found
        except WorkerFailed as failure:
            self.loaded = False
            self.timed_out |= isinstance(failure, TimedOut)
            return {"failed": f"it gave no result: {failure}"}, {}


# ---------------------------------------------------------------- misconceptions


@functools.cache
def _bank(key: str) -> list[tuple[misconceptions.Misconception, Callable]]:
    """The wrong solutions of an exercise, ready to be called: the course's own code, so they run here."""
    return [
        (wrong, worker.load_function(misconceptions.wrong_source(key, wrong), key, EXERCISES[key].function))
        for wrong in misconceptions.BANK[key]
    ]


def recognise(key: str, cases: list, answers: list[tuple[dict, dict]]) -> misconceptions.Misconception | None:
    """The misconception whose solution answers every case as the submission did, if there is one."""
    if any("failed" in told for told, _ in answers):
        return None
    taken = [_order_taken(case, tensors) for case, (_, tensors) in zip(cases, answers)]
    as_randperm_has_it = all(not order or order == case.drawn_order() for case, order in zip(cases, taken))
    not_imposed = [[] for _ in cases]  # the bank's functions draw an order themselves, most of them by randperm
    draws_from_torch = _draws_from_torch(cases, answers)
    answers = [_on_tokens(key, case, answer) for case, answer in zip(cases, answers)]
    for orders in [not_imposed] if as_randperm_has_it else [not_imposed, taken]:
        for wrong, function in _bank(key):
            if wrong.name == ANOTHER_GENERATOR and draws_from_torch:
                continue
            if all(
                _same(_on_tokens(key, case, _answer_of(function, case, order)), answer)
                for case, order, answer in zip(cases, orders, answers)
            ):
                return wrong
    return None


def _draws_from_torch(cases: list, answers: list[tuple[dict, dict]]) -> bool:
    """Whether each shuffled epoch has moved torch's generator on from where its seed had put it, and not to one same
    place wherever it had been."""
    shuffled = [pair for pair in zip(cases, answers) if getattr(pair[0], "shuffled", False)]
    drawn_next = [told.get("drawn_next") for _, (told, _) in shuffled]
    return len(set(map(str, drawn_next))) > 1 and all(
        case.drawn_next() != own for (case, _), own in zip(shuffled, drawn_next)
    )


def _order_taken(case, tensors: dict) -> list[int]:
    """The order in which an epoch took the responses; [] of another case, or where it did not take each once."""
    order = sum(case.order(tensors), []) if hasattr(case, "order") else []
    return order if sorted(order) == [*range(len(order))] else []


def _on_tokens(key: str, case, answer: tuple[dict, dict]) -> tuple[dict, dict]:
    """An answer without the returns of padding, which may be any."""
    told, tensors = answer
    if key != "gae" or "out1" not in tensors or tensors["out1"].shape != case.args["response_mask"].shape:
        return answer
    return told, tensors | {"out1": tensors["out1"] * case.args["response_mask"]}


def _answer_of(function: Callable, case, order: list[int]) -> tuple[dict, dict]:
    """What a solution of the bank answers; where an order is given, if it takes the responses in that."""
    with warnings.catch_warnings(), contextlib.ExitStack() as patches:
        warnings.simplefilter("ignore")
        if order:
            patches.enter_context(mock.patch("torch.randperm", lambda *_, **__: torch.tensor(order)))
            patches.enter_context(mock.patch("numpy.random.permutation", lambda *_: numpy.array(order)))
        return worker.answer(function, *case.request())


def _same(one: tuple[dict, dict], other: tuple[dict, dict]) -> bool:
    (told, tensors), (other_told, other_tensors) = one, other
    if "error" in told or "error" in other_told:
        return _raised(told) == _raised(other_told)
    return (
        _comparable(told) == _comparable(other_told)
        and tensors.keys() == other_tensors.keys()
        and all(
            (tensor.shape, tensor.dtype) == (other_tensors[name].shape, other_tensors[name].dtype)
            and torch.allclose(tensor.double(), other_tensors[name].double(), SAME, SAME, equal_nan=True)
            for name, tensor in tensors.items()
        )
    )


def _raised(told: dict) -> tuple[str, str]:
    """An error's type and message, with the sizes in it: another slip of the shapes has others."""
    error = told.get("error", {})
    return error.get("type"), error.get("message")


def _comparable(told: dict) -> dict:
    """An answer's description with its numbers to three digits."""

    def rounded(value):
        if isinstance(value, dict):
            return {name: rounded(item) for name, item in value.items()}
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return f"{value + 0:.3g}" if isinstance(value, float) else value  # as text, NaN is like NaN; + 0: no "-0"

    return rounded({name: value for name, value in told.items() if name != "drawn_next"})
