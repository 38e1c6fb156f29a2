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

# (what is wrong, [(old, new) in the solution's source], the criterion that fails, words of its advice)
POLICY_LOSS = [
    ("sign", [("loss = -(", "loss = (")], "worked_example", "Only the sign is wrong"),
    ("sum for mean", [("(surrogate * response_mask).sum() / tokens", "(surrogate * response_mask).sum()")],
     "worked_example", "You summed"),
    ("divided by all positions", [("response_mask.sum()", "response_mask.numel()")], "worked_example", "all 8 positions"),
    ("mean of means", [("(surrogate * response_mask).sum() / tokens",
                        "((surrogate * response_mask).sum(1) / response_mask.sum(1)).mean()")],
     "worked_example", "every response token weighs the same"),
    ("ratio upside down", [("log_ratio.exp()", "(-log_ratio).exp()")], "worked_example", "upside down"),
    ("no clipping", [("torch.min(ratio * advantages, clipped_ratio * advantages)", "ratio * advantages")],
     "clipping", "ratio is above 1 + ε"),
    ("clipped always", [("torch.min(ratio * advantages, clipped_ratio * advantages)", "clipped_ratio * advantages")],
     "clipping", "so not clipped"),
    ("max for min", [("torch.min(", "torch.max(")], "clipping", "The minimum is between"),
    ("clipped above only", [("clamp(1 - clip_ratio, 1 + clip_ratio)", "clamp(max=1 + clip_ratio)")],
     "clipping", "ratio is below 1 − ε"),
    ("minimum of ratios", [("torch.min(ratio * advantages, clipped_ratio * advantages)",
                            "torch.min(ratio, clipped_ratio) * advantages")], "clipping", "not between ratios"),
    ("0.2 written down", [("1 - clip_ratio, 1 + clip_ratio", "0.8, 1.2")], "clipping", "whatever clip_ratio is given"),
    ("no mask", [(" * response_mask).sum()", ").sum()"), (" * response_mask  # (B, R)", "")],
     "masking", "Multiply each per-token quantity"),
    ("detached", [("log_ratio.exp()", "log_ratio.detach().exp()")], "gradient", "the loss carries no gradient"),
    ("clip_frac of one side", [("(ratio - 1).abs() >", "(ratio - 1) >")], "metrics", "on both sides"),
    ("sign of the KL", [("-log_ratio.detach()", "log_ratio.detach()")], "metrics", "it is old − new"),
    ("k2", [("-log_ratio.detach().sum()", "(log_ratio.detach() ** 2 / 2).sum()")], "metrics", "This is k2"),
    ("k3", [("-log_ratio.detach().sum()", "(ratio - 1 - log_ratio).detach().sum()")], "metrics", "This is k3"),
    ("KL with gradient", [("log_ratio.detach()", "log_ratio")], "metrics", "approx_kl carries a gradient"),
    ("metric as a float", [("return loss, clip_frac,", "return loss, clip_frac.item(),")], "metrics", "without .item()"),
    ("loss alone", [("return loss, clip_frac, approx_kl", "return loss")], "worked_example",
     "it returned a Tensor; it must return (loss, clip_frac, approx_kl)"),
    ("nothing returned", [("return loss, clip_frac, approx_kl", "")], "worked_example", "is the `return` at the end"),
    ("one loss a token", [("-(surrogate * response_mask).sum() / tokens", "-surrogate * response_mask")],
     "worked_example", "loss has shape (2, 4)"),
    ("input changed", [("tokens = response_mask.sum()",
                        "tokens = response_mask.sum()\n    advantages.mul_(2).div_(3)")],
     "worked_example", "changed its argument advantages in place"),
]
VALUE_LOSS = [
    ("no half", [("0.5 * ", "")], "worked_example", "The factor ½ is missing"),
    ("divided by all positions", [("response_mask.sum()", "response_mask.numel()")], "worked_example", "all 8 positions"),
    ("smaller error", [("torch.max(", "torch.min(")], "worked_example", "You took the smaller"),
    ("no clipping", [("torch.max(error, error_clipped)", "error")], "clipping", "v_clipped = 1.5"),
    ("clipped always", [("torch.max(error, error_clipped)", "error_clipped")], "clipping", "v overshot"),
    ("clipped above only", [("torch.clamp(values_new, low, high)", "torch.min(values_new, high)")],
     "clipping", "v moved down"),
    ("clipped around the return", [("values_old - clip_range_value, values_old + clip_range_value",
                                    "returns - clip_range_value, returns + clip_range_value")],
     "clipping", "The clip is around values_old"),
    ("no mask", [(" * response_mask).sum()", ").sum()")], "masking", "Multiply each per-token quantity"),
    ("detached", [("(values_new - returns) ** 2", "(values_new.detach() - returns) ** 2")],
     "gradient", "gradient by values_new"),
    ("counts every move", [("error_clipped > error", "values_clipped != values_new")], "metrics", "not wherever the value"),
    ("rounding counts", [("torch.clamp(values_new, low, high)",
                          "values_old + (values_new - values_old).clamp(-clip_range_value, clip_range_value)")],
     "metrics", "Is it a matter of rounding?"),
    ("equal errors count", [("error_clipped > error", "error_clipped >= error")], "metrics", "not where both errors are equal"),
]
ENTROPY = [
    ("sign", [("return -(entropy", "return (entropy")], "worked_example", "Only the sign is wrong"),
    ("bits", [("log_probs.exp() * log_probs", "log_probs.exp() * log_probs / math.log(2)")], "worked_example", "bits"),
    ("mean over the vocabulary", [(".sum(dim=-1)", ".mean(dim=-1)")], "worked_example", "averaged over the vocabulary"),
    ("sum over the tokens", [(" / response_mask.sum()", "")], "worked_example", "You summed over the tokens"),
    ("softmax over the tokens", [("F.log_softmax(logits_new.float(), dim=-1)",
                                  "F.log_softmax(logits_new.float(), dim=1)")], "worked_example", "token by token"),
    ("no mask", [("(entropy * response_mask).sum() / response_mask.sum()", "entropy.mean()")],
     "masking", "Multiply the entropies"),
    ("log of softmax", [("F.log_softmax(logits_new.float(), dim=-1)", "F.softmax(logits_new.float(), dim=-1).log()")],
     "stability", "softmax() underflows"),
    ("no float32", [("logits_new.float()", "logits_new")], "stability", "it must be float32"),
    ("float32 too late", [("F.log_softmax(logits_new.float(), dim=-1)", "F.log_softmax(logits_new, dim=-1).float()")],
     "stability", "not the result after"),
    ("probabilities detached", [("log_probs.exp() * log_probs", "log_probs.exp().detach() * log_probs")],
     "gradient", "detach neither"),
    ("all detached", [("logits_new.float()", "logits_new.detach().float()")], "gradient", "carries no gradient"),
]
GAE = [
    ("penalty added", [("- response_mask * kl_penalties", "+ response_mask * kl_penalties")],
     "token_rewards", "a penalty is subtracted"),
    ("no penalty", [(" - response_mask * kl_penalties", "")], "token_rewards", "The KL penalties are missing"),
    ("reward in the last column", [("response_mask - F.pad(response_mask[:, 1:], (0, 1))",
                                    "F.pad(torch.zeros_like(response_mask[:, 1:]), (0, 1), value=1)")],
     "token_rewards", "not in the last column"),
    ("reward at every token", [("is_last * final", "response_mask * final")], "token_rewards", "final reward on top"),
    ("bootstrap from padding", [("next_value = values[:, t] * response_mask[:, t]", "next_value = values[:, t]")],
     "recursion", "nothing comes after the last response token"),
    ("gamma forgotten", [("gamma * next_value", "next_value")], "recursion", "Go from the last token"),
    ("lambda forgotten", [("gamma * lam * ", "gamma * ")], "recursion", "Go from the last token"),
    ("from the first token", [("reversed(range(values.shape[1]))", "range(values.shape[1])")],
     "recursion", "Go from the last token"),
    ("returns of whitened advantages", [("return advantages.detach(), returns.detach()",
                                         "return advantages.detach(), (advantages + values).detach()")],
     "recursion", "advantages before whitening"),
    ("not whitened", [("centered * torch.rsqrt(variance + 1e-8)", "raw")], "whitening", "These are the raw advantages"),
    ("unbiased variance", [("(centered**2).sum() / tokens", "(centered**2).sum() / (tokens - 1)")],
     "whitening", "n − 1 = 5"),
    ("mean not subtracted", [("centered * torch.rsqrt", "raw * torch.rsqrt")], "whitening", "The mean is missing"),
    ("whitened over padding", [("(raw - raw.sum() / tokens) * response_mask", "raw - raw.mean()"),
                               ("(centered**2).sum() / tokens", "(centered**2).mean()")],
     "whitening", "the mean of the response tokens"),
    ("padding moved off 0", [("centered * torch.rsqrt(variance + 1e-8)",
                              "(raw - raw.sum() / tokens) * torch.rsqrt(variance + 1e-8)")],
     "whitening", "mask once more"),
    ("no eps", [("variance + 1e-8", "variance")], "whitening", "add 1e-8"),
    ("penalty on padding", [("- response_mask * kl_penalties", "- kl_penalties"),
                            ("(delta + gamma * lam * next_advantage) * response_mask[:, t]",
                             "delta + gamma * lam * next_advantage")],
     "masking", "Mask the penalties"),
    ("empty row ends in its last column", [
        ("is_last = response_mask - F.pad(response_mask[:, 1:], (0, 1))",
         "is_last = F.one_hot(response_mask.sum(1) - 1 + 4 * (response_mask.sum(1) == 0), values.shape[1])"),
        ("* lam * next_advantage) * response_mask[:, t]",
         "* lam * next_advantage) * (response_mask + is_last)[:, t].clamp(max=1)")],
     "masking", "A row whose mask is empty"),
    ("with gradient", [("returns.detach()", "returns")], "no_gradient", "returns carries a gradient"),
    ("values changed", [("returns = raw + values", "returns = values.add_(raw)")], "token_rewards", "values in place"),
]
MINIBATCH_UPDATE = [
    ("one position late", [("logits[:, first:-1], values[:, first:-1]", "logits[:, first + 1 :], values[:, first + 1 :]")],
     "forward", "one position late"),
    ("one position too many", [("values[:, first:-1]", "values[:, first:]")], "forward", "values_new has shape (2, 5)"),
    ("log-prob of the wrong token", [("gather(-1, response.unsqueeze(-1))", "gather(-1, 3 - response.unsqueeze(-1))")],
     "forward", "gathered at response_input_ids"),
    ("response without prompt", [('torch.cat([batch["prompt_input_ids"], response], dim=1)', "response")],
     "forward", "prompt_input_ids followed by response_input_ids"),
    ("prompt not masked", [('torch.cat([batch["prompt_attention_mask"], mask], dim=1)',
                            "torch.ones_like(input_ids)")], "forward", "prompt_attention_mask followed by"),
    ("reference for old", [('batch["logprobs"]', 'batch["ref_logprobs"]')], "losses", 'must be the buffer\'s "logprobs"'),
    ("advantages as returns", [('batch["returns"]', 'batch["advantages"]')], "losses", "returns of compute_value_loss"),
    ("one clip for both", [("ppo.clip_range_value", "ppo.clip_ratio")], "losses", "it must be cfg.ppo.clip_range_value"),
    ("entropy subtracted", [("+ ppo.entropy_coeff", "- ppo.entropy_coeff")], "losses", "has its minus sign already"),
    ("no vf_coeff", [("ppo.vf_coeff * value", "value")], "losses", "step of the values"),
    ("policy left out", [("total = policy +", "total =")], "losses", "step of the logit of A's first token"),
    ("not shuffled", [("torch.randperm(", "torch.arange(")], "minibatches", "in the same order"),
    ("shuffled by another generator", [
        ('torch.randperm(len(collated_buffer["response_input_ids"]))',
         'torch.from_numpy(np.random.permutation(len(collated_buffer["response_input_ids"])))')],
     "minibatches", "the same seed gives two orders"),
    ("remainder dropped", [(".split(ppo.mini_batch_size)",
                            "[: len(order) // ppo.mini_batch_size * ppo.mini_batch_size].split(ppo.mini_batch_size)")],
     "minibatches", "each of 0 to 4 must be, once"),
    ("divided by the steps", [("len(rows) / group_size", "1 / steps")], "minibatches", "Weigh a mini-batch"),
    ("not weighed", [("(total * len(rows) / group_size)", "total")], "minibatches", "Weigh a mini-batch"),
    ("no zero_grad", [("        optimizer.zero_grad()\n", "")], "minibatches", "call zero_grad after each step"),
    ("last group not stepped", [
        ("        optimizer.step()\n        lr_scheduler.step()",
         "        if len(group) == steps:\n            optimizer.step()\n            lr_scheduler.step()")],
     "step", "three times optimizer.step()"),
    ("scheduler forgotten", [("        lr_scheduler.step()\n", "")], "step", "then lr_scheduler.step()"),
    ("scheduler at each mini-batch", [("            logs.append(metrics)\n",
                                       "            logs.append(metrics)\n            lr_scheduler.step()\n")],
     "step", "Yours: lr_scheduler.step, lr_scheduler.step, optimizer.step"),
    ("zero_grad only at the start", [("        optimizer.zero_grad()\n", ""),
                                     ("        group = mini", "        optimizer.zero_grad()\n        group = mini")],
     "step", "gradients are left"),
    ("no gradient clipping", [("parameters(), ppo.max_grad_norm)", "parameters(), 1e9)")],
     "step", "Call nn.utils.clip_grad_norm_"),
    ("metric missing", [('        "params/approx_kl": approx_kl.item(),\n', "")], "metrics", "lacks params/approx_kl"),
    ("metric as a tensor", [("total.item()", "total.detach()")], "metrics", "loss/total is a Tensor"),
    ("entropy loss logged", [("-entropy.item()", "entropy.item()")], "metrics", "the entropy itself"),
    ("norm after clipping", [("norms.append(norm.item())",
                              "norms.append(min(norm.item(), ppo.max_grad_norm))")], "metrics", "the norm after clipping"),
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


@pytest.mark.parametrize("key", EXERCISES)
def test_every_stub_says_that_it_is_to_be_written(key):
    message = f"exercise {EXERCISES[key].number} is not written yet: fill in {EXERCISES[key].function} above"
    for criterion in [None, *(c.__name__ for c in CRITERIA[key])]:
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            check(stub(key), criterion)


@pytest.mark.parametrize(
    ("key", "edits", "criterion", "words"),
    [pytest.param(key, *variant[1:], id=f"{key}: {variant[0]}") for key in WRONG for variant in WRONG[key]])
def test_a_wrong_variant_is_found_and_explained(key, edits, criterion, words):
    assert words in failure(edited(key, *edits), criterion)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_criterion_fails_for_some_variant(key):
    assert {variant[2] for variant in WRONG[key]} == {criterion.__name__ for criterion in CRITERIA[key]}


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
    assert lines[-1].endswith("See hint 1.")


def test_a_failure_shows_no_traceback():
    with pytest.raises(AssertionError) as caught:
        check(edited("entropy", ("return -(", "return (")))
    lines = caught.value._render_traceback_()  # what IPython shows
    assert len(lines) == 1 and lines[0].startswith("AssertionError: compute_entropy_loss: 4 of 4 criteria")


def test_an_exception_is_told_with_the_line_of_the_cell():
    source = solution_source("entropy").replace("return -(entropy * response_mask)", "return -(entropy @ response_mask)")
    line = 1 + source[:source.index("return -(")].count("\n")
    message = failure(define("entropy", source), "worked_example")
    assert "it raised RuntimeError: " in message and f"in line {line} of its cell: return -(entropy @" in message


def test_a_bare_assert_of_the_learners_counts_as_a_failure():
    message = failure(edited("entropy", ("log_probs = F", "assert 1 == 2\n    log_probs = F")), "worked_example")
    assert "it raised AssertionError" in message and "assert 1 == 2" in message


def test_torch_saying_not_implemented_is_not_taken_for_the_stub():
    function = edited("entropy", ("log_probs = F", 'torch.empty(1, device="meta").item()\n    log_probs = F'))
    with pytest.raises((NotImplementedError, RuntimeError)) as raised:
        torch.empty(1, device="meta").item()
    assert f"it raised {raised.type.__name__}" in failure(function, "worked_example")


def test_part_of_an_exercise_left_open_is_named():
    start, end = "    ### BEGIN SOLUTION\n", "    ### END SOLUTION\n"
    source = solution_source("minibatch_update")
    body = source[source.index(start):source.index(end) + len(end)]
    with pytest.raises(NotImplementedError, match="fill in minibatch_loss above"):
        check(define("minibatch_update", source.replace(body, "    raise NotImplementedError()\n")))


def test_an_unknown_function_or_criterion_is_refused():
    with pytest.raises(ValueError, match="no exercise has a function solution; check.. knows compute_policy_loss, "):
        check(solution)
    with pytest.raises(ValueError, match="compute_entropy_loss has no criterion 'clipping'; it has worked_example, "):
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
    with pytest.raises(AssertionError, match="does not run on its own: the name `VOCABULARY` is not defined in line 1"):
        check(notebook["compute_entropy_loss"])


def test_a_helper_in_the_same_cell_is_fine():
    check(define("entropy", LEANING + textwrap.dedent("""
        def masked_mean(x, mask):
            return (x * mask).sum() / mask.sum()

        def entropy_of(logits):
            log_probs = F.log_softmax(logits.float(), dim=-1)
            return -(log_probs.exp() * log_probs).sum(-1)
        """)))


def test_a_function_without_source_is_checked_as_it_is():
    namespace = dict(solution("entropy").__globals__)
    exec(solution_source("entropy"), namespace)  # "<string>": no source in linecache
    check(namespace["compute_entropy_loss"])


def test_an_exported_module_can_be_checked(solutions):
    """Also that a check of exercise 5 leaves the losses in the module's place."""
    exercises = load_exercises(solutions)
    for exercise in EXERCISES.values():
        check(getattr(exercises, exercise.function))
    assert exercises.run_ppo_update_epoch.__globals__["compute_policy_loss"] is exercises.compute_policy_loss


def test_checking_does_not_touch_the_random_state():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check(solution("minibatch_update"))
    assert torch.equal(torch.get_rng_state(), state)
