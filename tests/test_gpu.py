"""What only a GPU can show: CUDA graphs, 8-bit Adam, memory that runs out, and the CPU's numbers on another device."""

import shutil
from importlib.util import find_spec

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import decoding, policy, problems, rollout
from course_utils.decoding import GraphedCache, GrowingCache
from course_utils.exercises import load_exercises
from course_utils.memory import estimate
from course_utils.policy import EMBEDDED_MODEL
from course_utils.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture
def make_trainer(small_config, solutions):
    return lambda *more: Trainer(small_config("training.device=cuda", *more), load_exercises(solutions))


@pytest.fixture
def wordy_model(tmp_path) -> list[str]:
    """Overrides for a model of 58M weights whose logits take most of the memory, and for responses of one length."""
    shape = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8
    )
    shape.eos_token_id, shape.pad_token_id = 1, 0
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "model")
    return [
        f"model.name={tmp_path / 'model'}",
        f"model.tokenizer_name={EMBEDDED_MODEL}",
        "dataset.max_gen_length=128",
        "generation.min_new_tokens=128",
    ]


def without_times(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in history]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_replayed_step_samples_what_a_computed_one_does(dtype, small_config, monkeypatch):
    cfg = small_config(f"model.torch_dtype={dtype}", "training.device=cuda", "dataset.max_gen_length=64")
    actor, tokenizer = policy.load_actor(cfg).cuda(), policy.load_tokenizer(cfg)
    torch.nn.init.normal_(actor.value_head.weight)
    prompts, _ = problems.make_prompts(problems.load_problems(cfg.dataset, "validation")[:32], tokenizer, cfg.dataset)
    uniforms = torch.rand(32, 64, generator=torch.Generator().manual_seed(1))

    def sampled():
        return rollout.generate(actor, prompts, tokenizer, cfg.generation, uniforms, "cuda")

    assert isinstance(decoding.make_cache(actor, 1, torch.device("cuda")), GraphedCache)
    graphed = sampled()
    monkeypatch.setattr(decoding, "make_cache", lambda actor, steps, device: GrowingCache(actor))
    growing = sampled()
    assert len(growing["response_attention_mask"].sum(1).unique()) > 3  # rows that end at different times
    width = min(buffer["response_input_ids"].shape[1] for buffer in (graphed, growing))
    same = (graphed["response_input_ids"][:, :width] == growing["response_input_ids"][:, :width]).all(1)
    assert same.all() if dtype == "float32" else same.float().mean() > 0.7  # a row may turn where two tokens are close
    difference = (graphed["logprobs"][:, :width] - growing["logprobs"][:, :width])[same].abs().max()
    assert difference < (1e-4 if dtype == "float32" else 0.2)


def test_the_first_step_is_that_of_a_cpu(make_trainer, tmp_path):
    here, there = (
        without_times(make_trainer("training.total_ppo_steps=1", f"training.device={device}").train())[0]
        for device in ("cuda", "cpu")  # one process for both, as in a notebook
    )
    assert make_trainer("training.output_dir=" + str(tmp_path / "again")).device.type == "cuda"
    assert here == pytest.approx(there, rel=0.02, abs=0.002)
    assert here["params/max_ratio_deviation"] < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_in_half_precision_learns_on(dtype, make_trainer):
    trainer = make_trainer(f"model.torch_dtype={dtype}", "training.gradient_checkpointing=true")
    history = list(trainer.train())
    assert len(history) == 3 and all(weight.dtype == torch.float32 for weight in trainer.unwrapped.parameters())
    assert max(line["params/max_ratio_deviation"] for line in history) < 0.05


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="needs bitsandbytes")
def test_8_bit_adam_is_taken_and_goes_on_from_its_checkpoint(make_trainer):
    settings = "ppo.use_8bit_adam=true", "training.save_interval=1"
    trainer = make_trainer(*settings)
    assert type(trainer.optimizer).__name__ == "AdamW8bit"
    steps = trainer.train()
    next(steps), next(steps)
    expected = without_times(steps)
    shutil.rmtree(trainer.folder / "final")
    shutil.rmtree(trainer.folder / "step_3")
    again = make_trainer(*settings, "training.resume=auto")
    assert again.step == 2
    found = without_times(again.train())
    assert found[0] == pytest.approx(expected[0], rel=0.02, abs=0.002)


def test_memory_that_runs_out_halves_the_batches_and_the_run_goes_on(make_trainer, wordy_model, capsys):
    """A real shortage: a model with many words in its vocabulary, and a cap that its mini-batch does not fit below."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(2.2e9 / total)
    try:
        trainer = make_trainer(
            *wordy_model,
            "ppo.rollout_samples=64",
            "ppo.batch_size=64",
            "ppo.mini_batch_size=64",
            "training.total_ppo_steps=2",
            "training.eval_interval=9",
            "training.save_interval=9",
        )
        history = [trainer.ppo_step() for _ in range(2)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capsys.readouterr().out
    assert "out of memory; going on with ppo.mini_batch_size=32" in said
    assert trainer.cfg.ppo.mini_batch_size * trainer.cfg.ppo.gradient_accumulation_steps == 64
    assert len(history) == 2


@pytest.mark.parametrize("extra", [[], ["model.lora=8"], ["model.torch_dtype=bfloat16"]], ids=["all", "lora", "half"])
def test_the_peak_of_a_step_is_what_was_estimated(extra, wordy_model, small_config, solutions):
    sizes = "ppo.rollout_samples=32", "ppo.batch_size=32", "ppo.mini_batch_size=32", "dataset.max_prompt_length=50"
    cfg = small_config("training.device=cuda", *wordy_model, *sizes, *extra)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(cfg, load_exercises(solutions))
    for _ in range(2):
        trainer.ppo_step()
    measured = torch.cuda.max_memory_allocated() - before
    assert 0.75 < estimate(trainer.unwrapped.model.config, cfg).peak / measured < 1.33, (
        f"{measured / 1e9:.2f} GB measured"
    )
