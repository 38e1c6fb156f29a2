"""Right solutions, however they are written: check() passes them, and so do loops in float64 on random inputs."""

import math
import random

import pytest
import torch

from course_utils.check import check
from course_utils.checks.criteria import CRITERIA
from course_utils.exercises import EXERCISES
from tests.right_solutions import right_solutions
from tests.solutions import define, solution
from tests.test_five_functions import (
    BigramActor,
    entropy_loss_in_loops,
    epoch_in_loops,
    gae_in_loops,
    policy_loss_in_loops,
    random_case,
    update_case,
    value_loss_in_loops,
)

ALL = {key: right_solutions(key) for key in EXERCISES}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def each(key: str):
    return pytest.mark.parametrize("way", ALL[key])


@pytest.mark.parametrize("key", EXERCISES)
def test_there_are_at_least_eight_ways(key):
    assert len(ALL[key]) >= 8


@pytest.mark.parametrize(("key", "way"), [pytest.param(k, way, id=f"{k}: {way}") for k in ALL for way in ALL[k]])
def test_check_passes_it(key, way, capsys):
    check(define(key, ALL[key][way]))
    ticks = [line[0] for line in capsys.readouterr().out.splitlines() if line[:2] in ("✓ ", "✗ ")]
    assert ticks == ["✓"] * len(CRITERIA[key])


def cases():
    """Random cases in float32, with poison where the mask is 0."""
    for seed in range(6):
        c = random_case(seed, 4, 5, dtype=torch.float32)
        off, poison = c.mask == 0, random.Random(seed)
        for tensor in (c.new, c.old):
            tensor[off] = poison.uniform(-25, 25)
        for tensor in (c.advantages, c.values, c.values_old, c.returns, c.kl, c.logits):
            tensor[off] = poison.uniform(-50, 50)
        yield c


def expect_the_gradient_of_the_solution(key, function, trained, *others):
    """The gradient is compared with that of the solution, which test_five_functions proves by gradcheck."""
    grads = []
    for one in (function, solution(key)):
        wrt = trained.clone().requires_grad_()
        result = one(wrt, *others)
        (result if isinstance(result, torch.Tensor) else result[0]).backward()
        grads.append(wrt.grad)
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


@each("policy_loss")
def test_policy_loss(way):
    function = define("policy_loss", ALL["policy_loss"][way])
    for c in cases():
        others = c.old, c.advantages, c.mask, 0.3
        results = function(c.new, *others)
        assert [float(x) for x in results] == pytest.approx(policy_loss_in_loops(c.new, *others), rel=1e-4, abs=1e-5)
        expect_the_gradient_of_the_solution("policy_loss", function, c.new, *others)


@each("value_loss")
def test_value_loss(way):
    function = define("value_loss", ALL["value_loss"][way])
    for c in cases():
        others = c.values_old, c.returns, c.mask, 0.5
        loss, frac = function(c.values, *others)
        expected, expected_frac = value_loss_in_loops(c.values, *others)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        if way != "the difference clamped":  # there rounding tells equal errors apart
            assert float(frac) == pytest.approx(expected_frac)
        expect_the_gradient_of_the_solution("value_loss", function, c.values, *others)


@each("entropy")
def test_entropy_loss(way):
    function = define("entropy", ALL["entropy"][way])
    for c in cases():
        assert function(c.logits, c.mask).item() == pytest.approx(entropy_loss_in_loops(c.logits, c.mask), abs=1e-5)
        expect_the_gradient_of_the_solution("entropy", function, c.logits, c.mask)


@each("gae")
def test_gae(way):
    function = define("gae", ALL["gae"][way])
    for c, (gamma, lam) in zip(cases(), [(1.0, 1.0), (0.9, 0.95), (1.0, 0.0), (0.5, 1.0), (0.0, 0.7), (0.9, 0.5)]):
        c.mask[-1] *= gamma == 1  # a row without tokens
        arguments = c.rewards, c.kl, c.values, c.mask, gamma, lam
        for result, expected in zip(function(*arguments), gae_in_loops(*arguments)):
            for row, mask, wanted in zip(result, c.mask, expected):
                assert row[mask == 1].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-4)


class RecordingActor(BigramActor):
    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, input_ids, attention_mask):
        self.asked += [tuple(row) for row in input_ids.tolist()]
        return super().forward(input_ids, attention_mask)


@each("minibatch_update")
@pytest.mark.parametrize(
    ("rollouts", "ppo"),
    [
        (5, {}),
        (7, {"mini_batch_size": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.2}),
        (5, {"gradient_accumulation_steps": 3}),
    ],
)
def test_minibatch_update(way, rollouts, ppo, capsys):
    function = define("minibatch_update", ALL["minibatch_update"][way])
    function.__globals__.update(
        compute_policy_loss=solution("policy_loss"),
        compute_value_loss=solution("value_loss"),
        compute_entropy_loss=solution("entropy"),
    )
    buffer, cfg = update_case(rollouts, **ppo)
    actor = RecordingActor()
    before = [p for parameter in actor.parameters() for p in parameter.flatten().tolist()]
    optimizer = torch.optim.SGD(actor.parameters(), lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    metrics = function(actor, optimizer, scheduler, buffer, cfg, torch.device("cpu"))
    rows = torch.cat([buffer["prompt_input_ids"], buffer["response_input_ids"]], dim=1).tolist()
    order = [rows.index(list(asked)) for asked in actor.asked]
    expected, expected_metrics = epoch_in_loops(before, buffer, order, cfg.ppo, lr=0.3)
    after = [p for parameter in actor.parameters() for p in parameter.flatten().tolist()]
    assert after == pytest.approx(expected, abs=1e-5)
    assert metrics == {name: pytest.approx(value, abs=1e-5) for name, value in expected_metrics.items()}
    assert scheduler.last_epoch == math.ceil(
        math.ceil(rollouts / cfg.ppo.mini_batch_size) / cfg.ppo.gradient_accumulation_steps
    )
