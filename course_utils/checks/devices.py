"""Whether a function that is right here would stop on a GPU, found out without one."""

import re
import warnings
from collections.abc import Callable

from torch import Tensor

from course_utils.exercises import Exercise
from course_utils.worked_example import arguments_of

MIXED = re.compile(r"not on the expected device|on the same device")


def mixed_devices(function: Callable, exercise: Exercise) -> Exception | None:
    """What `function` raises on torch's device "meta", which knows shapes but no numbers, if it is that tensors of two
    devices meet: one that it made itself and one that it was given.

    None says little: code that asks for a number, such as int(mask.sum()), cannot go on there. Exercise 5 is always
    None: it is given a model.
    """
    if exercise.key == "minibatch_update":
        return None
    given = arguments_of(exercise.key).values()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*(arg.to("meta") if isinstance(arg, Tensor) else arg for arg in given))
    except Exception as error:
        return error if MIXED.search(str(error)) else None
    return None
