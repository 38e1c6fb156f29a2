"""LoRA: adapters learn, the model's own weights do not move, and the reference is the model without them."""

import builtins

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_utils import policy
from course_utils.checkpoint import latest
from course_utils.exercises import load_exercises
from course_utils.policy import ModelError
from course_utils.trainer import Trainer

pytest.importorskip("peft")


@pytest.fixture
def make_trainer(small_config, solutions):
    return lambda *overrides: Trainer(small_config("model.lora=4", *overrides), load_exercises(solutions))


def adapters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.unwrapped.named_parameters() if "lora_" in name}


def test_a_peft_that_is_too_old_for_transformers_is_told_plainly(small_config, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "999")
    with pytest.raises(ModelError, match="model.lora=4: .*>= 999.* pip install --upgrade peft, or set model.lora=0"):
        policy.load_actor(small_config("model.lora=4"))


def test_adapters_and_value_head_are_all_that_is_trained(make_trainer, small_config):
    trainer = make_trainer("training.total_ppo_steps=1")
    assert {name for name, p in trainer.unwrapped.named_parameters() if p.requires_grad} == {
        *adapters(trainer),
        "value_head.weight",
        "value_head.bias",
    }
    list(trainer.train())
    plain = policy.load_reference(small_config()).model.state_dict()
    for name, weight in trainer.unwrapped.model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, plain[name.replace(".base_layer", "")]), name
    assert all(p.abs().sum() > 0 for p in adapters(trainer).values())


def test_the_reference_is_the_model_before_ppo(make_trainer, small_config):
    trainer = make_trainer()
    history = list(trainer.train())
    assert trainer.reference is None  # no second copy
    assert history[0]["rollout/kl"] == pytest.approx(0, abs=1e-5) and history[-1]["rollout/kl"] != 0
    tokens = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        expected, _ = policy.load_reference(small_config())(tokens, torch.ones_like(tokens))
        moved, _ = trainer.unwrapped(tokens, torch.ones_like(tokens))
        with policy.without_adapters(trainer.unwrapped) as reference:
            found, _ = reference(tokens, torch.ones_like(tokens))
        again, _ = trainer.unwrapped(tokens, torch.ones_like(tokens))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (moved - expected).abs().max() > 1e-3 and torch.equal(again, moved)


def test_a_checkpoint_loads_in_transformers_and_resumes_exactly(make_trainer, tmp_path):
    whole = list(make_trainer(f"training.output_dir={tmp_path / 'whole'}").train())
    trainer = make_trainer()
    steps = trainer.train()
    next(steps), next(steps)
    folder = latest(trainer.folder)
    tokens = torch.arange(1, 7).view(1, 6)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(loaded(tokens).logits, trainer.unwrapped.model(tokens).logits)
    resumed = make_trainer("training.resume=auto")
    assert resumed.step == 2
    last = next(resumed.train())
    assert {k: v for k, v in last.items() if not k.startswith("time/")} == {
        k: v for k, v in whole[-1].items() if not k.startswith("time/")
    }


def test_in_half_precision_the_frozen_weights_take_half_the_room_and_adapters_stay_float32(small_config):
    actor = policy.load_actor(small_config("model.lora=4", "model.torch_dtype=bfloat16"))
    assert {p.dtype for p in actor.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for name, p in actor.named_parameters() if "base_layer" in name} == {torch.bfloat16}


def test_without_peft_the_remedy_is_named(small_config, monkeypatch):
    found = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "peft":
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModelError, match="pip install peft"):
        policy.load_actor(small_config("model.lora=4"))
