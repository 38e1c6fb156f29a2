"""The five functions that a learner writes: their names, their arguments, and how a set of them is loaded.

A set is a folder of exported modules (export.py makes them): the course's own solutions, a learner's answers,
or deliberately wrong code. Each set is imported as a package of its own, so several can live in one process.
"""

import inspect
import itertools
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from course_utils.plain_error import PlainError
from course_utils.stubs import unwritten_lines
from course_utils.this_python import this_python


@dataclass(frozen=True)
class Exercise:
    """One exercise. `key` is the grade_id of its solution cell and the name of its exported module.

    `parts` are functions that solution cells above it ask for, in their order; nobody has to divide the work so.
    """

    key: str
    number: int
    function: str
    notebook: str  # relative to the folder that holds notebooks/: the repository's root or a workspace
    arguments: tuple[str, ...]
    parts: tuple[str, ...] = ()

    @property
    def module_file(self) -> str:
        return f"{self.key}.py"


EXERCISES: dict[str, Exercise] = {
    exercise.key: exercise
    for exercise in (
        Exercise(
            "policy_loss",
            1,
            "compute_policy_loss",
            "notebooks/01_policy_loss/policy_loss.ipynb",
            ("log_probs_new", "log_probs_old", "advantages", "response_mask", "clip_ratio"),
        ),
        Exercise(
            "value_loss",
            2,
            "compute_value_loss",
            "notebooks/02_value_loss/value_loss.ipynb",
            ("values_new", "values_old", "returns", "response_mask", "clip_range_value"),
        ),
        Exercise(
            "entropy", 3, "compute_entropy_loss", "notebooks/03_entropy/entropy.ipynb", ("logits_new", "response_mask")
        ),
        Exercise(
            "gae",
            4,
            "compute_gae_advantages",
            "notebooks/04_gae/gae.ipynb",
            ("final_rewards", "kl_penalties", "values", "response_mask", "gamma", "lam"),
        ),
        Exercise(
            "minibatch_update",
            5,
            "run_ppo_update_epoch",
            "notebooks/05_minibatch_update/minibatch_update.ipynb",
            ("actor_model", "optimizer", "lr_scheduler", "collated_buffer", "cfg", "device"),
            ("response_outputs", "minibatch_loss"),
        ),
    )
}


STAND_INS = Path(__file__).resolve().parent / "stand_ins"
LOSSES = ("compute_policy_loss", "compute_value_loss", "compute_entropy_loss")  # run_ppo_update_epoch calls them
UPDATE_METRICS = (  # and returns these
    "loss/policy",
    "loss/value",
    "loss/entropy",
    "loss/total",
    "params/policy_clip_frac",
    "params/value_clip_frac",
    "params/approx_kl",
    "params/grad_norm",
)


class ExerciseError(PlainError):
    """A set of exercises that cannot be used; the message says which notebook to correct and how to go on."""


@dataclass
class Exercises:
    """One set of the five functions, as the trainer takes them. See EXERCISES for their arguments."""

    compute_policy_loss: Callable
    compute_value_loss: Callable
    compute_entropy_loss: Callable
    compute_gae_advantages: Callable
    run_ppo_update_epoch: Callable

    def connect(self) -> None:
        """Makes run_ppo_update_epoch call the three losses of this set.

        It calls them by their global names, so they are put into the globals of its module. Call this before
        a run: a set made with dataclasses.replace shares that module with the set it was made from, and the
        last one to connect counts. A callable that has no globals (a partial, a mock) is left as it is.
        """
        module_globals = getattr(inspect.unwrap(self.run_ppo_update_epoch), "__globals__", None)
        if module_globals is not None:
            for name in LOSSES:
                module_globals[name] = getattr(self, name)


def load_exercises(folder: str | Path, stand_ins: bool = False) -> Exercises:
    """Imports the five exported modules of `folder`; with `stand_ins`, simple ones for those that are missing.

    ExerciseError: a module is missing, fails at import, lacks its function with the right arguments, or has the stub.
    """
    folder = Path(folder).resolve()
    if not stand_ins:
        _require_modules(folder)
    package = _new_package(folder)
    try:
        # In the order of EXERCISES: the fifth module imports from the first three.
        functions = {e.function: _load_function(package, folder, e) for e in EXERCISES.values()}
    except ExerciseError:
        for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
            del sys.modules[name]
        raise
    return Exercises(**functions)


def missing_exercises(folder: str | Path) -> list[Exercise]:
    """Those that have not been exported to `folder`."""
    return [e for e in EXERCISES.values() if not (Path(folder) / e.module_file).is_file()]


def _require_modules(folder: Path) -> None:
    missing = missing_exercises(folder)
    if not missing:
        return
    names = "\n".join(f"    exercise {e.number}: {e.notebook}" for e in missing)
    raise ExerciseError(
        f"{folder} has no {', '.join(e.module_file for e in missing)}. Finish and save\n{names}\n"
        f"then export them with\n    {export_command(missing, folder)}\n(to be run in the folder that holds notebooks/)"
    )


def export_command(exercises: list[Exercise], folder: Path) -> str:
    return f'{this_python()} -m course_utils.export {" ".join(e.notebook for e in exercises)} --to "{folder}"'


PACKAGE = "_exercises_"  # and a number: what a set is imported under
_package_numbers = itertools.count(1)


def _new_package(folder: Path) -> str:
    """An empty package under a name of its own, in which the modules find each other by relative imports."""
    name = f"{PACKAGE}{next(_package_numbers)}"
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(folder)]
    return name


def _load_function(package: str, folder: Path, exercise: Exercise) -> Callable:
    """By compiling the source: Python tells a stale .pyc by whole seconds and length, which is too coarse for somebody
    who exports, trains, corrects one digit and exports again."""
    name, path = f"{package}.{exercise.key}", folder / exercise.module_file
    path = path if path.is_file() else STAND_INS / exercise.module_file
    module = sys.modules[name] = ModuleType(name)
    module.__package__, module.__file__ = package, str(path)
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # SystemExit: a learner's exit() must not end the trainer
        raise ExerciseError(
            f"{_where(error, folder, path)}: {type(error).__name__}: {error}\n"
            f"Correct it in {exercise.notebook}, save, and export again:\n"
            f"    {export_command([exercise], folder)}"
        ) from error
    _check_function(module, path, exercise)
    return getattr(module, exercise.function)


def _where(error: BaseException, folder: Path, path: Path) -> str:
    """File and line of `error`, as far inside `folder` as its traceback goes."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).parent == folder]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else str(path)


def _check_function(module: ModuleType, path: Path, exercise: Exercise) -> None:
    expected = f"{exercise.function}({', '.join(exercise.arguments)})"
    again = f"Correct it in {exercise.notebook}, save, and export again."
    function = getattr(module, exercise.function, None)
    if not callable(function):
        raise ExerciseError(f"{path} has no function {expected}. {again}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ExerciseError(f"{path}: {exercise.function} shows no arguments: {error}. {again}") from error
    names = tuple(p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    if names != exercise.arguments or len(signature.parameters) != len(names):
        raise ExerciseError(
            f"{path}: wrong arguments\n    expected: {expected}\n    found:    {exercise.function}{signature}\n{again}"
        )
    lines = unwritten_lines(path, exercise.function)
    if lines:  # or the first update would find it, when the model is loaded and a rollout written
        raise ExerciseError(f"{path}, line {lines[0]}: {exercise.function} is not written yet. {again}")
