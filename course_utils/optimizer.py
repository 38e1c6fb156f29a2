"""AdamW, in 8 bits where that is to be had, and its learning-rate schedule."""

from collections.abc import Callable
from functools import partial
from math import ceil

import torch
from transformers import get_scheduler

from course_utils.config import Config
from course_utils.policy import ActorCritic


def make_optimizer(
    cfg: Config, actor: ActorCritic, device: torch.device, note: Callable[[str], None]
) -> torch.optim.Optimizer:
    """AdamW without weight decay; the value head, which starts at zero, may have a learning rate of its own."""
    rate = cfg.ppo.learning_rate
    groups = [
        {"params": [p for p in actor.model.parameters() if p.requires_grad], "lr": rate},
        {"params": list(actor.value_head.parameters()), "lr": cfg.ppo.value_learning_rate or rate},
    ]
    adam = partial(torch.optim.AdamW, fused=True)  # one pass over the weights in place of ten
    if cfg.ppo.use_8bit_adam and (device.type != "cuda" or actor.sharded):
        why_not = "does not know FSDP's weights" if actor.sharded else "needs a CUDA GPU"
        note(f"ppo.use_8bit_adam {why_not}: going on with 32-bit AdamW")
    elif cfg.ppo.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit as adam  # type: ignore[no-redef]
        except ImportError:
            note("ppo.use_8bit_adam needs bitsandbytes (pip install bitsandbytes): going on with 32-bit AdamW")
    return adam(groups, lr=rate, weight_decay=0.0)  # a schedule to min_lr reads the default rate, not the groups'


def make_scheduler(cfg: Config, optimizer: torch.optim.Optimizer):
    """The transformers schedule of cfg.ppo.scheduler over all optimizer steps of the run."""
    ppo = cfg.ppo
    mini_batches = ceil(ppo.rollout_samples / ppo.mini_batch_size)
    steps_per_rollout = ppo.epochs * ceil(mini_batches / ppo.gradient_accumulation_steps)
    with_min_lr = {"min_lr": ppo.min_lr} if ppo.scheduler.endswith("min_lr") else None
    return get_scheduler(
        ppo.scheduler,
        optimizer,
        ppo.warmup_steps,
        cfg.training.total_ppo_steps * steps_per_rollout,
        scheduler_specific_kwargs=with_min_lr,
    )
