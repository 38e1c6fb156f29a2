"""Wrong answers that are right on tame numbers: what an answer is asked must find each, in check() as in the judge."""

from tests.solutions import solution_source

WRONG_ON_WILD_NUMBERS = {  # name: exercise, the solution's line, what stands there, the criterion that it fails
    "a gradient through the clip": (
        "policy_loss",
        "ratio.clamp(1 - clip_ratio, 1 + clip_ratio)",
        "ratio + (ratio.clamp(1 - clip_ratio, 1 + clip_ratio) - ratio).detach()",
        "gradient",
    ),
    "a bound on the ratio": ("policy_loss", "log_ratio.exp()", "log_ratio.exp().clamp(max=5)", "clipping"),
    "a bound on the log-ratio": ("policy_loss", "log_ratio.exp()", "log_ratio.clamp(-2, 2).exp()", "clipping"),
    "a bound on the log-ratio, far out": (
        "policy_loss",
        "log_ratio.exp()",
        "log_ratio.clamp(-5, 5).exp()",
        "clipping",
    ),
    "a prompt's padding told by its token": (
        "minibatch_update",
        '[batch["prompt_attention_mask"], mask]',
        '[(batch["prompt_input_ids"] > 0).long(), mask]',
        "forward",
    ),
    "a mini-batch left out for its ratios": (
        "minibatch_update",
        "total = policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy",
        "total = policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy\n"
        '    if (((log_probs - batch["logprobs"]).exp() * mask).sum() / mask.sum()).item() > 10:\n'
        "        total = total * 0.0",
        "losses",
    ),
    "an early stop": (
        "minibatch_update",
        "        optimizer.zero_grad()",
        '        optimizer.zero_grad()\n        if metrics["params/approx_kl"] > 0.015:\n            break',
        "minibatches",
    ),
    "the ten likeliest tokens": (
        "minibatch_update",
        "F.log_softmax(logits, dim=-1)",
        "F.log_softmax(logits.masked_fill("
        "logits < logits.topk(min(10, logits.shape[-1])).values[..., -1:], -1e9), dim=-1)",
        "forward",
    ),
    "a vocabulary of 32": (
        "minibatch_update",
        "F.log_softmax(logits, dim=-1)",
        "logits - logits.topk(min(32, logits.shape[-1])).values.logsumexp(-1, keepdim=True)",
        "forward",
    ),
    "a bound on log-probs": (
        "minibatch_update",
        "F.log_softmax(logits, dim=-1)",
        "F.log_softmax(logits, dim=-1).clamp(min=-20)",
        "forward",
    ),
    "a bound on logits": (
        "minibatch_update",
        "F.log_softmax(logits, dim=-1)",
        "F.log_softmax(logits.clamp(-20, 20), dim=-1)",
        "forward",
    ),
    "a policy loss weighed otherwise": (
        "minibatch_update",
        "total = policy + ppo",
        "total = policy * (ppo.mini_batch_size / len(mask)) + ppo",
        "minibatches",
    ),
    "an entropy loss weighed otherwise": (
        "minibatch_update",
        "ppo.entropy_coeff * entropy",
        "ppo.entropy_coeff * entropy * (ppo.mini_batch_size / len(mask))",
        "minibatches",
    ),
    "a norm of some parameters": (
        "minibatch_update",
        "clip_grad_norm_(actor_model.parameters(),",
        "clip_grad_norm_([p for name, p in actor_model.named_parameters() if name != 'logits'],",
        "step",
    ),
    "a reward discounted from the batch's end": (
        "gae",
        "is_last * final_rewards.unsqueeze(1)",
        "is_last * (final_rewards * gamma ** (values.shape[1] - response_mask.sum(1))).unsqueeze(1)",
        "token_rewards",
    ),
    "a shuffle within parts": (
        "minibatch_update",
        'order = torch.randperm(len(collated_buffer["response_input_ids"]))',
        "part = ppo.mini_batch_size * max(steps, 2)\n"
        '    order = torch.arange(len(collated_buffer["response_input_ids"])).split(part)\n'
        "    order = torch.cat([rows[torch.randperm(len(rows))] for rows in order])",
        "minibatches",
    ),
    "an order whose random numbers are put back": (
        "minibatch_update",
        "order = torch.randperm(",
        "with torch.random.fork_rng():\n        order = torch.randperm(",
        "minibatches",
    ),
    "a seed set behind the shuffle": (
        "minibatch_update",
        "mini_batches = order.split(ppo.mini_batch_size)",
        "torch.manual_seed(42)\n    mini_batches = order.split(ppo.mini_batch_size)",
        "minibatches",
    ),
    "fixed mini-batches in another order each time": (
        "minibatch_update",
        "mini_batches = order.split(ppo.mini_batch_size)",
        "size = ppo.mini_batch_size\n"
        "    fixed = torch.randperm(len(order), generator=torch.Generator().manual_seed(0)).split(size)\n"
        "    whole = len(order) // size\n"
        "    mini_batches = [fixed[i] for i in torch.randperm(whole)] + list(fixed[whole:])",
        "minibatches",
    ),
    "only responses with a reward": (
        "minibatch_update",
        "mini_batches = order.split(ppo.mini_batch_size)",
        'order = order[collated_buffer["rewards"][order] > 0]\n    mini_batches = order.split(ppo.mini_batch_size)',
        "minibatches",
    ),
    "sorted by length behind the shuffle": (
        "minibatch_update",
        "mini_batches = order.split(ppo.mini_batch_size)",
        'lengths = collated_buffer["response_attention_mask"].sum(1)\n'
        "    mini_batches = order[lengths[order].argsort(stable=True)].split(ppo.mini_batch_size)",
        "minibatches",
    ),
    "a softmax that overflows": (
        "minibatch_update",
        "F.log_softmax(logits, dim=-1)",
        "logits - logits.exp().sum(-1, keepdim=True).log()",
        "forward",
    ),
    "a bound on the advantages of the rollout": (
        "minibatch_update",
        'log_probs, batch["logprobs"], batch["advantages"], mask',
        'log_probs, batch["logprobs"], batch["advantages"].clamp(-5, 5), mask',
        "losses",
    ),
    "groups cut evenly": (
        "minibatch_update",
        "group = mini_batches[start : start + steps]",
        "group = mini_batches[start : start + steps]\n        group = torch.cat(group).chunk(len(group))",
        "minibatches",
    ),
    "a response's padding told by its token": (
        "minibatch_update",
        '[batch["prompt_attention_mask"], mask]',
        '[batch["prompt_attention_mask"], (response > 0).long()]',
        "forward",
    ),
    "a prompt of always four tokens": (
        "minibatch_update",
        'first = batch["prompt_input_ids"].shape[1] - 1',
        "first = 3",
        "forward",
    ),
    "the total logged without coefficients": (
        "minibatch_update",
        "logged = (policy, value, -entropy, total,",
        "logged = (policy, value, -entropy, policy + value,",
        "metrics",
    ),
    "the total logged without entropy": (
        "minibatch_update",
        "logged = (policy, value, -entropy, total,",
        "logged = (policy, value, -entropy, policy + ppo.vf_coeff * value,",
        "metrics",
    ),
    "an approx_kl logged without its sign": (
        "minibatch_update",
        "value_frac, approx_kl)",
        "value_frac, approx_kl.abs())",
        "metrics",
    ),
    "an order that begins elsewhere each time": (
        "minibatch_update",
        'torch.randperm(len(collated_buffer["response_input_ids"]))',
        '(lambda n: (torch.arange(n) + torch.randint(n, (1,))) % n)(len(collated_buffer["response_input_ids"]))',
        "minibatches",
    ),
    "a lower bound on probabilities": (
        "entropy",
        "probs = log_probs.exp()",
        "probs = log_probs.exp().clamp(min=1e-6)\n    log_probs = probs.log()",
        "stability",
    ),
    "a lower bound on log-probs": (
        "entropy",
        "F.log_softmax(logits_new.float(), dim=-1)",
        "F.log_softmax(logits_new.float(), dim=-1).clamp(min=-10)",
        "stability",
    ),
    "one maximum for all tokens": (
        "entropy",
        "log_probs = F.log_softmax(logits_new.float(), dim=-1)",
        "shifted = logits_new.float() - logits_new.float().max()\n"
        "    log_probs = (shifted.exp() / shifted.exp().sum(-1, keepdim=True) + 1e-12).log()",
        "stability",
    ),
    "returns of NaN on the padding": (
        "gae",
        "returns = raw + values",
        "returns = (raw + values).masked_fill(response_mask == 0, float('nan'))",
        "masking",
    ),
    "the buffer shuffled in its place": (
        "minibatch_update",
        "    mini_batches = order.split",
        "    collated_buffer.update({name: x[order] for name, x in collated_buffer.items()})\n"
        "    mini_batches = torch.arange(len(order)).split",
        "minibatches",
    ),
    "clamped logits, far out": (
        "entropy",
        "logits_new.float()",
        "logits_new.float().clamp(-1000, 1000)",
        "stability",
    ),
    "a floor of the variance": (
        "gae",
        "torch.rsqrt(variance + 1e-8)",
        "torch.rsqrt(variance.clamp(min=0.1))",
        "whitening",
    ),
    "too much added to the variance": (
        "gae",
        "torch.rsqrt(variance + 1e-8)",
        "torch.rsqrt(variance + 1e-5)",
        "whitening",
    ),
    "a bound on the advantages that are given": (
        "policy_loss",
        "surrogate = torch.min(",
        "advantages = advantages.clamp(-5, 5)\n    surrogate = torch.min(",
        "clipping",
    ),
    "an approx_kl that is never above 0": (
        "policy_loss",
        "-log_ratio.detach().sum() / tokens",
        "(-log_ratio.detach().sum() / tokens).clamp(max=0)",
        "metrics",
    ),
    "an approx_kl that is never below 0": (
        "policy_loss",
        "-log_ratio.detach().sum() / tokens",
        "(-log_ratio.detach().sum() / tokens).clamp(min=0)",
        "metrics",
    ),
    "an entropy loss without its sign": (
        "minibatch_update",
        "entropy = compute_entropy_loss(logits, mask)",
        "entropy = compute_entropy_loss(logits, mask).abs()",
        "losses",
    ),
    "a fixed range in clip_frac": (
        "policy_loss",
        "((ratio - 1).abs() > clip_ratio)",
        "((ratio - 1).abs() > 0.2)",
        "metrics",
    ),
    "the value loss logged with its coefficient": (
        "minibatch_update",
        "logged = (policy, value,",
        "logged = (policy, ppo.vf_coeff * value,",
        "metrics",
    ),
    "a gradient through the value's clip": (
        "value_loss",
        "torch.clamp(values_new, low, high)",
        "values_new + (torch.clamp(values_new, low, high) - values_new).detach()",
        "gradient",
    ),
    "a bound on the errors": (
        "value_loss",
        "torch.max(error, error_clipped)",
        "torch.max(error, error_clipped).clamp(max=100)",
        "worked_example",
    ),
    "rewards without their sign": ("gae", "is_last * final_rewards", "is_last * final_rewards.abs()", "token_rewards"),
    "a bound on the rewards": (
        "gae",
        "is_last * final_rewards",
        "is_last * final_rewards.clamp(-10, 10)",
        "token_rewards",
    ),
    "a bound on the penalties": (
        "gae",
        "response_mask * kl_penalties",
        "response_mask * kl_penalties.clamp(-1, 1)",
        "token_rewards",
    ),
    "a bound on the advantages": ("gae", "return advantages", "return advantages.clamp(-5, 5)", "whitening"),
    "advantages of rewards to go beside right returns": (
        "gae",
        "    tokens =",
        "    raw = (rewards.flip(1).cumsum(1).flip(1) - values) * response_mask\n    tokens =",
        "whitening",
    ),
    "no clipping of a gradient that is not gathered": (
        "minibatch_update",
        "clip_grad_norm_(actor_model.parameters(), ppo.max_grad_norm)",
        'clip_grad_norm_(actor_model.parameters(), ppo.max_grad_norm if steps > 1 else float("inf"))',
        "step",
    ),
    "the first group's gradient clipped alone": (
        "minibatch_update",
        "clip_grad_norm_(actor_model.parameters(), ",
        'clip_grad_norm_(optimizer.param_groups[0]["params"], ',
        "step",
    ),
    "an order by the first seed": (
        "minibatch_update",
        'torch.randperm(len(collated_buffer["response_input_ids"]))',
        'torch.randperm(len(collated_buffer["response_input_ids"]),\n'
        "        generator=torch.Generator().manual_seed(torch.initial_seed()))",
        "minibatches",
    ),
    "mini-batches of about one size": (
        "minibatch_update",
        "order.split(ppo.mini_batch_size)",
        "order.chunk(-(-len(order) // ppo.mini_batch_size))",
        "minibatches",
    ),
    "the first mini-batch's mask in all of them": (
        "minibatch_update",
        "for name, x in collated_buffer.items()}",
        "for name, x in collated_buffer.items()}\n"
        '            batch["prompt_attention_mask"] = collated_buffer["prompt_attention_mask"][order[: len(rows)]]',
        "forward",
    ),
    "a setting corrected for good": (
        "minibatch_update",
        "    order = torch.randperm",
        "    ppo.mini_batch_size = min(ppo.mini_batch_size, len(collated_buffer['rewards']))\n"
        "    order = torch.randperm",
        "minibatches",
    ),
    "a buffer with a tensor more": (
        "minibatch_update",
        "    order = torch.randperm",
        "    collated_buffer['kl'] = collated_buffer['logprobs'] - collated_buffer['ref_logprobs']\n"
        "    order = torch.randperm",
        "minibatches",
    ),
    "gradients switched off at the end": (
        "minibatch_update",
        "        optimizer.zero_grad()",
        "        optimizer.zero_grad()\n        torch.set_grad_enabled(start + steps < len(mini_batches))",
        "minibatches",
    ),
    "a bound on the returns": (
        "value_loss",
        "tokens = response_mask.sum()",
        "tokens = response_mask.sum()\n    returns = returns.clamp(-10, 10)",
        "worked_example",
    ),
    "a bound on the values": (
        "value_loss",
        "tokens = response_mask.sum()",
        "tokens = response_mask.sum()\n    values_new = values_new.clamp(-8, 8)",
        "worked_example",
    ),
    "an error that grows no longer with its square": (
        "value_loss",
        "error = (values_new - returns) ** 2",
        "error = 2 * F.huber_loss(values_new, returns, reduction='none', delta=10.0)",
        "worked_example",
    ),
    "values that are never below 0": (
        "value_loss",
        "torch.clamp(values_new, low, high)",
        "torch.clamp(values_new, low.relu(), high.relu())",
        "clipping",
    ),
    "a fixed range in vf_clip_frac": (
        "value_loss",
        "larger = (error_clipped > error).float()",
        "larger = ((values_new.clamp(values_old - 0.2, values_old + 0.2) - returns) ** 2 > error).float()",
        "metrics",
    ),
    "a bound on the values of the rollout": (
        "gae",
        "is_last = ",
        "values = values.clamp(-5, 5)\n    is_last = ",
        "recursion",
    ),
    "a raw advantage of 0 taken for padding": (
        "gae",
        "tokens = response_mask.sum()",
        "tokens = (raw != 0).sum()",
        "whitening",
    ),
    "whole groups clipped only": (
        "minibatch_update",
        "ppo.max_grad_norm)",
        "ppo.max_grad_norm if len(group) == steps else 1e9)",
        "step",
    ),
    "the longest prompt of a mini-batch": (
        "minibatch_update",
        "logits, values = logits[:, first:-1], values[:, first:-1]",
        'first = int(batch["prompt_attention_mask"].sum(1).max()) - 1\n'
        "    logits, values = (x[:, first : first + response.shape[1]] for x in (logits, values))",
        "forward",
    ),
    "a γ of 0 taken for none": ("gae", "is_last = ", "gamma = gamma or 1.0\n    is_last = ", "recursion"),
    "no penalty for a response of one token": (
        "gae",
        "response_mask * kl_penalties",
        "response_mask * kl_penalties * (response_mask.sum(1, keepdim=True) > 1)",
        "token_rewards",
    ),
}


def wrong_on_wild_numbers(name: str) -> tuple[str, str, str]:
    """Exercise, source and the criterion that fails."""
    key, old, new, criterion = WRONG_ON_WILD_NUMBERS[name]
    source = solution_source(key)
    assert source.count(old) == 1, old
    return key, source.replace(old, new), criterion
