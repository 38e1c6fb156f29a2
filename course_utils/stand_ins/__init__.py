"""Simple pieces with the interfaces of the five exercises, for whoever has not written them all.

Exercise 5 can be worked on before exercises 1 to 3, and a run can try out one exercise while the others are missing.
They are not the exercises' solutions: no clipping, no entropy, no λ, no shuffling and no accumulation. There is a
module for each exported module, so that the imports of exercise 5 (`from .policy_loss import compute_policy_loss`)
find them.
"""

from course_utils.stand_ins.entropy import compute_entropy_loss
from course_utils.stand_ins.gae import compute_gae_advantages
from course_utils.stand_ins.minibatch_update import run_ppo_update_epoch
from course_utils.stand_ins.policy_loss import compute_policy_loss
from course_utils.stand_ins.value_loss import compute_value_loss

__all__ = [
    "compute_entropy_loss",
    "compute_gae_advantages",
    "compute_policy_loss",
    "compute_value_loss",
    "run_ppo_update_epoch",
]
