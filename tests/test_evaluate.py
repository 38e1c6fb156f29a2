"""Intervals, explained variance and the other small numbers, against values worked out elsewhere."""

import json

import pytest
import torch

from course_utils.evaluate import evaluate, wilson_interval
from course_utils.metrics import explained_variance, masked_mean
from course_utils.policy import load_tokenizer
from course_utils.problems import Problem, make_prompts
from course_utils.samples import accuracy_in_words, accuracy_of, before_and_after, read_samples


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
    """Four answers: right, right but without the mark, well-formed but wrong, and nothing."""
    cfg = small_config("dataset.eval_samples=4")
    tokenizer = load_tokenizer(cfg)
    prompts, _ = make_prompts([Problem("?", "one\n#### 7")] * 4, tokenizer, cfg.dataset)
    texts = iter([["#### 7", "it is 7", "#### 8", "none"]])
    monkeypatch.setattr("course_utils.evaluate.generate", lambda *_: None)
    monkeypatch.setattr("course_utils.evaluate.texts_of", lambda *_: next(texts))
    result = evaluate(None, prompts, tokenizer, cfg, "cpu")
    assert (result.accuracy, result.flexible_accuracy, result.well_formed, result.count) == (0.25, 0.5, 0.5, 4)
    assert [sample["correct"] for sample in result.samples] == [True, False, False, False]
    assert result.low == pytest.approx(wilson_interval(1, 4)[0])


def test_samples_are_shown_escaped_and_side_by_side(tmp_path):
    for when, response, correct in (("before", "<script>1</script>", False), ("after", "#### 2", True)):
        line = {"question": "1+1?", "gold": "2", "response": response, "correct": correct}
        (tmp_path / f"samples_{when}.jsonl").write_text(json.dumps(line) + "\n")
    paths = [tmp_path / f"samples_{when}.jsonl" for when in ("before", "after")]
    table = before_and_after(*map(read_samples, paths))
    assert "<script>" not in table and 0 < table.find("✗ wrong") < table.find("✓ right")
    assert list(map(accuracy_of, paths)) == [0, 1]


def test_samples_that_are_not_there_yet_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="samples_after.jsonl is not there yet"):
        read_samples(tmp_path / "samples_after.jsonl")


def test_an_accuracy_comes_with_its_interval():
    samples = [{"correct": number < 81} for number in range(263)]  # Newcombe 1998, as above
    assert accuracy_in_words(samples) == "30.8%, 95 % interval 25.5% to 36.6% (81 of 263)"
