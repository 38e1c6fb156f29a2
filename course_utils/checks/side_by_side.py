"""Yours beside the target, on the worked example: what check() shows before its report.

A loss is one number, so it is asked for one token at a time, with a mask that is 1 on this token alone. That gives
the last column of the notebook's table by hand.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from course_utils.checks.minibatch_parts import PPO
from course_utils.checks.one_epoch import Epoch, LinearLosses, worked_buffer
from course_utils.figures.show import ORANGE
from course_utils.figures.token_explorer import diverging
from course_utils.worked_example import VOCABULARY, arguments_of, worked_example

NOTHING = math.nan  # on padding, which has no target
NO_MASK = (
    "Yours gives the same number whichever token the mask shows: it does not follow response_mask, so what it makes of "
    "one token cannot be told."
)
EMPTY_RESPONSE = (
    "No number: with this token alone in the mask the other response has none, and yours divides each "
    "response's sum by that response's tokens, here 0 / 0. Divide one sum by all tokens of the batch."
)
SINGLE_TOKEN = (
    "No number: yours needs several tokens, as an unbiased standard deviation does. What a token adds to "
    "the sum depends on no other token."
)
ENTROPY = [[1.75, 2, 1.75, 1.75], [1.75, 2, NOTHING, NOTHING]]  # of each token's distribution, in bits


@dataclass(frozen=True)
class Grid:
    """One number a token, for responses A and B; or one line of other numbers."""

    what: str
    yours: Tensor  # (rows, T)
    target: list[list[float]]  # (rows, T)
    columns: tuple[tuple[str, ...], ...] = ()  # what is written above each row; by default the responses' tokens
    note: str = ""  # why some have no number
    rows: tuple[str, ...] = ("A", "B")


def side_by_side(function: Callable) -> str:
    """The grids of `function` as HTML; empty where it has none or does not give numbers of this form.

    What it raises is the report's affair, which calls it with the same numbers.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            grids = list(GRIDS[function.__name__](function)) if function.__name__ in GRIDS else []
        return "".join(map(_html, grids))
    except Exception:
        return ""


# ------------------------------------------------------------------ what is compared


def _policy_loss(function: Callable) -> Iterable[Grid]:
    yield _token_by_token(
        "the loss of each token alone",
        lambda mask: function(*(arguments_of("policy_loss") | {"response_mask": mask}).values())[0],
        [[-0.9, -0.375, -1.25, 0.3125], [0.8, 1.5, NOTHING, NOTHING]],
    )


def _value_loss(function: Callable) -> Iterable[Grid]:
    yield _token_by_token(
        "the loss of each token alone, half the larger error",
        lambda mask: function(*(arguments_of("value_loss") | {"response_mask": mask}).values())[0],
        [[0.005, 0.045, 0.005, 0.005], [0.01125, 0.00125, NOTHING, NOTHING]],
    )


def _entropy(function: Callable) -> Iterable[Grid]:
    yield _token_by_token(
        "the loss of each token alone, minus its entropy in nats",
        lambda mask: function(worked_example().logits_new, mask),
        [[-bits * math.log(2) for bits in row] for row in ENTROPY],
    )


def _gae(function: Callable) -> Iterable[Grid]:
    advantages, returns = function(*arguments_of("gae").values())
    yield Grid("advantages, whitened", advantages, [[0.75, 0.75, 1.25, -0.25], [-1.0, -1.5, 0.0, 0.0]])
    yield Grid("returns", returns, [[0.3, 0.4, 0.7, 0.9], [0.15, -0.05, NOTHING, NOTHING]])


def _outputs(function: Callable) -> Iterable[Grid]:
    buffer, actor = worked_buffer()
    log_probs, values, _ = function(actor, dict(buffer))
    yield Grid("log-probability of each response token", log_probs, _on_tokens(worked_example().log_probs_new))
    yield Grid("value before each response token", values, _on_tokens(worked_example().values_new))


def _minibatch_loss(function: Callable) -> Iterable[Grid]:
    with LinearLosses().in_the_place_of_those_of(function):
        total, metrics = function(*reversed(worked_buffer()), PPO)
    terms = ("loss/policy", "loss/value", "loss/entropy", "loss/total")
    what = "the terms in your metrics, and your total: losses of 1, 10 and −100, c_V = 0.5, c_H = 0.01"
    yours = torch.tensor([[torch.as_tensor(x).item() for x in (*(metrics[name] for name in terms), total)]])
    yield Grid(what, yours, [[1.0, 10.0, 100.0, 5.0, 5.0]], ((*terms, "total"),), rows=("",))


def _epoch(function: Callable) -> Iterable[Grid]:
    example, epoch = worked_example(), Epoch(function, *worked_buffer(), mini_batch_size=2, vf_coeff=0.5)
    order = torch.tensor(epoch.only_mini_batch()).argsort()
    given = epoch.losses.only_call("compute_policy_loss")["log_probs_new"]
    yield Grid(
        "log-probability of each response token, as the policy loss was given it",
        given[order],
        _on_tokens(example.log_probs_new),
    )
    tokens = torch.cat([example.prompt_input_ids, example.response_input_ids], dim=1).tolist()
    predicts = [[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]
    yield Grid(
        "how far the value at each position of prompt and response moved, with c_V = 0.5 and learning rate 1",
        epoch.moved["values"],
        [[-0.5 / 6 * does for does in row] for row in predicts],
        tuple(tuple(VOCABULARY[token] for token in row) for row in tokens),
    )


GRIDS = {
    "compute_policy_loss": _policy_loss,
    "compute_value_loss": _value_loss,
    "compute_entropy_loss": _entropy,
    "compute_gae_advantages": _gae,
    "response_outputs": _outputs,
    "minibatch_loss": _minibatch_loss,
    "run_ppo_update_epoch": _epoch,
}


def _token_by_token(what: str, loss: Callable[[Tensor], Tensor], target: list[list[float]]) -> Grid:
    """The loss of each response token where the mask shows no other; NOTHING on padding."""
    mask = worked_example().response_mask
    found = torch.full(mask.shape, NOTHING)
    for row, column in mask.nonzero().tolist():
        alone = torch.zeros_like(mask)
        alone[row, column] = 1
        found[row, column] = loss(alone)
    numbers = found[mask == 1]
    note = _why_no_number(loss, mask) if numbers.isnan().any() else NO_MASK if (numbers == numbers[0]).all() else ""
    return Grid(what, found, target, note=note)


def _why_no_number(loss: Callable[[Tensor], Tensor], mask: Tensor) -> str:
    """Where the loss of a token alone is NaN; "" if that of all tokens is too."""
    if math.isnan(loss(mask)):
        return ""
    return EMPTY_RESPONSE if math.isnan(loss(mask * torch.tensor([[1], [0]]))) else SINGLE_TOKEN


def _on_tokens(numbers: Tensor) -> list[list[float]]:
    return numbers.where(worked_example().response_mask == 1, NOTHING).tolist()


# ------------------------------------------------------------------ how it looks


def _html(grid: Grid) -> str:
    target = torch.tensor(grid.target)
    yours = grid.yours.detach().float()
    if yours.shape != target.shape:
        return ""
    largest = target.nan_to_num().abs().max().item()
    right = torch.isclose(yours, target, 1e-4, 1e-5) | target.isnan()
    columns = grid.columns or tuple(
        tuple(VOCABULARY[token] for token in row) for row in worked_example().response_input_ids.tolist()
    )
    differ, numbers = int((~right).sum()), int((~target.isnan()).sum())
    seen = f"✗ {differ} of {numbers} differ" if differ else "✓ yours is the target"
    tables = _table("yours", grid.rows, yours, target, right, columns, largest) + _table(
        "target", grid.rows, target, target, torch.ones_like(right), columns, largest
    )
    note = f"<p>{escape(grid.note)}</p>" if grid.note else ""
    return (
        f"<div><b>{escape(grid.what)}</b>: {seen}</div>"
        f'<div style="display:flex; flex-wrap:wrap; gap:2em; margin:0.3em 0 1em">{tables}</div>{note}'
    )


def _table(
    title: str, names: tuple[str, ...], numbers: Tensor, target: Tensor, right: Tensor, columns: tuple, largest: float
) -> str:
    rows = "".join(
        f"<tr><th>{name}</th>"
        + "".join(
            _cell(token, *cell, largest)  # type: ignore[call-arg]
            for token, cell in zip(tokens, zip(*map(Tensor.tolist, parts)), strict=True)
        )
        + "</tr>"
        for name, tokens, *parts in zip(names, columns, numbers, target, right, strict=True)
    )
    return f"<table><caption>{title}</caption><tbody>{rows}</tbody></table>"


def _cell(token: str, number: float, target: float, right: bool, largest: float) -> str:
    """A token and its number, the bluer the more positive and the more orange the more negative."""
    if math.isnan(target):
        return '<td style="text-align:center; opacity:0.5">padding</td>'
    colour = diverging(number / largest if math.isfinite(number) else 0)
    frame = "1px solid #99999966" if right else f"3px solid {ORANGE}"
    shown = "no number" if math.isnan(number) else f"{number + 0.0:.4g}"  # + 0.0: no "-0"
    return (
        f'<td style="text-align:center; color:#000000; background-color:{colour}; border:{frame}">'
        f"{escape(token)}<br>{'' if right else '✗ '}{shown}</td>"
    )
