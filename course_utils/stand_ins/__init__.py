"""Simple losses with the interfaces of exercises 1 to 3, so that exercise 5 can be worked on before those.

They are not the exercises' solutions: no clipping, no entropy. There is a module for each exported module, so
that the imports of exercise 5 (`from .policy_loss import compute_policy_loss`) find them.
"""
from course_utils.stand_ins.entropy import compute_entropy_loss
from course_utils.stand_ins.policy_loss import compute_policy_loss
from course_utils.stand_ins.value_loss import compute_value_loss

__all__ = ["compute_entropy_loss", "compute_policy_loss", "compute_value_loss"]
