"""check(): passes every solution, is not fooled, and names the slip in each of many wrong variants."""
import linecache
import re
import textwrap

import pytest
import torch

from course_utils import stand_ins
from course_utils.check import CRITERIA, check
from course_utils.exercises import EXERCISES, load_exercises
from tests.solutions import define, edited, solution, solution_source, stub

# (what is wrong, the criterion that fails, words of its advice, (old, new) in the solution's source, ...)
POLICY_LOSS = [
    ("sign", "worked_example", "Only the sign is wrong",
     ("loss = -(", "loss = (")),
    ("sum for mean", "worked_example", "You summed",
     ("(surrogate * response_mask).sum() / tokens", "(surrogate * response_mask).sum()")),
    ("divided by all positions", "worked_example", "all 8 positions",
     ("response_mask.sum()", "response_mask.numel()")),
    ("mean of means", "worked_example", "every response token weighs the same",
     ("(surrogate * response_mask).sum() / tokens",
      "((surrogate * response_mask).sum(1) / response_mask.sum(1)).mean()")),
    ("ratio upside down", "worked_example", "upside down",
     ("log_ratio.exp()", "(-log_ratio).exp()")),
    ("no clipping", "clipping", "ratio is above 1 + ε",
     ("torch.min(ratio * advantages, clipped_ratio * advantages)", "ratio * advantages")),
    ("clipped always", "clipping", "0.8 · 2, not clipped",
     ("torch.min(ratio * advantages, clipped_ratio * advantages)", "clipped_ratio * advantages")),
    ("max for min", "clipping", "The minimum is between",
     ("torch.min(", "torch.max(")),
    ("clipped above only", "clipping", "ratio is below 1 − ε",
     ("clamp(1 - clip_ratio, 1 + clip_ratio)", "clamp(max=1 + clip_ratio)")),
    ("minimum of ratios", "clipping", "not between ratios",
     ("torch.min(ratio * advantages, clipped_ratio * advantages)",
      "torch.min(ratio, clipped_ratio) * advantages")),
    ("0.2 written down", "clipping", "whatever clip_ratio is given",
     ("1 - clip_ratio, 1 + clip_ratio", "0.8, 1.2")),
    ("no mask", "masking", "Multiply each per-token quantity",
     (" * response_mask).sum()", ").sum()"),
     (" * response_mask  # (B, R)", "")),
    ("detached", "gradient", "the loss carries no gradient",
     ("log_ratio.exp()", "log_ratio.detach().exp()")),
    ("clip_frac of one side", "metrics", "on both sides",
     ("(ratio - 1).abs() >", "(ratio - 1) >")),
    ("sign of the KL", "metrics", "it is old − new",
     ("-log_ratio.detach()", "log_ratio.detach()")),
    ("k2", "metrics", "This is k2",
     ("-log_ratio.detach().sum()", "(log_ratio.detach() ** 2 / 2).sum()")),
    ("k3", "metrics", "This is k3",
     ("-log_ratio.detach().sum()", "(ratio - 1 - log_ratio).detach().sum()")),
    ("KL with gradient", "metrics", "approx_kl carries a gradient",
     ("log_ratio.detach()", "log_ratio")),
    ("metric as a float", "metrics", "without .item()",
     ("return loss, clip_frac,", "return loss, clip_frac.item(),")),
    ("loss alone", "worked_example", "it returned a Tensor; it must return (loss, clip_frac, approx_kl)",
     ("return loss, clip_frac, approx_kl", "return loss")),
    ("nothing returned", "worked_example", "is the `return` at the end",
     ("return loss, clip_frac, approx_kl", "")),
    ("one loss a token", "worked_example", "loss has shape (2, 4)",
     ("-(surrogate * response_mask).sum() / tokens", "-surrogate * response_mask")),
    ("input changed", "worked_example", "changed its argument advantages in place",
     ("tokens = response_mask.sum()", "tokens = response_mask.sum()\n    advantages.mul_(2).div_(3)")),
]
VALUE_LOSS = [
    ("no half", "worked_example", "The factor ½ is missing",
     ("0.5 * ", "")),
    ("divided by all positions", "worked_example", "all 8 positions",
     ("response_mask.sum()", "response_mask.numel()")),
    ("smaller error", "worked_example", "You took the smaller",
     ("torch.max(", "torch.min(")),
    ("no clipping", "clipping", "v_clipped = 1.5",
     ("torch.max(error, error_clipped)", "error")),
    ("clipped always", "clipping", "v overshot",
     ("torch.max(error, error_clipped)", "error_clipped")),
    ("clipped above only", "clipping", "v moved down",
     ("torch.clamp(values_new, low, high)", "torch.min(values_new, high)")),
    ("clipped around the return", "clipping", "The clip is around values_old",
     ("values_old - clip_range_value, values_old + clip_range_value",
      "returns - clip_range_value, returns + clip_range_value")),
    ("no mask", "masking", "Multiply each per-token quantity",
     (" * response_mask).sum()", ").sum()")),
    ("detached", "gradient", "gradient by values_new",
     ("(values_new - returns) ** 2", "(values_new.detach() - returns) ** 2")),
    ("counts every move", "metrics", "not wherever the value",
     ("error_clipped > error", "values_clipped != values_new")),
    ("equal errors count", "metrics", "not where both errors are equal",
     ("error_clipped > error", "error_clipped >= error")),
]
ENTROPY = [
    ("sign", "worked_example", "Only the sign is wrong",
     ("return -(entropy", "return (entropy")),
    ("bits", "worked_example", "bits",
     ("log_probs.exp() * log_probs", "log_probs.exp() * log_probs / math.log(2)")),
    ("mean over the vocabulary", "worked_example", "averaged over the vocabulary",
     (".sum(dim=-1)", ".mean(dim=-1)")),
    ("sum over the tokens", "worked_example", "You summed over the tokens",
     (" / response_mask.sum()", "")),
    ("softmax over the tokens", "worked_example", "token by token",
     ("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(logits_new.float(), dim=1)")),
    ("no mask", "masking", "Multiply the entropies",
     ("(entropy * response_mask).sum() / response_mask.sum()", "entropy.mean()")),
    ("log of softmax", "stability", "softmax() underflows",
     ("F.log_softmax(logits_new.float(), dim=-1)", "F.softmax(logits_new.float(), dim=-1).log()")),
    ("no float32", "stability", "it must be float32",
     ("logits_new.float()", "logits_new")),
    ("float32 too late", "stability", "not the result after",
     ("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(logits_new, dim=-1).float()")),
    ("probabilities detached", "gradient", "detach neither",
     ("log_probs.exp() * log_probs", "log_probs.exp().detach() * log_probs")),
    ("all detached", "gradient", "carries no gradient",
     ("logits_new.float()", "logits_new.detach().float()")),
]
GAE = [
    ("penalty added", "token_rewards", "a penalty is subtracted",
     ("- response_mask * kl_penalties", "+ response_mask * kl_penalties")),
    ("no penalty", "token_rewards", "The KL penalties are missing",
     (" - response_mask * kl_penalties", "")),
    ("reward in the last column", "token_rewards", "not in the last column",
     ("response_mask - F.pad(response_mask[:, 1:], (0, 1))",
      "F.pad(torch.zeros_like(response_mask[:, 1:]), (0, 1), value=1)")),
    ("reward at every token", "token_rewards", "final reward on top",
     ("is_last * final", "response_mask * final")),
    ("bootstrap from padding", "recursion", "Does the value on the padding leak in?",
     ("next_value = values[:, t] * response_mask[:, t]", "next_value = values[:, t]")),
    ("gamma forgotten", "recursion", "Go from the last token",
     ("gamma * next_value", "next_value")),
    ("lambda forgotten", "recursion", "Go from the last token",
     ("gamma * lam * ", "gamma * ")),
    ("from the first token", "recursion", "Go from the last token",
     ("reversed(range(values.shape[1]))", "range(values.shape[1])")),
    ("returns of whitened advantages", "recursion", "advantages before whitening",
     ("return advantages.detach(), returns.detach()",
      "return advantages.detach(), (advantages + values).detach()")),
    ("not whitened", "whitening", "These are the raw advantages",
     ("centered * torch.rsqrt(variance + 1e-8)", "raw")),
    ("unbiased variance", "whitening", "n − 1 = 5",
     ("(centered**2).sum() / tokens", "(centered**2).sum() / (tokens - 1)")),
    ("mean not subtracted", "whitening", "The mean is missing",
     ("centered * torch.rsqrt", "raw * torch.rsqrt")),
    ("whitened over padding", "whitening", "Subtract the response tokens' mean",
     ("(raw - raw.sum() / tokens) * response_mask", "raw - raw.mean()"),
     ("(centered**2).sum() / tokens", "(centered**2).mean()")),
    ("padding moved off 0", "whitening", "mask once more",
     ("centered * torch.rsqrt(variance + 1e-8)",
      "(raw - raw.sum() / tokens) * torch.rsqrt(variance + 1e-8)")),
    ("no eps", "whitening", "add 1e-8",
     ("variance + 1e-8", "variance")),
    ("penalty on padding", "masking", "Mask the penalties",
     ("- response_mask * kl_penalties", "- kl_penalties"),
     ("(delta + gamma * lam * next_advantage) * response_mask[:, t]",
      "delta + gamma * lam * next_advantage")),
    ("empty row ends in its last column", "masking", "A row whose mask is empty",
     ("is_last = response_mask - F.pad(response_mask[:, 1:], (0, 1))",
      "is_last = F.one_hot(response_mask.sum(1) - 1 + 4 * (response_mask.sum(1) == 0), values.shape[1])"),
     ("* lam * next_advantage) * response_mask[:, t]",
      "* lam * next_advantage) * (response_mask + is_last)[:, t].clamp(max=1)")),
    ("with gradient", "no_gradient", "returns carries a gradient",
     ("returns.detach()", "returns")),
    ("values changed", "token_rewards", "values in place",
     ("returns = raw + values", "returns = values.add_(raw)")),
]
MINIBATCH_UPDATE = [
    ("one position late", "forward", "one position late",
     ("logits[:, first:-1], values[:, first:-1]", "logits[:, first + 1 :], values[:, first + 1 :]")),
    ("one position too many", "forward", "values_new has shape (2, 5)",
     ("values[:, first:-1]", "values[:, first:]")),
    ("log-prob of the wrong token", "forward", "gathered at response_input_ids",
     ("gather(-1, response.unsqueeze(-1))", "gather(-1, 3 - response.unsqueeze(-1))")),
    ("response without prompt", "forward", "prompt_input_ids followed by response_input_ids",
     ('torch.cat([batch["prompt_input_ids"], response], dim=1)', "response")),
    ("prompt not masked", "forward", "prompt_attention_mask followed by",
     ('torch.cat([batch["prompt_attention_mask"], mask], dim=1)', "torch.ones_like(input_ids)")),
    ("reference for old", "losses", 'must be the buffer\'s "logprobs"',
     ('batch["logprobs"]', 'batch["ref_logprobs"]')),
    ("advantages as returns", "losses", "returns of compute_value_loss",
     ('batch["returns"]', 'batch["advantages"]')),
    ("one clip for both", "losses", "it must be cfg.ppo.clip_range_value",
     ("ppo.clip_range_value", "ppo.clip_ratio")),
    ("entropy subtracted", "losses", "has its minus sign already",
     ("+ ppo.entropy_coeff", "- ppo.entropy_coeff")),
    ("no vf_coeff", "losses", "step of the values",
     ("ppo.vf_coeff * value", "value")),
    ("policy left out", "losses", "step of the logit of A's first token",
     ("total = policy +", "total =")),
    ("not shuffled", "minibatches", "in the same order",
     ("torch.randperm(", "torch.arange(")),
    ("shuffled by another generator", "minibatches", "the same seed gives two orders",
     ('torch.randperm(len(collated_buffer["response_input_ids"]))',
      'torch.from_numpy(np.random.permutation(len(collated_buffer["response_input_ids"])))')),
    ("remainder dropped", "minibatches", "each of 0 to 4 must be, once",
     (".split(ppo.mini_batch_size)",
      "[: len(order) // ppo.mini_batch_size * ppo.mini_batch_size].split(ppo.mini_batch_size)")),
    ("divided by the steps", "minibatches", "Weigh a mini-batch",
     ("len(rows) / group_size", "1 / steps")),
    ("not weighed", "minibatches", "Weigh a mini-batch",
     ("(total * len(rows) / group_size)", "total")),
    ("no zero_grad", "minibatches", "call zero_grad after each step",
     ("        optimizer.zero_grad()\n", "")),
    ("last group not stepped", "step", "three times optimizer.step()",
     ("        optimizer.step()\n        lr_scheduler.step()",
      "        if len(group) == steps:\n            optimizer.step()\n            lr_scheduler.step()")),
    ("scheduler forgotten", "step", "then lr_scheduler.step()",
     ("        lr_scheduler.step()\n", "")),
    ("scheduler at each mini-batch", "step", "Yours: lr_scheduler.step, lr_scheduler.step, optimizer.step",
     ("            logs.append(metrics)\n",
      "            logs.append(metrics)\n            lr_scheduler.step()\n")),
    ("zero_grad only at the start", "step", "gradients are left",
     ("        optimizer.zero_grad()\n", ""),
     ("        group = mini", "        optimizer.zero_grad()\n        group = mini")),
    ("no gradient clipping", "step", "Call nn.utils.clip_grad_norm_",
     ("parameters(), ppo.max_grad_norm)", "parameters(), 1e9)")),
    ("weighed total logged", "metrics", "before it is weighed",
     ("total = policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy",
      "total = policy + ppo.vf_coeff * value + ppo.entropy_coeff * entropy\n"
      "    weight = 1 - (len(mask) == 2) / 2"),
     ('"loss/total": total.item()', '"loss/total": total.item() * weight')),
    ("metric missing", "metrics", "lacks params/approx_kl",
     ('        "params/approx_kl": approx_kl.item(),\n', "")),
    ("metric as a tensor", "metrics", "loss/total is a Tensor",
     ("total.item()", "total.detach()")),
    ("entropy loss logged", "metrics", "the entropy itself",
     ("-entropy.item()", "entropy.item()")),
    ("norm after clipping", "metrics", "the norm after clipping",
     ("norms.append(norm.item())", "norms.append(min(norm.item(), ppo.max_grad_norm))")),
]
WRONG = {"policy_loss": POLICY_LOSS, "value_loss": VALUE_LOSS, "entropy": ENTROPY, "gae": GAE,
         "minibatch_update": MINIBATCH_UPDATE}


def failure(function, criterion: str) -> str:
    """The advice of one criterion, which must fail, and must be among those that the report names."""
    with pytest.raises(AssertionError) as all_of_it:
        check(function)
    assert re.search(rf"\b{criterion}\b", str(all_of_it.value)), all_of_it.value
    with pytest.raises(AssertionError) as caught:
        check(function, criterion)
    return str(caught.value)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_solution_passes(key, capsys):
    check(solution(key))
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["✓"] * len(CRITERIA[key])
    for criterion in CRITERIA[key]:
        check(solution(key), criterion.__name__)


@pytest.mark.parametrize(("key", "old", "new"), [
    ("policy_loss", "torch.min(ratio * advantages, clipped_ratio * advantages)",
     "-torch.max(-ratio * advantages, -clipped_ratio * advantages)"),
    ("value_loss", "torch.clamp(values_new, low, high)",
     "values_old + (values_new - values_old).clamp(-clip_range_value, clip_range_value)"),
    ("value_loss", "(error_clipped > error).float()", "torch.gt(error_clipped, error).to(values_new)"),
    ("minibatch_update", "F.log_softmax(logits, dim=-1)", "logits - logits.logsumexp(-1, keepdim=True)"),
    ("minibatch_update", "(total * len(rows) / group_size).backward()",
     "total.backward(torch.tensor(len(rows) / group_size))"),
])
def test_a_right_solution_written_otherwise_passes(key, old, new):
    check(edited(key, (old, new)))


@pytest.mark.parametrize("key", EXERCISES)
def test_every_stub_says_that_it_is_to_be_written(key):
    message = f"exercise {EXERCISES[key].number} is not written yet: fill in {EXERCISES[key].function} above"
    for criterion in [None, *(c.__name__ for c in CRITERIA[key])]:
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            check(stub(key), criterion)


@pytest.mark.parametrize(
    ("key", "criterion", "words", "edits"),
    [pytest.param(key, criterion, words, edits, id=f"{key}: {what}")
     for key in WRONG for what, criterion, words, *edits in WRONG[key]])
def test_a_wrong_variant_is_found_and_explained(key, criterion, words, edits):
    assert words in failure(edited(key, *edits), criterion)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_criterion_fails_for_some_variant(key):
    assert {variant[1] for variant in WRONG[key]} == {criterion.__name__ for criterion in CRITERIA[key]}


@pytest.mark.parametrize("name", stand_ins.__all__)
def test_a_stand_in_is_no_solution(name):
    with pytest.raises(AssertionError):
        check(getattr(stand_ins, name))


# ------------------------------------------------------------------ the report

def test_a_report_has_a_line_for_each_criterion_and_both_numbers(capsys):
    with pytest.raises(AssertionError, match="1 of 5 criteria do not hold yet: metrics"):
        check(edited("policy_loss", ("-log_ratio.detach()", "log_ratio.detach()")))
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if not line.startswith(" ")] == ["✓"] * 4 + ["✗"]
    assert "    approx_kl: yours -0.156668, target 0.156668" in lines
    assert " ".join(line.strip() for line in lines).endswith("See hint 1.")


def test_a_failure_shows_no_traceback():
    with pytest.raises(AssertionError) as caught:
        check(edited("entropy", ("return -(", "return (")))
    lines = caught.value._render_traceback_()  # what IPython shows
    assert len(lines) == 1 and lines[0].startswith("AssertionError: compute_entropy_loss: 4 of 4 criteria")


def test_an_exception_is_told_with_the_line_of_the_cell():
    source = solution_source("entropy").replace("-(entropy * response_mask)", "-(entropy @ response_mask)")
    line = 1 + source[:source.index("return -(")].count("\n")
    message = failure(define("entropy", source), "worked_example")
    assert "it raised RuntimeError: " in message
    assert f"in line {line} of its cell: return -(entropy @" in message


def test_a_bare_assert_of_the_learners_counts_as_a_failure():
    function = edited("entropy", ("log_probs = F", "assert 1 == 2\n    log_probs = F"))
    message = failure(function, "worked_example")
    assert "it raised AssertionError" in message and "assert 1 == 2" in message


def test_torch_saying_not_implemented_is_not_taken_for_the_stub():
    with pytest.raises(NotImplementedError):
        torch.empty(1, device="meta").cpu()
    function = edited("entropy", ("log_probs = F", 'torch.empty(1, device="meta").cpu()\n    log_probs = F'))
    assert "it raised NotImplementedError: Cannot copy" in failure(function, "worked_example")


def test_a_stub_without_source_is_told_from_other_errors():
    namespace = dict(stub("entropy").__globals__)
    exec("def compute_entropy_loss(logits_new, response_mask):\n    raise NotImplementedError()", namespace)
    with pytest.raises(NotImplementedError, match="fill in compute_entropy_loss above"):
        check(namespace["compute_entropy_loss"])


def test_part_of_an_exercise_left_open_is_named():
    start, end = "    ### BEGIN SOLUTION\n", "    ### END SOLUTION\n"
    source = solution_source("minibatch_update")
    body = source[source.index(start):source.index(end) + len(end)]
    with pytest.raises(NotImplementedError, match="fill in minibatch_loss above"):
        check(define("minibatch_update", source.replace(body, "    raise NotImplementedError()\n")))


def test_other_arguments_are_refused():
    function = edited("entropy", ("response_mask: Tensor)", "response_mask: Tensor, scale=1.0)"))
    with pytest.raises(AssertionError, match=r"scale\); they must stay \(logits_new, response_mask\)"):
        check(function)


def test_an_unknown_function_or_criterion_is_refused():
    with pytest.raises(ValueError, match="no exercise has a function solution; check.. knows compute_pol"):
        check(solution)
    with pytest.raises(ValueError, match="compute_entropy_loss has no criterion 'clipping'; it has work"):
        check(solution("entropy"), "clipping")


# ------------------------------------------------------------------ only the cell is handed in

LEANING = textwrap.dedent("""\
    def compute_entropy_loss(logits_new, response_mask):
        return -masked_mean(entropy_of(logits_new), response_mask)
    """)


def test_a_name_from_another_cell_is_found_out():
    function = define("entropy", LEANING)
    function.__globals__.update(
        masked_mean=lambda x, mask: (x * mask).sum() / mask.sum(),
        entropy_of=lambda logits: torch.distributions.Categorical(logits=logits.float()).entropy())
    message = failure(function, "worked_example")
    assert "the name `masked_mean` is not defined in line 2 of its cell" in message
    assert "Only this cell is handed in" in message


def test_a_name_from_another_cell_at_the_cell_s_top_level_is_found_out():
    source = "print(VOCABULARY)\n" + solution_source("entropy")
    filename = "<cell in a notebook>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    notebook = {"VOCABULARY": ("<eos>",), **solution("entropy").__globals__}
    exec(compile(source, filename, "exec"), notebook)
    with pytest.raises(AssertionError, match="on its own: the name `VOCABULARY` is not defined in line 1"):
        check(notebook["compute_entropy_loss"])


def test_a_helper_in_the_same_cell_is_fine():
    check(define("entropy", LEANING + textwrap.dedent("""
        def masked_mean(x, mask):
            return (x * mask).sum() / mask.sum()

        def entropy_of(logits):
            log_probs = F.log_softmax(logits.float(), dim=-1)
            return -(log_probs.exp() * log_probs).sum(-1)
        """)))


@pytest.mark.parametrize("key", ["entropy", "minibatch_update"])
def test_a_function_without_source_is_checked_as_it_is(key):
    namespace = dict(solution(key).__globals__)
    exec(solution_source(key), namespace)  # "<string>": no source in linecache
    losses = {name: namespace.get(name) for name in stand_ins.__all__}
    check(namespace[EXERCISES[key].function])
    assert {name: namespace.get(name) for name in losses} == losses


def test_an_exported_module_can_be_checked(solutions):
    exercises = load_exercises(solutions)
    for exercise in EXERCISES.values():
        check(getattr(exercises, exercise.function))


def test_checking_does_not_touch_the_random_state():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check(solution("minibatch_update"))
    assert torch.equal(torch.get_rng_state(), state)
