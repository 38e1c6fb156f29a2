"""The response that the token explorer shows: its numbers, and that looking at it changes nothing."""

from copy import deepcopy

import torch

from course_utils.exercises import load_exercises
from course_utils.loss_scale import LossScale
from course_utils.one_response import one_response
from course_utils.trainer import Trainer


def test_a_response_with_its_numbers_and_a_trainer_that_stays_as_it_is(solutions, small_config):
    trainer = Trainer(
        small_config("training.eval_interval=100", "training.save_interval=100"), load_exercises(solutions)
    )
    steps = trainer.train()
    next(steps)
    trainer.unwrapped.loss_scale = LossScale(trainer.unwrapped)  # as in float16
    parts = trainer.unwrapped, trainer.optimizer, trainer.lr_scheduler, trainer.unwrapped.loss_scale
    before = deepcopy([part.state_dict() for part in parts])
    response = one_response(trainer)
    for part, state in zip(parts, before):
        torch.testing.assert_close(part.state_dict(), state, rtol=0, atol=0)
    assert response.prompt.startswith("Question: ") and response.reward < 1
    assert {len(x) for x in response.quantities.values()} == {len(response.tokens)}
    # kl_coeff > 0, one step done: the reference and the updated policy are both other policies than this one.
    assert response.quantities["log-ratio to the reference"].abs().max() > 0
    assert response.quantities["log-ratio after an update"].abs().max() > 1e-4
    assert next(steps)["step"] == 2
