"""Memory that does not suffice: batches are halved, and the run goes on."""

import weakref
from dataclasses import replace

import pytest
import torch

from course_utils.exercises import load_exercises
from course_utils.policy import ActorCritic
from course_utils.trainer import Trainer, TrainingError


@pytest.fixture
def make_trainer(small_config, solutions):
    return lambda *overrides: Trainer(small_config("training.total_ppo_steps=2", *overrides), load_exercises(solutions))


def give_memory_for(rows: int, method: str, monkeypatch) -> None:
    """Lets ActorCritic.`method` fail as a full GPU would when it is given more rows."""
    enough = getattr(ActorCritic, method)

    def limited(self, input_ids, *arguments, **options):
        if len(input_ids) > rows and torch.is_grad_enabled() == (method == "forward"):  # forward(): in the update only
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return enough(self, input_ids, *arguments, **options)

    monkeypatch.setattr(ActorCritic, method, limited)


def without_times(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in history]


def test_sampling_in_halves_gives_the_same_run(make_trainer, monkeypatch, capsys):
    expected = without_times(make_trainer().train())
    give_memory_for(5, "next_token", monkeypatch)
    trainer = make_trainer()
    found = without_times(trainer.train())
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-4)
    said = capsys.readouterr().out
    assert "out of memory; going on with ppo.batch_size=4" in said and said.count("out of memory") == 2  # 16 -> 8 -> 4
    assert trainer.cfg.ppo.batch_size == 4


def test_sampling_in_halves_is_learned_in_a_step_too(make_trainer, monkeypatch, capsys):
    give_memory_for(5, "next_token", monkeypatch)
    trainer = make_trainer()
    trainer.ppo_step()  # without the evaluation that comes before it, as where a run goes on
    assert trainer.cfg.ppo.batch_size == 4 and capsys.readouterr().out.count("out of memory") == 2


def test_an_update_in_halves_keeps_what_an_optimizer_step_means(make_trainer, monkeypatch, capsys):
    give_memory_for(4, "forward", monkeypatch)
    trainer = make_trainer("ppo.batch_size=4")
    steps = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    history = list(trainer.train())
    assert "going on with ppo.mini_batch_size=4" in capsys.readouterr().out
    assert trainer.cfg.ppo.gradient_accumulation_steps == 2
    assert len(steps) == 2 * 2 * 2  # steps, epochs, groups of 8 responses: as without the lack
    assert len(history) == 2


def test_scoring_in_halves_goes_on_too(make_trainer, monkeypatch, capsys):
    """The logits of whole responses, of the reference above all, need more memory than sampling them did."""
    enough = ActorCritic.forward

    def limited(self, input_ids, attention_mask, logits_to_keep=0):
        if not torch.is_grad_enabled() and logits_to_keep > 1 and len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return enough(self, input_ids, attention_mask, logits_to_keep)

    monkeypatch.setattr(ActorCritic, "forward", limited)
    trainer = make_trainer()
    assert len(list(trainer.train())) == 2
    assert capsys.readouterr().out.count("going on with ppo.mini_batch_size=4") == 1
    assert trainer.cfg.ppo.gradient_accumulation_steps == 2


def test_an_epoch_that_ran_out_of_memory_half_way_leaves_no_gradient_behind(make_trainer, monkeypatch):
    trainer = make_trainer()
    found, update = [], trainer.exercises.run_ppo_update_epoch

    def fails_once(actor, optimizer, *arguments):
        found.append([p.grad is None for p in actor.parameters()])
        if len(found) == 1:
            for p in actor.parameters():
                p.grad = torch.ones_like(p)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return update(actor, optimizer, *arguments)

    trainer.exercises = replace(trainer.exercises, run_ppo_update_epoch=fails_once)
    next(trainer.train())
    assert all(found[1])


def test_what_was_computed_before_memory_ran_out_is_let_go(make_trainer, monkeypatch):
    """The logits are what mostly does not fit; half a mini-batch would else need room beside the whole one's graph."""
    trainer = make_trainer()
    actor, graphs = trainer.unwrapped, []

    def full(head, inputs, _logits):
        if not graphs and torch.is_grad_enabled():
            graphs.append(weakref.ref(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    actor.model.get_output_embeddings().register_forward_hook(full)
    forward = actor.forward

    def noting(*arguments, **options):
        if graphs:
            assert graphs[0]() is None
        return forward(*arguments, **options)

    monkeypatch.setattr(actor, "forward", noting)
    next(trainer.train())
    assert graphs and trainer.cfg.ppo.mini_batch_size == 4


@pytest.mark.parametrize("size, smaller", [(6, 3), (15, 5), (5, 1)])
def test_a_step_means_as_many_responses_where_a_mini_batch_has_no_half(make_trainer, size, smaller):
    trainer = make_trainer("ppo.gradient_accumulation_steps=2", f"ppo.mini_batch_size={size}")
    update, calls = trainer.exercises.run_ppo_update_epoch, []

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return update(*arguments)

    trainer.exercises = replace(trainer.exercises, run_ppo_update_epoch=fails_once)
    list(trainer.train())
    ppo = trainer.cfg.ppo
    assert (ppo.mini_batch_size, ppo.gradient_accumulation_steps) == (smaller, 2 * size // smaller)
    assert trainer.lr_scheduler.last_epoch == 2 * 2 * -(-16 // (2 * size))  # steps, epochs: as the schedule was made


def test_an_epoch_that_begins_again_is_counted_once_by_the_schedule(make_trainer):
    trainer = make_trainer("ppo.scheduler=linear", "ppo.warmup_steps=0")
    update, rates = trainer.exercises.run_ppo_update_epoch, []

    def fails_once_at_its_end(*arguments):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        metrics = update(*arguments)
        if len(rates) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return metrics

    trainer.exercises = replace(trainer.exercises, run_ppo_update_epoch=fails_once_at_its_end)
    list(trainer.train())
    assert rates[1] == rates[0] and rates[2] < rates[1]
    assert trainer.lr_scheduler.last_epoch == 2 * 2 * 2  # steps, epochs, groups of 8 responses


def test_gradients_that_an_update_leaves_behind_are_the_learners_affair(make_trainer):
    """A forgotten zero_grad() has to show: the trainer clears nothing between epochs and steps."""
    trainer = make_trainer()
    found, update = [], trainer.exercises.run_ppo_update_epoch

    def forgetful(actor, *arguments):
        grad = actor.value_head.bias.grad
        found.append(None if grad is None else grad.clone())
        metrics = update(actor, *arguments)
        actor.value_head.bias.grad = torch.ones(1)
        return metrics

    trainer.exercises = replace(trainer.exercises, run_ppo_update_epoch=forgetful)
    list(trainer.train())
    assert found[0] is None and found[1:] == [torch.ones(1)] * 3  # two steps of two epochs


def test_what_cannot_be_halved_stops_with_advice(make_trainer, monkeypatch):
    give_memory_for(0, "next_token", monkeypatch)
    with pytest.raises(TrainingError, match="out of memory with ppo.batch_size=1.*gradient_checkpointing"):
        next(make_trainer().train())


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "evaluate", lambda: (_ for _ in ()).throw(RuntimeError("a shape is wrong")))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        next(trainer.train())
