"""Named mistakes: each takes a right function of an exercise and gives it back with one thing wrong.

They are made from outside, by what goes into the function or comes out of it, so none of them holds a solution.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch


@dataclass(frozen=True)
class Mistake:
    wrong: Callable[[Callable], Callable]  # right function -> wrong function
    metric: str  # where to look, of METRICS
    words: str  # what is wrong, and what is seen of it


METRICS = {  # metric -> the axis it is drawn on
    "rollout/reward_mean": "reward",
    "rollout/kl": "KL to the reference (nats)",
    "rollout/value_mean": "mean value of the critic",
    "rollout/entropy": "entropy (nats a token)",
    "params/approx_kl": "approx_kl (nats a token)",
    "params/grad_norm": "norm of the gradient",
    "loss/entropy": "logged entropy (nats a token)",
    "loss/value": "logged value loss",
}
MEASURED = {"loss/entropy": "rollout/entropy"}  # what a wrong function logs -> the same, measured without it


# ---------------------------------------------------------------- 1: policy loss


def no_clipping(f):
    return lambda new, old, advantages, mask, clip_ratio: f(new, old, advantages, mask, 1e9)


def policy_over_padding(f):
    return lambda new, old, advantages, mask, clip_ratio: f(new, old, advantages, torch.ones_like(mask), clip_ratio)


def sign_turned(f):
    def wrong(*args):
        loss, *metrics = f(*args)
        return -loss, *metrics

    return wrong


def old_is_new(f):
    return lambda new, old, advantages, mask, clip_ratio: f(new, new.detach(), advantages, mask, clip_ratio)


# ---------------------------------------------------------------- 2: value loss


def no_value_clipping(f):
    return lambda new, old, returns, mask, clip_range: f(new, old, returns, mask, 1e9)


def values_over_padding(f):
    return lambda new, old, returns, mask, clip_range: f(new, old, returns, torch.ones_like(mask), clip_range)


def old_values_as_targets(f):
    return lambda new, old, returns, mask, clip_range: f(new, old, old, mask, clip_range)


# ---------------------------------------------------------------- 3: entropy


def entropy_sign(f):
    return lambda logits, mask: -f(logits, mask)


def entropy_over_padding(f):
    return lambda logits, mask: f(logits, torch.ones_like(mask))


def entropy_detached(f):
    return lambda logits, mask: f(logits.detach(), mask)


# ---------------------------------------------------------------- 4: GAE


def gamma_forgotten(f):
    return lambda rewards, kl, values, mask, gamma, lam: f(rewards, kl, values, mask, 1.0, lam)


def reward_on_first_token(f):
    def wrong(rewards, kl, values, mask, gamma, lam):
        kl = kl.clone()
        kl[:, 0] -= rewards  # a penalty is subtracted: a negative one is a reward
        return f(torch.zeros_like(rewards), kl, values, mask, gamma, lam)

    return wrong


def whitened_over_padding(f):
    def wrong(rewards, kl, values, mask, gamma, lam):
        _, returns = f(rewards, kl, values, mask, gamma, lam)
        raw = (returns - values) * mask
        return (raw - raw.mean()) / raw.std(), returns

    return wrong


def kl_sign(f):
    return lambda rewards, kl, values, mask, gamma, lam: f(rewards, -kl, values, mask, gamma, lam)


# ---------------------------------------------------------------- 5: mini-batch update


class Proxy(SimpleNamespace):
    """`original` with some of its methods replaced."""

    def __init__(self, original, **replaced):
        super().__init__(original=original, **replaced)

    def __getattr__(self, name):
        return getattr(self.original, name)


def zero_grad_missing(f):
    @functools.wraps(f)  # the trainer gives f its losses, and finds it through the wrapper
    def wrong(actor, optimizer, lr_scheduler, buffer, cfg, device):
        return f(actor, Proxy(optimizer, zero_grad=lambda *args, **kwargs: None), lr_scheduler, buffer, cfg, device)

    return wrong


def scheduler_forgotten(f):
    @functools.wraps(f)
    def wrong(actor, optimizer, lr_scheduler, buffer, cfg, device):
        return f(actor, optimizer, Proxy(lr_scheduler, step=lambda *args: None), buffer, cfg, device)

    return wrong


def off_by_one(f):
    @functools.wraps(f)
    def wrong(actor, *args):
        shift = actor.register_forward_hook(lambda _module, _inputs, out: (out[0].roll(1, dims=1), out[1]))
        try:
            return f(actor, *args)
        finally:
            shift.remove()

    return wrong


def rows_mixed_up(f):
    @functools.wraps(f)
    def wrong(actor, optimizer, lr_scheduler, buffer, cfg, device):
        return f(
            actor, optimizer, lr_scheduler, buffer | {"advantages": buffer["advantages"].roll(1, dims=0)}, cfg, device
        )

    return wrong


REWARD, KL = "rollout/reward_mean", "rollout/kl"

MISTAKES: dict[str, dict[str, Mistake]] = {
    "policy_loss": {
        "no clipping": Mistake(
            no_clipping,
            KL,
            "your loss with a clip_ratio of 1e9. Nothing holds the policy back: two of the three runs end at 13 and "
            "18 nats, with rewards of 0.77 and 0.60 in the last third, so this one can look right when you try it "
            "once; the third runs away, to 317 nats, with 0.06. With clipping they end at 3.6 to 5.7 nats, with 0.68 "
            "to 0.77.",
        ),
        "no mask": Mistake(
            policy_over_padding,
            "params/approx_kl",
            "padding counts as tokens. The reward hardly shows it, but approx_kl does: on padding the "
            "rollout noted 0, the update computes a log-prob, and the two policies seem to be nats apart.",
        ),
        "sign turned": Mistake(
            sign_turned,
            REWARD,
            "the optimizer makes good tokens less likely. The reward falls at once, and that is how you recognise it.",
        ),
        "old is new": Mistake(
            old_is_new,
            REWARD,
            "the new log-probs stand where the old ones should, so every ratio is 1 and clipping never acts: "
            "the second to fourth epoch of each rollout overdo it. The reward rises, then falls. clip_frac is 0 "
            "throughout.",
        ),
    },
    "value_loss": {
        "no clipping": Mistake(
            no_value_clipping,
            "rollout/value_mean",
            "your loss with a range of 1e9. The critic follows the rewards a little faster, and nothing breaks: "
            "rewards stay between 0 and 1, so no single rollout pulls it far off. You do not see this one as a fault; "
            "check() does.",
        ),
        "no mask": Mistake(
            values_over_padding,
            "loss/value",
            "padding counts as tokens. The logged loss is off, and how much depends on the padding; the rest of "
            "the run hardly shows it. check() does.",
        ),
        "old values as targets": Mistake(
            old_values_as_targets,
            "rollout/value_mean",
            "the critic learns what it said before: it stays at 0 for ever, with a perfect value loss of 0. A "
            "loss that is too good deserves a look.",
        ),
    },
    "entropy": {
        "sign turned": Mistake(
            entropy_sign,
            "loss/entropy",
            "the bonus has become a fine. The log shows it at once: an entropy cannot be negative. Reward and text "
            "hardly do in 20 seconds: the sampled text (dotted) has 0.071 nats a token in the last third, that of "
            "right runs 0.081.",
        ),
        "no mask": Mistake(
            entropy_over_padding,
            "loss/entropy",
            "padding counts, and a model that says nothing about it is as undecided there as can be. The log says "
            "2.4 nats where the sampled text (dotted) has 0.08. That text looks sound in two of the three runs; the "
            "third ends with a KL to the reference of 14.8 nats, the right ones with 3.5 at most.",
        ),
        "detached": Mistake(
            entropy_detached,
            "rollout/entropy",
            "the bonus is added to the loss but has no gradient, as if its coefficient were 0. The bonus slows a "
            "collapse down, and twelve steps are too few for one: the curves do not show this mistake. check() does.",
        ),
    },
    "gae": {
        "γ forgotten": Mistake(
            gamma_forgotten,
            "rollout/value_mean",
            "your function with γ = 1. The critic learns larger values, for nothing is discounted. The reward "
            "does not suffer here (0.57 in the last third, against 0.52): check() sees it.",
        ),
        "reward on the wrong token": Mistake(
            reward_on_first_token,
            "rollout/value_mean",
            "the first token is paid, not the last. After it nothing is left to come, so the critic learns 0. The "
            "reward even rises faster (0.74 in the last third, against 0.52), since this model's first token mostly "
            "settles how a response ends. A bug that helps in one run is still a bug.",
        ),
        "whitening over padding": Mistake(
            whitened_over_padding,
            REWARD,
            "mean and variance are taken over padding too. So all advantages are stretched by one factor, which Adam "
            "mostly takes out again, and moved by one constant. To push all that the policy drew itself up equally "
            "leads nowhere on average, so it adds only noise: no curve shows this mistake. check() does.",
        ),
        "KL penalty added": Mistake(
            kl_sign,
            KL,
            "the policy is paid for leaving the reference. The reward is no lower than that of right runs (0.55 in the "
            "last third, against 0.52); the KL tells.",
        ),
    },
    "minibatch_update": {
        "zero_grad missing": Mistake(
            zero_grad_missing,
            "params/grad_norm",
            "every gradient is added to those before it, so the norm is larger. You might expect a run that "
            "explodes: clipping the norm holds the old gradient down, and it acts like momentum. check() sees it.",
        ),
        "scheduler forgotten": Mistake(
            scheduler_forgotten,
            REWARD,
            "the learning rate waits where its schedule begins, at 0. Nothing is ever learned, and no error says so.",
        ),
        "off by one": Mistake(
            off_by_one,
            REWARD,
            "each token gets the log-prob of the wrong position. The policy moves, but learns nothing, and no error "
            "says so.",
        ),
        "rows mixed up": Mistake(
            rows_mixed_up,
            REWARD,
            "each response is credited with the advantages of another one. All shapes are right, and the reward "
            "does not rise as it should.",
        ),
    },
}


def metrics_of(key: str) -> list[str]:
    """What is recorded of the runs of an exercise: all that its pictures may show."""
    return list(dict.fromkeys([REWARD, KL, *(mistake.metric for mistake in MISTAKES[key].values())]))
