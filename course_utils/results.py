"""The form of what the five functions return, looked at where it comes back.

A loss of the wrong form would else fail inside run_ppo_update_epoch, and exercise 5 would get the blame.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from numbers import Real

import torch
from torch import Tensor

from course_utils.exercises import EXERCISES, UPDATE_METRICS, Exercise, ExerciseError, Exercises

PARTS = {  # of the losses' results
    "compute_policy_loss": ("loss", "clip_frac", "approx_kl"),
    "compute_value_loss": ("loss", "vf_clip_frac"),
    "compute_entropy_loss": ("loss",),
}


def checking_losses(exercises: Exercises) -> Exercises:
    """The same set, whose losses raise an ExerciseError where they return something that is no loss."""
    return replace(exercises, **{name: _checked(getattr(exercises, name), name) for name in PARTS})


def _checked(loss: Callable, name: str) -> Callable:
    @wraps(loss)
    def checked(*arguments, **named):
        return check_loss(loss(*arguments, **named), name)

    return checked


def check_loss(result, name: str) -> Tensor | tuple[Tensor, ...]:
    """The loss and its metrics, each a tensor (), or an ExerciseError that says what came instead."""
    names = PARTS[name]
    parts = result if len(names) > 1 else (result,)
    if not isinstance(parts, tuple | list) or len(parts) != len(names):
        raise _refusal(name, f"must return ({', '.join(names)}), not {_in_words(result)}")
    for what, part in zip(names, parts):
        number = isinstance(part, Tensor) and part.shape == () or isinstance(part, Real) and what != "loss"
        if not number:
            raise _refusal(name, f"must return {what} as one number, a tensor of shape (), not {_in_words(part)}")
    # Exercise 5 asks a metric for .item(), which a plain number has not.
    parts = tuple(torch.as_tensor(part) for part in parts)
    return parts if len(names) > 1 else parts[0]


def check_advantages(result, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The two tensors (N, R) of exercise 4, or an ExerciseError that says what came instead."""
    name = "compute_gae_advantages"
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(x, Tensor) for x in result)):
        raise _refusal(name, f"must return (advantages, returns), two tensors, not {_in_words(result)}")
    for what, tensor in zip(("advantages", "returns"), result):
        if tensor.shape != shape:
            raise _refusal(
                name,
                f"returned {what} of shape {tuple(tensor.shape)}; "
                f"it must be (rollouts, response tokens) = {tuple(shape)}",
            )
        if not tensor.isfinite().all():
            raise _refusal(name, f"returned {what} that are not finite (NaN or Inf)")
    return result[0].detach(), result[1].detach()


def check_unchanged(name: str, before: Iterable[Tensor], given: Iterable[Tensor]) -> None:
    """ExerciseError if the function wrote into one of its tensors, which are the rollout buffer's own."""
    for argument, old, new in zip(_exercise_of(name).arguments, before, given):
        if old.shape != new.shape or not torch.allclose(old, new, rtol=0, atol=0, equal_nan=True):
            raise _refusal(
                name, f"changed its argument {argument} in place, which is still needed: assign to a new name"
            )


def check_update_metrics(metrics) -> dict[str, float]:
    """The metrics of exercise 5 as floats, or an ExerciseError that names what is missing."""
    name = "run_ppo_update_epoch"
    if not isinstance(metrics, dict):
        raise _refusal(name, f"must return a dict of metrics, not {_in_words(metrics)}")
    if missing := [metric for metric in UPDATE_METRICS if metric not in metrics]:
        raise _refusal(name, f"returned a dict that lacks {', '.join(missing)}")
    numbers = {}
    for metric in UPDATE_METRICS:
        try:
            numbers[metric] = float(metrics[metric])
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several numbers
            raise _refusal(name, f"must return {metric} as one number, not {_in_words(metrics[metric])}") from error
    return numbers


def _exercise_of(function: str) -> Exercise:
    return next(exercise for exercise in EXERCISES.values() if exercise.function == function)


def _refusal(function: str, problem: str) -> ExerciseError:
    exercise = _exercise_of(function)
    return ExerciseError(
        f"exercise {exercise.number}: {function} {problem}. Correct it in {exercise.notebook}, save, and export again."
    )


def _in_words(value) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_in_words, value))})"
    return f"{value!r:.80}"
