"""The solutions in the notebooks, against hand-computed numbers, loops in float64, gradcheck and properties.

The loops are written from the formulas, token by token in Python floats; none is shared with the solutions.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_utils import stand_ins
from course_utils.worked_example import worked_example
from tests.solutions import solution

LN2 = math.log(2)
compute_policy_loss = solution("policy_loss")
compute_value_loss = solution("value_loss")
compute_entropy_loss = solution("entropy")
compute_gae_advantages = solution("gae")
run_ppo_update_epoch = solution("minibatch_update")

few = hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
batches = st.integers(1, 4)
lengths = st.integers(1, 6)


# ------------------------------------------------------------------ random cases


def random_case(seed: int, batch: int, length: int, vocabulary=5, dtype=torch.float64) -> SimpleNamespace:
    """A random batch whose rows have 1 to `length` response tokens."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
    return SimpleNamespace(
        mask=(torch.arange(length) < lengths).long(),
        logits=2 * normal(batch, length, vocabulary),
        old=-normal(batch, length).abs() - 0.1,
        new=-normal(batch, length).abs() - 0.1,
        advantages=normal(batch, length),
        values=normal(batch, length),
        values_old=normal(batch, length),
        returns=normal(batch, length),
        kl=0.1 * normal(batch, length),
        rewards=normal(batch),
    )


def padded(tensor: Tensor, columns: int, junk: float) -> Tensor:
    """`tensor` with more columns of `junk` on the right of dimension 1."""
    return torch.cat([tensor, torch.full_like(tensor[:, :1], junk).repeat_interleave(columns, dim=1)], dim=1)


def masked_tokens(mask: Tensor) -> list[tuple[int, int]]:
    return [(b, t) for b, row in enumerate(mask.tolist()) for t, m in enumerate(row) if m]


# ------------------------------------------------------------------ loops in float64


def policy_loss_in_loops(new, old, advantages, mask, clip_ratio) -> tuple[float, float, float]:
    total = outside = kl = 0.0
    tokens = masked_tokens(mask)
    for b, t in tokens:
        advantage, ratio = advantages[b][t].item(), math.exp(new[b][t].item() - old[b][t].item())
        if advantage >= 0:
            total += advantage * min(ratio, 1 + clip_ratio)
        else:
            total += advantage * max(ratio, 1 - clip_ratio)
        outside += ratio > 1 + clip_ratio or ratio < 1 - clip_ratio
        kl += old[b][t].item() - new[b][t].item()
    return -total / len(tokens), outside / len(tokens), kl / len(tokens)


def value_loss_in_loops(new, old, returns, mask, clip_range) -> tuple[float, float]:
    total = clipped = 0.0
    tokens = masked_tokens(mask)
    for b, t in tokens:
        value, target = new[b][t].item(), returns[b][t].item()
        held = min(max(value, old[b][t].item() - clip_range), old[b][t].item() + clip_range)
        errors = abs(value - target), abs(held - target)
        total += max(errors) ** 2 / 2
        clipped += errors[1] > errors[0]
    return total / len(tokens), clipped / len(tokens)


def entropy_loss_in_loops(logits, mask) -> float:
    total = 0.0
    tokens = masked_tokens(mask)
    for b, t in tokens:
        weights = [math.exp(x - max(logits[b][t].tolist())) for x in logits[b][t].tolist()]
        total += math.log(sum(weights)) - sum(w * math.log(w) for w in weights if w) / sum(weights)
    return -total / len(tokens)


def gae_in_loops(rewards, kl, values, mask, gamma, lam) -> tuple[list[list[float]], list[list[float]]]:
    """Advantages and returns as the sum in equation 16, not as the recursion that the solution uses."""
    raw, returns = [], []
    for b, row in enumerate(mask.tolist()):
        n = sum(row)
        paid = [-kl[b][t].item() + (rewards[b].item() if t == n - 1 else 0) for t in range(n)]
        v = [values[b][t].item() for t in range(n)] + [0.0]
        deltas = [paid[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        raw.append([sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)])
        returns.append([a + value for a, value in zip(raw[b], v[:n], strict=True)])
    everything = [a for row in raw for a in row]
    mean = math.fsum(everything) / len(everything)
    deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in everything) / len(everything) + 1e-8)
    return [[(a - mean) / deviation for a in row] for row in raw], returns


# ------------------------------------------------------------------ exercise 1


def policy_arguments(example=None):
    e = example or worked_example()
    return e.log_probs_new, e.log_probs_old, e.advantages, e.response_mask, e.clip_ratio


def test_policy_loss_of_the_worked_example():
    loss, clip_frac, approx_kl = compute_policy_loss(*policy_arguments())
    # min(rA, clip(r)A): min(.9375, .9) + min(.375, .6) + 1.25 + min(-.3125, -.3) = 2.2125
    #                    min(-.5, -.8) - 1.5 = -2.3;   2.2125 - 2.3 = -.0875 over 6 tokens
    assert loss.item() == pytest.approx(0.0875 / 6, abs=1e-6)
    assert clip_frac.item() == pytest.approx(4 / 6)
    # ln(.4/.5) + ln(.5/.25) + 0 + ln(.4/.5) + ln(.25/.125) + 0 = -.22314 + .69315 - .22314 + .69315
    assert approx_kl.item() == pytest.approx(0.940007 / 6, abs=1e-6)


def test_the_step_that_notebook_5_makes_by_hand():
    """-0.6 times the gradient: A / 10 with the stand-in, r · A / 10 with the clipped loss, 0 beyond the clip."""
    wanted = {
        stand_ins.compute_policy_loss: [[0.075, 0.075, 0.125, -0.025], [-0.1, -0.15, 0, 0]],
        compute_policy_loss: [[0, 0.5 * 0.075, 0.125, -1.25 * 0.025], [0, -0.15, 0, 0]],
    }
    for loss_of, change in wanted.items():
        log_probs, *others = policy_arguments()
        log_probs.requires_grad_()
        loss_of(log_probs, *others)[0].backward()
        assert torch.allclose(-0.6 * log_probs.grad, torch.tensor(change), atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # the gradient by the log-prob is -A r, or 0 where clipping binds
        (1.5, 1, -1.2, 0),
        (0.5, 1, -0.5, -0.5),
        (1.1, 1, -1.1, -1.1),
        (1.5, -1, 1.5, 1.5),
        (0.5, -1, 0.8, 0),
        (0.9, -1, 0.9, 0.9),
    ],
)
def test_policy_loss_clips_only_gains(ratio, advantage, loss, gradient):
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    result, _, _ = compute_policy_loss(
        new, torch.zeros(1, 1), torch.tensor([[float(advantage)]]), torch.ones(1, 1).long(), 0.2
    )
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(gradient)


@few
@given(seeds, batches, lengths, st.sampled_from([0.05, 0.2, 0.5]))
def test_policy_loss_is_that_of_the_loops(seed, batch, length, clip_ratio):
    c = random_case(seed, batch, length)
    arguments = (c.new, c.old, c.advantages, c.mask, clip_ratio)
    results = [result.item() for result in compute_policy_loss(*arguments)]
    assert results == pytest.approx(list(policy_loss_in_loops(*arguments)), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_policy_loss_gradcheck(seed):
    c = random_case(seed, 3, 4)
    assert torch.autograd.gradcheck(
        lambda new: compute_policy_loss(new, c.old, c.advantages, c.mask, 0.2)[0], c.new.requires_grad_()
    )


def test_policy_metrics_carry_no_gradient():
    new, *others = policy_arguments()
    loss, clip_frac, approx_kl = compute_policy_loss(new.requires_grad_(), *others)
    assert loss.requires_grad and not clip_frac.requires_grad and not approx_kl.requires_grad


@few
@given(seeds, batches, lengths)
def test_policy_loss_does_not_depend_on_order_or_padding(seed, batch, length):
    c = random_case(seed, batch, length)
    arguments = (c.new, c.old, c.advantages, c.mask)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    expected = [result.item() for result in compute_policy_loss(*arguments, 0.2)]
    shuffled = compute_policy_loss(*(a[order] for a in arguments), 0.2)
    # -50 - 50 is a ratio of exp(-100), 50 + 50 one that float32 cannot hold
    for junk in ((-50.0, 50.0, 50.0, 0), (50.0, -50.0, -50.0, 0)):
        longer = compute_policy_loss(
            *(
                padded(a, 3, j).to(torch.float32 if a.is_floating_point() else a.dtype)
                for a, j in zip(arguments, junk, strict=True)
            ),
            0.2,
        )
        assert [result.item() for result in longer] == pytest.approx(expected, abs=1e-5)
    assert [result.item() for result in shuffled] == pytest.approx(expected)


@few
@given(seeds, batches, lengths)
def test_policy_loss_of_an_unchanged_policy_is_minus_the_mean_advantage(seed, batch, length):
    c = random_case(seed, batch, length)
    loss, clip_frac, approx_kl = compute_policy_loss(c.old, c.old, c.advantages, c.mask, 0.2)
    assert loss.item() == pytest.approx(-c.advantages[c.mask == 1].mean().item())
    assert clip_frac.item() == approx_kl.item() == 0


# ------------------------------------------------------------------ exercise 2


def value_arguments():
    e = worked_example()
    return e.values_new, e.values_old, e.returns, e.response_mask, e.clip_range_value


def test_value_loss_of_the_worked_example():
    loss, vf_clip_frac = compute_value_loss(*value_arguments())
    # max of (.1², 0²), (.3², .3²), (.05², .1²), (.1², .1²), (.15², .05²), (0², .05²):
    # .01 + .09 + .01 + .01 + .0225 + .0025 = .145;  half the mean over 6: .145 / 12
    assert loss.item() == pytest.approx(0.145 / 12, abs=1e-7)
    assert vf_clip_frac.item() == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [  # old value 0, range 1
        (3.0, 4.0, 4.5, 0.0),
        (3.0, 2.5, 1.125, 0.0),
        (3.0, 1.0, 2.0, 2.0),
        (0.5, 2.0, 1.125, -1.5),
        (-3.0, -4.0, 4.5, 0.0),
        (-3.0, 0.0, 4.5, -3.0),
    ],
)
def test_value_loss_keeps_the_larger_error(value, target, loss, gradient):
    new = torch.tensor([[value]], requires_grad=True)
    one = torch.ones(1, 1).long()
    result, _ = compute_value_loss(new, torch.zeros(1, 1), torch.tensor([[target]]), one, 1.0)
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(gradient)


@few
@given(seeds, batches, lengths, st.sampled_from([0.1, 0.5, 2.0]))
def test_value_loss_is_that_of_the_loops(seed, batch, length, clip_range):
    c = random_case(seed, batch, length)
    arguments = (c.values, c.values_old, c.returns, c.mask, clip_range)
    results = [result.item() for result in compute_value_loss(*arguments)]
    assert results == pytest.approx(list(value_loss_in_loops(*arguments)), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_value_loss_gradcheck(seed):
    c = random_case(seed, 3, 4)
    others = c.values_old, c.returns, c.mask, 0.5
    new = c.values.requires_grad_()
    assert torch.autograd.gradcheck(lambda new: compute_value_loss(new, *others)[0], new)


def test_value_metric_carries_no_gradient_and_ignores_rounding():
    old = torch.linspace(1, 3, 50).unsqueeze(0)
    new = (old / 30).requires_grad_()  # within the range of 5, and rounded unlike old
    loss, vf_clip_frac = compute_value_loss(new, old, torch.zeros(1, 50), torch.ones(1, 50).long(), 5.0)
    assert loss.requires_grad and not vf_clip_frac.requires_grad
    assert vf_clip_frac.item() == 0


@few
@given(seeds, batches, lengths, st.floats(-3, 3))
def test_value_loss_does_not_depend_on_order_padding_or_a_common_shift(seed, batch, length, shift):
    c = random_case(seed, batch, length)
    arguments = (c.values, c.values_old, c.returns, c.mask)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    expected = [result.item() for result in compute_value_loss(*arguments, 0.3)]
    for changed in (
        [a[order] for a in arguments],
        [padded(a, 2, junk) for a, junk in zip(arguments, (50.0, -50.0, 50.0, 0), strict=True)],
        [a + shift for a in arguments[:3]] + [c.mask],
    ):
        results = [result.item() for result in compute_value_loss(*changed, 0.3)]
        assert results == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------ exercise 3


def test_entropy_loss_of_the_worked_example():
    e = worked_example()
    # (½, ¼, ⅛, ⅛): ½ · 1 + ¼ · 2 + ⅛ · 3 + ⅛ · 3 = 1.75 bits, four times; (¼, ¼, ¼, ¼): 2 bits, twice; 11 / 6
    # on average
    loss = compute_entropy_loss(e.logits_new, e.response_mask)
    assert loss.item() == pytest.approx(-11 / 6 * LN2, abs=1e-6)


@few
@given(seeds, batches, lengths)
def test_entropy_loss_is_that_of_the_loops(seed, batch, length):
    c = random_case(seed, batch, length)
    expected = entropy_loss_in_loops(c.logits, c.mask)
    assert compute_entropy_loss(c.logits, c.mask).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_entropy_loss_gradient(seed):
    """The solution computes in float32, so gradcheck takes larger steps; the closed form is exact."""
    c = random_case(seed, 2, 3)
    c.logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: compute_entropy_loss(logits, c.mask).double(), c.logits, eps=1e-2, atol=1e-3, rtol=1e-3
    )
    compute_entropy_loss(c.logits, c.mask).backward()
    for b in range(2):
        for t in range(3):
            probs = [math.exp(x) for x in c.logits[b, t].tolist()]
            probs = [p / sum(probs) for p in probs]
            entropy = -sum(p * math.log(p) for p in probs)
            # d(-H) / d logit j = p_j (ln p_j + H)
            weight = c.mask[b, t].item() / c.mask.sum().item()
            expected = [weight * p * (math.log(p) + entropy) for p in probs]
            assert c.logits.grad[b, t].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_entropy_loss_is_float32_and_finite_at_extremes(dtype):
    logits = torch.tensor([[[1e4, -1e4, 0.0, 0.0], [1e4, 1e4, -1e4, -1e4]]], dtype=dtype, requires_grad=True)
    loss = compute_entropy_loss(logits, torch.ones(1, 2).long())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-LN2 / 2, abs=1e-5)
    assert torch.isfinite(logits.grad).all()


@few
@given(seeds, batches, lengths, st.floats(-20, 20))
def test_entropy_loss_does_not_depend_on_order_padding_or_a_shift_of_the_logits(seed, batch, length, shift):
    c = random_case(seed, batch, length, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    rows, words = torch.randperm(batch, generator=generator), torch.randperm(5, generator=generator)
    expected = compute_entropy_loss(c.logits, c.mask).item()
    for logits, mask in (
        (c.logits[rows], c.mask[rows]),
        (c.logits[..., words], c.mask),
        (c.logits + shift, c.mask),
        (padded(c.logits, 2, 50.0), padded(c.mask, 2, 0)),
    ):
        assert compute_entropy_loss(logits, mask).item() == pytest.approx(expected, abs=1e-5)
    assert 0 <= -expected <= math.log(5) + 1e-6


# ------------------------------------------------------------------ exercise 4


def gae_arguments(**changes):
    e = worked_example()
    given = dict(
        final_rewards=e.final_rewards,
        kl_penalties=e.kl_penalties,
        values=e.values_old,
        response_mask=e.response_mask,
        gamma=e.gamma,
        lam=e.lam,
    )
    return given | changes


def test_gae_of_the_worked_example():
    advantages, returns = compute_gae_advantages(**gae_arguments())
    # A, from its end: δ = .9 - .9 = 0;  -.02 + .8·.9 - .4 = .3;  -.04 + .8·.4 - .2 = .08;  .06 + .8·.2 - .1 =
    # .12
    #   raw A = 0;  .3;  .08 + .4·.3 = .2;  .12 + .4·.2 = .2
    # B: -.05 - .2 = -.25;  .09 + .16 - .3 - .4·.25 = -.15
    # mean .3 / 6 = .05, variance (2·.15² + .25² + .05² + .2² + .3²) / 6 = .24 / 6 = .2²
    assert advantages.tolist() == [
        pytest.approx([0.75, 0.75, 1.25, -0.25], abs=1e-5),
        pytest.approx([-1.0, -1.5, 0, 0], abs=1e-5),
    ]
    assert returns[0].tolist() == pytest.approx([0.3, 0.4, 0.7, 0.9], abs=1e-6)
    assert returns[1, :2].tolist() == pytest.approx([0.15, -0.05], abs=1e-6)


@few
@given(seeds, batches, lengths, st.sampled_from([(1, 1), (0.9, 0.95), (1, 0), (0.5, 1), (0, 0.7)]))
def test_gae_is_that_of_the_loops(seed, batch, length, gamma_lam):
    c = random_case(seed, batch, length)
    arguments = (c.rewards, c.kl, c.values, c.mask, *gamma_lam)
    for result, expected in zip(compute_gae_advantages(*arguments), gae_in_loops(*arguments), strict=True):
        for row, mask, expected_row in zip(result, c.mask, expected, strict=True):
            assert row[mask == 1].tolist() == pytest.approx(expected_row, abs=1e-8)


def test_gae_carries_no_gradient_and_changes_no_input():
    arguments = gae_arguments()
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    for name in ("final_rewards", "kl_penalties", "values"):
        arguments[name].requires_grad_()
    advantages, returns = compute_gae_advantages(**arguments)
    assert not advantages.requires_grad and not returns.requires_grad
    assert all(torch.equal(arguments[name], value) for name, value in before.items())


def test_gae_with_an_empty_row_a_full_row_and_a_single_token():
    e = worked_example()
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    arguments = torch.tensor([1.0, 5.0]), e.kl_penalties, e.values_old, mask
    advantages, returns = compute_gae_advantages(*arguments, 0.8, 0.5)
    alone, _ = compute_gae_advantages(*(a[:1] for a in arguments), 0.8, 0.5)
    assert torch.equal(advantages[:1], alone) and advantages[1].tolist() == [0] * 4
    assert torch.isfinite(returns).all()
    zero = torch.zeros(1, 1)
    single, _ = compute_gae_advantages(torch.ones(1), zero, zero, mask[:1, :1], 1.0, 1.0)
    assert single.tolist() == [[0.0]]


@few
@given(seeds, batches, lengths, st.floats(0.1, 10))
def test_gae_does_not_depend_on_order_padding_or_the_scale_of_rewards(seed, batch, length, scale):
    c = random_case(seed, batch, length)
    arguments = (c.rewards, c.kl, c.values, c.mask)
    on = c.mask == 1
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    advantages, returns = compute_gae_advantages(*arguments, 0.9, 0.95)

    shuffled, shuffled_returns = compute_gae_advantages(*(a[order] for a in arguments), 0.9, 0.95)
    torch.testing.assert_close(shuffled, advantages[order])
    torch.testing.assert_close(shuffled_returns[on[order]], returns[order][on[order]])

    longer = [c.rewards, padded(c.kl, 2, 50.0), padded(c.values, 2, -50.0), padded(c.mask, 2, 0)]
    padded_advantages, padded_returns = compute_gae_advantages(*longer, 0.9, 0.95)
    torch.testing.assert_close(padded_advantages, padded(advantages, 2, 0.0))
    torch.testing.assert_close(padded_returns[:, :length][on], returns[on])

    scaled, scaled_returns = compute_gae_advantages(*(scale * a for a in arguments[:3]), c.mask, 0.9, 0.95)
    # not exactly equal: the eps of 1e-8 does not scale
    torch.testing.assert_close(scaled, advantages, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scaled_returns[on], scale * returns[on])


@few
@given(seeds, st.integers(2, 4), lengths)
def test_whitened_advantages_have_mean_0_and_variance_1(seed, batch, length):
    c = random_case(seed, batch, length)
    advantages, _ = compute_gae_advantages(c.rewards, c.kl, c.values, c.mask, 1.0, 0.95)
    response = advantages[c.mask == 1].tolist()
    assert math.fsum(response) / len(response) == pytest.approx(0, abs=1e-8)
    assert math.fsum(a * a for a in response) / len(response) == pytest.approx(1, abs=1e-3)
    assert advantages[c.mask == 0].eq(0).all()


# ------------------------------------------------------------------ exercise 5


class BigramActor(nn.Module):
    """The logits and the value at a position depend on its token alone: 3 words, 12 parameters."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.logits = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        self.values = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits[input_ids], self.values[input_ids]


def update_case(rollouts: int, **ppo) -> tuple[dict[str, Tensor], SimpleNamespace]:
    """A buffer with P = 3, R = 4 and ragged responses, and a configuration."""
    c = random_case(7, rollouts, 4, vocabulary=3)
    generator = torch.Generator().manual_seed(2)
    buffer = {
        "prompt_input_ids": torch.randint(3, (rollouts, 3), generator=generator),
        "prompt_attention_mask": torch.ones(rollouts, 3).long(),
        "response_input_ids": torch.randint(3, (rollouts, 4), generator=generator),
        "response_attention_mask": c.mask,
        "logprobs": c.old,
        "ref_logprobs": c.old,
        "values": c.values_old,
        "advantages": c.advantages,
        "returns": c.returns,
        "rewards": c.rewards,
    }
    defaults = dict(
        mini_batch_size=2,
        gradient_accumulation_steps=2,
        clip_ratio=0.2,
        clip_range_value=0.5,
        vf_coeff=0.5,
        entropy_coeff=0.1,
        max_grad_norm=1e6,
    )
    return buffer, SimpleNamespace(ppo=SimpleNamespace(**(defaults | ppo)))


def mini_batch_in_loops(parameters: list[float], buffer, rows: list[int], ppo) -> tuple[float, ...]:
    """The three losses and the three metrics of a mini-batch, for a BigramActor with these parameters."""
    table, critic = torch.tensor(parameters[:9], dtype=torch.float64).view(3, 3), parameters[9:]
    logits, log_probs, values = [], [], []
    for row in rows:
        # The token before each response token: the last of the prompt, then the response but for its last.
        response = buffer["response_input_ids"][row].tolist()
        before = [buffer["prompt_input_ids"][row, -1].item(), *response[:-1]]
        logits.append([table[token].tolist() for token in before])
        values.append([critic[token] for token in before])
        log_probs.append(
            [x[token] - math.log(sum(math.exp(y) for y in x)) for x, token in zip(logits[-1], response, strict=True)]
        )
    mask = buffer["response_attention_mask"][rows]
    logits, log_probs, values = (torch.tensor(x, dtype=torch.float64) for x in (logits, log_probs, values))
    old, values_old, advantages, returns = (
        buffer[name][rows] for name in ("logprobs", "values", "advantages", "returns")
    )
    policy, clip_frac, kl = policy_loss_in_loops(log_probs, old, advantages, mask, ppo.clip_ratio)
    value, value_clip_frac = value_loss_in_loops(values, values_old, returns, mask, ppo.clip_range_value)
    return policy, value, entropy_loss_in_loops(logits, mask), clip_frac, value_clip_frac, kl


def epoch_in_loops(parameters: list[float], buffer, order: list[int], ppo, lr) -> tuple[list[float], dict]:
    """Parameters after an epoch of SGD, whose gradients are central differences of the loops; metrics."""
    batches = [order[i : i + ppo.mini_batch_size] for i in range(0, len(order), ppo.mini_batch_size)]
    logs, norms = [], []

    def group_loss(parameters: list[float], group: list[list[int]]) -> float:
        total = 0.0
        for rows in group:
            policy, value, entropy, *_ = mini_batch_in_loops(parameters, buffer, rows, ppo)
            total += len(rows) * (policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy)
        return total / sum(map(len, group))

    for i in range(0, len(batches), ppo.gradient_accumulation_steps):
        group = batches[i : i + ppo.gradient_accumulation_steps]
        logs += [mini_batch_in_loops(parameters, buffer, rows, ppo) for rows in group]
        gradient = []
        for k in range(len(parameters)):
            nudged = [[p + sign * 1e-5 * (j == k) for j, p in enumerate(parameters)] for sign in (1, -1)]
            gradient.append((group_loss(nudged[0], group) - group_loss(nudged[1], group)) / 2e-5)
        norms.append(math.sqrt(sum(g * g for g in gradient)))
        scale = min(1.0, ppo.max_grad_norm / norms[-1])
        parameters = [p - lr * scale * g for p, g in zip(parameters, gradient, strict=True)]
    means = [sum(column) / len(logs) for column in zip(*logs, strict=True)]
    policy, value, entropy, clip_frac, value_clip_frac, kl = means
    return parameters, {
        "loss/policy": policy,
        "loss/value": value,
        "loss/entropy": -entropy,
        "loss/total": policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy,
        "params/policy_clip_frac": clip_frac,
        "params/value_clip_frac": value_clip_frac,
        "params/approx_kl": kl,
        "params/grad_norm": sum(norms) / len(norms),
    }


@pytest.fixture
def connected_update():
    """run_ppo_update_epoch with the losses of the other three solutions."""
    module = run_ppo_update_epoch.__globals__
    before = dict(module)
    module.update(
        compute_policy_loss=compute_policy_loss,
        compute_value_loss=compute_value_loss,
        compute_entropy_loss=compute_entropy_loss,
    )
    yield run_ppo_update_epoch
    module.update(before)


@pytest.mark.parametrize(
    ("rollouts", "ppo"),
    [
        (4, {}),  # one full group
        (5, {}),  # a group of two mini-batches, a group of one rollout
        (5, {"gradient_accumulation_steps": 3}),  # one group whose last mini-batch is smaller
        (7, {"mini_batch_size": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.2}),  # clipped
        (3, {"mini_batch_size": 8}),  # a mini-batch larger than the rollout
    ],
)
def test_every_parameter_after_an_epoch_is_that_of_the_loops(connected_update, rollouts, ppo):
    buffer, cfg = update_case(rollouts, **ppo)
    actor = BigramActor()
    before = [p for parameter in actor.parameters() for p in parameter.flatten().tolist()]
    optimizer = torch.optim.SGD(actor.parameters(), lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    torch.manual_seed(5)
    order = torch.randperm(rollouts).tolist()
    torch.manual_seed(5)
    metrics = connected_update(actor, optimizer, scheduler, buffer, cfg, torch.device("cpu"))
    expected, expected_metrics = epoch_in_loops(before, buffer, order, cfg.ppo, lr=0.3)
    after = [p for parameter in actor.parameters() for p in parameter.flatten().tolist()]
    assert after == pytest.approx(expected, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 1e-3
    assert metrics == {name: pytest.approx(value, abs=1e-5) for name, value in expected_metrics.items()}
    groups = math.ceil(math.ceil(rollouts / cfg.ppo.mini_batch_size) / cfg.ppo.gradient_accumulation_steps)
    assert scheduler.last_epoch == groups
    assert all(p.grad is None or not p.grad.any() for p in actor.parameters())


def test_an_epoch_does_not_change_the_buffer_and_repeats_with_the_seed(connected_update):
    buffer, cfg = update_case(5)
    before = {name: tensor.clone() for name, tensor in buffer.items()}
    results = []
    for seed in (0, 0, 1):
        actor = BigramActor()
        optimizer = torch.optim.SGD(actor.parameters(), lr=0.3)
        torch.manual_seed(seed)
        connected_update(actor, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), buffer, cfg, "cpu")
        results.append(actor.logits.detach().clone())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in buffer.items())
