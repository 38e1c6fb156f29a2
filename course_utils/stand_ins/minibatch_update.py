"""An update epoch in the order of the rollout: a step after every mini-batch, nothing shuffled or accumulated."""

import torch
from torch import Tensor

from course_utils.exercises import UPDATE_METRICS
from course_utils.stand_ins.entropy import compute_entropy_loss
from course_utils.stand_ins.policy_loss import compute_policy_loss
from course_utils.stand_ins.value_loss import compute_value_loss


def run_ppo_update_epoch(
    actor_model, optimizer, lr_scheduler, collated_buffer: dict[str, Tensor], cfg, device
) -> dict[str, float]:
    """The metrics UPDATE_METRICS, means over the mini-batches. See exercise 5 for the arguments.

    actor_model is course_utils.policy.ActorCritic, which can leave out the logits that nobody asks for.
    """
    ppo, rows = cfg.ppo, []
    for start in range(0, len(collated_buffer["rewards"]), ppo.mini_batch_size):
        batch = {name: x[start : start + ppo.mini_batch_size].to(device) for name, x in collated_buffer.items()}
        tokens, mask = batch["response_input_ids"], batch["response_attention_mask"]
        logits, values = actor_model(
            torch.cat([batch["prompt_input_ids"], tokens], 1),
            torch.cat([batch["prompt_attention_mask"], mask], 1),
            logits_to_keep=tokens.shape[1] + 1,
        )
        logits, values = logits[:, :-1], values[:, :-1]  # (B, R, V), (B, R): each predicts the next token
        log_probs = torch.distributions.Categorical(logits=logits).log_prob(tokens)
        policy, clipped, kl = compute_policy_loss(
            log_probs, batch["logprobs"], batch["advantages"], mask, ppo.clip_ratio
        )
        value, value_clipped = compute_value_loss(values, batch["values"], batch["returns"], mask, ppo.clip_range_value)
        entropy = compute_entropy_loss(logits, mask)
        total = policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(actor_model.parameters(), ppo.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        rows.append([x.detach().item() for x in (policy, value, -entropy, total, clipped, value_clipped, kl, norm)])
    return dict(zip(UPDATE_METRICS, torch.tensor(rows).mean(0).tolist()))
