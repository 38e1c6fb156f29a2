"""The cache that a GPU decodes with, here with its step computed instead of replayed; test_gpu.py replays it."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from course_utils import policy, problems, rollout
from course_utils.decoding import GraphedCache, GrowingCache, make_cache
from course_utils.policy import ActorCritic

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(GraphedCache, "_capture", lambda self: self._step)
    monkeypatch.setattr(rollout, "make_cache", lambda actor, steps, device: GraphedCache(actor, steps))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("greedy", [False, True])
def test_both_caches_sample_the_same_responses(dtype, greedy, small_config, monkeypatch, request):
    cfg = small_config(f"model.torch_dtype={dtype}", "dataset.max_gen_length=48")
    actor, tokenizer = policy.load_actor(cfg), policy.load_tokenizer(cfg)
    torch.nn.init.normal_(actor.value_head.weight)
    prompts, _ = problems.make_prompts(problems.load_problems(cfg.dataset, "validation")[:24], tokenizer, cfg.dataset)
    uniforms = None if greedy else torch.rand(24, 48, generator=torch.Generator().manual_seed(1))
    growing = rollout.generate(actor, prompts, tokenizer, cfg.generation, uniforms, "cpu")
    request.getfixturevalue("without_a_gpu")
    graphed = rollout.generate(actor, prompts, tokenizer, cfg.generation, uniforms, "cpu")
    assert len(growing["response_attention_mask"].sum(1).unique()) > 3  # rows that end at different times
    # In bfloat16, kernels of other shapes round otherwise, and a row may take another turn where two tokens are close.
    same = (growing["response_input_ids"] == graphed["response_input_ids"]).all(1)
    assert same.all() if dtype == "float32" else same.float().mean() > 0.8
    for name, tolerance in (("logprobs", 1e-4), ("values", 1e-3)):
        if dtype == "float32":
            torch.testing.assert_close(graphed[name], growing[name], atol=tolerance, rtol=tolerance)
        assert graphed[name].dtype == torch.float32


def test_one_more_token_than_the_cache_holds_is_never_asked_for(without_a_gpu, small_config):
    cfg = small_config("generation.min_new_tokens=5", "dataset.max_gen_length=5")
    actor, tokenizer = policy.load_actor(cfg), policy.load_tokenizer(cfg)
    prompts, _ = problems.make_prompts(problems.load_problems(cfg.dataset, "validation")[:3], tokenizer, cfg.dataset)
    found = rollout.generate(actor, prompts, tokenizer, cfg.generation, None, "cpu")
    assert found["response_attention_mask"].tolist() == [[1] * 5] * 3


def test_a_gpu_gets_the_graph_for_models_that_can_be_recorded():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    llama = ActorCritic(LlamaForCausalLM(LlamaConfig(**SMALL)))
    assert isinstance(make_cache(llama, 4, gpu), GraphedCache)
    assert isinstance(make_cache(llama, 4, cpu), GrowingCache)
    windows = ActorCritic(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)))
    assert isinstance(make_cache(windows, 4, gpu), GrowingCache)
    experts = ActorCritic(MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=2, sliding_window=None)))
    assert isinstance(make_cache(experts, 4, gpu), GrowingCache)
    eager = ActorCritic(LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="eager"))
    assert isinstance(make_cache(eager, 4, gpu), GrowingCache)  # adds its mask instead of choosing by it
