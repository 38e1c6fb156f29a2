"""One call of run_ppo_update_epoch whose every gradient is a fraction that can be written down.

The function trains an actor whose logits and values are its parameters, one for each position of a response, with SGD
and a learning rate of 1: how far a parameter has moved is its gradient. The losses are replaced by linear ones that
keep what they were given.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from course_utils.exercises import LOSSES
from course_utils.worked_example import worked_example


class TableActor(nn.Module):
    """An actor that looks its answers up. It refuses all but whole rows of the buffer with their masks."""

    def __init__(self, buffer: dict[str, Tensor], logits: Tensor, values: Tensor):
        super().__init__()
        self.buffer = buffer
        self.logits, self.values = nn.Parameter(logits), nn.Parameter(values)  # (N, P+R, V), (N, P+R)
        self.rows: list[list[int]] = []  # of each call

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        self.rows.append([self._row(ids, mask) for ids, mask in zip(input_ids, attention_mask, strict=True)])
        return self.logits[self.rows[-1]], self.values[self.rows[-1]]

    def _row(self, ids: Tensor, mask: Tensor) -> int:
        """Which response this is."""
        for row in range(len(self.logits)):
            if torch.equal(ids, self._whole(row, "input_ids")):
                wanted = self._whole(row, "attention_mask")
                end = int(wanted.nonzero().max()) + 1  # after the last token a causal model is asked nothing
                assert torch.equal(mask[:end].long(), wanted[:end]), (
                    "attention_mask must be prompt_attention_mask followed by response_attention_mask. "
                    "See hint 2 of part 1."
                )
                return row
        raise AssertionError(
            "input_ids must be prompt_input_ids followed by response_input_ids, whole rows of the buffer. "
            "See hint 2 of part 1."
        )

    def _whole(self, row: int, name: str) -> Tensor:
        """(P + R,) of the buffer, prompt and response."""
        return torch.cat([self.buffer[f"{part}_{name}"][row] for part in ("prompt", "response")])


class OneEpoch(SimpleNamespace):
    """cfg.ppo of an epoch that does not ask how many there are."""

    @property
    def epochs(self) -> int:
        raise AssertionError(
            "The trainer calls this function once for each of ppo.epochs: write one pass. See hint 2 of part 3."
        )


class Epoch:
    """One call of run_ppo_update_epoch, and what it did."""

    def __init__(self, function: Callable, buffer: dict[str, Tensor], actor: nn.Module, **ppo):
        defaults = {
            "mini_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "clip_ratio": 0.15,  # no number that stands in the notebook
            "clip_range_value": 0.3,
            "vf_coeff": 0.5,
            "entropy_coeff": 0.01,
            "max_grad_norm": 1e6,
        }
        self.ppo = OneEpoch(**(defaults | ppo))
        self.buffer = {name: tensor.clone() for name, tensor in buffer.items()}
        self.actor = actor
        self.start = {name: p.detach().clone() for name, p in actor.named_parameters()}
        self.events: list[str] = []
        self.losses = LinearLosses()
        self.calls = self.losses.calls
        # A group for each parameter, since the trainer's optimizer has more than one too.
        optimizer = torch.optim.SGD([{"params": [p]} for p in self.actor.parameters()], lr=1.0)
        optimizer.register_step_post_hook(lambda *_: self.events.append("optimizer.step"))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        scheduler.step = self._scheduler_step  # its constructor made a step itself
        given, before = dict(buffer), vars(self.ppo).copy()
        with self.losses.in_the_place_of_those_of(function), no_processes():
            self.result = function(
                self.actor, optimizer, scheduler, given, SimpleNamespace(ppo=self.ppo), torch.device("cpu")
            )
        assert self.result is not None, "it returned None: is the `return` at the end missing?"
        assert vars(self.ppo) == before, "it changed cfg.ppo; the next epoch needs it as it was."
        assert [*given] == [*buffer], f"it left a buffer of {', '.join(given)}; the next epoch needs it as it was."
        for name, tensor in given.items():
            assert torch.equal(tensor, self.buffer[name]), (
                f'it changed "{name}" of the buffer; the next epoch needs it.'
            )
        self.moved = {
            name: (parameter - self.start[name]).detach() for name, parameter in self.actor.named_parameters()
        }

    def only_mini_batch(self) -> list[int]:
        """The responses in their order, where mini_batch_size is the number of them all. AssertionError: not once each,
        in one call of the actor."""
        calls, everyone = self.actor.rows, [*range(len(self.buffer["rewards"]))]
        assert len(calls) == 1 and sorted(calls[0]) == everyone, (
            f"{len(everyone)} responses with mini_batch_size {len(everyone)} are one mini-batch: the actor is called "
            f"once, with each response once. Yours: {', then '.join(map(str, calls)) or 'never called'}. To cut an "
            "order, torch.split takes the size of a piece, torch.chunk the number of pieces. See hint 2 of part 3."
        )
        return calls[0]

    def expect_mini_batches(self) -> None:
        """AssertionError: the actor was asked about more responses at once than mini_batch_size, or about fewer, but
        for the last mini-batch."""
        size, sizes = self.ppo.mini_batch_size, [len(rows) for rows in self.actor.rows]
        assert max(sizes, default=0) <= size, (
            f"the actor was asked about {max(sizes)} responses in one call, where mini_batch_size is {size}. Cut the "
            "order into mini-batches first, and call it once for each. See hint 2 of part 3."
        )
        assert all(count == size for count in sizes[:-1]), (
            f"the mini-batches had {', '.join(map(str, sizes))} responses, where mini_batch_size is {size}; only the "
            "last one may have fewer. See hint 2 of part 3."
        )

    def _scheduler_step(self, *given) -> None:
        assert not given, "lr_scheduler.step() is called with nothing between its brackets. See hint 2 of part 3."
        self.events.append("lr_scheduler.step")


def no_processes() -> AbstractContextManager:
    """A block in which none may be started, as where submissions are judged."""
    refusal = AssertionError("it starts a process, which the autograder does not allow: leave num_workers at 0.")
    return mock.patch("multiprocessing.process.BaseProcess.start", side_effect=refusal)


class LinearLosses:
    """The three losses as linear functions that keep what they were given.

    In their i-th call they read i, 10 i and -100 i, and their metrics i / 10, approx_kl i / 10 with the sign of (-1)^i,
    vf_clip_frac i / 5.
    """

    def __init__(self):
        self.calls: dict[str, list[dict]] = {name: [] for name in LOSSES}

    def only_call(self, loss: str) -> dict:
        """The arguments with which a loss was called for one mini-batch."""
        calls = self.calls[loss]
        assert len(calls) == 1, (
            f"{loss} was called {len(calls)} times for one mini-batch; call it once, by this name: notebook 6 "
            "puts your own in its place. See hint 2 of part 2."
        )
        return calls[0]

    @contextmanager
    def in_the_place_of_those_of(self, function: Callable) -> Iterator[None]:
        module = inspect.unwrap(function).__globals__
        before = {name: module.get(name) for name in LOSSES}
        module.update({name: getattr(self, name) for name in LOSSES})
        try:
            yield
        finally:
            module.update(before)

    def compute_policy_loss(self, log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):
        number = self._record("compute_policy_loss", locals())
        loss = _mean("log_probs_new", log_probs_new, response_mask, number)
        return loss, torch.tensor(number / 10), torch.tensor((-1) ** number * number / 10)

    def compute_value_loss(self, values_new, values_old, returns, response_mask, clip_range_value):
        number = self._record("compute_value_loss", locals())
        return _mean("values_new", values_new, response_mask, 10 * number), torch.tensor(number / 5)

    def compute_entropy_loss(self, logits_new, response_mask):
        number = self._record("compute_entropy_loss", locals())
        return _mean("logits_new[..., 0]", logits_new[..., 0], response_mask, -100 * number)

    def _record(self, name: str, arguments: dict) -> int:
        self.calls[name].append(arguments)
        return len(self.calls[name])


def _mean(name: str, tensor: Tensor, mask: Tensor, shown: float) -> Tensor:
    """A loss that reads `shown` and has the gradient of the mean of `tensor` over the mask."""
    assert tensor.shape == mask.shape, (
        f"{name} has shape {tuple(tensor.shape)} beside a response_mask of {tuple(mask.shape)}; both must be "
        "(b, R): take the R positions P−1 to P+R−2, both included. See hint 2 of part 1."
    )
    mean = (tensor * mask).sum() / mask.sum()
    return mean - mean.detach() + shown


def worked_buffer() -> tuple[dict[str, Tensor], TableActor]:
    """Buffer and actor, with logits (2, 6, 4) and values (2, 6), of the worked example; positions 0 and 5
    predict nothing. The logits are not normalised, or they would be log-probs."""
    example = worked_example()
    buffer = {
        "prompt_input_ids": example.prompt_input_ids,
        "prompt_attention_mask": example.prompt_attention_mask,
        "response_input_ids": example.response_input_ids,
        "response_attention_mask": example.response_mask,
        "logprobs": example.log_probs_old,
        "ref_logprobs": example.log_probs_old - 0.1,
        "values": example.values_old,
        "advantages": example.advantages,
        "returns": example.returns,
        "rewards": example.final_rewards,
    }
    logits = torch.cat([torch.zeros(2, 1, 4), example.logits_new + 1, torch.zeros(2, 1, 4)], dim=1)
    values = torch.cat([torch.full((2, 1), 7.0), example.values_new, torch.full((2, 1), -7.0)], dim=1)
    return buffer, TableActor(buffer, logits, values)


def small_buffer(responses: int, tokens: int = 3) -> tuple[dict[str, Tensor], TableActor]:
    """Up to 16 full responses, told apart by their prompts: binary numbers, since there are two words. All logits
    and values are 0."""
    shape = (responses, tokens)
    prompts = torch.arange(responses).unsqueeze(1) >> torch.arange(4) & 1  # (N, 4)
    buffer = {
        "prompt_input_ids": prompts,
        "prompt_attention_mask": torch.ones_like(prompts),
        "response_input_ids": torch.ones(shape, dtype=torch.long),
        "response_attention_mask": torch.ones(shape, dtype=torch.long),
        "rewards": torch.zeros(responses),
        "logprobs": torch.zeros(shape),
        "ref_logprobs": torch.zeros(shape),
        "values": torch.zeros(shape),
        "advantages": torch.zeros(shape),
        "returns": torch.zeros(shape),
    }
    logits, values = torch.zeros(responses, 4 + tokens, 2), torch.zeros(responses, 4 + tokens)
    return buffer, TableActor(buffer, logits, values)
