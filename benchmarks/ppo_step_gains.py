"""Our step of ppo_step.py with one of its savings taken away, so that each can be seen alone.

    python benchmarks/ppo_step_gains.py TAKEN    # one of WITHOUT; the job is a line of stdin, as for ppo_step.py

Nothing here changes what is computed, but for rounding: it is only computed at greater cost.
"""

import sys
from dataclasses import replace

import torch
from ppo_step import step_ours
from ppo_step_protocol import Recorder
from torch import Tensor
from transformers import DynamicCache

from course_utils import optimizer, rollout, trainer
from course_utils.policy import ActorCritic
from course_utils.trainer import Trainer


def second_pass() -> None:
    """The actor reads the finished responses once more, for their log-probabilities."""

    def collect(actor, prompts, tokenizer, cfg, uniforms, device):
        buffer = rollout.collect(actor, prompts, tokenizer, cfg, uniforms, device)
        return buffer | {"logprobs": rollout.score_logprobs(actor, buffer, cfg.ppo.mini_batch_size)}

    trainer.collect = collect


@torch.no_grad()
def _generate(actor, prompts, tokenizer, cfg, uniforms, device) -> dict[str, Tensor]:
    """rollout.generate, sampling only, in which a row that has ended goes on with padding until all have."""
    ids, mask = rollout.pad_prompts(prompts, tokenizer.pad_token_id, device)
    width, cache, tokens = ids.shape[1], DynamicCache(config=actor.model.config), ids
    going_on = mask.new_ones(len(ids))
    logprobs, values = [], []
    for t in range(cfg.max_new_tokens):
        logits, value = actor.next_token(tokens, mask, cache)
        allowed = logits
        if t < cfg.min_new_tokens:
            allowed = logits.index_fill(1, torch.tensor(tokenizer.eos_token_id), -torch.inf)
        token = rollout.pick(allowed.softmax(-1), uniforms[:, t]).where(going_on.bool(), tokenizer.pad_token_id)
        tokens = token.unsqueeze(1)
        ids, mask = torch.cat([ids, tokens], dim=1), torch.cat([mask, going_on.unsqueeze(1)], dim=1)
        logprobs.append((logits.gather(-1, tokens).squeeze(-1) - logits.logsumexp(-1)) * going_on)
        values.append(value * going_on)
        going_on = going_on * (token != tokenizer.eos_token_id)
        if not going_on.any():
            break
    return {
        "prompt_input_ids": ids[:, :width],
        "prompt_attention_mask": mask[:, :width],
        "response_input_ids": ids[:, width:],
        "response_attention_mask": mask[:, width:],
        "logprobs": torch.stack(logprobs, dim=1),
        "values": torch.stack(values, dim=1),
    }


def ended_rows() -> None:
    """Responses that have ended stay in the batch that is sampled."""
    rollout.generate = _generate


def padding() -> None:
    """Rows are computed as they are padded, all together, with a mask and position ids."""

    def forward(self, input_ids, attention_mask, logits_to_keep=0):
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        read = torch.zeros_like(input_ids, dtype=torch.bool)
        first = input_ids.shape[1] - logits_to_keep if logits_to_keep else 0
        read[:, max(first, self._first_read) :] = True
        logits, values = self._run(input_ids, read, attention_mask=attention_mask, position_ids=positions)
        row, column = read[:, first:].nonzero(as_tuple=True)
        shape = len(read), read.shape[1] - first
        return (
            logits.new_zeros(*shape, logits.shape[-1]).index_put_((row, column), logits),
            values.new_zeros(shape).index_put_((row, column), values),
        )

    ActorCritic.forward = forward


def all_logits() -> None:
    """The LM head computes every position, those of the prompts too."""
    run = ActorCritic._run

    def run_all(self, input_ids, chosen, **extra):
        logits, values = run(self, input_ids, ..., **extra)
        return logits[chosen], values[chosen]

    ActorCritic._run = run_all


def whole_softmax() -> None:
    """Scoring makes the log-probabilities of the whole vocabulary, to choose one a token of them."""

    @torch.no_grad()
    def score_logprobs(actor, buffer, chunk):
        ids, mask = buffer["response_input_ids"], buffer["response_attention_mask"]
        texts, found = rollout.whole_texts(buffer), []
        for rows in torch.arange(len(ids)).split(chunk):
            logits, _ = actor(*(part[rows] for part in texts), logits_to_keep=ids.shape[1] + 1)
            logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[rows].unsqueeze(-1)).squeeze(-1)
            found.append(logprobs * mask[rows])
        return torch.cat(found)

    trainer.score_logprobs = score_logprobs


def no_grad() -> None:
    """Sampling keeps what a backward pass would need."""
    generate = rollout.generate.__wrapped__
    rollout.generate = lambda *given: {name: tensor.detach() for name, tensor in generate(*given).items()}


def entropy_graph() -> None:
    """An entropy bonus of next to nothing goes back through all logits."""
    make = Trainer.__init__

    def with_bonus(self, cfg, exercises):
        make(self, replace(cfg, ppo=replace(cfg.ppo, entropy_coeff=1e-12)), exercises)

    Trainer.__init__ = with_bonus


def fused_adam() -> None:
    """AdamW goes over the weights once for each of its operations."""
    optimizer.partial = lambda adam, **_: adam


WITHOUT = {
    function.__name__: function
    for function in (second_pass, ended_rows, padding, all_logits, whole_softmax, no_grad, entropy_graph, fused_adam)
}

if __name__ == "__main__":
    WITHOUT[sys.argv[1]]()
    step_ours(Recorder())
