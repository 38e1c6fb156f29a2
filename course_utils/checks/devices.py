"""Whether a function that is right here would stop on a GPU, found out without one."""

import re
import warnings
from collections.abc import Callable

from torch import Tensor

from course_utils.exercises import Exercise
from course_utils.worked_example import worked_example

NAMES = {"values": "values_old"}  # where the worked example calls an argument otherwise
MIXED = re.compile(r"not on the expected device|on the same device")


def mixed_devices(function: Callable, exercise: Exercise) -> Exception | None:
    """What `function` raises on torch's device "meta", which knows shapes but no numbers, if it is that tensors of two
    devices meet: one that it made itself and one that it was given.

    None says little: code that asks for a number, such as int(mask.sum()), cannot go on there.
    """
    example = worked_example()
    given = [getattr(example, NAMES.get(name, name), None) for name in exercise.arguments]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*(arg.to("meta") if isinstance(arg, Tensor) else arg for arg in given))
    except Exception as error:
        return error if MIXED.search(str(error)) else None
    return None
