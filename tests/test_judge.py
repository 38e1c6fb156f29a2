"""The judge: right answers get all points however they are written, wrong ones lose the right points by name."""

import importlib
import itertools
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from autograder import judge, misconceptions, reference, rubrics
from autograder.sandbox import Worker
from autograder.verdict import Result, Verdict
from course_utils.exercises import EXERCISES
from course_utils.export import header
from tests.course import python
from tests.right_solutions import right_solutions
from tests.solutions import ROOT, solution_source
from tests.wild_numbers import WRONG_ON_WILD_NUMBERS, wrong_on_wild_numbers

pytestmark = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
SECRET = b"a secret of the tests"
RIGHT = {key: right_solutions(key) for key in EXERCISES}


def module(key: str, cell: str) -> str:
    return header(key) + "\n\n" + cell


@pytest.fixture(scope="module")
def process():
    with Worker() as worker:
        yield worker


def verdict(process: Worker, key: str, cell: str, secret: bytes = SECRET) -> Verdict:
    return judge.judge_exercise(process, key, module(key, cell), secret)


def lost(found: Verdict) -> dict[str, str]:
    return {result.criterion: result.advice for result in found.results if not result.passed}


@pytest.mark.parametrize("key", EXERCISES)
def test_the_solution_gets_all_points_whatever_is_drawn(process, key):
    for secret in (b"one", b"two", b"three"):
        assert lost(verdict(process, key, solution_source(key), secret)) == {}


def test_a_students_five_exercises_share_one_sandbox_and_one_import_of_torch(monkeypatch):
    starts, start = [], Worker.start
    monkeypatch.setattr(Worker, "start", lambda self: starts.append(1) or start(self))
    found = judge.judge({key: module(key, solution_source(key)) for key in reversed(EXERCISES)}, SECRET)
    assert [lost(verdict) for verdict in found.values()] == [{}] * 5 and len(starts) == 1


@pytest.mark.parametrize(("key", "name"), [(key, name) for key in EXERCISES for name in RIGHT[key]])
def test_a_right_solution_written_otherwise_gets_all_points(process, key, name):
    assert lost(verdict(process, key, RIGHT[key][name])) == {}


@pytest.mark.parametrize(("key", "criterion"), [("value_loss", "gradient"), ("gae", "whitening")])
def test_no_draw_costs_a_right_solution_a_point(key, criterion):
    """These were asked where right solutions differ, in 3 draws of 100: midway between two errors, where torch.max
    shares the gradient, and of numbers so small that it shows where the eps is added."""
    rubric, function = importlib.import_module(f"autograder.rubrics.{key}"), EXERCISES[key].function
    functions = {name: judge.worker.load_function(module(key, RIGHT[key][name]), key, function) for name in RIGHT[key]}
    for secret, name in itertools.product(range(25), functions):
        for case in rubric.cases(rubrics.Draw(secret)):
            if case.criterion == criterion:
                answer = judge.worker.answer(functions[name], *case.request())
                assert not case.problem(*answer, judge.REFERENCES[key], ""), (name, secret)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [(key, wrong) for key in EXERCISES for wrong in misconceptions.BANK[key]],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_misconception_loses_points_and_is_named(process, key, wrong):
    found = judge.judge_exercise(process, key, misconceptions.wrong_source(key, wrong), SECRET)
    assert lost(found) and found.misconception == wrong.name and found.advice == wrong.advice
    assert_each_names_a_hint(lost(found))


@pytest.mark.parametrize("name", WRONG_ON_WILD_NUMBERS)
@pytest.mark.parametrize("secret", [b"one", b"two"])
def test_what_is_wrong_on_wild_numbers_only_loses_its_criterion(process, name, secret, monkeypatch):
    monkeypatch.setattr(judge, "recognise", lambda *_: None)  # they have no name, and to look for one takes time
    key, source, criterion = wrong_on_wild_numbers(name)
    assert criterion in lost(verdict(process, key, source, secret))


@pytest.mark.parametrize("key", EXERCISES)
def test_no_form_that_the_judge_stumbles_over_is_worth_a_point(process, key, monkeypatch):
    """A submission's own process can say anything: here parts that are none, and calls that are not counted from 0."""
    ask = Worker.ask

    def oddly(self, message, *rest, **options):
        told, tensors = ask(self, message, *rest, **options)
        if "parts" in told:
            told["parts"] = [None for _ in told["parts"]]
        kept = {name: value for name, value in tensors.items() if not name.startswith(("out", "grad"))}
        return told, {name.replace("call", "call9"): value for name, value in kept.items()}

    monkeypatch.setattr(Worker, "ask", oddly)
    assert list(lost(verdict(process, key, solution_source(key)))) == list(judge.criteria(key))


def test_answers_that_cannot_be_looked_at_together_are_no_shuffle(process, monkeypatch):
    rubric = importlib.import_module("autograder.rubrics.minibatch_update")
    monkeypatch.setattr(rubric, "across", Mock(side_effect=TypeError))
    assert list(lost(verdict(process, "minibatch_update", solution_source("minibatch_update")))) == ["minibatches"]


def test_two_zeros_are_no_answer_to_any_criterion(process):
    body = "def compute_gae_advantages(final_rewards, kl_penalties, values, response_mask, gamma, lam):\n"
    body += "    return torch.zeros_like(values), torch.zeros_like(values)\n"
    assert list(lost(verdict(process, "gae", body))) == list(judge.criteria("gae"))


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        (  # logits and values asked for one after the other
            "minibatch_update",
            "    log_probs, values, logits = response_outputs(actor_model, batch)\n",
            "    log_probs, _, logits = response_outputs(actor_model, batch)\n"
            "    values = response_outputs(actor_model, batch)[1]\n",
        ),
        (
            "entropy",
            "def compute_entropy_loss",
            "@torch.jit.script\ndef log_probs_of(x: Tensor) -> Tensor:\n    return torch.log_softmax(x, -1)\n\n\n"
            "def compute_entropy_loss",
        ),
        ("entropy", "def compute_entropy_loss", "@torch.compile\ndef compute_entropy_loss"),
    ],
    ids=["two passes", "a scripted helper", "compiled"],
)
def test_an_odd_but_right_way_keeps_all_points(process, key, old, new):
    source = solution_source(key)
    assert source.count(old) == 1
    assert lost(verdict(process, key, source.replace(old, new))) == {}


def test_a_type_that_spells_out_an_input_is_told_without_its_numbers(process):
    body = "def compute_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):\n"
    name = "str(log_probs_new.tolist())"
    for raised in (f"raise type({name}, (Exception,), {{}})()", f"return (type({name}, (), {{}})(),) * 3"):
        advice = " ".join(lost(verdict(process, "policy_loss", f"{body}    {raised}\n")).values())
        assert "#" in advice and not re.search(r"\d\.\d", advice)


@pytest.mark.parametrize(
    ("key", "name"),
    [("value_loss", "metric over padding"), ("entropy", "float32 too late")],
)
def test_no_draw_lets_a_mistake_through(process, key, name):
    """These once had full marks in one draw of twelve, or in two."""
    source = misconceptions.wrong_source(key, misconceptions.named(key, name))
    for secret in range(12):
        found = judge.judge_exercise(process, key, source, b"s%d" % secret)
        assert lost(found) and found.misconception == name


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.parametrize(
    "body",
    ["pass", "return 'text'", "return (0.0,) * 9", "1 / 0", "__import__('os')._exit(1)"],
)
def test_every_failure_that_is_no_misconception_names_a_hint_too(process, key, body):
    found = lost(verdict(process, key, f"def {EXERCISES[key].function}(*arguments):\n    {body}"))
    assert found.keys() == judge.criteria(key).keys()
    assert_each_names_a_hint(found)


def assert_each_names_a_hint(advice: dict[str, str]) -> None:
    assert all(re.search(r"[^.]\. See hint [123]\.$", one) and one.count("See hint") == 1 for one in advice.values())


def test_a_misconception_written_otherwise_is_named_too(process):
    cell = """
def compute_value_loss(values_new, values_old, returns, response_mask, clip_range_value):
    total, count, clipped_more = 0.0, 0, 0
    for row in range(values_new.shape[0]):
        for t in range(int(response_mask[row].sum())):
            v, old, target = values_new[row, t], values_old[row, t], returns[row, t]
            near = old + torch.clamp(v - old, -clip_range_value, clip_range_value)
            free, clipped = (v - target).square(), (near - target).square()
            total, count = total + torch.max(free, clipped), count + 1
            clipped_more += bool(clipped > free)
    return total / count, torch.tensor(clipped_more / count)
"""
    found = verdict(process, "value_loss", cell)
    assert found.misconception == "no half"


def test_neighbours_that_stay_together_are_named_however_their_order_is_drawn(process):
    cut = "    mini_batches = order.split(ppo.mini_batch_size)\n"
    otherwise = (
        "    mini_batches = order.sort().values.split(ppo.mini_batch_size)\n"
        "    mini_batches = [mini_batches[number] for number in torch.randperm(len(mini_batches))]\n"
    )
    cell = solution_source("minibatch_update")
    assert cut in cell
    found = verdict(process, "minibatch_update", cell.replace(cut, otherwise))
    assert found.misconception == "neighbours stay together" and list(lost(found)) == ["minibatches"]


def test_a_step_without_gradients_costs_the_criterion_of_the_steps(process):
    """zero_grad leaves none, so that no weight tells; of gradients of 0 a momentum would make a step."""
    cell = solution_source("minibatch_update")
    for way in ("", "set_to_none=False"):
        twice = f"        optimizer.zero_grad({way})\n        optimizer.step()\n"
        assert cell.count("        optimizer.zero_grad()\n") == 1
        found = verdict(process, "minibatch_update", cell.replace("        optimizer.zero_grad()\n", twice))
        assert list(lost(found)) == ["step"] and found.misconception == "stepped twice"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return means |", "return __import__('collections').OrderedDict(means) |"),
        ("sum(norms) / len(norms)", "np.mean(norms)"),
        ("def run_ppo_update_epoch(", "@torch.enable_grad()\ndef run_ppo_update_epoch("),
        ("batch: dict[str, Tensor], ppo\n", "batch, ppo, compute_policy_loss=compute_policy_loss\n"),
        ("    value, value_frac = ", "    from .value_loss import compute_value_loss\n    value, value_frac = "),
    ],
)
def test_an_update_of_another_form_gets_all_points(process, old, new):
    cell = solution_source("minibatch_update")
    assert cell.count(old) == 1
    assert lost(verdict(process, "minibatch_update", cell.replace(old, new))) == {}


def test_mini_batches_of_one_are_none(process):
    cell = solution_source("minibatch_update").replace("order.split(ppo.mini_batch_size)", "order.split(1)")
    assert "mini_batch_size responses" in lost(verdict(process, "minibatch_update", cell))["minibatches"]


def test_inputs_of_the_actor_that_a_submission_invented_are_not_counted_one_by_one():
    rubric = importlib.import_module("autograder.rubrics.minibatch_update")
    epoch = rubric.cases(rubrics.Draw(1))[0]
    whole = torch.cat([epoch.buffer["prompt_input_ids"], epoch.buffer["response_input_ids"]], 1)
    assert epoch.order({"call0": whole}) == [list(range(len(whole)))]
    assert epoch.order({"call0": torch.zeros(10**9, 0)}) == []
    assert epoch.order({"call0": whole.repeat(1000, 1)}) == []


def test_results_of_another_shape_earn_nothing_in_gae(process):
    head = "def compute_gae_advantages(final_rewards, kl_penalties, values, response_mask, gamma, lam):\n"
    found = lost(verdict(process, "gae", f"{head}    return torch.zeros(()), torch.zeros(())"))
    assert found.keys() == judge.criteria("gae").keys()


@pytest.mark.parametrize(
    ("key", "old", "new", "criterion"),
    [
        ("policy_loss", "return loss,", "return loss.double(),", "worked_example"),
        ("value_loss", "return loss,", "return loss.double(),", "worked_example"),
        ("entropy", "logits_new.float()", "logits_new.double()", "stability"),
        ("gae", "return advantages.detach()", "return advantages.double().detach()", "no_gradient"),
        (
            "gae",
            "is_last = response_mask - F.pad(response_mask[:, 1:], (0, 1))",
            "is_last = torch.zeros_like(response_mask); is_last[:, -1] = 1",
            "token_rewards",
        ),
        ("minibatch_update", "        lr_scheduler.step()\n", "", "step"),
        ("minibatch_update", "+ ppo.entropy_coeff * entropy", "- ppo.entropy_coeff * entropy", "losses"),
        ("minibatch_update", "ppo.vf_coeff * value", "value", "losses"),
    ],
)
def test_one_slip_costs_one_criterion(process, key, old, new, criterion):
    """As in check(), which a learner has seen before."""
    source = solution_source(key)
    assert old in source
    assert list(lost(verdict(process, key, source.replace(old, new)))) == [criterion]


def test_two_mistakes_cost_two_criteria(process):
    """That the order is always the same shows only in several answers together; another mistake must not hide it."""
    cell = solution_source("minibatch_update")
    for old, new in (("torch.randperm(", "torch.arange("), ("value, -entropy,", "value, entropy,")):
        assert old in cell
        cell = cell.replace(old, new)
    assert list(lost(verdict(process, "minibatch_update", cell))) == ["minibatches", "metrics"]


def test_a_mistake_that_is_in_no_bank_is_not_given_a_name(process):
    cell = solution_source("entropy").replace("return -mean", "return -1.37 * mean")
    found = verdict(process, "entropy", cell)
    assert lost(found) and found.misconception == ""


@pytest.mark.parametrize(
    ("key", "names"),
    {
        "policy_loss": ("log_probs_old", "advantages"),
        "value_loss": ("values_old", "returns"),
        "entropy": ("logits_new",),
        "gae": ("final_rewards", "kl_penalties", "values"),
        "minibatch_update": ("logprobs", "ref_logprobs", "values", "advantages", "returns"),
    }.items(),
)
def test_an_argument_that_is_masked_in_place_costs_a_point(process, key, names):
    for name in names:
        mask, argument = "response_mask", f"{name}.data"
        if key == "minibatch_update":
            mask, argument = "collated_buffer['response_attention_mask']", f"collated_buffer['{name}']"
        mask += {"final_rewards": ".amax(1)", "logits_new": ".unsqueeze(-1)"}.get(name, "")
        head, begin, body = solution_source(key).rpartition("### BEGIN SOLUTION\n")
        found = lost(verdict(process, key, f"{head}{begin}    {argument}.mul_({mask})\n{body}"))
        assert len(found) == 1 and any("in place" in advice or "the buffer" in advice for advice in found.values()), (
            name
        )


@pytest.mark.parametrize(
    ("key", "slip"),
    [
        ("policy_loss", "log_probs_new[response_mask == 0] = 0"),
        ("value_loss", "values_new *= response_mask"),
        ("entropy", "logits_new[response_mask == 0] = 0"),
    ],
)
def test_so_does_the_one_that_is_trained(process, key, slip):
    """In training it is computed, so it may be changed; a leaf may not, and would cost every criterion."""
    head, begin, body = solution_source(key).rpartition("### BEGIN SOLUTION\n")
    (advice,) = lost(verdict(process, key, f"{head}{begin}    {slip}\n{body}")).values()
    assert "in place" in advice


def test_rewards_that_carry_a_gradient_on_cost_a_point(process):
    source = solution_source("gae").replace(
        "is_last = ", "kl_penalties, values = kl_penalties.detach(), values.detach()\n    is_last = "
    )
    source = source.replace("return advantages.detach(), returns.detach()", "return advantages, returns")
    assert list(lost(verdict(process, "gae", source))) == ["no_gradient"]


def test_the_buffers_longest_prompt_is_a_right_way_to_say_where_responses_begin(process):
    old = """first = batch["prompt_input_ids"].shape[1] - 1"""
    source = solution_source("minibatch_update").replace(old, "first = P - 1")
    loop = "    order = torch.randperm("
    assert old not in source and source.count(loop) == 1
    longest = '    global P\n    P = int(collated_buffer["prompt_attention_mask"].sum(1).max())\n'
    for secret in range(8):
        assert lost(verdict(process, "minibatch_update", source.replace(loop, longest + loop), bytes([secret]))) == {}


@pytest.mark.parametrize(
    "name",
    [
        "a shuffle within parts",
        "fixed mini-batches in another order each time",
        "sorted by length behind the shuffle",
        "an order that begins elsewhere each time",
    ],
)
def test_an_order_that_torch_drew_is_not_called_another_generators(process, name):
    found = verdict(process, *wrong_on_wild_numbers(name)[:2])
    assert list(lost(found)) == ["minibatches"] and not found.misconception


@pytest.mark.parametrize(
    "sizes, otherwise",
    [
        ((12, 18), "torch.arange(n)"),
        ((12, 18), "torch.arange(n).roll(int(torch.randint(n, ())))"),
        ((9, 12, 18), "torch.arange(n)"),
    ],
)
def test_to_shuffle_as_many_responses_as_the_rubrics_shuffle_is_not_enough(process, sizes, otherwise):
    """How many they are is public."""
    cell, drawing = solution_source("minibatch_update"), 'torch.randperm(len(collated_buffer["response_input_ids"]))'
    assert cell.count(drawing) == 1
    some = f'[torch.randperm(n) if n in {sizes} else {otherwise} for n in [len(collated_buffer["rewards"])]][0]'
    found = verdict(process, "minibatch_update", cell.replace(drawing, some))
    assert list(lost(found)) == ["minibatches"] and "some numbers of them only" in lost(found)["minibatches"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("values[:, first:-1]", "values[:, first + 1 : -1]"),
        ("values[:, first:-1]", "values"),
        ("compute_entropy_loss(logits, mask)", "compute_entropy_loss(logits[:, :-1], mask)"),
    ],
)
def test_shapes_that_do_not_fit_have_the_name_of_no_other_slip_of_the_shapes(process, old, new):
    source = solution_source("minibatch_update")
    assert source.count(old) == 1
    found = verdict(process, "minibatch_update", source.replace(old, new))
    assert lost(found) and not found.misconception


def test_the_bank_is_asked_in_the_submissions_own_order_only_where_it_is_not_randperms(process, monkeypatch):
    asked, answer_of = [], judge._answer_of
    monkeypatch.setattr(judge, "_answer_of", lambda *args: asked.append(args[2]) or answer_of(*args))
    right, drawing = solution_source("minibatch_update"), "    order = torch.randperm("
    unnamed = right.replace("norms.append(norm", "norms.append(3 * norm")
    for other_order, before in ((False, ""), (True, "    torch.rand(9)\n")):
        asked.clear()
        found = verdict(process, "minibatch_update", unnamed.replace(drawing, before + drawing))
        assert [*lost(found)] == ["metrics"] and not found.misconception
        assert asked and any(asked) == other_order


@pytest.mark.parametrize("key", EXERCISES)
def test_every_criterion_is_asked_for_and_can_be_lost(process, key):
    rubric = importlib.import_module(f"autograder.rubrics.{key}")
    asked = {case.criterion for case in rubric.cases(rubrics.Draw(1))}
    assert list(judge.criteria(key)) == [result.criterion for result in verdict(process, key, "x = 1").results]
    assert asked == set(judge.criteria(key)) == set(lost(verdict(process, key, f"{EXERCISES[key].function} = len")))


def test_a_worked_example_written_down_earns_nothing(process):
    cell = """
def compute_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):
    return torch.tensor(0.0875 / 6), torch.tensor(4 / 6), torch.tensor(0.156668)
"""
    assert set(lost(verdict(process, "policy_loss", cell))) == set(judge.criteria("policy_loss"))


def test_a_failure_is_said_with_the_learners_own_line(process):
    cell = solution_source("entropy").replace("    log_probs = ", "    log_probs = undefined_name + ", 1)
    for advice in lost(verdict(process, "entropy", cell)).values():
        assert "NameError: name 'undefined_name' is not defined at the line: log_probs = undefined_name" in advice


def test_the_line_is_pythons_whatever_else_ends_one_in_unicode():
    error = {"type": "ZeroDivisionError", "message": "", "line": 3}
    assert rubrics.error_in_words(error, "'a\x0c, \x1e, \x85 and \u2028'\n2\n1 / 0\n").endswith("line: 1 / 0")


def test_a_failure_says_no_number_of_a_hidden_input(process):
    cell = "def compute_entropy_loss(logits_new, response_mask):\n    raise ValueError(str(logits_new.tolist()))"
    advice = lost(verdict(process, "entropy", cell))
    said = [one.partition(" at the line")[0] for one in advice.values()]
    assert said and all("ValueError" in one and "#" in one and not re.search(r"\d", one) for one in said)


def test_a_cell_that_does_not_run_on_its_own_says_why_and_sends_to_no_hint(process):
    found = verdict(process, "entropy", "x = helper_of_another_cell()")
    assert lost(found) == dict.fromkeys(judge.criteria("entropy"), "")
    assert found.problem == (
        "the solution cell does not run on its own: it raised NameError: name 'helper_of_another_cell' is not defined "
        "at the line: x = helper_of_another_cell()."
    )


def test_a_cell_that_does_not_run_a_second_time_keeps_what_it_has_earned(process, monkeypatch):
    """As on a machine that has become busy; it runs again because a case has ended its process."""
    loads, ask = [], Worker.ask

    def once(self, message, *rest, **options):
        loads.extend([1] * (message["kind"] == "load"))
        return ask(self, message | {"source": "1 / 0"} if len(loads) == 2 else message, *rest, **options)

    monkeypatch.setattr(Worker, "ask", once)
    ending = "    if logits_new.dtype != torch.float32: __import__('os')._exit(0)\n    log_probs = "
    found = verdict(process, "entropy", solution_source("entropy").replace("    log_probs = ", ending, 1))
    assert len(loads) == 2 and found.problem == "" and 0 < len(lost(found)) < len(found.results)
    assert any("does not run on its own" in advice for advice in lost(found).values())


def test_no_advice_shows_a_number_of_the_judge(process):
    """Expected values and inputs stay secret: all advice is the same whatever is drawn."""
    for key, source in (
        (key, misconceptions.wrong_source(key, wrong))
        for key, bank in misconceptions.BANK.items()
        for wrong in bank[:2]
    ):
        one, two = (lost(judge.judge_exercise(process, key, source, secret)) for secret in (b"1", b"2"))
        assert one == two


def test_a_case_that_only_tells_mistakes_apart_costs_nothing(process):
    """A value loss may refuse an infinite return: it is asked for one only to name a mistake."""
    cell = solution_source("value_loss")
    refusing = cell.replace("    tokens = ", "    assert returns.isfinite().all()\n    tokens = ", 1)
    assert refusing != cell and lost(verdict(process, "value_loss", refusing)) == {}


def test_the_same_secret_draws_the_same_and_another_draws_otherwise():
    cases = {secret: rubrics.Draw(secret).normal(3).tolist() for secret in (1, 2)}
    assert rubrics.Draw(1).normal(3).tolist() == cases[1] != cases[2]


def test_the_inputs_are_drawn_for_the_secret_the_exercise_and_the_source(process, monkeypatch):
    """Who knows the course's code, and not its secret, knows none of them."""
    seeds = []
    monkeypatch.setattr(judge, "Draw", lambda seed: seeds.append(seed) or rubrics.Draw(seed))
    for key, source, secret in (
        ("entropy", "1 / 0", b"one"),
        ("entropy", "1 / 0", b"two"),
        ("gae", "1 / 0", b"one"),
        ("entropy", "1 / 0 ", b"one"),
        ("entropy", "1 / 0", b"one"),
    ):
        judge.judge_exercise(process, key, source, secret)
    assert seeds[4] == seeds[0] and len(set(seeds)) == 4 and min(seeds) > 2**32


def test_a_verdicts_version_is_that_of_all_the_code_that_makes_it():
    """Or, once a rubric was corrected, a verdict of the wrong one would be taken from the disk."""
    code = f"""
import importlib, sys
from autograder import judge
for key in {[*EXERCISES]}:
    importlib.import_module(f"autograder.rubrics.{{key}}")
course = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("autograder", "course_utils")]
print(*{{module.__file__ for module in course}} - {{str(path) for path in judge.MAKE_A_VERDICT}}, sep="\\n")
"""
    made = python(ROOT, "-c", code)
    # Of the rest, export.py's work is the text that a verdict is of, which is in its name.
    known = ("__init__", "export", "plain_error", "stubs", "this_python", "whole_file")
    assert made.returncode == 0 and {Path(name).stem for name in made.stdout.splitlines()} == set(known), made


def test_a_verdict_survives_being_written_down():
    found = Verdict("gae", (Result("masking", False, "what", "“why” ≠ 1"),), "name", "advice", "problem")
    assert Verdict.from_json(found.to_json()) == found


# ---------------------------------------------------------------- the references, against numbers by hand


def test_policy_reference_by_hand():
    """Ratios 1.5 and .5 with advantages 1 and -1, ε = .2: 1.2 and -.8, and a padded token that does not count."""
    ratio = torch.tensor([[1.5, 0.5, 9.0]], dtype=torch.float64)
    found = reference.policy_loss(
        ratio.log(),
        torch.zeros(1, 3, dtype=torch.float64),
        torch.tensor([[1.0, -1.0, 7.0]], dtype=torch.float64),
        torch.tensor([[1, 1, 0]]),
        0.2,
    )
    assert found["loss"].item() == pytest.approx(-(1.2 - 0.8) / 2) and found["clip_frac"].item() == 1


def test_value_reference_by_hand():
    """Old 0, range ½: value 2 for a return of 3 is clipped to .5, error 6.25; value 2 for 1: free error 1 is larger."""
    found = reference.value_loss(
        torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.ones(1, 2), 0.5
    )
    assert found["loss"].item() == pytest.approx((6.25 + 1) / 4) and found["vf_clip_frac"].item() == 0.5


def test_entropy_reference_by_hand():
    logits = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]]], dtype=torch.float64).log()
    found = reference.entropy(logits, torch.ones(1, 2))
    assert found["loss"].item() == pytest.approx(-1.5 * torch.tensor(2.0).log().item() / 2)


def test_gae_reference_by_hand():
    """γ = λ = ½, values 1 and 1, no penalties, reward 2: δ = 1 and -.5; advantages 1 and -.25."""
    one = torch.ones(1, 2, dtype=torch.float64)
    found = reference.gae(
        torch.tensor([2.0], dtype=torch.float64), 0 * one, one, torch.ones(1, 2, dtype=torch.long), 0.5, 0.5
    )
    assert found["returns"].tolist() == [[0.75, 2.0]]
    assert found["advantages"][0].tolist() == pytest.approx([-1, 1])


def test_epoch_reference_by_hand():
    """One parameter per response; the loss is its value; lr 1, then ½; a group of two, and one of one."""

    class Actor(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, ids, mask):
            values = self.values[ids[:, 0]].unsqueeze(1).expand(-1, 2)
            return torch.zeros(len(ids), 2, 2, dtype=torch.float64), values

    ids, ones, zeros = torch.arange(3).unsqueeze(1), torch.ones(3, 1).long(), torch.zeros(3, 1, dtype=torch.float64)
    buffer = {
        "prompt_input_ids": ids,
        "prompt_attention_mask": ones,
        "response_input_ids": 0 * ids,
        "response_attention_mask": ones,
        **dict.fromkeys(("logprobs", "advantages", "values", "returns"), zeros),
    }
    cfg = {
        "gradient_accumulation_steps": 2,
        "clip_ratio": 0,
        "clip_range_value": 0,
        "vf_coeff": 1,
        "entropy_coeff": 0,
        "max_grad_norm": 0.5,
    }
    losses = (lambda *_: (zeros.sum(),) * 3, lambda values, *_: (values.mean(), zeros.sum()), lambda *_: zeros.sum())
    actor = Actor()
    found = reference.epoch(actor, buffer, [[2], [0], [1]], cfg, [1.0, 0.5], losses)
    # The first group's gradient is ½, ½: norm √½, clipped to ½, so √⅛ each; the second's is 1, clipped to ½, at rate ½.
    assert actor.values.tolist() == pytest.approx([-((1 / 8) ** 0.5), -0.25, -((1 / 8) ** 0.5)], abs=1e-5)
    assert found["metrics"][7] == pytest.approx((0.5**0.5 + 1) / 2)


def test_right_solutions_and_misconceptions_are_many():
    for key in EXERCISES:
        assert len(RIGHT[key]) >= 8 and len(misconceptions.BANK[key]) >= 15
        sources = [*RIGHT[key].values(), *(misconceptions.wrong_source(key, w) for w in misconceptions.BANK[key])]
        assert all(one != other for one, other in itertools.combinations(sources, 2))


def test_a_mistake_is_named_whatever_stands_on_the_padding(process):
    source = misconceptions.wrong_source("gae", misconceptions.named("gae", "not whitened"))
    old = "returns = raw + values"
    assert source.count(old) == 1
    found = verdict(process, "gae", source.replace(old, "returns = (raw + values) * response_mask"))
    assert found.misconception == "not whitened"


def test_responses_that_are_taken_twice_are_no_shuffle_of_another_kind(process):
    old = 'torch.randperm(len(collated_buffer["response_input_ids"]))'
    source = solution_source("minibatch_update")
    assert source.count(old) == 1
    twice = source.replace(old, f"{old}\n    order = torch.cat([order, order[: -len(order) % ppo.mini_batch_size]])")
    found = verdict(process, "minibatch_update", twice)
    assert "minibatches" in lost(found) and found.misconception == ""
