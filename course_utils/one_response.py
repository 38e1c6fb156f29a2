"""One response of the model as it is now, with every number that PPO attaches to its tokens."""

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor

from course_utils.rollout import score_logprobs
from course_utils.trainer import Trainer


@dataclass(frozen=True)
class OneResponse:
    """A response of R tokens, the end-of-sequence token included."""

    prompt: str
    reward: float
    tokens: list[str]
    quantities: dict[str, Tensor]  # name -> (R,)


def one_response(trainer: Trainer) -> OneResponse:
    """The longest wrong response of the rollout that would come next, or the longest one; and what the update on that
    rollout would do to it. The trainer stays as it is. Takes as long as one PPO step."""
    buffer, scores = trainer.rollout(trainer.step + 1)
    trainer.begin_at_ratio_1(buffer)
    kl = trainer.add_advantages(buffer)  # (N, R), nats
    log_ratio = _after_update(trainer, buffer) - buffer["logprobs"]
    lengths = buffer["response_attention_mask"].sum(1)  # (N,)
    wrong = [i for i, score in enumerate(scores) if not score.correct]
    row = max(wrong or range(len(scores)), key=lambda i: lengths[i].item())
    prompt = buffer["prompt_input_ids"][row][buffer["prompt_attention_mask"][row].bool()]
    length = lengths[row]
    quantities = {
        "advantage": buffer["advantages"],
        "value": buffer["values"],
        "log-ratio to the reference": kl,
        "log-ratio after an update": log_ratio,
    }
    return OneResponse(
        trainer.tokenizer.decode(prompt, skip_special_tokens=True),
        scores[row].reward,
        [trainer.tokenizer.decode(token) for token in buffer["response_input_ids"][row, :length]],
        {name: x[row, :length].cpu() for name, x in quantities.items()},
    )


def _after_update(trainer: Trainer, buffer: dict[str, Tensor]) -> Tensor:
    """Log-probs (N, R) of the buffer's tokens after the update epochs on it, which are then undone."""
    parts = trainer.unwrapped, trainer.optimizer, trainer.lr_scheduler, trainer.unwrapped.loss_scale
    changed = [part for part in parts if part is not None]
    kept = deepcopy([part.state_dict() for part in changed])
    try:
        trainer.update(buffer)
        return score_logprobs(trainer.unwrapped, buffer, trainer.cfg.ppo.mini_batch_size)
    finally:
        for part, state in zip(changed, kept):
            part.load_state_dict(state)
