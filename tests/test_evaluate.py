"""Intervals, explained variance and the other small numbers, against values worked out elsewhere."""

import json

import pytest
import torch

from course_utils.evaluate import evaluate, wilson_interval
from course_utils.metrics import explained_variance, masked_mean
from course_utils.policy import load_tokenizer
from course_utils.problems import Problem, make_prompts
from course_utils.samples import accuracy_in_words, accuracy_of, before_and_after, read_samples
from course_utils.train import summary


def test_wilson_interval_of_a_published_example():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263 and 15 of 148, 0 of 20, 1 of 29.
    for right, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(right, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_masked_mean_leaves_out_what_is_off_the_mask():
    assert masked_mean(torch.tensor([[1.0, 3.0, 50.0]]), torch.tensor([[1, 1, 0]])) == 2


def test_explained_variance_by_hand():
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    returns = torch.tensor([[0.0, 0.0, 1.0, 1.0, 50.0]])  # variance 1/4
    assert explained_variance(returns.clone(), returns, mask) == 1
    assert explained_variance(torch.full((1, 5), 0.7), returns, mask) == pytest.approx(0)
    # Residuals 0, 0, 0.5, 0.5: variance 1/16, so 1 - (1/16) / (1/4) = 3/4.
    assert explained_variance(returns / 2, returns, mask) == pytest.approx(0.75)
    # Residuals 0, 0, 2, 2: variance 1, so 1 - 1 / (1/4) = -3: worse than a constant.
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    # A value off the mask changes nothing.
    assert explained_variance(returns / 2 + torch.tensor([[0, 0, 0, 0, 9]]), returns, mask) == pytest.approx(0.75)
    assert explained_variance(returns, torch.ones(1, 5), mask) == 0


def test_evaluation_counts_each_way_of_being_right(small_config, monkeypatch):
    """Five answers: right, right but without the mark, well-formed but wrong twice, and nothing; two at a time."""
    cfg = small_config("ppo.batch_size=2")
    tokenizer = load_tokenizer(cfg)
    prompts, _ = make_prompts([Problem(f"{n}?", f"one\n#### {n}") for n in range(5)], tokenizer, cfg.dataset)
    answers = {"0?": "#### 0", "1?": "it is 1", "2?": "#### 8", "3?": "#### 9", "4?": "none"}

    def generated(_actor, part, _tokenizer, _generation, uniforms, _device):
        assert uniforms is None  # greedily
        return [prompt.problem.question for prompt in part]

    monkeypatch.setattr("course_utils.evaluate.generate", generated)
    monkeypatch.setattr("course_utils.evaluate.texts_of", lambda questions, _: [answers[q] for q in questions])
    result = evaluate(None, prompts, tokenizer, cfg, "cpu")
    assert (result.accuracy, result.flexible_accuracy, result.well_formed, result.count) == (0.2, 0.4, 0.6, 5)
    assert result.samples == [
        {"question": question, "gold": question[0], "response": answer, "correct": question == "0?"}
        for question, answer in answers.items()
    ]
    assert (result.low, result.high) == pytest.approx(wilson_interval(1, 5))
    assert str(result) == "20.0% [3.6%, 62.4%] of 5"  # as notebook 6 prints it


def test_samples_are_shown_escaped_and_side_by_side(tmp_path):
    for when, response, correct in (("before", "<script>1</script>\n2", False), ("after", "#### 2", True)):
        line = {"question": "<i>1+1?", "gold": "<u>2", "response": response, "correct": correct}
        (tmp_path / f"samples_{when}.jsonl").write_text(2 * (json.dumps(line) + "\n"))
    paths = [tmp_path / f"samples_{when}.jsonl" for when in ("before", "after")]
    table = before_and_after(*map(read_samples, paths), count=1)
    assert not any(tag in table for tag in ("<script>", "<i>", "<u>")) and "&lt;/script&gt;<br>2" in table
    assert 'class="mathjax_ignore tex2jax_ignore"' in table  # or the dollars of GSM8K begin and end formulas
    assert table.count("✗ wrong") == 1 and 0 < table.find("✗ wrong") < table.find("✓ right")
    assert list(map(accuracy_of, paths)) == [0, 1]
    words = summary(tmp_path)
    assert "held-out accuracy 0.0% -> 100.0%" in words
    told = "metrics.jsonl", "training.png", "samples_before.jsonl", "effective_config.yaml", "step_*", "final"
    assert all(f"  {tmp_path / name}" in words for name in told)


def test_a_line_separator_in_an_answer_does_not_end_its_line(tmp_path):
    sample = {"response": "U+2028 \u2028 and U+0085 \u0085, which JSON may hold as they are"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_samples(tmp_path / "samples.jsonl") == [sample]


def test_samples_that_are_not_there_yet_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="samples_after.jsonl is not there yet"):
        read_samples(tmp_path / "samples_after.jsonl")


def test_an_accuracy_comes_with_its_interval():
    samples = [{"correct": number < 81} for number in range(263)]  # Newcombe 1998, as above
    assert accuracy_in_words(samples) == "30.8%, 95 % interval 25.5% to 36.6% (81 of 263)"
