"""Two responses of four tokens that all five notebooks compute by hand: their inputs, none of their answers.

The task of this toy model is to repeat a number after `####`. Its vocabulary has four tokens, and `<eos>` is
also the padding. Response A repeats "4 2" rightly; response B should have said "#### 4 <eos>" but says
"2 <eos>", and is padded. Padding holds a 9 or -9 where any number may stand, so that one that leaks into a
result shows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.exercises import EXERCISES

VOCABULARY = ("<eos>", "####", "4", "2")


@dataclass(frozen=True)
class WorkedExample:
    """B = 2 responses, P = 2 prompt tokens (padded on the left), R = 4 response tokens, V = 4 words."""

    prompt_input_ids: Tensor  # (B, P) long
    prompt_attention_mask: Tensor  # (B, P) long
    response_input_ids: Tensor  # (B, R) long
    response_mask: Tensor  # (B, R) long: 1 from the first response token through <eos>
    logits_new: Tensor  # (B, R, V) of the policy that is being updated: logits of each response token
    log_probs_new: Tensor  # (B, R) of the response tokens under those logits
    log_probs_old: Tensor  # (B, R) under the policy that wrote the responses
    values_new: Tensor  # (B, R) of the critic that is being updated
    values_old: Tensor  # (B, R) of the critic at the time of the rollout
    kl_penalties: Tensor  # (B, R) KL coefficient times (log-prob of the actor - log-prob of the reference)
    final_rewards: Tensor  # (B,)
    advantages: Tensor  # (B, R), as notebook 4 computes them
    returns: Tensor  # (B, R), as notebook 4 computes them
    clip_ratio: float = 0.2
    clip_range_value: float = 0.2
    gamma: float = 0.8
    lam: float = 0.5


def worked_example() -> WorkedExample:
    """The example, in new tensors each time: a cell that changes one spoils no other cell."""
    probs_new = [
        [
            [1 / 8, 1 / 2, 1 / 4, 1 / 8],
            [1 / 4, 1 / 4, 1 / 4, 1 / 4],
            [1 / 8, 1 / 8, 1 / 4, 1 / 2],
            [1 / 2, 1 / 8, 1 / 8, 1 / 4],
        ],
        [[1 / 8, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 4, 1 / 4, 1 / 4]],
    ]
    padding = [9.0, -9.0, 0.0, 0.0]
    logits_a = torch.tensor(probs_new[0]).log()
    logits_b = torch.cat([torch.tensor(probs_new[1]).log(), torch.tensor([padding, padding])])
    return WorkedExample(
        prompt_input_ids=torch.tensor([[2, 3], [0, 2]]),
        prompt_attention_mask=torch.tensor([[1, 1], [0, 1]]),
        response_input_ids=torch.tensor([[1, 2, 3, 0], [3, 0, 0, 0]]),
        response_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        logits_new=torch.stack([logits_a, logits_b]),
        log_probs_new=_log([[1 / 2, 1 / 4, 1 / 2, 1 / 2], [1 / 8, 1 / 4]]),
        log_probs_old=_log([[0.4, 1 / 2, 1 / 2, 0.4], [1 / 4, 1 / 4]]),
        values_new=torch.tensor([[0.4, 0.1, 0.65, 0.8], [0.0, -0.05, 9.0, 9.0]]),
        values_old=torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.3, 0.2, 9.0, 9.0]]),
        kl_penalties=torch.tensor([[-0.06, 0.04, 0.02, 0.1], [-0.09, 0.05, 9.0, 9.0]]),
        final_rewards=torch.tensor([1.0, 0.0]),
        advantages=torch.tensor([[0.75, 0.75, 1.25, -0.25], [-1.0, -1.5, 0.0, 0.0]]),
        returns=torch.tensor([[0.3, 0.4, 0.7, 0.9], [0.15, -0.05, -9.0, -9.0]]),
    )


def _log(rows: list[list[float]]) -> Tensor:
    """Log-probabilities (2, 4) of these probabilities; padded positions get -9."""
    padded = torch.full((2, 4), -9.0)
    for row, probs in zip(padded, rows, strict=True):
        row[: len(probs)] = torch.tensor(probs).log()
    return padded


def arguments_of(key: str) -> dict[str, Tensor | float]:
    """What the example gives the function of exercise 1 to 4, by name and in order. Exercise 4 comes before the update:
    its values are the old ones."""
    example = worked_example()
    return {name: getattr(example, "values_old" if name == "values" else name) for name in EXERCISES[key].arguments}
