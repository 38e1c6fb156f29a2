"""Criteria of exercise 5, run_ppo_update_epoch; those of its two parts are in minibatch_parts."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor

from course_utils.checks import expect
from course_utils.checks.one_epoch import Epoch, LinearLosses, TableActor, small_buffer, worked_buffer
from course_utils.exercises import LOSSES, UPDATE_METRICS
from course_utils.worked_example import worked_example

LENGTHS = (2, 1, 3, 1, 2, 3, 2, 1, 3, 1, 2, 3)  # of twelve responses
OF_THE_BUFFER = (  # what a loss is given of it, on the response tokens
    ("compute_policy_loss", "log_probs_old", "logprobs"),
    ("compute_policy_loss", "advantages", "advantages"),
    ("compute_value_loss", "values_old", "values"),
    ("compute_value_loss", "returns", "returns"),
)


def forward(function: Callable) -> None:
    """prompt and response go through the actor; positions P−1 to P+R−2, both included, predict the response"""
    epoch = Epoch(function, *worked_buffer(), mini_batch_size=2)
    rows = epoch.only_mini_batch()
    policy, value, entropy = (epoch.losses.only_call(name) for name in LOSSES)
    expect_output("values_new", value["values_new"], rows)
    expect_output("logits_new", entropy["logits_new"], rows)
    expect_output("log_probs_new", policy["log_probs_new"], rows)
    buffer, actor = small_buffer(3)  # whose prompts say the token that is padding above
    buffer["prompt_attention_mask"][1, 0] = buffer["prompt_attention_mask"][2, :2] = 0
    actor.values.data += torch.arange(7.0)  # each position says its number
    for given in Epoch(function, buffer, actor, mini_batch_size=1).calls["compute_value_loss"]:
        expect.close(
            "values_new of a response of three tokens beside prompts of up to four, a mini-batch of its own",
            given["values_new"],
            [[3.0, 4.0, 5.0]],
            "P is the width of prompt_input_ids: all responses begin in the same column, whatever the lengths of the "
            "prompts in a mini-batch. See hint 2 of part 1.",
        )
    epoch = _far_epoch(function)
    rows = epoch.only_mini_batch()
    target = epoch.start["logits"][:, 3:6].log_softmax(dim=-1)
    expect.close(
        "log_probs_new with a vocabulary of 64, for likely and unlikely tokens",
        epoch.losses.only_call("compute_policy_loss")["log_probs_new"],
        target.gather(-1, epoch.buffer["response_input_ids"].unsqueeze(-1)).squeeze(-1)[rows],
        "They are log_softmax of the logits as they are, over the whole vocabulary, gathered at response_input_ids: no "
        "temperature, no bounds, no choice of tokens. See hint 2 of part 1.",
    )


def losses(function: Callable) -> None:
    """the three losses get what they need, and add up with their coefficients"""
    epoch = Epoch(function, *worked_buffer(), mini_batch_size=2, vf_coeff=0.5, entropy_coeff=0.01)
    rows = epoch.only_mini_batch()
    expect_arguments(epoch.losses, {name: tensor[rows] for name, tensor in epoch.buffer.items()}, epoch.ppo)
    # The losses are means over 6 response tokens, so a value has moved by vf_coeff / 6. The gradient of a
    # log-prob sums to 0 over the vocabulary: the sum of a position's logits has moved by entropy_coeff / 6.
    predicting = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]) * (-1 / 6)
    advice = (
        "If forward fails too, correct that first. The total is policy + vf_coeff · value + "
        "entropy_coeff · entropy loss. See hint 2 of part 2."
    )
    expect.close("step of the values (SGD, learning rate 1)", epoch.moved["values"], 0.5 * predicting, advice)
    step = epoch.moved["logits"]
    if torch.allclose(step.sum(dim=-1), -0.01 * predicting, atol=1e-6):
        advice = "The entropy loss has its minus sign already: add it. See hint 1 of part 2."
    expect.close("step of the logits, summed over the vocabulary", step.sum(dim=-1), 0.01 * predicting, advice)
    # The first token of A had probability 1/2: the gradient of its log-probability is 1 - 1/2.
    expect.close("step of the logit of A's first token", step[0, 1, 1], -(1 - 1 / 2) / 6, advice)
    expect.close(
        "step of the values of three responses whose tokens are far likelier than when they were written",
        _far_epoch(function).moved["values"].sum(dim=1),
        [-1 / 3] * 3,
        "Every mini-batch is trained on, however far the policy has moved: clipping takes care of that. "
        "See hint 2 of part 3.",
    )
    expect_own_numbers(function)


def minibatches(function: Callable) -> None:
    """every response once, shuffled; every response of an accumulation group weighs the same"""
    expect_shuffled(function)
    # mini_batch_size, gradient_accumulation_steps; the responses in each group
    cases = (
        (1, 1, [1, 1, 1, 1, 1]),
        (2, 2, [4, 1]),
        (2, 3, [5]),
        (3, 1, [3, 2]),
        (8, 1, [5]),
        (4, 1, [4, 4, 1]),
        (4, 3, [9]),
    )
    for size, steps, groups in cases:
        count = sum(groups)
        epoch = Epoch(
            function, *small_buffer(count), mini_batch_size=size, gradient_accumulation_steps=steps, vf_coeff=1.0
        )
        setting = f"{count} responses, mini_batch_size {size}, gradient_accumulation_steps {steps}"
        seen = sorted(row for rows in epoch.actor.rows for row in rows)
        assert seen == [*range(count)], (
            f"{setting}: responses {seen} were used; each of 0 to {count - 1} must be, once. See hint 2 of part 3."
        )
        epoch.expect_mini_batches()
        # A group's loss is a mean over its responses, so each of them has moved by what it would alone over their
        # number: its values by 1, the logits of its tokens by 1/2, those of the others by 1/2 less the entropy's 0.01.
        token, other = epoch.moved["logits"][..., 1], epoch.moved["logits"][..., 0]
        for what, moved, alone in (
            ("values", epoch.moved["values"], -1),
            ("tokens' logits", token, -0.5),
            ("other logits", other, 0.49),
        ):
            expect.close(
                f"{setting}: step of each response's {what}, in order of size",
                moved.sum(dim=1).sort().values,
                sorted(alone / group for group in groups for _ in range(group)),
                f"The groups have {', '.join(map(str, groups))} responses; each counts 1 / (its group's "
                "responses). Weigh a mini-batch by its responses / the group's, step the last group, "
                "and call zero_grad after each step. See hint 2 of part 3.",
            )
    buffer, actor = small_buffer(2)
    buffer["response_attention_mask"][0, 1:] = 0  # one token beside three
    epoch = Epoch(function, buffer, actor, mini_batch_size=1, gradient_accumulation_steps=2, vf_coeff=1.0)
    expect.close(
        "step of the values of a response of one token and of one of three, a mini-batch each, in one group",
        epoch.moved["values"].sum(dim=1),
        [-1 / 2, -1 / 2],
        "Weigh a mini-batch by its responses, not by their tokens. See hint 2 of part 3.",
    )


def step(function: Callable) -> None:
    """after each group: clip the gradient norm, optimizer, scheduler, zero_grad, once each"""
    epoch = Epoch(function, *small_buffer(5), mini_batch_size=1, gradient_accumulation_steps=2)
    events = [event for event in epoch.events if event in ("optimizer.step", "lr_scheduler.step")]
    assert events == ["optimizer.step", "lr_scheduler.step"] * 3, (
        "5 responses, mini_batch_size 1, gradient_accumulation_steps 2: the groups have 2, 2 and 1 of them, "
        "so there are three times optimizer.step() and then lr_scheduler.step(). Yours: "
        f"{', '.join(events) or 'none'}. See hint 2 of part 3."
    )
    left = [p for p in epoch.actor.parameters() if p.grad is not None and p.grad.any()]
    assert not left, (
        "gradients are left after the epoch: call optimizer.zero_grad() after each step, the last one too. "
        "See hint 2 of part 3."
    )
    advice = (
        "Call nn.utils.clip_grad_norm_ on all parameters of the actor once the group's gradients are "
        "complete, before optimizer.step(). See hint 2 of part 3."
    )
    for responses, steps in ((1, 1), (3, 2)):  # one mini-batch of 1 response; two of 2 and of 1, in one group
        epoch = Epoch(
            function,
            *small_buffer(responses),
            mini_batch_size=2,
            gradient_accumulation_steps=steps,
            vf_coeff=1.0,
            max_grad_norm=0.01,
        )
        norm = torch.cat([change.flatten() for change in epoch.moved.values()]).norm()
        what = f"length of a step with learning rate 1, max_grad_norm 0.01 and gradient_accumulation_steps {steps}"
        expect.close(what, norm, 0.01, advice)
    # 3 tokens of a response have moved by 1/3 of its 1/3, scaled down; so all three responses moved alike.
    moved = epoch.moved["values"].sum(dim=1)
    what = "how far the values of the three responses moved in that step, beside the first"
    expect.close(what, moved / moved[0], [1.0] * 3, advice)
    epoch = Epoch(
        function, *small_buffer(3), mini_batch_size=1, gradient_accumulation_steps=2, vf_coeff=1.0, max_grad_norm=0.01
    )
    lengths = [torch.cat([change[row].flatten() for change in epoch.moved.values()]).norm() for row in range(3)]
    expect.close(  # two responses share the first step, the last one has the second for itself
        "how far each of three responses moved in two such steps, one of two mini-batches and one of one, by size",
        torch.stack(lengths).sort().values,
        [0.01 / 2**0.5, 0.01 / 2**0.5, 0.01],
        "Clip before each step, the last, smaller group's too. See hint 2 of part 3.",
    )


def metrics(function: Callable) -> None:
    """eight floats: means over the mini-batches, the gradient norm as it was before clipping"""
    # Three mini-batches, of 2, 2 and 1 responses; LinearLosses says what the losses of the i-th read.
    epoch = Epoch(
        function,
        *small_buffer(5, tokens=1),
        mini_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.1,
        vf_coeff=0.5,
        entropy_coeff=0.0,
    )
    kind = type(epoch.result).__name__
    assert isinstance(epoch.result, dict), f"it returned a {kind}; it must return a dict."
    missing = [name for name in UPDATE_METRICS if name not in epoch.result]
    assert not missing, f"the dict lacks {', '.join(missing)}. See hint 3 of part 2."
    for name in UPDATE_METRICS:
        kind = type(epoch.result[name]).__name__
        part = 3 if name == "params/grad_norm" else 2
        assert isinstance(epoch.result[name], float), (
            f"{name} is a {kind}; it must be a float: call .item(). See hint 3 of part {part}."
        )
    # A response's gradient is 1/2, -1/2 by two equally likely logits and 1/2 by its value: the squares add up
    # to 3/4. In the group of four each weighs 1/4: the norm is sqrt(4 * 3/4) / 4. For the group of one it is
    # sqrt(3/4).
    targets = (2.0, 20.0, 200.0, 12.0, 0.2, 0.4, -0.2 / 3, (3**0.5 / 4 + 0.75**0.5) / 2)
    slips = {
        "loss/entropy": {-200.0: "The log shows the entropy itself: minus the entropy loss. See hint 1 of part 2."},
        "loss/total": {9.0: "Log the total as it was before it is weighed. See hint 3 of part 2."},
        "params/grad_norm": {
            0.1: "This is the norm after clipping; take the one before. See hint 3 of part 3.",
            0.0: "The gradients had been cleared: clip before optimizer.step() and zero_grad(). See hint 2 of part 3.",
        },
    }
    for name, target in zip(UPDATE_METRICS, targets, strict=True):
        advice = "It is the mean over the three mini-batches, each counting once. See hint 3 of part 2."
        if name == "params/grad_norm":
            advice = (
                "It is the mean over the two steps of what clip_grad_norm_ returned. If `minibatches` or `step` "
                "fails above, correct that first. See hint 3 of part 3."
            )
        expect.close(name, torch.tensor(epoch.result[name]), target, advice, slips.get(name))
    # 1 + 10 / 2 - 100 / 100
    epoch = Epoch(function, *small_buffer(1), vf_coeff=0.5, entropy_coeff=0.01)
    expect.close(
        "loss/total with an entropy_coeff of 0.01",
        torch.tensor(epoch.result["loss/total"]),
        5.0,
        "It is what is trained: policy + vf_coeff · value + entropy_coeff · entropy loss. If `losses` fails above, "
        "correct that first. See hint 2 of part 2.",
    )


CRITERIA = (forward, losses, minibatches, step, metrics)


def expect_output(name: str, yours: Tensor, rows: list[int]) -> None:
    """AssertionError unless `yours` is, on the response tokens, this output of the worked example's actor."""
    example = worked_example()
    _, actor = worked_buffer()
    target = actor.logits.detach()[:, 1:-1] if name == "logits_new" else getattr(example, name)
    if name == "values_new":
        shifted = actor.values[rows, 2:]
        assert not torch.equal(yours.detach(), shifted), (
            "The numbers are those one position late. The output at a token predicts the next one: the first "
            "response token, at position P, is predicted at P − 1. See hint 2 of part 1."
        )
    on_response = example.response_mask[rows] == 1
    expect.close(
        f"{name} of the response tokens",
        yours[on_response],
        target[rows][on_response],
        "Take positions P−1 to P+R−2 of the actor's outputs; log_probs_new is log_softmax of "
        "those logits, gathered at response_input_ids. See hint 2 of part 1.",
    )


def expect_arguments(losses: LinearLosses, batch: dict[str, Tensor], ppo: SimpleNamespace) -> None:
    """AssertionError unless each loss was called once, with the tensors of `batch` and the numbers of `ppo`."""
    mask = "response_attention_mask"
    for loss, argument, source in (*OF_THE_BUFFER, *((loss, "response_mask", mask) for loss in LOSSES)):
        given, target = losses.only_call(loss)[argument], batch[source]
        at = batch[mask].bool() | (argument == "response_mask")  # the mask everywhere, the rest on it
        assert given.shape == target.shape and torch.equal(given[at].double(), target[at].double()), _must_be(
            loss, argument, source
        )
    for loss, argument in (("compute_policy_loss", "clip_ratio"), ("compute_value_loss", "clip_range_value")):
        given, target = losses.only_call(loss)[argument], getattr(ppo, argument)
        assert given == target, f"{argument} of {loss} is {given}; it must be cfg.ppo.{argument} = {target}."


def _must_be(loss: str, argument: str, source: str) -> str:
    return (
        f'{argument} of {loss} must be the buffer\'s "{source}" of this mini-batch, '
        "of the same rows as the actor's inputs. See hint 2 of part 2."
    )


def expect_own_numbers(function: Callable) -> None:
    """AssertionError unless the losses get the numbers of the responses that the actor was asked about, in an epoch of
    twelve: in any order but the buffer's own some stand at another place."""
    buffer, actor = small_buffer(12)
    number = torch.arange(12.0).unsqueeze(1)  # (N, 1), of each response
    buffer |= {name: number.expand(12, 3).clone() for name in ("logprobs", "values", "advantages", "returns")}
    actor.values.data += number
    losses = Epoch(function, buffer, actor, mini_batch_size=3).losses
    for loss, argument, source in OF_THE_BUFFER:
        for given, value in zip(losses.calls[loss], losses.calls["compute_value_loss"]):
            assert torch.equal(given[argument], value["values_new"]), _must_be(loss, argument, source)


def _far_epoch(function: Callable) -> Epoch:
    """An epoch of one mini-batch of three responses that the policy has moved far from. The logits of 64 tokens lie 1,
    0.1 and 0.5 apart, one distance a response."""
    buffer, _ = small_buffer(3)
    buffer["response_input_ids"] = torch.tensor([[1, 20, 63], [40, 2, 5], [62, 33, 0]])
    buffer["logprobs"] = torch.full((3, 3), -80.0)
    logits = (torch.arange(64.0) - 30) * torch.tensor([4.0, 0.1, 0.5]).view(3, 1, 1).expand(3, 7, 1)
    return Epoch(function, buffer, TableActor(buffer, logits, torch.zeros(3, 7)), mini_batch_size=3, vf_coeff=1.0)


def expect_shuffled(function: Callable) -> None:
    """AssertionError: its mini-batches are not a shuffle of all responses, another in each epoch, by torch's seed."""
    cut, drawn_next = zip(*(_mini_batches(function, drawn) for drawn in (0, 0, 7)))
    torch.manual_seed(0)
    problem = shuffle_problem(cut, [torch.tensor(LENGTHS)], drawn_next, torch.rand(1).item())
    assert not problem, f"{problem}. See hint 2 of part 3."


def shuffle_problem(cut: Sequence, lengths: Iterable[Tensor], drawn_next: Sequence, undrawn: object) -> str:
    """What is wrong with the rows of each mini-batch in three epochs, `cut`, of which the first two began with the same
    random numbers; "" if nothing is.

    Args:
        lengths: (N,) each, by which the responses may have been sorted.
        drawn_next: the random number after each epoch.
        undrawn: what it is after the first where that draws none.
    """
    orders = [sum(rows, []) for rows in cut]
    count = len(orders[0])
    if orders[0] == orders[2] or any(map(rotated, orders)):
        return "the responses come in the same order each time: shuffle them with torch.randperm"
    if orders[0] != orders[1]:
        return "the same seed gives two orders: shuffle with torch.randperm, which training.seed controls"
    if set(map(frozenset, cut[0])) == set(map(frozenset, cut[2])):
        return "the same responses are in a mini-batch each time: shuffle them first, then cut"
    if any(all(max(order[:part]) < part for order in orders) for part in (count // 3, count // 2, 2 * count // 3)):
        return "the responses are shuffled within parts: shuffle all of them, then cut"
    for by_row in lengths:
        found = by_row[orders[0]].tolist()
        if found in (sorted(found), sorted(found, reverse=True)):
            return "the responses come sorted by their length: take them as they were shuffled"
    if drawn_next[0] in (drawn_next[2], undrawn):
        return (
            "it leaves torch's random numbers where they were, or sets a seed, which is the trainer's: the next epoch "
            "takes the same order"
        )
    return ""


def rotated(order: list[int]) -> bool:
    """Whether the responses keep their order, wherever they begin: one shuffle of 12 in 40 million does."""
    return all((later - earlier) % len(order) == 1 for earlier, later in pairwise(order))


def _mini_batches(function: Callable, drawn: int) -> tuple[list[list[int]], float]:
    """The responses in each mini-batch of an epoch of twelve, so many random numbers after the seed was set, and the
    random number after it."""
    torch.manual_seed(0)
    torch.rand(drawn)
    buffer, actor = small_buffer(12)
    buffer["response_attention_mask"] = (torch.arange(3) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    epoch = Epoch(function, buffer, actor, mini_batch_size=3)
    epoch.expect_mini_batches()
    return epoch.actor.rows, torch.rand(1).item()
