"""check(): passes every solution, is not fooled, and names the slip in each of many wrong variants."""

import linecache
import re
import subprocess
import sys
import textwrap
import warnings

import nbformat
import pytest
import torch

from autograder.misconceptions import named, wrong_source
from course_utils import stand_ins
from course_utils.check import check
from course_utils.checks.criteria import CRITERIA
from course_utils.checks.minibatch_parts import PARTS
from course_utils.exercises import EXERCISES, LOSSES, load_exercises
from course_utils.export import header
from tests.right_solutions import right_solutions
from tests.solutions import (
    ROOT,
    define,
    edited,
    run_cell,
    solution,
    solution_cells,
    solution_source,
    stub,
    stub_source,
)
from tests.wild_numbers import WRONG_ON_WILD_NUMBERS, wrong_on_wild_numbers

# (misconception, the criterion that fails, words of its advice); the edits are in autograder/misconceptions
WRONG = {
    "policy_loss": [
        ("sign", "worked_example", "Only the sign is wrong"),
        ("sum for mean", "worked_example", "You summed"),
        ("divided by all positions", "worked_example", "all 8 positions"),
        ("mean of means", "worked_example", "every response token weighs the same"),
        ("ratio upside down", "worked_example", "upside down"),
        ("mask as an index", "worked_example", "You index with the mask"),
        ("no clipping", "clipping", "ratio is above 1 + ε"),
        ("clipped always", "clipping", "0.8 · 2, not clipped"),
        ("max for min", "clipping", "The minimum is between"),
        ("clipped above only", "clipping", "ratio is below 1 − ε"),
        ("minimum of ratios", "clipping", "not between ratios"),
        ("0.2 written down", "clipping", "whatever clip_ratio is given"),
        ("no mask", "masking", "Multiply each per-token quantity"),
        ("detached", "gradient", "the loss carries no gradient"),
        ("clip_frac of one side", "metrics", "on both sides"),
        ("sign of the KL", "metrics", "it is old − new"),
        ("k2", "metrics", "This is k2"),
        ("k3", "metrics", "This is k3"),
        ("KL with gradient", "metrics", "approx_kl carries a gradient"),
        ("metric as a float", "metrics", "without .item()"),
        ("loss alone", "worked_example", "it returned a Tensor; it must return (loss, clip_frac, approx_kl)"),
        ("nothing returned", "worked_example", "is the `return` at the end"),
        ("one loss a token", "worked_example", "loss has shape (2, 4)"),
        ("advantages masked in place", "masking", "changed its argument advantages in place"),
    ],
    "value_loss": [
        ("relative range", "worked_example", "Your range grows with the old value"),
        ("relative range", "clipping", "moved up by 1.5 from 2"),
        ("relative range, of the size", "clipping", "moved up by 1.5 from 2"),
        ("no half", "worked_example", "The factor ½ is missing"),
        ("mask as an index", "worked_example", "You index with the mask"),
        ("clipped around the return", "worked_example", "your clip has no effect on this mean"),
        ("larger of two means", "worked_example", "your clip has no effect on this mean"),
        ("divided by all positions", "worked_example", "all 8 positions"),
        ("smaller error", "worked_example", "You took the smaller"),
        ("no clipping", "clipping", "v_clipped = 1.5"),
        ("clipped always", "clipping", "v overshot"),
        ("clipped above only", "clipping", "v moved down"),
        ("clipped around the return", "clipping", "The clip is around values_old"),
        ("no mask", "masking", "Multiply each per-token quantity"),
        ("sign", "worked_example", "Only the sign is wrong"),
        ("mean of means", "worked_example", "every response token weighs the same"),
        ("no mask", "worked_example", "Padding counts in yours"),
        ("metric over padding", "masking", "vf_clip_frac changes with the numbers on the padding"),
        ("detached", "gradient", "gradient by values_new"),
        ("counts every move", "metrics", "not wherever the value"),
        ("equal errors count", "metrics", "not where both errors are equal"),
    ],
    "entropy": [
        ("sign", "worked_example", "Only the sign is wrong"),
        ("bits", "worked_example", "bits"),
        ("mean over the vocabulary", "worked_example", "averaged over the vocabulary"),
        ("sum over the tokens", "worked_example", "You summed over the tokens"),
        ("mean of means", "worked_example", "every response token weighs the same"),
        ("mean over the responses", "worked_example", "You divided by the 2 responses"),
        ("no mask", "worked_example", "Padding is averaged in"),
        ("softmax over the tokens", "worked_example", "token by token"),
        ("no mask", "masking", "Multiply the entropies"),
        ("log of softmax", "stability", "softmax() underflows"),
        ("no float32", "stability", "it must be float32"),
        ("float32 too late", "stability", "not the result after"),
        ("probabilities detached", "gradient", "do not detach them"),
        ("all detached", "gradient", "carries no gradient"),
    ],
    "gae": [
        ("penalty added", "token_rewards", "a penalty is subtracted"),
        ("no penalty", "token_rewards", "The KL penalties are missing"),
        ("reward in the last column", "token_rewards", "not in the last column"),
        ("reward at every token", "token_rewards", "final reward on top"),
        ("returns without values", "token_rewards", "raw advantages + values"),
        ("from the first token", "token_rewards", "δ = r + γ · next value − value"),
        ("value of the padding after the end", "recursion", "Does the value on the padding leak in?"),
        ("gamma forgotten", "recursion", "Go from the last token"),
        ("lambda forgotten", "recursion", "Go from the last token"),
        ("from the first token", "recursion", "Go from the last token"),
        ("returns of whitened advantages", "token_rewards", "advantages before whitening"),
        ("returns of whitened advantages", "recursion", "advantages before whitening"),
        ("not whitened", "whitening", "These are the raw advantages"),
        ("unbiased variance", "whitening", "n − 1 = 5"),
        ("mean not subtracted", "whitening", "The mean is missing"),
        ("whitened row by row", "whitening", "each response by itself"),
        ("whitened over padding", "whitening", "Subtract the response tokens' mean"),
        ("junk whitened in", "whitening", "Do the mean and the variance include the padding?"),
        ("padding moved off 0", "whitening", "mask once more"),
        ("no eps", "whitening", "add 1e-8"),
        ("penalty on padding", "masking", "Mask the penalties"),
        ("empty row ends in its last column", "masking", "A row whose mask is empty"),
        ("with gradient", "no_gradient", "returns carries a gradient"),
        ("values changed", "token_rewards", "values in place"),
    ],
    "minibatch_update": [
        ("one position late", "forward", "one position late"),
        ("one position too many", "forward", "values_new has shape (2, 5)"),
        ("log-prob of the wrong token", "forward", "gathered at response_input_ids"),
        ("response without prompt", "forward", "prompt_input_ids followed by response_input_ids"),
        ("prompt not masked", "forward", "prompt_attention_mask followed by"),
        ("reference for old", "losses", 'must be the buffer\'s "logprobs"'),
        ("advantages as returns", "losses", "returns of compute_value_loss"),
        ("one clip for both", "losses", "it must be cfg.ppo.clip_range_value"),
        ("entropy subtracted", "losses", "has its minus sign already"),
        ("no vf_coeff", "losses", "step of the values"),
        ("policy left out", "losses", "step of the logit of A's first token"),
        ("not shuffled", "minibatches", "in the same order"),
        ("advantages of other responses", "losses", 'must be the buffer\'s "advantages" of this'),
        ("only tokens shuffled", "losses", 'must be the buffer\'s "logprobs" of this'),
        ("neighbours stay together", "minibatches", "the same responses are in a mini-batch each time"),
        ("shuffled by another generator", "minibatches", "the same seed gives two orders"),
        ("remainder dropped", "minibatches", "each of 0 to 4 must be, once"),
        ("divided by the steps", "minibatches", "Weigh a mini-batch"),
        ("not weighed", "minibatches", "Weigh a mini-batch"),
        ("no zero_grad", "minibatches", "call zero_grad after each step"),
        ("last group not stepped", "step", "three times optimizer.step()"),
        ("scheduler forgotten", "step", "then lr_scheduler.step()"),
        ("scheduler at each mini-batch", "step", "Yours: lr_scheduler.step, lr_scheduler.step, optimizer.step"),
        ("zero_grad only at the start", "step", "gradients are left"),
        ("no gradient clipping", "step", "Call nn.utils.clip_grad_norm_"),
        ("clipped at each mini-batch", "step", "complete, before optimizer.step()"),
        ("weighed total logged", "metrics", "before it is weighed"),
        ("metric missing", "metrics", "lacks params/approx_kl"),
        ("metric as a tensor", "metrics", "loss/total is a Tensor"),
        ("entropy loss logged", "metrics", "the entropy itself"),
        ("norm after clipping", "metrics", "the norm after clipping"),
    ],
}


def wrong(key: str, name: str):
    """The solution with this misconception."""
    return define(key, wrong_source(key, named(key, name)))


FIFTH = list(solution_cells("minibatch_update").values())


def fifth_notebook(*cells: str) -> dict:
    """What a notebook's kernel holds after the imports of exercise 5 and these cells."""
    notebook = dict(stub("minibatch_update").__globals__)
    for name in (*EXERCISES["minibatch_update"].parts, EXERCISES["minibatch_update"].function):
        del notebook[name]
    for cell in cells:
        run_cell(cell, notebook)
    return notebook


def part(name: str):
    return fifth_notebook(*FIFTH)[name]


def failure(function, criterion: str) -> str:
    """The advice of one criterion, which must fail, and must be among those that the report names."""
    with pytest.raises(AssertionError) as all_of_it:
        check(function)
    assert re.search(rf"\b{criterion}\b", str(all_of_it.value)), all_of_it.value
    with pytest.raises(AssertionError) as caught:
        check(function, criterion)
    return str(caught.value)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_solution_passes(key, capsys):
    check(solution(key))
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["✓"] * len(CRITERIA[key])
    for criterion in CRITERIA[key]:
        check(solution(key), criterion.__name__)


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        (
            "policy_loss",
            "torch.min(ratio * advantages, clipped_ratio * advantages)",
            "-torch.max(-ratio * advantages, -clipped_ratio * advantages)",
        ),
        (
            "value_loss",
            "torch.clamp(values_new, low, high)",
            "values_old + (values_new - values_old).clamp(-clip_range_value, clip_range_value)",
        ),
        ("value_loss", "(error_clipped > error).float()", "torch.gt(error_clipped, error).to(values_new)"),
        ("minibatch_update", "F.log_softmax(logits, dim=-1)", "logits - logits.logsumexp(-1, keepdim=True)"),
        (
            "minibatch_update",
            "(total * len(rows) / group_size).backward()",
            "total.backward(torch.tensor(len(rows) / group_size))",
        ),
        (
            "minibatch_update",
            "lr_scheduler.step()",
            "assert isinstance(lr_scheduler, torch.optim.lr_scheduler.LRScheduler)\n"
            "        lr_scheduler.step()\n"
            "        lr_scheduler.get_last_lr()",
        ),
    ],
)
def test_a_right_solution_written_otherwise_passes(key, old, new):
    check(edited(key, (old, new)))


SLIPS = {  # of newcomers, each once told in words that sent them to another line
    "the number of pieces": (
        "minibatch_update",
        ("order.split(", "order.chunk("),
        "forward",
        "then [",
    ),
    "one forward pass": (
        "minibatch_update",
        ("mini_batches = order.split(ppo.mini_batch_size)", "mini_batches = [order]"),
        "minibatches",
        "the actor was asked about 12 responses in one call, where mini_batch_size is 3",
    ),
    "the scheduler is told the loss": (
        "minibatch_update",
        ("lr_scheduler.step()", "lr_scheduler.step(total)"),
        "step",
        "nothing between its brackets",
    ),
    "whitened by a variance": (
        "policy_loss",
        (
            "    log_ratio = ",
            "    mean = (advantages * response_mask).sum() / tokens\n"
            "    variance = ((advantages - mean) ** 2 * response_mask).sum() / tokens\n"
            "    advantages = (advantages - mean) * torch.rsqrt(variance + 1e-8)\n"
            "    log_ratio = ",
        ),
        "clipping",
        "They come whitened; use them as they are.",
    ),
    "the policy loss a response": (
        "policy_loss",
        ("(surrogate * response_mask).sum() / tokens", "(surrogate * response_mask).sum() / len(surrogate)"),
        "worked_example",
        "You divided by the 2 responses; divide by the 6 response tokens.",
    ),
    "the value loss a response": (
        "value_loss",
        ("response_mask).sum() / tokens\n    larger", "response_mask).sum() / len(error)\n    larger"),
        "worked_example",
        "You divided by the 2 responses; divide by the 6 response tokens.",
    ),
    "δ upside down": (
        "gae",
        ("gamma * next_value - values[:, t]", "gamma * values[:, t] - next_value"),
        "token_rewards",
        "If they are right, look at δ = r + γ · next value − value",
    ),
    "mean() and var()": (
        "gae",
        (
            "(raw - raw.sum() / tokens) * response_mask\n    variance = (centered**2).sum() / tokens",
            "(raw - raw.mean()) * response_mask\n    variance = raw.var()",
        ),
        "whitening",
        "Do the mean and the variance include the padding?",
    ),
    "all epochs": (
        "minibatch_update",
        ("    order = torch", "    for _ in range(ppo.epochs):\n        pass\n    order = torch"),
        "forward",
        "The trainer calls this function once for each of ppo.epochs: write one pass.",
    ),
}
# What says all that is to be said: no hint speaks of it.
WITHOUT_A_HINT = (
    "it returned None: is the `return`",
    "it must return (",
    "return a tensor, without .item()",
    "in place; the caller still needs it",
    "it must be cfg.ppo.",
)


@pytest.mark.parametrize("name", SLIPS)
def test_a_newcomers_slip_is_told_where_it_is(name):
    key, change, criterion, words = SLIPS[name]
    assert words in failure(edited(key, change), criterion)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_stub_says_that_it_is_to_be_written(key):
    message = f"exercise {EXERCISES[key].number} is not written yet: fill in {EXERCISES[key].function} above"
    for criterion in [None, *(c.__name__ for c in CRITERIA[key])]:
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            check(stub(key), criterion)


@pytest.mark.parametrize(
    ("key", "name", "criterion", "words"),
    [pytest.param(key, *variant, id=f"{key}: {variant[0]}") for key in WRONG for variant in WRONG[key]],
)
def test_a_misconception_is_found_explained_and_named(key, name, criterion, words):
    message = failure(wrong(key, name), criterion)
    assert words in message
    hint = re.search(r"See hint \d|hint \d lists the steps", message, re.IGNORECASE)
    assert (hint is None) == any(said in message for said in WITHOUT_A_HINT)
    assert f"→ This is a known mistake, “{name}”: {named(key, name).advice}" in message


def hints(key: str) -> dict[str, str]:
    """What each hint of an exercise says, by its number, in exercise 5 "2 of part 1"."""
    [cell] = [cell for cell in nbformat.read(ROOT / EXERCISES[key].notebook, 4).cells if cell.id == "hints"]
    texts = {}
    for summary, text in re.findall(r"<summary>(.*?)</summary>(.*?)(?=<summary>|$)", cell.source, re.DOTALL):
        if title := re.match(r"Hint (\d)", summary):
            number = title[1]
            texts[number] = text
        for part in re.findall(r"\d", "" if title else summary):
            texts[f"{number} of part {part}"] = text
    return texts


@pytest.mark.parametrize(
    ("key", "change", "criterion", "hint", "speaks_of"),
    [
        ("policy_loss", ("(ratio - 1).abs() >", "(ratio - 1) >"), "metrics", "3", "(ratio - 1).abs() > clip_ratio"),
        ("policy_loss", ("(ratio - 1).abs() >", "log_ratio.abs() >"), "metrics", "3", "(ratio - 1).abs() > clip_ratio"),
        (
            "policy_loss",
            ("-log_ratio.detach().sum()", "(log_ratio.detach() ** 2 / 2).sum()"),
            "metrics",
            "1",
            "without an absolute value or a square",
        ),
        (
            "policy_loss",
            ("-log_ratio.detach().sum()", "(ratio - 1 - log_ratio).detach().sum()"),
            "metrics",
            "1",
            "mean of old minus new",
        ),
        (
            "gae",
            ("returns = raw + values", "returns = (raw + values).to(response_mask.dtype)"),
            "no_gradient",
            "3",
            "zeros_like(values)",
        ),
        ("minibatch_update", ("values[:, first:-1]", "values[:, first:]"), "forward", "2 of part 1", "P − 1"),
        ("minibatch_update", ('batch["values"]', 'batch["returns"]'), "losses", "2 of part 2", "`values`"),
        ("minibatch_update", ("number.item()", "number"), "metrics", "3 of part 2", ".item()"),
        ("minibatch_update", ("norm.item()", "norm"), "metrics", "3 of part 3", "returns the norm"),
        ("minibatch_update", ("-entropy, total", "entropy, total"), "metrics", "1 of part 2", "minus its loss"),
        ("minibatch_update", ("lr_scheduler.step()", "pass"), "step", "2 of part 3", "lr_scheduler.step()"),
    ],
)
def test_the_hint_that_is_named_speaks_of_it(key, change, criterion, hint, speaks_of):
    assert f"See hint {hint}." in failure(edited(key, change), criterion)
    assert speaks_of in hints(key)[hint]


def test_in_exercise_5_each_hint_is_named_with_its_part():
    for module in ("minibatch_parts", "minibatch_update"):
        source = (ROOT / f"course_utils/checks/{module}.py").read_text()
        named = re.findall(r"\bhint (\d(?: of part [\d{]\w*}?)?)", source, re.IGNORECASE)
        assert named and set(named) <= {*hints("minibatch_update"), "3 of part {part}"} - set("123")


@pytest.mark.parametrize(
    "loss, words",
    [
        # Both are right on the worked example. Each response's mean, weighed by its tokens: 0 / 0 where it has none.
        (
            "((surrogate * response_mask).sum(1) / response_mask.sum(1) * response_mask.sum(1)).sum() / tokens",
            "loss beside a response without tokens: yours nan",
        ),
        (
            "(surrogate * response_mask * (response_mask.sum(1, keepdim=True) > 1)).sum() / tokens",
            "loss beside a response of a single token",
        ),
    ],
)
def test_a_policy_loss_that_is_lost_on_short_responses_is_found_out(loss, words):
    function = edited("policy_loss", ("loss = -(surrogate * response_mask).sum() / tokens", f"loss = -{loss}"))
    assert words in failure(function, "masking")


@pytest.mark.parametrize("key", EXERCISES)
def test_every_criterion_fails_for_some_variant(key):
    assert {variant[1] for variant in WRONG[key]} == {criterion.__name__ for criterion in CRITERIA[key]}


@pytest.mark.parametrize("name", [exercise.function for exercise in EXERCISES.values()])
def test_a_stand_in_is_no_solution(name):
    with pytest.raises(AssertionError):
        check(getattr(stand_ins, name))


# ------------------------------------------------------------------ the report


def test_a_report_has_a_line_for_each_criterion_and_both_numbers(capsys):
    with pytest.raises(AssertionError, match="1 of 5 criteria do not hold yet: metrics"):
        check(wrong("policy_loss", "sign of the KL"))
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if not line.startswith(" ")] == ["✓"] * 4 + ["✗", "→"]
    assert "    approx_kl: yours -0.156668, target 0.156668" in lines
    assert lines[-2].startswith("→ This is a known mistake, “sign of the KL”: approx_kl has the wrong sign")


def test_several_failures_are_to_be_taken_in_order(capsys):
    with pytest.raises(AssertionError, match="4 of 4 criteria"):
        check(wrong("entropy", "sign"))
    report = capsys.readouterr().out
    assert "Begin with the first ✗" in report
    assert report.count("See hint") == 1  # what is said of the others may be about what is right


def test_a_graded_cell_sends_to_the_first_criterion_that_fails():
    """A wrong δ: the returns are wrong, and the advantages that are made of them too."""
    wrong_delta = edited("gae", ("rewards[:, t] + gamma * next_value", "rewards[:, t] - 3 * gamma * next_value"))
    assert "Begin with" not in failure(wrong_delta, "token_rewards")
    message = failure(wrong_delta, "whitening")
    assert message.endswith("Begin with token_rewards: it does not hold either, and this may only follow from it.")


def test_a_graded_cell_that_names_the_mistake_sends_nowhere_else():
    assert "Begin with" not in failure(wrong("entropy", "sign"), "gradient")


def test_warnings_of_torch_do_not_stand_in_the_report(capsys):
    """A standard deviation of one token is one of them."""
    warned = edited("gae", ("    return ", "    torch.ones(1).std()\n    return "))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(warned)
    assert "✗" not in capsys.readouterr().out
    with warnings.catch_warnings(record=True) as said, pytest.raises(AssertionError, match="criteria do not hold yet"):
        warnings.simplefilter("always")
        check(edited("gae", ("(centered**2).sum() / tokens", "raw.var()")))
    assert not said  # nor of the search for a known mistake


def test_a_failure_shows_no_traceback():
    with pytest.raises(AssertionError) as caught:
        check(wrong("entropy", "sign"))
    lines = caught.value._render_traceback_()  # what IPython shows
    assert len(lines) == 1 and lines[0].startswith("AssertionError: compute_entropy_loss: 4 of 4 criteria")


def test_an_exception_is_told_with_the_line_of_the_cell():
    source = solution_source("entropy").replace("(entropy * response_mask)", "(entropy @ response_mask)")
    line = 1 + source[: source.index("mean_entropy =")].count("\n")
    message = failure(define("entropy", source), "worked_example")
    assert "it raised RuntimeError: " in message
    assert f"in line {line} of its cell: mean_entropy = (entropy @" in message


def test_a_bare_assert_of_the_learners_counts_as_a_failure():
    function = edited("entropy", ("log_probs = F", "assert 1 == 2\n    log_probs = F"))
    message = failure(function, "worked_example")
    assert "it raised AssertionError" in message and "assert 1 == 2" in message


def test_torch_saying_not_implemented_is_not_taken_for_the_stub():
    with pytest.raises(NotImplementedError):
        torch.empty(1, device="meta").cpu()
    function = edited("entropy", ("log_probs = F", 'torch.empty(1, device="meta").cpu()\n    log_probs = F'))
    assert "it raised NotImplementedError: Cannot copy" in failure(function, "worked_example")


def test_a_stub_without_source_is_told_from_other_errors():
    namespace = dict(stub("entropy").__globals__)
    exec("def compute_entropy_loss(logits_new, response_mask):\n    raise NotImplementedError()", namespace)
    with pytest.raises(NotImplementedError, match="fill in compute_entropy_loss above"):
        check(namespace["compute_entropy_loss"])


def test_part_of_an_exercise_left_open_is_named():
    for function, (own, *others) in (("response_outputs", FIFTH), ("minibatch_loss", [FIFTH[1], FIFTH[0], FIFTH[2]])):
        with pytest.raises(NotImplementedError, match=f"fill in {function} above"):
            check(define("minibatch_update", stub_source(own), *others))


def test_other_arguments_are_refused():
    function = edited("entropy", ("response_mask: Tensor)", "response_mask: Tensor, scale=1.0)"))
    with pytest.raises(AssertionError, match=r"scale\); they must stay \(logits_new, response_mask\)"):
        check(function)


RETURN = "    return loss, clip_frac, approx_kl"
LEFTOVER = f"    if True:\n    {RETURN}\n    raise NotImplementedError()"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: source.replace(RETURN, LEFTOVER), r"line \d+: still unsolved"),
        (
            lambda source: f"from __future__ import annotations\n{source}",
            "line 1: syntax error: from __future__",
        ),
        (
            lambda source: f"from course_utils.worked_example import worked_example\n{source}",
            "line 1: course_utils is not there where this is graded",
        ),
        (lambda source: "if True:\n" + textwrap.indent(source, "    "), "function missing: .* at its left margin"),
    ],
    ids=["a raise is left", "from __future__", "the course is imported", "under an if"],
)
def test_what_the_export_would_refuse_is_found_out_here(change, words):
    """The notebook runs it, and it is right: without this it would have no points and nobody would know why."""
    source = change(solution_source("policy_loss"))
    with pytest.raises(AssertionError, match=f"cannot be handed in as it stands: {words}"):
        check(define("policy_loss", source))


def test_an_unknown_function_or_criterion_is_refused():
    with pytest.raises(ValueError, match="no exercise has a function solution; check.. knows compute_pol"):
        check(solution)
    with pytest.raises(ValueError, match="minibatch_loss has no criterion 'step'; it has arguments, total, metrics"):
        check(part("minibatch_loss"), "step")
    with pytest.raises(ValueError, match="compute_entropy_loss has no criterion 'clipping'; it has work"):
        check(solution("entropy"), "clipping")


def test_what_the_picture_in_the_readme_shows_is_so():
    """docs/site/graded_cell.py takes it."""
    unclipped = "torch.min(ratio * advantages, clipped_ratio * advantages)", "ratio * advantages"
    assert all(f'"{text}"' in (ROOT / "docs/site/graded_cell.py").read_text() for text in unclipped)
    assert "→ This is a known mistake, “no clipping”" in failure(edited("policy_loss", unclipped), "clipping")
    check(edited("policy_loss", unclipped), "masking")


# ------------------------------------------------------------------ as strict as the judge


def test_a_number_of_the_notebooks_that_is_written_down_is_found(capsys):
    written_down = edited("minibatch_update", ("ppo.clip_ratio", "0.2"))
    assert "clip_ratio of compute_policy_loss is 0.2; it must be cfg.ppo.clip_ratio" in failure(written_down, "losses")
    range_written_down = edited("minibatch_update", ("ppo.clip_range_value", "0.2"))
    assert "one clip for both" not in failure(range_written_down, "losses")
    assert "known mistake" not in capsys.readouterr().out


def test_processes_are_not_allowed():
    """Nor are they in the sandbox, where starting one fails with an error of the operating system."""
    loading = right_solutions("minibatch_update")["DataLoader"].replace("shuffle=True", "shuffle=True, num_workers=2")
    assert "num_workers=2" in loading
    assert "it starts a process, which the autograder does not allow" in failure(
        define("minibatch_update", loading), "minibatches"
    )


def test_what_is_logged_beside_the_eight_metrics_may_be_of_any_type(capsys):
    check(edited("minibatch_update", ("means | {", 'means | {"steps": len(norms), ')))
    assert "✗" not in capsys.readouterr().out


@pytest.mark.parametrize("eps", ["1e-6", "1e-5"])
def test_an_eps_in_the_logarithm_is_not_called_float32_too_late(eps, capsys):
    probs = "probs = F.softmax(logits_new.float(), dim=-1)"
    with pytest.raises(AssertionError):
        check(edited("entropy", ("probs = log_probs.exp()", f"{probs}; log_probs = (probs + {eps}).log()")))
    assert "float32 too late" not in capsys.readouterr().out


# ------------------------------------------------------------------ on a GPU


def test_what_would_stop_on_a_gpu_is_said_and_fails_nothing(capsys):
    check(define("gae", right_solutions("gae")["a class that is run token by token"]))
    *ticks, where, advice = capsys.readouterr().out.splitlines()
    assert [line[0] for line in ticks] == ["✓"] * len(CRITERIA["gae"])
    assert re.fullmatch(r"→ On a GPU it would stop in line \d+ of its cell: last = on\[:, t\] & ~seen_later", where)
    assert advice.startswith("This costs no point. Make new tensors by zeros_like(...)")


@pytest.mark.parametrize("device", ['"cuda" if torch.cuda.is_available() else "cpu"', "values.get_device()"])
def test_nor_of_code_that_asks_which_device_it_is(device, capsys):
    on_the_cpu = f"torch.zeros(len(values)) if ({device}) in ('cpu', -1) else torch.zeros_like(final_rewards)"
    check(edited("gae", ("torch.zeros_like(final_rewards)", on_the_cpu)))
    assert "GPU" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["numpy in float64", "unfold", "itertools.accumulate on flipped columns"])
def test_what_cannot_be_told_without_a_gpu_is_not_said(name, capsys):
    """numpy and .item() need numbers, which the device that the check runs on does not have."""
    check(define("gae", right_solutions("gae")[name]))
    assert "GPU" not in capsys.readouterr().out


# ------------------------------------------------------------------ only the cell is handed in

LEANING = textwrap.dedent("""\
    def compute_entropy_loss(logits_new, response_mask):
        return -masked_mean(entropy_of(logits_new), response_mask)
    """)


def test_a_name_from_another_cell_is_found_out():
    function = define("entropy", LEANING)
    function.__globals__.update(
        masked_mean=lambda x, mask: (x * mask).sum() / mask.sum(),
        entropy_of=lambda logits: torch.distributions.Categorical(logits=logits.float()).entropy(),
    )
    message = failure(function, "worked_example")
    assert "the name `masked_mean` is not defined in line 2 of its cell" in message
    assert "Is it misspelt, or from another cell? Only this cell is handed in" in message


@pytest.mark.parametrize(
    "line, words",
    [
        ("print(VOCABULARY)", "on its own: the name `VOCABULARY` is not defined in line 1"),
        ("check(compute_value_loss)", r"it calls check\(\) in line 1 .*\n.*in the cell below"),
    ],
)
def test_a_name_from_another_cell_at_the_cell_s_top_level_is_found_out(line, words):
    source = f"{line}\n" + solution_source("entropy")
    filename = "<cell in a notebook>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    notebook = {"VOCABULARY": ("<eos>",), "check": print, "compute_value_loss": None, **solution("entropy").__globals__}
    exec(compile(source, filename, "exec"), notebook)
    with pytest.raises(AssertionError, match=words):
        check(notebook["compute_entropy_loss"])


def test_a_file_that_checks_itself_is_checked_once(tmp_path):
    """It is run again as the exported module, with the line that calls check()."""
    calls = "\nfrom course_utils.check import check\n\ncheck(compute_entropy_loss)\n"
    (tmp_path / "mine.py").write_text(header("entropy") + solution_source("entropy") + calls)
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("✓") == len(CRITERIA["entropy"]), done.stderr


def test_a_helper_in_the_same_cell_is_fine():
    check(
        define(
            "entropy",
            LEANING
            + textwrap.dedent("""
        def masked_mean(x, mask):
            return (x * mask).sum() / mask.sum()

        def entropy_of(logits):
            log_probs = F.log_softmax(logits.float(), dim=-1)
            return -(log_probs.exp() * log_probs).sum(-1)
        """),
        )
    )


# ------------------------------------------------------------------ an exercise in several cells


def test_the_solution_cells_are_run_in_a_module_of_their_own_and_nothing_else_is():
    leaning = FIFTH[1].replace("METRICS = (", "METRICS = DEFAULT + (")
    notebook = fifth_notebook("DEFAULT = ()", FIFTH[0], leaning, FIFTH[2])
    with pytest.raises(AssertionError, match="the cell of minibatch_loss does not run on its own: the name `DEFAULT`"):
        check(notebook["run_ppo_update_epoch"])


@pytest.mark.parametrize("own", range(3))
def test_a_name_from_a_cell_that_is_no_solution_cell_is_found_out_in_each_part(own):
    edits = [
        ("F.log_softmax(logits, dim=-1)", "my_log_softmax(logits)"),
        ("compute_entropy_loss(", "my_entropy("),
        ("torch.randperm(", "my_order("),
    ]
    cells = [source.replace(*edits[i]) if i == own else source for i, source in enumerate(FIFTH)]
    assert cells != FIFTH
    notebook = fifth_notebook(
        "def my_log_softmax(x):\n    return F.log_softmax(x, dim=-1)",
        "def my_entropy(*args):\n    return compute_entropy_loss(*args)",
        "def my_order(n):\n    return torch.randperm(n)",
        *cells,
    )
    message = failure(notebook["run_ppo_update_epoch"], "forward")
    name, line = edits[own][1].split("(")[0], 1 + cells[own][: cells[own].index(edits[own][1])].count("\n")
    place = ("the cell of response_outputs", "the cell of minibatch_loss", "its cell")[own]
    assert f"the name `{name}` is not defined in line {line} of {place}: " in message
    assert "Only the solution cells are handed in" in message
    assert f"define `{name}` in one of them" in message


def test_a_part_that_comes_from_a_file_is_not_handed_in(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        header("minibatch_update").replace("from .", "from course_utils.stand_ins.") + "\n".join(FIFTH[:2])
    )
    monkeypatch.syspath_prepend(tmp_path)
    notebook = fifth_notebook("from my_parts import minibatch_loss", FIFTH[2])
    message = failure(notebook["run_ppo_update_epoch"], "forward")
    assert "the name `minibatch_loss` is not defined in line" in message
    assert "Run the solution cell that defines `minibatch_loss`, then this check again" in message


def test_the_work_may_be_divided_otherwise(capsys):
    check(define("minibatch_update", solution_source("minibatch_update")))  # all in one cell
    check(define("minibatch_update", FIFTH[1], FIFTH[2] + "\n\n\n" + FIFTH[0]))  # a part below its user
    one_function = right_solutions("minibatch_update")["one function, a counter"]
    check(define("minibatch_update", one_function))  # the other cells are deleted ...
    check(define("minibatch_update", *map(stub_source, FIFTH[:2]), one_function))  # ... or left as they were
    assert "✗" not in capsys.readouterr().out


def test_what_counts_is_the_latest_run_of_a_part():
    notebook = fifth_notebook(*FIFTH)
    run_cell(FIFTH[0].replace("first:-1]", "first + 1 :]"), notebook)
    assert "one position late" in failure(notebook["run_ppo_update_epoch"], "forward")
    run_cell(FIFTH[0], notebook)
    check(notebook["run_ppo_update_epoch"])


def test_a_part_can_be_checked_before_what_comes_after_it_is_written(capsys):
    notebook = fifth_notebook(FIFTH[0], *map(stub_source, FIFTH[1:]))
    check(notebook["response_outputs"])
    run_cell(FIFTH[1], notebook)
    check(notebook["minibatch_loss"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"✓ {criterion.__name__}" for criteria in PARTS.values() for criterion in criteria
    ]


@pytest.mark.parametrize("name", PARTS)
def test_the_stub_of_a_part_says_that_it_is_to_be_written(name):
    notebook = fifth_notebook(*map(stub_source, FIFTH))
    with pytest.raises(NotImplementedError, match=f"exercise 5 is not written yet: fill in {name} above"):
        check(notebook[name])


@pytest.mark.parametrize(
    ("name", "old", "new", "criterion", "words"),
    [
        (
            "response_outputs",
            'torch.cat([batch["prompt_attention_mask"], mask], dim=1)',
            "torch.ones_like(input_ids)",
            "inputs",
            "attention_mask must be prompt_attention_mask followed by",
        ),
        (
            "response_outputs",
            "logits, values = actor_model(input_ids, attention_mask=attention_mask)",
            "logits, values = (actor_model(input_ids, attention_mask=attention_mask)[i] for i in (0, 1))",
            "inputs",
            "called 2 times",
        ),
        ("response_outputs", "values[:, first:-1]", "values[:, first + 1 :]", "positions", "one position late"),
        ("response_outputs", "logits[:, first:-1]", "logits[:, first - 1 : -2]", "positions", "Take positions P−1 to"),
        (
            "response_outputs",
            "values[:, first:-1]",
            "values[:, first:]",
            "positions",
            "(2, 5); it must be (2, 4): b = 2",
        ),
        (
            "response_outputs",
            "return log_probs, values",
            "return values, log_probs",
            "log_probs",
            "log_probs_new of the",
        ),
        ("response_outputs", "F.log_softmax", "F.softmax", "log_probs", "log_softmax of those logits"),
        (
            "response_outputs",
            "return log_probs, values, logits",
            "return log_probs, values.detach(), logits",
            "gradient",
            "values_new carries no gradient",
        ),
        ("minibatch_loss", 'batch["logprobs"]', 'batch["ref_logprobs"]', "arguments", 'the buffer\'s "logprobs"'),
        (
            "minibatch_loss",
            "log_probs, batch",
            "log_probs * 2, batch",
            "arguments",
            "log_probs_new of the response tokens",
        ),
        (
            "minibatch_loss",
            "ppo.clip_range_value",
            "ppo.clip_ratio",
            "arguments",
            "clip_range_value of compute_value_loss",
        ),
        ("minibatch_loss", "+ ppo.entropy_coeff", "- ppo.entropy_coeff", "total", "has its minus sign already"),
        ("minibatch_loss", "ppo.vf_coeff * value", "value", "total", "yours 10, target 5"),
        ("minibatch_loss", "return total,", "return total / ppo.gradient_accumulation_steps,", "total", "part 3"),
        ("response_outputs", "F.log_softmax(logits, dim=-1)", "logits", "log_probs", "log_softmax of those logits"),
        ("minibatch_loss", "return total,", "return total.detach(),", "total", "the total carries no gradient"),
        ("minibatch_loss", "value, -entropy,", "value, entropy,", "metrics", "the entropy itself"),
        ("minibatch_loss", "number.item()", "number", "metrics", "loss/policy is a Tensor"),
        ("minibatch_loss", "zip(METRICS,", "zip(METRICS[:-1],", "metrics", "lacks params/approx_kl"),
        (
            "minibatch_loss",
            "return total, ",
            "return ",
            "metrics",
            "it returned a dict; it must return (total, metrics)",
        ),
    ],
)
def test_a_slip_in_a_part_is_found_at_the_part(name, old, new, criterion, words):
    own = list(PARTS).index(name)
    assert FIFTH[own].count(old) == 1
    notebook = fifth_notebook(*FIFTH[:own], FIFTH[own].replace(old, new))
    assert words in failure(notebook[name], criterion)


@pytest.mark.parametrize("key", ["entropy", "minibatch_update"])
def test_a_function_without_source_is_checked_as_it_is(key):
    namespace = dict(solution(key).__globals__)
    exec(solution_source(key), namespace)  # "<string>": no source in linecache
    losses = {name: namespace.get(name) for name in LOSSES}
    check(namespace[EXERCISES[key].function])
    assert {name: namespace.get(name) for name in losses} == losses


def test_an_exported_module_can_be_checked(solutions):
    exercises = load_exercises(solutions)
    for exercise in EXERCISES.values():
        check(getattr(exercises, exercise.function))


def test_checking_does_not_touch_the_random_state():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check(solution("minibatch_update"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", WRONG_ON_WILD_NUMBERS)
def test_what_is_wrong_on_wild_numbers_only_fails_its_criterion(name):
    key, source, criterion = wrong_on_wild_numbers(name)
    with pytest.raises(AssertionError):
        check(define(key, source), criterion)
