"""The floor of ppo_step.py: the bare work of a PPO step in transformers' own modules, and nothing of PPO.

    python benchmarks/ppo_step_floor.py                    # logits at every position, as the modules give them
    python benchmarks/ppo_step_floor.py --response-logits  # only where they are needed: a lower floor

One generation with a KV cache, sampled at temperature 1; one forward pass of a reference; forward, backward and AdamW
for each mini-batch, on the log-probabilities of the responses. No critic, no entropy, no KL, no reward, no clipping.
"""

import sys
import time

import torch
from ppo_step_protocol import LEARNING_RATE, Recorder, prompts_of, tokenizer_folder
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

RESPONSE_LOGITS = "--response-logits" in sys.argv


def pad(prompts: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """ids and mask (n, P), padded on the left."""
    width = max(map(len, prompts))
    return (
        torch.tensor([[pad_id] * (width - len(ids)) + ids for ids in prompts]),
        torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
    )


@torch.no_grad()
def sample(model: nn.Module, ids: Tensor, mask: Tensor, length: int, eos: int | None) -> tuple[Tensor, Tensor]:
    """ids and mask (n, P + R) after `length` tokens, or when every row has ended; what follows EOS is masked."""
    cache, tokens, going_on = DynamicCache(config=model.config), ids, torch.ones(len(ids), 1, dtype=torch.long)
    for _ in range(length):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = torch.multinomial(logits.softmax(-1), 1)
        ids, mask = torch.cat([ids, tokens], dim=1), torch.cat([mask, going_on], dim=1)
        if eos is not None:
            going_on = going_on * (tokens != eos)
            if not going_on.any():
                break
    return ids, mask


def loss_of(model: nn.Module, ids: Tensor, mask: Tensor, width: int) -> Tensor:
    """Minus the mean log-probability of the responses, which begin at position `width`."""
    kept = ids.shape[1] - width + 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=kept if RESPONSE_LOGITS else 0,
    ).logits[:, -kept:-1]
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, width:].unsqueeze(-1)).squeeze(-1)  # (b, R)
    inside = mask[:, width:]
    return -(logprobs * inside).sum() / inside.sum()


def main() -> None:
    recorder = Recorder()
    job = recorder.job
    model, reference = (AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=torch.float32) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(job))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    eos = tokenizer.eos_token_id if "prompts" in job else None
    prompts = iter(prompts_of(job, model.config.vocab_size))
    for _ in range(recorder.total):
        recorder.begin()
        start = time.perf_counter()
        ids, mask = pad([next(prompts) for _ in range(job["n"])], tokenizer.pad_token_id)
        width = ids.shape[1]
        ids, mask = sample(model, ids, mask, job["resp_len"], eos)
        sampled = time.perf_counter()
        with torch.no_grad():
            loss_of(reference, ids, mask, width)
        scored = time.perf_counter()
        for _ in range(job["epochs"]):
            for rows in torch.randperm(len(ids)).chunk(job["minibatches"]):
                loss_of(model, ids[rows], mask[rows], width).backward()
                optimizer.step()
                optimizer.zero_grad()
        recorder.end(
            rollout_s=sampled - start,
            reference_s=scored - sampled,
            update_s=time.perf_counter() - scored,
            tokens=mask[:, width:].sum().item(),
        )
    recorder.finish()


if __name__ == "__main__":
    main()
