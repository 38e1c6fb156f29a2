"""The actor: values that start at 0, padding that changes nothing, and any causal LM of transformers."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from course_utils import policy
from course_utils.config import ConfigError
from course_utils.exercises import load_exercises
from course_utils.trainer import Trainer

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "head_dim": 16,
}
ARCHITECTURES = {
    "llama": SMALL,
    "qwen2": SMALL,
    "mistral": SMALL,
    "gemma2": SMALL | {"sliding_window": 64},
    "phi": SMALL,
    "gpt_neox": SMALL,
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 64,
    },
    "bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}


def small_actor(architecture: str, temperature: float = 1.0) -> policy.ActorCritic:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    config.pad_token_id = config.eos_token_id = config.bos_token_id = 0
    return policy.ActorCritic(AutoModelForCausalLM.from_config(config), temperature).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_left_padding_changes_neither_logits_nor_values(architecture):
    actor = small_actor(architecture)
    torch.nn.init.normal_(actor.value_head.weight)
    tokens = torch.randint(1, 50, (1, 7))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), tokens], dim=1)
    mask = (torch.arange(12) >= 5).long().unsqueeze(0)
    with torch.no_grad():
        logits, values = actor(tokens, torch.ones_like(tokens))
        padded_logits, padded_values = actor(padded, mask)
    torch.testing.assert_close(padded_logits[:, 5:], logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded_values[:, 5:], values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sampling_token_by_token_sees_what_the_row_alone_shows(architecture):
    actor = small_actor(architecture)
    torch.nn.init.normal_(actor.value_head.weight)
    tokens = torch.randint(1, 50, (1, 7))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), tokens], dim=1)  # as pad_prompts does
    mask, cache = (torch.arange(12) >= 5).long().unsqueeze(0), DynamicCache(config=actor.model.config)
    with torch.no_grad():
        logits, values = actor(tokens, torch.ones_like(tokens))
        for seen, until in ((0, 10), (10, 11), (11, 12)):
            last_logits, last_value = actor.next_token(padded[:, seen:until], mask[:, :until], cache)
            torch.testing.assert_close(last_logits, logits[:, until - 6], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(last_value, values[:, until - 6], atol=1e-5, rtol=1e-4)


class TakesCache(torch.nn.Module):
    """As little of a model as sampling needs, with the cache under its name since transformers 5.24."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 7)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=False, cache=None):
        self.got = cache
        return SimpleNamespace(logits=self.head(torch.zeros(*input_ids.shape, 4)))


class TakesPastKeyValues(TakesCache):
    def forward(self, input_ids, attention_mask=None, use_cache=False, past_key_values=None):
        return super().forward(input_ids, cache=past_key_values)


@pytest.mark.parametrize("model", [TakesCache(), TakesPastKeyValues()], ids=lambda model: type(model).__name__)
def test_the_cache_goes_in_by_the_name_that_the_model_takes(model):
    token = torch.ones(1, 1, dtype=torch.long)
    policy.ActorCritic(model).next_token(token, token, "the cache")
    assert model.got == "the cache"


def test_rows_of_many_lengths_give_what_each_row_gives_alone():
    """Rows are sorted and shared out over several passes; each must come back to its place, with its gradient."""
    actor = small_actor("llama")
    torch.nn.init.normal_(actor.value_head.weight)
    lengths = [3, 9, 1, 12, 5, 7, 2, 11, 4, 12, 6, 1, 8, 10]
    assert len(lengths) > policy.ROWS_TOGETHER
    rows = [torch.randint(1, 50, (length,)) for length in lengths]
    tokens, mask = torch.randint(1, 50, (len(rows), 20)), torch.zeros(len(rows), 20, dtype=torch.long)
    starts = [index % 8 for index in range(len(rows))]  # padding on both sides
    for index, (row, start) in enumerate(zip(rows, starts)):
        tokens[index, start : start + len(row)], mask[index, start : start + len(row)] = row, 1
    logits, values = actor(tokens, mask)
    (logits.square().sum() + values.square().sum()).backward()
    found = [p.grad.clone() for p in actor.parameters()]
    assert (logits[mask == 0] == 0).all() and (values[mask == 0] == 0).all()

    actor.zero_grad()
    for index, (row, start) in enumerate(zip(rows, starts)):
        alone = actor.model(row[None], output_hidden_states=True)
        value = actor.value_head(alone.hidden_states[-1]).squeeze(-1)
        torch.testing.assert_close(logits[index, start : start + len(row)], alone.logits[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(values[index, start : start + len(row)], value[0], atol=1e-5, rtol=1e-4)
        (alone.logits.square().sum() + value.square().sum()).backward()
    torch.testing.assert_close(found, [p.grad for p in actor.parameters()], atol=1e-4, rtol=1e-3)


def test_a_row_without_tokens_is_harmless():
    actor = small_actor("llama")
    logits, values = actor(torch.ones(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long))
    assert (logits == 0).all() and (values == 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_positions_alone_are_the_last_positions_of_all(architecture):
    actor = small_actor(architecture)
    torch.nn.init.normal_(actor.value_head.weight)
    tokens = torch.randint(1, 50, (2, 6))
    with torch.no_grad():
        logits, values = actor(tokens, torch.ones_like(tokens))
        last_logits, last_values = actor(tokens, torch.ones_like(tokens), logits_to_keep=2)
    torch.testing.assert_close(last_logits, logits[:, -2:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(last_values, values[:, -2:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padding", [0, 1])  # rows without padding take a way of their own
def test_positions_that_nobody_reads_are_left_out_and_change_no_other(padding):
    actor = small_actor("llama")
    torch.nn.init.normal_(actor.value_head.weight)
    tokens, seen = torch.randint(1, 50, (2, 6)), []
    mask = torch.ones_like(tokens)
    mask[0, :padding] = 0
    actor.model.lm_head.register_forward_hook(lambda _head, inputs, _out: seen.append(inputs[0].shape[:-1].numel()))
    logits, values = actor(tokens, mask)
    with actor.read_from(4):
        last_logits, last_values = actor(tokens, mask)
    actor(tokens, mask)
    assert seen == [12 - padding, 4, 12 - padding]  # positions that the head computed
    torch.testing.assert_close(last_logits[:, 4:], logits[:, 4:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(last_values[:, 4:], values[:, 4:], atol=1e-6, rtol=1e-5)
    assert (last_logits[:, :4] == 0).all() and (last_values[:, :4] == 0).all()


def test_values_start_at_zero_and_the_value_head_learns():
    actor = small_actor("llama")
    tokens = torch.randint(1, 50, (2, 6))
    _, values = actor(tokens, torch.ones_like(tokens))
    assert values.shape == (2, 6) and (values == 0).all()
    (values - 1).square().mean().backward()
    assert actor.value_head.weight.grad.abs().sum() > 0


def test_logits_are_divided_by_the_temperature():
    tokens = torch.randint(1, 50, (1, 4))
    with torch.no_grad():
        cool, _ = small_actor("llama", temperature=0.5)(tokens, torch.ones_like(tokens))
        plain, _ = small_actor("llama")(tokens, torch.ones_like(tokens))
    torch.testing.assert_close(cool, 2 * plain)


def test_logits_are_those_of_the_model_itself():
    actor = small_actor("gpt2")
    tokens = torch.randint(1, 50, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(actor(tokens, torch.ones_like(tokens))[0], actor.model(tokens).logits)


def test_half_precision_computes_but_weights_gradients_and_outputs_are_float32():
    actor = small_actor("llama")
    actor.compute_dtype = torch.bfloat16
    tokens = torch.randint(1, 50, (1, 4))
    logits, values = actor(tokens, torch.ones_like(tokens))
    exact, _ = small_actor("llama")(tokens, torch.ones_like(tokens))
    assert 0 < (logits - exact).abs().max() < 0.1  # it did compute in bfloat16
    logits.square().mean().backward()
    assert {logits.dtype, values.dtype} == {torch.float32}
    assert {p.dtype for p in actor.parameters()} | {p.grad.dtype for p in actor.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "architecture, dropout",
    [
        ("gpt2", {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}),  # modules
        ("llama", {"attention_dropout": 0.5}),  # a number that the attention reads
        ("falcon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),  # asks its configuration in each pass
        ("bloom", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),  # a number of another name
    ],
)
def test_dropout_stays_off_in_training_mode(small_config, tmp_path, architecture, dropout):
    config = AutoConfig.for_model(
        architecture,
        **ARCHITECTURES[architecture],
        **dropout,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    actor = policy.load_actor(small_config(f"model.name={tmp_path / 'model'}")).train()
    tokens = torch.randint(1, 50, (2, 6))
    once, again = (actor(tokens, torch.ones_like(tokens))[0] for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)


def test_what_is_no_dropout_stays_as_it_is(small_config, tmp_path):
    """PhiMoE's router_jitter_noise is a threshold too, without training."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model("phimoe", **sizes, **experts, router_jitter_noise=0.3)
    torch.manual_seed(0)
    own = AutoModelForCausalLM.from_config(config).eval()
    own.save_pretrained(tmp_path / "model")
    ours = policy.load_actor(small_config(f"model.name={tmp_path / 'model'}")).eval()
    tokens = torch.randint(1, 50, (2, 6))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens, torch.ones_like(tokens))[0], own(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("error::FutureWarning")  # a learner would see what transformers is about to drop
def test_gradient_checkpointing_gives_the_same_gradients(small_config):
    tokens = torch.randint(2, 600, (2, 6))
    found = []
    for switch in ("true", "false"):
        actor = policy.load_actor(small_config(f"training.gradient_checkpointing={switch}")).train()
        passed = Mock(return_value=None)
        actor.model.model.layers[0].self_attn.register_forward_hook(passed)
        actor(tokens, torch.ones_like(tokens))[0].square().mean().backward()
        assert passed.call_count == (2 if switch == "true" else 1)
        found.append(actor.model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*found)


def test_an_unknown_model_says_what_to_do(small_config):
    with pytest.raises(policy.ModelError, match="no-such-owner/no-such-model.*(?s:.*)model.name=embedded"):
        policy.load_actor(small_config("model.name=no-such-owner/no-such-model"))


def cut_short(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def of_another_size(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def of_another_type(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_size": "many"}))


@pytest.mark.parametrize("damage", [cut_short, of_another_size, of_another_type])
def test_damaged_files_are_told_in_plain_words(small_config, tmp_path, damage):
    model = Path(shutil.copytree(policy.EMBEDDED_MODEL, tmp_path / "model"))
    damage(model)
    with pytest.raises(policy.ModelError, match=f"^cannot load '{model}': .*\n.*download anew"):
        policy.load_actor(small_config(f"model.name={model}"))


@pytest.mark.parametrize("lora", [0, 4])
def test_a_damaged_checkpoint_is_to_be_deleted(small_config, tmp_path, lora):
    if lora:
        pytest.importorskip("peft")
    cfg, file = small_config(f"model.lora={lora}"), "adapter_model.safetensors" if lora else "model.safetensors"
    policy.load_actor(cfg).model.save_pretrained(tmp_path / "step_1")
    (tmp_path / "step_1" / file).write_bytes(b"\0" * 100)
    with pytest.raises(policy.ModelError, match=f"^cannot load '{tmp_path}/step_1': .*\n.*delete its folder to go on"):
        policy.load_actor(cfg, tmp_path / "step_1")


def test_a_prompt_budget_beyond_the_context_is_refused(small_config):
    with pytest.raises(ConfigError, match="256"):
        policy.load_shape(small_config("dataset.max_prompt_length=300"))


def test_a_prompt_budget_beyond_the_context_is_refused_before_weights_are_read_and_a_folder_made(
    small_config, solutions, monkeypatch
):
    cfg = small_config("dataset.max_prompt_length=300")
    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights read"))
    with pytest.raises(ConfigError, match="300 and generation.max_new_tokens=24 make 324 tokens"):
        Trainer(cfg, load_exercises(solutions))
    assert not Path(cfg.training.output_dir).exists()


def test_what_a_tokenizer_lacks_is_told_with_what_is_done_instead(small_config, tmp_path):
    said = []
    policy.load_tokenizer(small_config(), said.append)
    assert not said  # the embedded model was taught without a chat template
    tokenizer = policy.load_tokenizer(small_config())
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "bare")
    cfg = small_config(f"model.tokenizer_name={tmp_path / 'bare'}")
    assert policy.load_tokenizer(cfg, said.append).pad_token_id == 1
    assert [line.partition(": ")[2] for line in said] == [
        "its end-of-sequence token pads, off the masks",
        "dataset.prompt_format, filled in, is the whole prompt",
    ]
    assert all(line.startswith(f"the tokenizer of {tmp_path / 'bare'} has no ") for line in said)


@pytest.mark.parametrize(
    "device, gpu, has_bfloat16, expected",
    [
        ("cuda", True, True, torch.bfloat16),
        ("auto", True, True, torch.bfloat16),
        ("auto", True, False, torch.float32),
        ("auto", False, True, torch.float32),
        ("cpu", True, True, torch.float32),
    ],
)
def test_the_automatic_type_is_bfloat16_on_a_gpu_that_has_it(
    device, gpu, has_bfloat16, expected, small_config, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16 or including_emulation
    )
    cfg = small_config("model.torch_dtype=auto", f"training.device={device}")
    assert policy.compute_dtype(cfg) == expected


def test_a_tokenizer_without_an_end_is_refused(small_config, tmp_path):
    tokenizer = policy.load_tokenizer(small_config())
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(policy.ModelError, match="end-of-sequence"):
        policy.load_tokenizer(small_config(f"model.tokenizer_name={tmp_path / 'endless'}"))


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])  # with a head of its own, and tied to the embedding
def test_the_reference_in_half_precision_is_the_actor_before_ppo_bit_for_bit(architecture, small_config, tmp_path):
    small_actor(architecture).model.save_pretrained(tmp_path / "model")
    cfg = small_config("model.torch_dtype=bfloat16", f"model.name={tmp_path / 'model'}")
    actor, reference = policy.load_actor(cfg), policy.load_reference(cfg)
    tokens = torch.randint(1, 50, (2, 7))
    with torch.no_grad():
        expected, found = (model(tokens, torch.ones_like(tokens))[0] for model in (actor, reference))
    assert torch.equal(found, expected)
    types = {name: weight.dtype for name, weight in reference.model.named_parameters()}
    tied = architecture == "gemma2"
    assert types[next(name for name in types if "embed_tokens" in name)] == torch.float32
    assert all(dtype == torch.bfloat16 for name, dtype in types.items() if "_proj.weight" in name)
    assert tied == ("lm_head.weight" not in types) and (tied or types["lm_head.weight"] == torch.bfloat16)
