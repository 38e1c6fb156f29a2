"""What one mistake in one of the five functions does to a training run.

    gallery("policy_loss")                 the recorded runs of every mistake, at once
    break_it("policy_loss", my_mistake)    trains with a wrong function of one's own, about 20 seconds

A learner may import this; the mistakes are in mistakes.py.
"""

from course_utils.break_it.pictures import break_it, gallery

__all__ = ["break_it", "gallery"]
