"""Sampling responses from the policy into the buffer that PPO learns from.

Log-probabilities and values are kept from sampling: they are the numbers that the ratio and GAE need, and a second
pass over the same tokens would give them again, but for rounding (Trainer.begin_at_ratio_1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, TopKLogitsWarper, TopPLogitsWarper

from course_utils.config import Config, GenerationConfig
from course_utils.decoding import begin
from course_utils.policy import ActorCritic
from course_utils.problems import Prompt


def pad_prompts(prompts: list[Prompt], pad_id: int, device) -> tuple[Tensor, Tensor]:
    """ids and mask (B, P), padded on the left so that all responses begin at the same position."""
    rows = [torch.tensor(prompt.input_ids) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids.to(device), mask.to(device)


def truncation(cfg: GenerationConfig) -> LogitsProcessorList:
    """What takes away the logits that top-k and top-p (nucleus, Holtzman et al. 2020) leave out.

    Empty by default. Switched on, responses come from another distribution than the one whose log-probs the ratio
    compares, so the policy gradient is biased, and tokens that were cut off can never be learned.
    """
    found = LogitsProcessorList()
    if cfg.top_k:
        found.append(TopKLogitsWarper(cfg.top_k))
    if cfg.top_p < 1:
        found.append(TopPLogitsWarper(cfg.top_p))
    return found


def pick(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row at which the cumulated probability passes uniforms (B,), in [0, 1)."""
    cumulated = probs.cumsum(-1)
    target = uniforms.unsqueeze(-1) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1).clamp(max=probs.shape[-1] - 1)


@torch.no_grad()
def generate(
    actor: ActorCritic,
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    cfg: GenerationConfig,
    uniforms: Tensor | None,
    device,
) -> dict[str, Tensor]:
    """Samples one response a prompt, or decodes greedily where `uniforms` is None.

    Args:
        uniforms: (B, max_new_tokens) random numbers in [0, 1), one a token. Given from outside, so a row's response
            depends neither on the other rows nor on the number of processes.
    Returns:
        prompt_input_ids, prompt_attention_mask (B, P), padded on the left; response_input_ids,
        response_attention_mask (1 through the end-of-sequence token), logprobs, values (B, R), padded on the right
        to the longest response, with pad ids and zeros off the mask.
    """
    actor.eval()  # in training mode, gradient checkpointing would do without the cache
    prompt_ids, prompt_mask = pad_prompts(prompts, tokenizer.pad_token_id, device)
    shape = len(prompts), cfg.max_new_tokens
    ids = torch.full(shape, tokenizer.pad_token_id, device=device)
    mask = torch.zeros(shape, dtype=torch.long, device=device)
    logprobs, values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    rows, truncate = torch.arange(len(prompts), device=device), truncation(cfg)
    if uniforms is not None:
        uniforms = uniforms.to(device)

    cache, logits, value = begin(actor, prompt_ids, prompt_mask, cfg.max_new_tokens)  # (B, V), (B,)
    for t in range(cfg.max_new_tokens):
        allowed = logits
        if t < cfg.min_new_tokens:
            allowed = logits.index_fill(1, torch.tensor(tokenizer.eos_token_id, device=device), -torch.inf)
        if uniforms is None:
            token = allowed.argmax(-1)
        else:
            token = pick(truncate(ids, allowed).softmax(-1), uniforms[rows, t])
        ids[rows, t], mask[rows, t], values[rows, t] = token, 1, value
        logprobs[rows, t] = logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)

        going_on = (token != tokenizer.eos_token_id).nonzero().squeeze(-1)  # ended rows leave the batch
        if len(going_on) == 0 or t + 1 == cfg.max_new_tokens:
            break
        rows = rows[going_on]
        logits, value = cache.go_on(token[going_on], going_on)
    longest = t + 1
    return {
        "prompt_input_ids": prompt_ids,
        "prompt_attention_mask": prompt_mask,
        "response_input_ids": ids[:, :longest],
        "response_attention_mask": mask[:, :longest],
        "logprobs": logprobs[:, :longest],
        "values": values[:, :longest],
    }


def texts_of(buffer: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The N responses of a buffer as text, cut at the end-of-sequence token."""
    lengths = buffer["response_attention_mask"].sum(1).tolist()
    return [
        tokenizer.decode(row[:length], skip_special_tokens=True)
        for row, length in zip(buffer["response_input_ids"].tolist(), lengths)
    ]


def whole_texts(buffer: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """ids and mask (N, P + R) of prompts and responses together."""
    return (
        torch.cat([buffer["prompt_input_ids"], buffer["response_input_ids"]], dim=1),
        torch.cat([buffer["prompt_attention_mask"], buffer["response_attention_mask"]], dim=1),
    )


def score_logprobs(actor: ActorCritic, buffer: dict[str, Tensor], chunk: int) -> Tensor:
    """Log-probs (N, R) of a buffer's response tokens under `actor`, `chunk` rows at a time; 0 off the mask."""
    response_ids, response_mask = buffer["response_input_ids"], buffer["response_attention_mask"]
    input_ids, attention_mask = whole_texts(buffer)
    found = []
    with torch.no_grad():
        for rows in torch.arange(len(input_ids)).split(chunk):
            # Position P-1 predicts the first response token; the last position predicts none.
            logits, _ = actor(input_ids[rows], attention_mask[rows], logits_to_keep=response_ids.shape[1] + 1)
            logits = logits[:, :-1]  # (b, R, V)
            chosen = logits.gather(-1, response_ids[rows].unsqueeze(-1)).squeeze(-1)
            found.append((chosen - logits.logsumexp(-1)) * response_mask[rows])
    return torch.cat(found)


def collate(buffers: list[dict[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """One buffer out of several: prompts padded on the left to the longest, everything else on the right."""

    def join(name: str) -> Tensor:
        parts = [buffer[name] for buffer in buffers]
        width = max(part.shape[1] for part in parts)
        fill = pad_id if name.endswith("input_ids") else 0
        return torch.cat(
            [
                F.pad(
                    part,
                    (width - part.shape[1], 0) if name.startswith("prompt") else (0, width - part.shape[1]),
                    value=fill,
                )
                for part in parts
            ]
        )

    return {name: join(name) for name in buffers[0]}


def collect(
    actor: ActorCritic, prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, cfg: Config, uniforms: Tensor, device
) -> dict[str, Tensor]:
    """Samples one response for each of N prompts, cfg.ppo.batch_size at a time; the buffer as in generate()."""
    size = cfg.ppo.batch_size
    return collate(
        [
            generate(
                actor, prompts[start : start + size], tokenizer, cfg.generation, uniforms[start : start + size], device
            )
            for start in range(0, len(prompts), size)
        ],
        tokenizer.pad_token_id,
    )
