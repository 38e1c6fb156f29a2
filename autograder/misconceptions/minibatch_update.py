"""Typical mistakes in exercise 5, run_ppo_update_epoch."""

from autograder.misconceptions.misconception import Misconception

SLICES = "logits[:, first:-1], values[:, first:-1]"
RANDOM_ORDER = 'torch.randperm(len(collated_buffer["response_input_ids"]))'
WEIGHED = "(total * len(rows) / group_size).backward()"
CLIPPED = "        norm = nn.utils.clip_grad_norm_(actor_model.parameters(), ppo.max_grad_norm)\n"
TOKENS_OF_GROUP = 'group_size = sum(collated_buffer["response_attention_mask"][rows].sum() for rows in group)'
ROWS = "x[rows].to(device)"
NOT_SHUFFLED = "x[order.argsort()[rows] if name in {names} else rows].to(device)"
ANOTHER_GENERATOR = "shuffled by another generator"
MEANS = "sum(log[name] for log in logs) / len(logs) for"

MISCONCEPTIONS = (
    Misconception(
        "one position late",
        "Logits and values are those at the response tokens. The output at a token is about "
        "the next one, so a response token is predicted one position before its own.",
        ((SLICES, "logits[:, first + 1 :], values[:, first + 1 :]"),),
    ),
    Misconception(
        "one position early",
        "Logits and values are taken one position too early.",
        ((SLICES, "logits[:, first - 1 : -2], values[:, first - 1 : -2]"),),
    ),
    Misconception(
        "values one position late",
        "The logits are cut rightly, but the values are those at the response tokens. Cut both in the same way.",
        (("values[:, first:-1]", "values[:, first + 1 :]"),),
    ),
    Misconception(
        "one position too many",
        "One more value than response tokens is kept. The output at the last response "
        "token predicts nothing that is in the buffer.",
        (("values[:, first:-1]", "values[:, first:]"),),
    ),
    Misconception(
        "log-prob of the wrong token",
        "The log-probs are those of the most likely tokens. Take those of the tokens that the response is made of.",
        (("log_probs.gather(-1, response.unsqueeze(-1)).squeeze(-1)", "log_probs.amax(-1)"),),
    ),
    Misconception(
        "probabilities for log-probs",
        "The policy loss is given probabilities. It expects their logarithms.",
        (("F.log_softmax(logits, dim=-1)", "F.softmax(logits, dim=-1)"),),
    ),
    Misconception(
        "logits for log-probs",
        "The policy loss is given logits that are not normalised over the vocabulary. They "
        "become log-probs by a log-softmax.",
        (("F.log_softmax(logits, dim=-1)", "logits"),),
    ),
    Misconception(
        "response without prompt",
        "The model is shown the response alone. It has to see what it answers: prompt and "
        "response, one after the other.",
        (
            ('torch.cat([batch["prompt_input_ids"], response], dim=1)', "response"),
            ('torch.cat([batch["prompt_attention_mask"], mask], dim=1)', "mask"),
            ("values = logits[:, first:-1], values[:, first:-1]", "values = logits, values"),
        ),
    ),
    Misconception(
        "prompt not masked",
        "The attention mask is all ones, so the model also looks at padding. Put it together "
        "from the masks of prompt and response.",
        (('torch.cat([batch["prompt_attention_mask"], mask], dim=1)', "torch.ones_like(input_ids)"),),
    ),
    Misconception(
        "reference for old",
        "The old log-probs are those of the reference policy. The ratio is to the policy that wrote the responses.",
        (('batch["logprobs"]', 'batch["ref_logprobs"]'),),
    ),
    Misconception(
        "new for old",
        "The old log-probs are computed anew, so the ratio is always 1 and nothing is ever clipped. "
        "The buffer holds those of the time of the rollout.",
        (('batch["logprobs"]', "log_probs.detach()"),),
    ),
    Misconception(
        "advantages as returns",
        "The value loss is given the advantages. The critic learns the returns.",
        (('batch["returns"]', 'batch["advantages"]'),),
    ),
    Misconception(
        "advantages whitened again",
        "The advantages are whitened again within each mini-batch. They have been, over "
        "the whole rollout; use them as they are.",
        (
            (
                'batch["advantages"], mask',
                '(batch["advantages"] - batch["advantages"][mask == 1].mean())'
                ' / (batch["advantages"][mask == 1].std() + 1e-8), mask',
            ),
        ),
    ),
    Misconception(
        "one clip for both",
        "Both losses are clipped with clip_ratio. The values have a range of their own in the configuration.",
        (("ppo.clip_range_value", "ppo.clip_ratio"),),
    ),
    Misconception(
        "entropy subtracted",
        "The entropy loss is subtracted, which makes the policy surer of itself. Its minus sign is inside already.",
        (("+ ppo.entropy_coeff", "- ppo.entropy_coeff"),),
    ),
    Misconception(
        "no vf_coeff", "The value loss enters the total without its coefficient.", (("ppo.vf_coeff * value", "value"),)
    ),
    Misconception("no entropy", "The entropy loss is not in the total.", ((" + ppo.entropy_coeff * entropy", ""),)),
    Misconception("policy left out", "The policy loss is not in the total.", (("total = policy +", "total ="),)),
    Misconception(
        "not shuffled",
        "The responses come in the same order each time. Draw a new order for every epoch.",
        (("torch.randperm(", "torch.arange("),),
    ),
    Misconception(
        ANOTHER_GENERATOR,
        "The order does not come from torch's default generator and the run's seed: another library or a generator of "
        "your own draws it, or a seed is set in the function. Let torch draw it.",
        ((RANDOM_ORDER, 'torch.from_numpy(np.random.permutation(len(collated_buffer["response_input_ids"])))'),),
    ),
    Misconception(
        "drawn with replacement",
        "Some responses are used twice and others not at all. An epoch uses each once.",
        (
            (
                RANDOM_ORDER,
                'torch.randint(len(collated_buffer["response_input_ids"]),'
                ' (len(collated_buffer["response_input_ids"]),))',
            ),
        ),
    ),
    Misconception(
        "tensors shuffled apart",
        "Each tensor of the buffer is shuffled by itself, so prompts meet the responses of "
        "others. Use the same rows of every tensor.",
        ((ROWS, "x[torch.randperm(len(x))[: len(rows)]].to(device)"),),
    ),
    Misconception(
        "advantages of other responses",
        "Advantages and returns stay in the order of the buffer while everything else is shuffled, so a response "
        "is given those of another. Use the same rows of every tensor.",
        ((ROWS, NOT_SHUFFLED.format(names=("advantages", "returns"))),),
    ),
    Misconception(
        "only tokens shuffled",
        "Tokens and masks are shuffled, but the numbers that belong to them stay in the order of the buffer. Use "
        "the same rows of every tensor.",
        ((ROWS, NOT_SHUFFLED.format(names=("logprobs", "values", "advantages", "returns"))),),
    ),
    Misconception(
        "neighbours stay together",
        "The same responses share a mini-batch in every epoch: only the order of the mini-batches is drawn. Shuffle "
        "the responses first, then cut.",
        (
            (
                "order.split(ppo.mini_batch_size)",
                "sorted(order.sort().values.split(ppo.mini_batch_size),"
                " key=lambda rows: order.tolist().index(rows[0]))",
            ),
        ),
    ),
    Misconception(
        "remainder dropped",
        "The last mini-batch is left out where it is smaller than the others. Every response counts.",
        (
            (
                ".split(ppo.mini_batch_size)",
                "[: len(order) // ppo.mini_batch_size * ppo.mini_batch_size].split(ppo.mini_batch_size)",
            ),
        ),
    ),
    Misconception(
        "divided by the steps",
        "Every mini-batch is divided by gradient_accumulation_steps. In the last group, and "
        "for a smaller mini-batch, the responses then count less than others.",
        (("len(rows) / group_size", "1 / steps"),),
    ),
    Misconception(
        "mini-batches weigh the same",
        "Every mini-batch of a group weighs the same, so the responses of a smaller one "
        "count more. Weigh it by its share of the group's responses.",
        (("len(rows) / group_size", "1 / len(group)"),),
    ),
    Misconception(
        "not weighed",
        "The gradients of a group's mini-batches are added up as they are, so that the step grows with "
        "their number. A group's loss is the mean of its mini-batches' losses, weighed by their responses.",
        ((WEIGHED, "total.backward()"),),
    ),
    Misconception(
        "step at each mini-batch",
        "The optimizer steps after every mini-batch. Gradients are to be accumulated over a group before a step.",
        (("cfg.ppo.gradient_accumulation_steps", "1"),),
    ),
    Misconception(
        "no zero_grad",
        "Gradients are never set back, so every step repeats those before it.",
        (("        optimizer.zero_grad()\n", ""),),
    ),
    Misconception(
        "zero_grad before the step",
        "The gradients are set back before the optimizer has used them, so nothing is ever learnt.",
        (("        optimizer.step()\n", "        optimizer.zero_grad()\n        optimizer.step()\n"),),
    ),
    Misconception(
        "stepped twice",
        "The optimizer steps again after zero_grad(). There is nothing left to learn from, and with gradients of 0 a "
        "momentum goes on moving the weights: step once a group.",
        (("        optimizer.zero_grad()\n", "        optimizer.zero_grad()\n        optimizer.step()\n"),),
    ),
    Misconception(
        "zero_grad at each mini-batch",
        "The gradients are set back before every mini-batch, so that only a group's last one counts.",
        ((f"            {WEIGHED}", f"            optimizer.zero_grad()\n            {WEIGHED}"),),
    ),
    Misconception(
        "zero_grad only at the start",
        "Each group begins with zero_grad, and the last group's gradients are left over "
        "after the epoch. Set them back once they are used.",
        (
            ("        optimizer.zero_grad()\n", ""),
            ("        group = mini", "        optimizer.zero_grad()\n        group = mini"),
        ),
    ),
    Misconception(
        "last group not stepped",
        "A last group with fewer mini-batches gets no step, and its gradients are left to the next epoch.",
        (
            (CLIPPED, f"        if len(group) < steps:\n            continue\n{CLIPPED}"),
            ("/ len(norms)", "/ max(1, len(norms))"),
        ),
    ),
    Misconception(
        "scheduler forgotten", "The learning-rate scheduler is never stepped.", (("        lr_scheduler.step()\n", ""),)
    ),
    Misconception(
        "scheduler at each mini-batch",
        "The scheduler steps with every mini-batch. It steps once with each step of the optimizer.",
        (
            (
                "            logs.append(metrics)\n",
                "            logs.append(metrics)\n            lr_scheduler.step()\n",
            ),
            ("        lr_scheduler.step()\n        optimizer", "        optimizer"),
        ),
    ),
    Misconception(
        "scheduler first",
        "The scheduler steps before the optimizer, which skips the first learning rate.",
        (
            (
                "        optimizer.step()\n        lr_scheduler.step()",
                "        lr_scheduler.step()\n        optimizer.step()",
            ),
        ),
    ),
    Misconception(
        "no gradient clipping",
        "The step is made with gradients that were not clipped. Clip their norm when a group's "
        "gradients are complete and before the optimizer steps, not after.",
        (("parameters(), ppo.max_grad_norm)", "parameters(), 1e9)"),),
    ),
    Misconception(
        "clipped at each mini-batch",
        "The gradients are clipped after every backward, while a group's sum is still "
        "growing. Clip once, when it is complete.",
        ((CLIPPED, ""), (f"            {WEIGHED}\n", f"            {WEIGHED}\n    {CLIPPED}")),
    ),
    Misconception(
        "each element clipped",
        "Every element of the gradient is clipped by itself. Clip the norm of all of them "
        "together, which keeps the direction.",
        (
            (
                CLIPPED,
                "        norm = nn.utils.clip_grad_norm_(actor_model.parameters(), 1e9)\n"
                "        nn.utils.clip_grad_value_(actor_model.parameters(), ppo.max_grad_norm)\n",
            ),
        ),
    ),
    Misconception(
        "weighed total logged",
        "loss/total is logged after it was weighed for accumulation. Log it as it was before.",
        (
            (
                "            logs.append(metrics)",
                '            logs.append(metrics | {"loss/total": (total * len(rows) / group_size).item()})',
            ),
        ),
    ),
    Misconception(
        "metric missing",
        "params/approx_kl is not among the metrics.",
        (("zip(METRICS, logged)", "zip(METRICS[:-1], logged)"),),
    ),
    Misconception(
        "metric as a tensor",
        "loss/total is a tensor in the metrics, which keeps memory and cannot be logged. Make it a float.",
        (("zip(METRICS, logged)}", 'zip(METRICS, logged)} | {"loss/total": total.detach()}'),),
    ),
    Misconception(
        "entropy loss logged",
        "loss/entropy shows the entropy loss, which is negative. Log the entropy itself.",
        (("value, -entropy,", "value, entropy,"),),
    ),
    Misconception(
        "metrics of the last mini-batch",
        "The metrics are those of the last mini-batch. They are means over all of the epoch's.",
        ((MEANS, "logs[-1][name] for"),),
    ),
    Misconception(
        "metrics summed",
        "The metrics are summed over the mini-batches. They are means.",
        ((MEANS, "sum(log[name] for log in logs) for"),),
    ),
    Misconception(
        "norm after clipping",
        "params/grad_norm is the norm after clipping, which never exceeds max_grad_norm. Log the norm before it.",
        (("norms.append(norm.item())", "norms.append(min(norm.item(), ppo.max_grad_norm))"),),
    ),
    Misconception(
        "weighed by tokens",
        "A mini-batch of an accumulation group is weighed by its response tokens. In this course it is weighed by its "
        "responses.",
        (
            ("group_size = sum(len(rows) for rows in group)", TOKENS_OF_GROUP),
            (WEIGHED, '(total * batch["response_attention_mask"].sum() / group_size).backward()'),
        ),
    ),
)
