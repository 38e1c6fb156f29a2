"""Sampling: the right distribution, the right mask, log-probs that scoring confirms."""

import pytest
import torch

from course_utils import policy, problems, rollout
from course_utils.rollout import collate, generate, pick, score_logprobs, texts_of


@pytest.fixture(scope="module")
def embedded():
    from course_utils.config import load_config
    from tests.conftest import ROOT

    cfg = load_config(ROOT / "configs/config_debug.yaml")
    tokenizer = policy.load_tokenizer(cfg)
    prompts, _ = problems.make_prompts(problems.load_problems(cfg.dataset, "validation")[:24], tokenizer, cfg.dataset)
    actor = policy.load_actor(cfg).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(actor.value_head.weight)
    return actor, prompts, tokenizer, cfg


def sample(embedded, rows=slice(None), greedy=False, **settings):
    from dataclasses import replace

    actor, prompts, tokenizer, cfg = embedded
    uniforms = torch.rand(len(prompts), 64, generator=torch.Generator().manual_seed(1))
    return generate(
        actor, prompts[rows], tokenizer, replace(cfg.generation, **settings), None if greedy else uniforms[rows], "cpu"
    )


def test_greedy_decoding_is_that_of_transformers(embedded):
    actor, prompts, tokenizer, cfg = embedded
    ours = sample(embedded, greedy=True)
    theirs = actor.model.generate(
        input_ids=ours["prompt_input_ids"],
        attention_mask=ours["prompt_attention_mask"],
        do_sample=False,
        max_new_tokens=64,
    )[:, ours["prompt_input_ids"].shape[1] :]
    assert torch.equal(ours["response_input_ids"], theirs)


def test_the_mask_ends_with_the_end_token_by_position(embedded):
    tokenizer = embedded[2]
    buffer = sample(embedded)
    lengths = set()
    for ids, mask in zip(buffer["response_input_ids"], buffer["response_attention_mask"]):
        ended = (ids == tokenizer.eos_token_id).nonzero()
        length = ended[0].item() + 1 if len(ended) else len(ids)
        assert mask.tolist() == [1] * length + [0] * (len(ids) - length)
        lengths.add(length)
    assert len(lengths) > 3  # rows of many lengths, so the check says something


def test_the_end_token_stays_in_the_mask_when_it_is_also_the_pad_token(embedded):
    actor, prompts, tokenizer, cfg = embedded
    before = tokenizer.pad_token
    try:
        tokenizer.pad_token = tokenizer.eos_token
        shared = sample(embedded)
    finally:
        tokenizer.pad_token = before
    assert torch.equal(shared["response_attention_mask"], sample(embedded)["response_attention_mask"])


def test_logprobs_and_values_of_sampling_are_those_of_one_row_scored_alone(embedded):
    actor, prompts, _, _ = embedded
    buffer = sample(embedded)
    for row in range(0, 24, 5):
        length = buffer["response_attention_mask"][row].sum()
        response = buffer["response_input_ids"][row, :length]
        whole = torch.cat([torch.tensor(prompts[row].input_ids), response]).unsqueeze(0)  # no padding at all
        with torch.no_grad():
            logits, values = actor(whole, torch.ones_like(whole))
        start = len(prompts[row].input_ids) - 1
        expected = torch.distributions.Categorical(logits=logits[0, start:-1].double()).log_prob(response)
        torch.testing.assert_close(buffer["logprobs"][row, :length].double(), expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(buffer["values"][row, :length], values[0, start:-1], atol=1e-4, rtol=1e-3)


def test_scoring_gives_the_logprobs_of_sampling_and_zeros_off_the_mask(embedded):
    buffer = sample(embedded)
    scored = score_logprobs(embedded[0], buffer, chunk=7)
    torch.testing.assert_close(scored, buffer["logprobs"], atol=2e-5, rtol=1e-4)
    assert (scored[buffer["response_attention_mask"] == 0] == 0).all()


def test_a_response_does_not_depend_on_the_rows_beside_it(embedded, monkeypatch):
    monkeypatch.setattr(embedded[0], "temperature", 2.0)  # so that other random numbers would give other tokens
    together = sample(embedded)
    lengths = together["response_attention_mask"].sum(1)
    for row in (9, 23):
        assert lengths[:row].min() < lengths[row]  # a row before it ended and left the batch
        alone = sample(embedded, rows=slice(row, row + 1))
        length = alone["response_attention_mask"].sum()
        assert torch.equal(together["response_input_ids"][row, :length], alone["response_input_ids"][0])
        assert together["response_attention_mask"][row].sum() == length


def test_no_response_ends_before_min_new_tokens(embedded):
    free = sample(embedded, min_new_tokens=0)["response_attention_mask"].sum(1)
    held = sample(embedded, min_new_tokens=40)["response_attention_mask"].sum(1)
    assert free.min() < 40 and held.min() == 41  # 40 tokens and the end token


def test_pick_takes_the_token_where_the_cumulated_probability_passes():
    probs = torch.tensor([[0.2, 0.0, 0.5, 0.3]] * 6)  # cumulated 0.2, 0.2, 0.7, 1.0
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999])
    assert pick(probs, uniforms).tolist() == [0, 0, 2, 2, 3, 3]
    assert pick(torch.tensor([[0.0, 0.4, 0.6]]), torch.tensor([0.0])).item() == 1  # never a token that cannot come
    left = torch.tensor([[0.0, 0.2, 0.0, 0.3]] * 4)  # what does not sum to 1 is scaled: the shares are 0.4 and 0.6
    assert pick(left, torch.tensor([0.0, 0.39, 0.41, 0.9999999])).tolist() == [1, 1, 3, 3]


def test_pick_follows_the_probabilities():
    probs = torch.tensor([0.1, 0.6, 0.3])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(pick(probs.expand(20_000, 3), uniforms)) / 20_000
    torch.testing.assert_close(shares, probs, atol=0.015, rtol=0)  # four standard deviations


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"top_k": 4, "top_p": 1e-6}])
def test_sampling_among_the_likeliest_alone_is_greedy_decoding(embedded, settings):
    assert torch.equal(
        sample(embedded, **settings)["response_input_ids"], sample(embedded, greedy=True)["response_input_ids"]
    )


def test_top_k_and_top_p_keep_the_likeliest_tokens_and_no_others(embedded, monkeypatch):
    monkeypatch.setattr(embedded[0], "temperature", 4.0)  # so that every kept token comes up

    def drawn(**settings):
        """Of each sampled token, how many are likelier, and how much of the probability they have together."""
        buffer = sample(embedded, **settings)
        with torch.no_grad():
            logits, _ = embedded[0](*rollout.whole_texts(buffer))
        probs = logits[:, buffer["prompt_input_ids"].shape[1] - 1 : -1].softmax(-1)  # (B, R, V)
        likelier = probs > probs.gather(-1, buffer["response_input_ids"].unsqueeze(-1)) + 1e-6  # but for rounding
        mask = buffer["response_attention_mask"].bool()
        return likelier.sum(-1)[mask], (likelier * probs).sum(-1)[mask]

    ranks, _ = drawn(top_k=3)
    assert set(ranks.tolist()) == {0, 1, 2}
    ranks, before = drawn(top_p=0.5)
    assert 0.45 < before.max() < 0.5 and ranks.max() > 3
    ranks, before = drawn(top_k=3, top_p=0.5)  # a half of what top-k left
    assert ranks.max() <= 2 and before.max() < 0.5
    ranks, _ = drawn()
    assert ranks.max() > 100


def test_collate_pads_prompts_on_the_left_and_responses_on_the_right():
    def buffer(prompt, response):
        row = {
            "prompt_input_ids": prompt,
            "prompt_attention_mask": [1] * len(prompt),
            "response_input_ids": response,
            "response_attention_mask": [1] * len(response),
        }
        return {name: torch.tensor([ids]) for name, ids in row.items()} | {"values": torch.ones(1, len(response))}

    joined = collate([buffer([5], [6, 7, 8]), buffer([3, 4], [9])], pad_id=1)
    assert joined["prompt_input_ids"].tolist() == [[1, 5], [3, 4]]
    assert joined["prompt_attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert joined["response_input_ids"].tolist() == [[6, 7, 8], [9, 1, 1]]
    assert joined["response_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert joined["values"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_texts_are_cut_at_the_end_token(embedded):
    tokenizer = embedded[2]
    ids = torch.tensor([tokenizer.encode(" #### 9<|end|>") + tokenizer.encode(" 5")])
    mask = torch.tensor([[1] * (ids.shape[1] - 2) + [0, 0]])
    assert texts_of({"response_input_ids": ids, "response_attention_mask": mask}, tokenizer) == [" #### 9"]


def test_batches_of_a_rollout_join_in_the_order_of_the_prompts(embedded):
    from dataclasses import replace

    actor, prompts, tokenizer, cfg = embedded
    uniforms = torch.rand(24, 64, generator=torch.Generator().manual_seed(1))
    small = replace(cfg, ppo=replace(cfg.ppo, batch_size=7))
    joined = rollout.collect(actor, prompts, tokenizer, small, uniforms, "cpu")
    whole = sample(embedded)
    assert torch.equal(joined["response_input_ids"], whole["response_input_ids"])
    assert torch.equal(joined["prompt_input_ids"], whole["prompt_input_ids"])
