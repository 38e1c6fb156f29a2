"""Criteria of the two parts of exercise 5, response_outputs and minibatch_loss, on the worked example; ungraded."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.checks.minibatch_update import expect_arguments, expect_output
from course_utils.checks.one_epoch import LinearLosses, TableActor, worked_buffer
from course_utils.exercises import UPDATE_METRICS

ROWS = [0, 1]
PPO = SimpleNamespace(
    mini_batch_size=2,
    gradient_accumulation_steps=2,
    clip_ratio=0.2,
    clip_range_value=0.3,
    vf_coeff=0.5,
    entropy_coeff=0.01,
    max_grad_norm=1.0,
)


# ------------------------------------------------------------------ response_outputs


def inputs(function: Callable) -> None:
    """prompt and response go through the actor together, ids and masks, in one call"""
    actor, _ = _outputs(function)
    assert len(actor.rows) == 1, (
        f"the actor was called {len(actor.rows)} times; once is enough for all three outputs. See hint 2 of part 1."
    )


def positions(function: Callable) -> None:
    """values_new and logits_new are those at positions P−1 to P+R−2, both included"""
    _, (_, values, logits) = _outputs(function)
    expect_output("values_new", values, ROWS)
    expect_output("logits_new", logits, ROWS)


def log_probs(function: Callable) -> None:
    """log_probs_new is each response token's own log-probability"""
    expect_output("log_probs_new", _outputs(function)[1][0], ROWS)


def gradient(function: Callable) -> None:
    """log_probs_new, values_new and logits_new can be trained"""
    for name, tensor in zip(("log_probs_new", "values_new", "logits_new"), _outputs(function)[1]):
        assert tensor.requires_grad, f"{name} carries no gradient: no detach(), no torch.no_grad() here."


def _outputs(function: Callable) -> tuple[TableActor, tuple[Tensor, ...]]:
    """The actor that was asked, and the three results, of their right shapes."""
    buffer, actor = worked_buffer()
    result = function(actor, dict(buffer))
    assert result is not None, "it returned None: is the `return` at the end missing?"
    parts = expect.tensors(result, "log_probs_new", "values_new", "logits_new")
    for name, part, shape in zip(("log_probs_new", "values_new", "logits_new"), parts, ((2, 4), (2, 4), (2, 4, 4))):
        assert part.shape == shape, (
            f"{name} has shape {tuple(part.shape)}; it must be {shape}: b = 2 responses, R = 4 positions"
            f"{', V = 4 tokens of the vocabulary' if len(shape) == 3 else ''}. See hint 2 of part 1."
        )
    return actor, parts


# ------------------------------------------------------------------ minibatch_loss


def arguments(function: Callable) -> None:
    """each of the three losses is called once, with what the names of its arguments say"""
    losses, _, _ = _loss(function)
    expect_arguments(losses, worked_buffer()[0], PPO)
    for loss, name in zip(losses.calls, ("log_probs_new", "values_new", "logits_new")):
        expect_output(name, losses.only_call(loss)[name], ROWS)


def total(function: Callable) -> None:
    """the total is policy + vf_coeff · value + entropy_coeff · entropy loss, with its gradient"""
    _, loss, _ = _loss(function)
    expect.close(
        "total, where the losses are 1, 10 and −100 and the coefficients 0.5 and 0.01",
        loss,
        5.0,
        "It is 1 + 0.5 · 10 + 0.01 · (−100). See hint 2 of part 2.",
        {
            7.0: "The entropy loss has its minus sign already: add it. See hint 1 of part 2.",
            2.5: "Divide by nothing here: mini-batches are weighed in part 3. See hint 1 of part 3.",
        },
    )
    assert loss.requires_grad, "the total carries no gradient: no .item(), no detach() on the way to it."


def metrics(function: Callable) -> None:
    """one float for each name in METRICS; loss/entropy is the entropy itself"""
    _, _, found = _loss(function)
    assert isinstance(found, dict), (
        f"the metrics are a {type(found).__name__}; they must be a dict. See hint 3 of part 2."
    )
    for name, target in zip(UPDATE_METRICS, (1.0, 10.0, 100.0, 5.0, 0.1, 0.2, -0.1)):
        assert name in found, f"the dict lacks {name}. See hint 3 of part 2."
        assert isinstance(found[name], float), (
            f"{name} is a {type(found[name]).__name__}; make it a float with .item(). See hint 3 of part 2."
        )
        slips = {-100.0: "The log shows the entropy itself: minus the entropy loss. See hint 1 of part 2."}
        expect.close(
            name,
            torch.tensor(found[name]),
            target,
            "Is it in its place? See hint 2 of part 2.",
            slips if name == "loss/entropy" else None,
        )


def _loss(function: Callable) -> tuple[LinearLosses, Tensor, dict]:
    """The losses that were called, and the two results."""
    buffer, actor = worked_buffer()
    losses = LinearLosses()
    with losses.in_the_place_of_those_of(function):
        result = function(actor, dict(buffer), PPO)
    assert isinstance(result, tuple | list) and len(result) == 2, (
        f"it returned a {type(result).__name__}; it must return (total, metrics)."
    )
    expect.scalars(result[0], "total", advice="It is the sum of three losses. See hint 2 of part 2.")
    return losses, *result


PARTS = {
    "response_outputs": (inputs, positions, log_probs, gradient),
    "minibatch_loss": (arguments, total, metrics),
}
