"""The cache that a GPU decodes with, here with its step computed instead of replayed; test_gpu.py replays it."""

from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from course_utils import decoding, policy, problems, rollout
from course_utils.decoding import GraphedCache, GrowingCache, make_cache
from course_utils.policy import ActorCritic
from tests.test_policy import ARCHITECTURES, small_actor

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
    monkeypatch.setattr(decoding, "make_cache", lambda actor, steps, device: GraphedCache(actor, steps))


@pytest.fixture
def embedded_prompts(small_config):
    """Three prompts, their tokenizer and settings of generation."""
    cfg = small_config()
    tokenizer = policy.load_tokenizer(cfg)
    three = problems.load_problems(cfg.dataset, "validation")[:3]
    return problems.make_prompts(three, tokenizer, cfg.dataset)[0], tokenizer, cfg.generation


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


WITH_LINEAR_ATTENTION = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "use_mamba_kernels": False,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
}


@pytest.mark.parametrize("architecture", WITH_LINEAR_ATTENTION)
def test_rows_leave_the_growing_cache_of_a_model_with_linear_attention(architecture):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SMALL, **WITH_LINEAR_ATTENTION[architecture])
    actor = ActorCritic(AutoModelForCausalLM.from_config(config)).eval()
    tokens, mask = torch.randint(1, 50, (3, 5)), torch.tensor([[1] * 5, [0] * 2 + [1] * 3, [0] * 4 + [1]])
    cache, rows, more = GrowingCache(actor), torch.tensor([0, 2]), torch.tensor([7, 8])
    with torch.no_grad():
        cache.read(tokens, mask)
        logits, _ = cache.go_on(more, rows)
        whole = torch.cat([tokens[rows], more[:, None]], dim=1), torch.cat([mask[rows], mask.new_ones(2, 1)], dim=1)
        expected, _ = actor(*whole, logits_to_keep=1)
    torch.testing.assert_close(logits, expected[:, 0], atol=1e-5, rtol=1e-4)


WITHOUT_OUR_CACHE = {
    "openai-gpt": {"vocab_size": 640, "n_embd": 32, "n_layer": 1, "n_head": 2},  # learned positions
    "mamba": {"vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "minimax": {**SMALL, "vocab_size": 640, "num_local_experts": 2},  # a cache of another kind
}


@pytest.mark.filterwarnings("ignore:.*without a cache, which is slow")
@pytest.mark.parametrize("architecture", WITHOUT_OUR_CACHE)
def test_a_model_without_our_kind_of_cache_is_sampled_from_too(architecture, embedded_prompts):
    """What it sampled has the log-probs that scoring gives it."""
    prompts, tokenizer, generation = embedded_prompts
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **WITHOUT_OUR_CACHE[architecture])
    actor = ActorCritic(AutoModelForCausalLM.from_config(config))
    uniforms = torch.rand(len(prompts), generation.max_new_tokens)
    buffer = rollout.generate(actor, prompts, tokenizer, generation, uniforms, "cpu")
    torch.testing.assert_close(rollout.score_logprobs(actor, buffer, 2), buffer["logprobs"], atol=1e-5, rtol=1e-5)
    assert buffer["response_attention_mask"].sum() > 3


def test_a_cache_of_another_kind_is_told_once(embedded_prompts):
    prompts, tokenizer, generation = embedded_prompts
    actor = ActorCritic(MiniMaxForCausalLM(MiniMaxConfig(**WITHOUT_OUR_CACHE["minimax"])))
    with pytest.warns(UserWarning, match="^MiniMaxForCausalLM is sampled from without a cache.*DynamicCache") as told:
        for _ in range(2):
            rollout.generate(actor, prompts, tokenizer, generation, None, "cpu")
    assert len(told) == 1


def test_memory_that_runs_out_in_the_first_read_stays_what_it_is(embedded_prompts, monkeypatch):
    prompts, tokenizer, generation = embedded_prompts
    monkeypatch.setattr(GrowingCache, "read", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(torch.OutOfMemoryError):
        rollout.generate(
            ActorCritic(LlamaForCausalLM(LlamaConfig(**SMALL))), prompts, tokenizer, generation, None, "cpu"
        )


class Waiting(TorchDispatchMode):
    """Fails where a number has to come back from a GPU, which no CUDA graph can record."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_that_is_to_be_recorded_waits_for_nothing_and_is_that_of_the_growing_cache(architecture, without_a_gpu):
    actor = small_actor(architecture)
    graphed = make_cache(actor, 2, torch.device("cuda"))
    if isinstance(graphed, GrowingCache):
        pytest.skip("is not recorded")
    tokens, mask = torch.randint(1, 50, (3, 5)), torch.tensor([[1] * 5, [0] * 2 + [1] * 3, [0] * 4 + [1]])
    growing, rows = GrowingCache(actor), torch.tensor([0, 2])  # the second row has ended
    with torch.no_grad():
        torch.testing.assert_close(graphed.read(tokens, mask), growing.read(tokens, mask))
        expected = growing.go_on(torch.tensor([7, 8]), rows)
        with Waiting():
            found = graphed.go_on(torch.tensor([7, 8]), rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_in_half_precision_the_cache_is_kept_in_it(without_a_gpu):
    """Keys come out of the rotary embeddings in float32: twice the memory, for numbers that attention rounds."""
    actor = small_actor("llama")
    actor.compute_dtype = torch.bfloat16
    graphed = GraphedCache(actor, 3)
    with torch.no_grad():
        graphed.read(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))
    assert {part.dtype for layer in graphed.cache.layers for part in (layer.keys, layer.values)} == {torch.bfloat16}


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
    alibi = ActorCritic(FalconForCausalLM(FalconConfig(**SMALL, alibi=True)))
    assert isinstance(make_cache(alibi, 4, gpu), GrowingCache)
    stretched = LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert isinstance(make_cache(ActorCritic(LlamaForCausalLM(stretched)), 4, gpu), GrowingCache)
    eager = ActorCritic(LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="eager"))
    assert isinstance(make_cache(eager, 4, gpu), GrowingCache)  # adds its mask instead of choosing by it
