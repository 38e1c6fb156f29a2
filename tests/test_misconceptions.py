"""The bank of misconceptions: no two behave alike, check() names each, the fingerprints are those of the bank."""

import ast
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autograder.misconceptions import BANK, Misconception, named, solution_source, wrong_module, wrong_source
from autograder.misconceptions.__main__ import fingerprints_text
from course_utils.check import check
from course_utils.checks.behaviour import Fact, of_call, of_value, same
from course_utils.checks.epoch_probe import TokenActor, token_buffer
from course_utils.checks.fingerprints import FINGERPRINTS, recognised
from course_utils.checks.one_epoch import Epoch
from course_utils.exercises import EXERCISES
from tests.right_solutions import right_solutions
from tests.solutions import ROOT, define, solution

ALL = [
    pytest.param(key, misconception, id=f"{key}: {misconception.name}") for key in BANK for misconception in BANK[key]
]


def wrong(key: str, misconception: Misconception) -> Callable:
    return getattr(wrong_module(key, misconception), EXERCISES[key].function)


# ------------------------------------------------------------------ the entries


@pytest.mark.parametrize("key", EXERCISES)
def test_a_bank_has_at_least_fifteen_entries_with_names_of_their_own(key):
    assert len({misconception.name for misconception in BANK[key]}) == len(BANK[key]) >= 15


@pytest.mark.parametrize(("key", "misconception"), ALL)
def test_advice_is_one_or_two_sentences_without_the_solution(key, misconception):
    assert 1 <= len(re.findall(r"[.:](?= [A-Z]|$)", misconception.advice)) <= 2
    assert len(misconception.advice) < 260 and misconception.advice.endswith(".")
    assert not re.search(r"\w\(\w|[\[\]=]|\*|torch\.", misconception.advice)


def test_an_edit_that_no_longer_fits_the_solution_is_told():
    for old, times in (("no such text", 0), ("log_ratio", solution_source("policy_loss").count("log_ratio"))):
        with pytest.raises(ValueError, match=f"01_policy_loss.* has {times} times .* 'slip', expects it once"):
            wrong_source("policy_loss", Misconception("slip", "", ((old, "new"),)))


# ------------------------------------------------------------------ behaviour on random inputs


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def poisoned(tensor: Tensor, mask: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """The tensor with anything from -size to size where the mask is 0."""
    poison = size * (2 * torch.rand(tensor.shape, generator=generator) - 1)
    return torch.where(mask.view(*mask.shape, *[1] * (tensor.dim() - 2)) == 1, tensor, poison)


def random_mask(generator: torch.Generator, rows=4, tokens=6) -> Tensor:
    lengths = torch.tensor([[tokens], [1], *torch.randint(1, tokens + 1, (rows - 2, 1), generator=generator).tolist()])
    return (torch.arange(tokens) < lengths).long()


def policy_loss(function: Callable, g: torch.Generator) -> list[Fact]:
    mask = random_mask(g)
    old = normal(g, 4, 6).abs().neg() - 0.1
    new, advantages = old + normal(g, 4, 6), 2 * normal(g, 4, 6)  # ratios far from 1 on both sides
    new, old = (poisoned(x, mask, g, 25) for x in (new, old))  # further apart, exp overflows before the mask
    near = torch.linspace(-0.5, 0.1, 24).view(4, 6)  # log-ratios on both sides of the lower end
    return [
        *of_call(function, new, old, poisoned(advantages, mask, g, 50), mask, 0.3, trained=0),
        *of_call(function, near - 1, torch.full((4, 6), -1.0), normal(g, 4, 6), torch.ones(4, 6).long(), 0.3),
    ]


def value_loss(function: Callable, g: torch.Generator) -> list[Fact]:
    mask = random_mask(g)
    tensors = [poisoned(2 * normal(g, 4, 6), mask, g, 50) for _ in range(3)]
    zero, one = torch.zeros(1, 1), torch.ones(1, 1).long()
    return [
        *of_call(function, *tensors, mask, 0.7, trained=0),
        *of_call(function, zero, zero, zero + torch.inf, one, 0.7),  # where clipping around the return shows
    ]


def entropy(function: Callable, g: torch.Generator) -> list[Fact]:
    mask = random_mask(g)
    logits = poisoned(2 * normal(g, 4, 6, 5), mask, g, 50)
    extreme = torch.tensor([[[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]]])
    return [
        *of_call(function, logits, mask, trained=0),
        *of_call(function, extreme, torch.ones(1, 2).long()),
        *of_call(function, normal(g, 1, 3, 5) + 50, torch.ones(1, 3).long()),
        *of_call(function, torch.zeros(1, 1, 1000).bfloat16(), torch.ones(1, 1).long()),
        *of_call(function, normal(g, 1, 3, 1000).bfloat16(), torch.ones(1, 3).long()),
    ]


def gae(function: Callable, g: torch.Generator) -> list[Fact]:
    facts = []
    for empty in (False, True):
        mask = random_mask(g)
        mask[-1] *= not empty
        kl_penalties, values = (poisoned(x, mask, g, 50) for x in (0.3 * normal(g, 4, 6), normal(g, 4, 6)))
        facts += of_call(function, normal(g, 4), kl_penalties, values, mask, 0.9, 0.7, only={1: mask == 1})
    zero = torch.zeros(1, 1, requires_grad=True)
    return facts + of_call(function, normal(g, 1), zero, zero, torch.ones(1, 1).long(), 0.9, 0.7)


def minibatch_update(function: Callable, g: torch.Generator) -> list[Fact]:
    facts, runs = [], ((3, 3, 1, 1e6), (7, 2, 2, 1.0), (5, 2, 4, 1e6), (9, 2, 3, 0.3), (5, 3, 1, 0.2))
    for responses, size, steps, max_norm in runs:
        buffer = token_buffer(random_mask(g, responses, 3))
        for name in ("logprobs", "ref_logprobs", "values", "advantages", "returns"):
            buffer[name] = poisoned(normal(g, responses, 3), buffer["response_attention_mask"], g, 50)
        buffer["prompt_attention_mask"][0, 0] = 0
        words = 5 * responses
        actor = TokenActor(normal(g, words, words), normal(g, words), 5)
        torch.manual_seed(1)
        try:
            epoch = Epoch(
                function,
                buffer,
                actor,
                mini_batch_size=size,
                gradient_accumulation_steps=steps,
                max_grad_norm=max_norm,
                entropy_coeff=0.3,
            )
        except Exception as error:
            facts.append(f"raises {type(error).__name__}")
            continue
        facts += [" ".join(epoch.events), *of_value(epoch.moved["table"]), *of_value(epoch.moved["values"])]
        facts += [str(p.grad is not None and bool(p.grad.any())) for p in actor.parameters()]
        facts += [fact for name, value in epoch.result.items() for fact in (name, *of_value(value))]
        facts += [
            fact
            for calls in epoch.calls.values()
            for call in calls
            for name, given in call.items()
            if name != "self"
            for fact in of_value(given)
        ]
        facts.append(str([min(row) for row in actor.responses]))  # the order of the responses
    return facts


RANDOM = {
    "policy_loss": policy_loss,
    "value_loss": value_loss,
    "entropy": entropy,
    "gae": gae,
    "minibatch_update": minibatch_update,
}


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.filterwarnings("ignore:std")
def test_no_two_of_an_exercise_behave_alike_and_none_is_right(key):
    def behaviour(function: Callable) -> list[Fact]:
        return [fact for seed in range(3) for fact in RANDOM[key](function, torch.Generator().manual_seed(seed))]

    found = {misconception.name: behaviour(wrong(key, misconception)) for misconception in BANK[key]}
    found["right"] = behaviour(solution(key))
    alike = [pair for pair in itertools.combinations(found, 2) if same(found[pair[0]], found[pair[1]])]
    assert alike == []


# ------------------------------------------------------------------ fingerprints and check()


def test_the_fingerprints_are_those_of_the_bank():
    stored, now = json.loads(FINGERPRINTS.read_text(encoding="utf-8")), json.loads(fingerprints_text())
    hint = "run python -m autograder.misconceptions"
    assert stored.keys() == now.keys(), hint
    for key in now:
        assert [(f["name"], f["advice"]) for f in stored[key]] == [(f["name"], f["advice"]) for f in now[key]], hint
        stale = [old["name"] for old, new in zip(stored[key], now[key]) if not same(old["facts"], new["facts"])]
        assert stale == [], hint


@pytest.mark.parametrize("key", EXERCISES)
def test_no_two_fingerprints_are_alike(key):
    fingerprints = json.loads(FINGERPRINTS.read_text(encoding="utf-8"))[key]
    assert [
        (a["name"], b["name"]) for a, b in itertools.combinations(fingerprints, 2) if same(a["facts"], b["facts"])
    ] == []


@pytest.mark.parametrize(("key", "misconception"), ALL)
@pytest.mark.filterwarnings("ignore:std")
def test_check_finds_and_names_it(key, misconception, capsys):
    with pytest.raises(AssertionError, match="criteria do not hold yet"):
        check(define(key, wrong_source(key, misconception)))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith(f"→ This is a known mistake, “{misconception.name}”: {misconception.advice}")


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_right_is_taken_for_no_misconception(key):
    for function in [solution(key), *(define(key, source) for source in right_solutions(key).values())]:
        assert recognised(key, function) is None


# A mistake is known by what it does: here it is made in code that has nothing in common with the solution.
OTHERWISE_WRITTEN = [
    (
        "policy_loss",
        "loop over tokens",
        "clipped always",
        [
            ("(r if r.item() <= 1 + clip_ratio else 1 + clip_ratio)", "r.clamp(1 - clip_ratio, 1 + clip_ratio)"),
            ("(r if r.item() >= 1 - clip_ratio else 1 - clip_ratio)", "r.clamp(1 - clip_ratio, 1 + clip_ratio)"),
        ],
    ),
    ("policy_loss", "the gradient written by hand", "sign", [("loss = -Surrogate", "loss = Surrogate")]),
    ("policy_loss", "boolean indexing first", "k2", [("(old - new).mean()", "((old - new) ** 2 / 2).mean()")]),
    ("value_loss", "torch.where picks the value", "no half", [("/ (2 * n)", "/ n")]),
    ("value_loss", "boolean indexing and mse_loss", "smaller error", [("torch.maximum(plain", "torch.minimum(plain")]),
    (
        "value_loss",
        "boolean indexing and mse_loss",
        "the clip never acts",
        [("torch.clip(v, old - clip_range_value, old + clip_range_value)", "v.clone()")],
    ),
    (
        "value_loss",
        "the difference clamped",
        "clipped around the return",
        [("values_old + (values_new - values_old)", "returns + (values_new - returns)")],
    ),
    (
        "entropy",
        "Categorical",
        "mask as an index",
        [("(entropy * response_mask).sum() / response_mask.sum()", "entropy[response_mask].mean()")],
    ),
    ("entropy", "Categorical", "divided by all positions", [("/ response_mask.sum()", "/ response_mask.numel()")]),
    ("entropy", "boolean indexing first", "no float32", [("].float()", "]")]),
    ("gae", "numpy in float64", "lambda forgotten", [("gamma * lam * nxt", "gamma * nxt")]),
    ("gae", "unfold", "returns without values", [("raw + values.detach()", "raw")]),
    ("gae", "itertools.accumulate on flipped columns", "no eps", [(" + 1e-8", "")]),
    (
        "gae",
        "returns first, by lambda-returns",
        "results swapped",
        [("return advantages, returns", "return returns, advantages")],
    ),
    ("gae", "unfold", "padding counts as zeros", [("raw.masked_select(response_mask.bool())", "raw")]),
    ("gae", "numpy in float64", "whole numbers", [("np.zeros_like(v)", "np.zeros_like(m, dtype=int)")]),
    (
        "gae",
        "a class that is run token by token",
        "padding flows back",
        [
            (
                "torch.where(on, delta + self.decay * self.advantage, torch.zeros_like(delta))",
                "delta + self.decay * self.advantage",
            ),
            ("torch.where(on, value, torch.zeros_like(value))", "value"),
        ],
    ),
    ("minibatch_update", "DataLoader", "remainder dropped", [("shuffle=True", "shuffle=True, drop_last=True")]),
    ("minibatch_update", "DataLoader", "not shuffled", [("shuffle=True", "shuffle=False")]),
    ("minibatch_update", "one function, a counter", "last group not stepped", [(" or i + 1 == len(batches)", "")]),
    (
        "minibatch_update",
        "one backward a group",
        "values one position late",
        [("out[:, where], v[:, where]", "out[:, where], v[:, where + 1]")],
    ),
]


@pytest.mark.parametrize(
    ("key", "way", "name", "edits"),
    OTHERWISE_WRITTEN,
    ids=[f"{case[0]}: {case[1]}, {case[2]}" for case in OTHERWISE_WRITTEN],
)
def test_a_mistake_is_recognised_however_it_is_written(key, way, name, edits):
    source = right_solutions(key)[way]
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    assert recognised(key, define(key, source)) == (name, named(key, name).advice)


def test_two_mistakes_at_once_are_given_no_name(capsys):
    source = solution_source("policy_loss").replace("loss = -(", "loss = (").replace("1 - clip_ratio, 1 +", "0.9, 1 +")
    with pytest.raises(AssertionError, match="criteria do not hold yet"):
        check(define("policy_loss", source))
    assert "known mistake" not in capsys.readouterr().out


def test_a_function_that_raises_everywhere_is_given_no_name():
    assert recognised("minibatch_update", lambda *arguments: 1 / 0) is None
    assert recognised("gae", lambda *arguments: 1 / 0) is None


def test_course_utils_imports_nothing_of_the_autograder():
    for path in Path(ROOT / "course_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "autograder" for name in names), path
