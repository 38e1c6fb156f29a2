"""What the judge compares with: the exercises' equations in float64, token by token, without any of their shortcuts.

A function takes the arguments of an exercise's function, by name, and gives its results by name. Only the sandbox's
other side imports this.
"""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens on the mask; both (B, R)."""
    return values[mask.bool()].mean()


def policy_loss(
    log_probs_new: Tensor, log_probs_old: Tensor, advantages: Tensor, response_mask: Tensor, clip_ratio: float
) -> dict[str, Tensor]:
    """Schulman et al. 2017, equation 7; approx_kl is the k1 estimator."""
    ratio = (log_probs_new - log_probs_old).where(response_mask.bool(), 0).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return {
        "loss": -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), response_mask),
        "clip_frac": masked_mean(((ratio - 1).abs() > clip_ratio).double(), response_mask),
        "approx_kl": masked_mean(log_probs_old - log_probs_new, response_mask).detach(),
    }


def value_loss(
    values_new: Tensor, values_old: Tensor, returns: Tensor, response_mask: Tensor, clip_range_value: float
) -> dict[str, Tensor]:
    """½ of the larger squared error of the value and of the value kept within the range around the old one."""
    near = values_old + (values_new - values_old).clamp(-clip_range_value, clip_range_value)
    free, clipped = (values_new - returns) ** 2, (near - returns) ** 2
    return {
        "loss": masked_mean(torch.maximum(free, clipped), response_mask) / 2,
        "vf_clip_frac": masked_mean((clipped > free + 1e-9).double(), response_mask),
    }


def entropy(logits_new: Tensor, response_mask: Tensor) -> dict[str, Tensor]:
    """Minus the mean over the mask of -Σ p log p, in nats."""
    log_probs = logits_new - logits_new.logsumexp(-1, keepdim=True)
    return {"loss": masked_mean((log_probs.exp() * log_probs).sum(-1), response_mask)}


def gae(
    final_rewards: Tensor, kl_penalties: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> dict[str, Tensor]:
    """Schulman et al. 2016, equations 11 and 16, row by row over its own tokens."""
    raw = torch.zeros_like(values)
    for row, length in enumerate(response_mask.sum(1).tolist()):
        following_value = following_advantage = 0.0
        for t in reversed(range(length)):
            reward = -kl_penalties[row, t] + (final_rewards[row] if t == length - 1 else 0.0)
            delta = reward + gamma * following_value - values[row, t]
            raw[row, t] = following_advantage = delta + gamma * lam * following_advantage
            following_value = values[row, t]
    on = raw[response_mask.bool()]
    white = (raw - on.mean()) / (on.var(correction=0) + 1e-8).sqrt() if len(on) else raw
    return {"advantages": white.where(response_mask.bool(), 0), "returns": (raw + values).detach()}


def epoch(
    actor,
    buffer: dict[str, Tensor],
    order: list[list[int]],
    cfg: dict,
    rates: list[float],
    losses,
    kept: float = 1.0,
) -> dict:
    """An update epoch whose mini-batches held the rows `order`, with plain gradient descent.

    Args:
        actor: actor(input_ids (b, P+R), attention_mask (b, P+R)) -> logits (b, P+R, V), values (b, P+R); is trained
        rates: the learning rate of each step
        losses: compute_policy_loss, compute_value_loss and compute_entropy_loss
        kept: the share of the parameters that each step leaves
    Returns:
        the eight metrics; seen, for each mini-batch what the losses must be given
    """
    policy_of, value_of, entropy_of = losses
    prompt, mask = buffer["prompt_input_ids"], buffer["response_attention_mask"]
    tokens = torch.cat([prompt, buffer["response_input_ids"]], 1)
    attention = torch.cat([buffer["prompt_attention_mask"], mask], 1)
    group_length, logs, norms, seen = cfg["gradient_accumulation_steps"], [], [], []
    for step, start in enumerate(range(0, len(order), group_length)):
        group = order[start : start + group_length]
        actor.zero_grad()
        for rows in group:
            logits, values = actor(tokens[rows], attention[rows])
            logits, values = logits[:, prompt.shape[1] - 1 : -1], values[:, prompt.shape[1] - 1 : -1]
            chosen = logits.log_softmax(-1).gather(-1, buffer["response_input_ids"][rows].unsqueeze(-1)).squeeze(-1)
            seen.append({"log_probs_new": chosen, "values_new": values, "logits_new": logits})
            loss, clip_frac, kl = policy_of(
                chosen, buffer["logprobs"][rows], buffer["advantages"][rows], mask[rows], cfg["clip_ratio"]
            )
            value, value_frac = value_of(
                values, buffer["values"][rows], buffer["returns"][rows], mask[rows], cfg["clip_range_value"]
            )
            entropy_loss = entropy_of(logits, mask[rows])
            total = loss + cfg["vf_coeff"] * value + cfg["entropy_coeff"] * entropy_loss
            (total * len(rows) / sum(map(len, group))).backward()
            logs.append((loss, value, -entropy_loss, total, clip_frac, value_frac, kl))
        gradients = [p.grad for p in actor.parameters()]
        norms.append(torch.stack([g.norm() for g in gradients]).norm())
        with torch.no_grad():
            for parameter, gradient in zip(actor.parameters(), gradients):
                parameter -= rates[step] * gradient * min(1.0, cfg["max_grad_norm"] / (norms[-1].item() + 1e-6))
                parameter *= kept
    means = [torch.stack(list(column)).mean().item() for column in zip(*logs)]
    return {"metrics": [*means, torch.stack(norms).mean().item()], "seen": seen}
