"""The optimizer: whose learning rate is whose, no weight decay, the warm-up, and which AdamW it is."""

import sys
from types import ModuleType

import pytest
import torch

from course_utils import policy
from course_utils.optimizer import make_optimizer, make_scheduler

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def make(small_config):
    """(optimizer, config, actor, what was said) with some overrides."""

    def make(*overrides: str, device: torch.device = CPU):
        cfg, said = small_config(*overrides), []
        actor = policy.load_actor(cfg)
        return make_optimizer(cfg, actor, device, said.append), cfg, actor, said

    return make


@pytest.mark.parametrize("own, rate", [("1e-2", 1e-2), ("null", 1e-3)])
def test_the_value_head_may_have_a_learning_rate_of_its_own(make, own, rate):
    optimizer, _, actor, _ = make("ppo.learning_rate=1e-3", f"ppo.value_learning_rate={own}")
    model, head = optimizer.param_groups
    assert (model["lr"], head["lr"]) == (1e-3, rate)
    assert set(head["params"]) == set(actor.value_head.parameters())
    assert set(model["params"]) | set(head["params"]) == set(actor.parameters())


def test_a_weight_without_a_gradient_does_not_decay(make):
    optimizer, _, actor, _ = make()
    before = [weight.clone() for weight in actor.parameters()]
    for weight in actor.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(weight, was) for weight, was in zip(actor.parameters(), before))


def test_the_rate_rises_in_the_warm_up(make):
    optimizer, cfg, _, _ = make("ppo.learning_rate=1e-3", "ppo.scheduler=constant_with_warmup", "ppo.warmup_steps=4")
    scheduler, rates = make_scheduler(cfg, optimizer), []
    for _ in range(6):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_the_rate_ends_at_min_lr(make):
    settings = "ppo.learning_rate=1e-2 ppo.value_learning_rate=null ppo.scheduler=cosine_with_min_lr ppo.min_lr=1e-4"
    optimizer, cfg, _, _ = make(*settings.split(), "ppo.warmup_steps=0")
    scheduler = make_scheduler(cfg, optimizer)
    for _ in range(3 * 2 * 2):  # PPO steps, epochs, mini-batches
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-4, 1e-4])


def test_8_bits_are_taken_where_they_are_to_be_had_and_missed_aloud(make, monkeypatch):
    package = ModuleType("bitsandbytes")
    package.optim = ModuleType("bitsandbytes.optim")
    package.optim.AdamW8bit = type("AdamW8bit", (torch.optim.AdamW,), {})
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package.optim)
    optimizer, _, _, said = make("ppo.use_8bit_adam=true", device=GPU)
    assert isinstance(optimizer, package.optim.AdamW8bit) and not said
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # not installed
    optimizer, _, _, (note,) = make("ppo.use_8bit_adam=true", device=GPU)
    assert type(optimizer) is torch.optim.AdamW and "pip install bitsandbytes" in note
