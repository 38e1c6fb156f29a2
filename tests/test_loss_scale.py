"""float16 on a CPU: small gradients survive, overflows are left out, and the learner's code sees none of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.exercises import load_exercises
from course_utils.loss_scale import LARGEST, STEPS_TO_DOUBLE, LossScale
from course_utils.policy import ActorCritic
from course_utils.trainer import Trainer, TrainingError


def make_actor(dtype: torch.dtype, scaled: bool) -> ActorCritic:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            pad_token_id=0,
        )
    )
    actor = ActorCritic(model, compute_dtype=dtype)
    nn.init.normal_(actor.value_head.weight)
    actor.loss_scale = LossScale(actor) if scaled else None
    return actor


def gradients(actor: ActorCritic, weight: float) -> list[torch.Tensor]:
    """Of a loss on logits and values that is `weight` times an ordinary one."""
    tokens = torch.arange(1, 13).view(2, 6)
    logits, values = actor(tokens, torch.ones_like(tokens))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) + values.square().mean()
    (weight * loss).backward()
    return [p.grad for p in actor.parameters()]


def test_gradients_below_float16_survive_by_scaling_and_vanish_without():
    weight = 1e-6  # brings most gradients below 6e-8, float16's smallest number
    exact = gradients(make_actor(torch.float32, scaled=False), weight)
    lost = gradients(make_actor(torch.float16, scaled=False), weight)
    kept = gradients(make_actor(torch.float16, scaled=True), weight)

    def error(found):
        return max(((f - e).norm() / e.norm()).item() for f, e in zip(found, exact))

    assert error(kept) < 0.02 < 0.2 < error(lost)
    assert {g.dtype for g in kept} == {torch.float32}


def test_accumulated_gradients_add_up():
    actor = make_actor(torch.float16, scaled=True)
    once = [g.clone() for g in gradients(actor, 1.0)]
    twice = gradients(actor, 1.0)
    for a, b in zip(once, twice):
        torch.testing.assert_close(2 * a, b, rtol=1e-2, atol=1e-6)


def test_an_overflow_is_told_once_and_halves_the_scale():
    actor = make_actor(torch.float16, scaled=True)
    gradients(actor, 1e6)
    assert all(p.grad.isfinite().all() for p in actor.parameters())
    assert actor.loss_scale.overflowed() and actor.loss_scale.value == LARGEST / 2
    assert not actor.loss_scale.overflowed() and actor.loss_scale.skipped == 1


def test_an_overflow_of_one_weight_counts_though_the_others_are_finite():
    first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    scale = LossScale(nn.ModuleList([first, second]))
    (first.weight * torch.inf).sum().backward()
    second.weight.sum().backward()
    assert scale.overflowed()


def test_only_what_flows_through_the_scaled_output_is_multiplied():
    scale, weight = LossScale(nn.Linear(1, 1)), torch.ones(1, requires_grad=True)
    output = weight * 1
    (scale.scale(output) + output).sum().backward()
    assert weight.grad.item() == LARGEST + 1


def test_the_scale_grows_again_after_many_good_steps_and_never_beyond_its_start():
    scale = LossScale(nn.Linear(1, 1))
    scale.value = LARGEST / 4
    for _ in range(STEPS_TO_DOUBLE - 2):
        scale.overflowed()
    scale.overflowed(any_process=lambda here: True)  # a new row begins
    for _ in range(STEPS_TO_DOUBLE - 1):
        scale.overflowed()
    assert scale.value == LARGEST / 8
    scale.overflowed()
    assert scale.value == LARGEST / 4
    for _ in range(3 * STEPS_TO_DOUBLE):
        scale.overflowed()
    assert scale.value == LARGEST


def test_a_frozen_weight_has_no_gradient_to_scale():
    LossScale(nn.Linear(1, 1).requires_grad_(False))


def test_an_overflow_in_another_process_counts():
    scale = LossScale(nn.Linear(1, 1))
    assert scale.overflowed(any_process=lambda here: True) and scale.value == LARGEST / 2


@pytest.fixture
def half_trainer(small_config, solutions):
    few = "dataset.max_gen_length=8", "training.total_ppo_steps=1"  # a CPU is slow in float16
    return Trainer(small_config("model.torch_dtype=float16", *few), load_exercises(solutions))


@pytest.mark.slow
def test_float16_trains_with_the_learners_own_update_and_a_resumed_run_keeps_its_scale(half_trainer):
    history = list(half_trainer.train())
    scale = half_trainer.unwrapped.loss_scale
    scale.value, scale.skipped = 2.0**9, 3
    for _ in range(STEPS_TO_DOUBLE - 4 - 1):  # it took 4 good ones
        scale.overflowed()
    half_trainer.save("step_1")
    resumed = Trainer(
        replace(half_trainer.cfg, training=replace(half_trainer.cfg.training, resume="auto", total_ppo_steps=2)),
        half_trainer.exercises,
    )
    again = resumed.unwrapped.loss_scale
    assert (again.value, again.skipped) == (2.0**9, 3)
    again.overflowed()
    assert again.value == 2.0**10  # the good steps before the cut count
    assert history[0]["params/max_ratio_deviation"] < 1e-3
    assert {p.dtype for p in half_trainer.unwrapped.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_step_that_overflows_is_left_out_of_weights_and_moments(half_trainer):
    before = [p.clone() for p in half_trainer.unwrapped.parameters()]
    half_trainer.unwrapped.loss_scale.value = 2.0**40
    metrics = next(half_trainer.train())
    assert metrics["params/skipped_updates"] == 4  # two epochs of two mini-batches
    assert all(torch.equal(a, b) for a, b in zip(before, half_trainer.unwrapped.parameters()))
    assert not half_trainer.optimizer.state


@pytest.mark.slow
def test_gradients_that_no_scale_makes_finite_stop_the_run(half_trainer, monkeypatch):
    half_trainer.unwrapped.loss_scale.value = 1.0
    forward = half_trainer.unwrapped._run

    def with_an_infinite_slope(*arguments, **options):
        logits, values = forward(*arguments, **options)
        return logits, values + (values - values).sqrt()  # the value is finite, the gradient is not

    monkeypatch.setattr(half_trainer.unwrapped, "_run", with_an_infinite_slope)
    with pytest.raises(TrainingError, match="overflow float16"):
        next(half_trainer.train())
