"""Intervals, explained variance and the other small numbers, against values worked out elsewhere."""
import pytest
import torch

from course_utils.evaluate import evaluate, wilson_interval
from course_utils.metrics import explained_variance, masked_mean
from course_utils.plots import describe, draw, moving_average, new_figure, save_training_figure
from course_utils.policy import load_tokenizer
from course_utils.problems import Problem, make_prompts
from course_utils.samples import accuracy_of, before_and_after


def test_wilson_interval_of_a_published_example():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263 and 15 of 148, 0 of 20, 1 of 29.
    for right, count, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                                    (1, 29, 0.0061, 0.1718)]:
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


def test_moving_average_by_hand():
    assert moving_average([1, 2, 3, 4], window=2) == [1, 1.5, 2.5, 3.5]


HISTORY = [{"step": step, "rollout/reward_mean": step / 4, "rollout/kl": 0.5, "rollout/explained_variance": 0.1,
            "rollout/response_length": 30, "loss/policy": 0.0, "loss/value": 0.1, "loss/entropy": 0.2,
            "params/policy_clip_frac": 0.1, "params/value_clip_frac": 0.0} for step in (1, 2, 3)]


def test_the_figure_is_drawn_with_and_without_evaluations(tmp_path):
    evaluated = [*HISTORY[:-1], HISTORY[-1] | {"eval/accuracy": 0.5, "eval/low": 0.4, "eval/high": 0.6}]
    before = [HISTORY[0] | {"before/accuracy": 0.2, "before/low": 0.1, "before/high": 0.3}, *evaluated[1:]]
    for history, drawn in ((HISTORY, []), (evaluated, [[0.5]]), (before, [[0.2, 0.5]])):
        save_training_figure(history, tmp_path / "training.png")
        assert (tmp_path / "training.png").stat().st_size > 10_000
        figure = new_figure()
        draw(figure, history)
        panels = {axes.get_title().strip(): axes for axes in figure.axes if axes.get_title()}
        assert len(panels) == 8
        held_out = panels["Held-out accuracy"]
        assert [list(line.get_ydata()) for line in held_out.lines[:1]] == drawn
        assert len(held_out.containers) == len(drawn)  # the interval
        assert list(panels["Reward"].lines[0].get_ydata()) == [0.25, 0.5, 0.75]


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


def test_the_figure_is_said_in_words():
    words = describe(HISTORY)
    assert "step 3" in words and "0.25 at first" in words and "0.75 now" in words


def test_samples_are_shown_escaped_and_side_by_side(tmp_path):
    import json
    for when, response, correct in (("before", "<script>1</script>", False), ("after", "#### 2", True)):
        line = {"question": "1+1?", "gold": "2", "response": response, "correct": correct}
        (tmp_path / f"samples_{when}.jsonl").write_text(json.dumps(line) + "\n")
    table = before_and_after(tmp_path)
    assert "<script>" not in table and 0 < table.find("✗ wrong") < table.find("✓ right")
    assert (accuracy_of(tmp_path / "samples_before.jsonl"), accuracy_of(tmp_path / "samples_after.jsonl")) == (0, 1)
