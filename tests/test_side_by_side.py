"""What check() shows of the worked example: the learner's numbers beside the target, token by token."""

import math
import re

import nbformat
import pytest

from autograder.misconceptions import named, wrong_module
from course_utils.checks.side_by_side import GRIDS, side_by_side
from course_utils.exercises import EXERCISES
from course_utils.figures.token_explorer import diverging
from tests.solutions import ROOT, edited, solution, stub


def seen(html: str) -> list[str]:
    """What stands above each pair of tables."""
    return re.findall(r"[✓✗] [^<]*(?=</div>)", html)


@pytest.mark.parametrize("key", EXERCISES)
def test_a_solution_is_the_target(key):
    html = side_by_side(solution(key))
    assert seen(html) and set(seen(html)) == {"✓ yours is the target"}
    assert html.count("<table>") == 2 * len(seen(html)) and "✗" not in html


@pytest.mark.parametrize("key, factor", [("policy_loss", -1), ("value_loss", 1), ("entropy", -math.log(2))])
def test_the_target_is_the_last_column_of_the_table_by_hand(key, factor):
    cells = nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4).cells
    (table,) = (cell.source for cell in cells if cell.id == "example-table")
    by_hand = [
        float(number.replace("−", "-")) * factor
        for number in re.findall(r"^\| [AB] `.*\| \**([−.\d]+)\**(?: ln 2)? \|$", table, flags=re.MULTILINE)
    ]
    (grid,) = GRIDS[EXERCISES[key].function](solution(key))
    assert by_hand == pytest.approx([*grid.target[0], *grid.target[1][:2]])


@pytest.mark.parametrize(
    "key, old, new, expected",
    [
        # r · A = (.9375, .375, 1.25, -.3125), (-.5, -1.5), clipped (.9, .6, 1.25, -.3), (-.8, -1.5): four differ
        ("policy_loss", "torch.min(", "torch.max(", ["✗ 4 of 6 differ"]),
        ("value_loss", "0.5 * ", "", ["✗ 6 of 6 differ"]),
        ("entropy", "return -", "return ", ["✗ 6 of 6 differ"]),
    ],
)
def test_the_tokens_that_differ_are_marked(key, old, new, expected):
    html = side_by_side(edited(key, (old, new)))
    assert seen(html) == expected
    yours, target = html.split("<table>")[1:]
    assert yours.count("✗") == int(expected[0].split()[1]) and "✗" not in target


@pytest.mark.parametrize(
    "key, name, reason",
    [
        ("policy_loss", "mean of means", "0 / 0"),
        ("value_loss", "mean of means", "0 / 0"),
        ("entropy", "mean of means", "0 / 0"),
        ("policy_loss", "advantages whitened again", "needs several tokens"),
    ],
)
@pytest.mark.filterwarnings("ignore:std")
def test_why_a_token_alone_has_no_number_is_said(key, name, reason):
    html = side_by_side(getattr(wrong_module(key, named(key, name)), EXERCISES[key].function))
    assert seen(html) == ["✗ 6 of 6 differ"] and html.count("✗ no number") == 6 and "nan" not in html
    assert reason in html


@pytest.mark.parametrize("key", ["policy_loss", "value_loss", "entropy"])
def test_one_number_for_every_token_is_said_to_be_that_of_no_token(key):
    unmasked = side_by_side(getattr(wrong_module(key, named(key, "no mask")), EXERCISES[key].function))
    assert seen(unmasked) == ["✗ 6 of 6 differ"] and "it does not follow response_mask" in unmasked
    wrong = side_by_side(getattr(wrong_module(key, named(key, "sign")), EXERCISES[key].function))
    assert seen(wrong) == ["✗ 6 of 6 differ"] and "does not follow" not in wrong


def test_a_number_that_is_no_tensor_is_looked_at_too():
    mean_of_means = "((entropy * response_mask).sum(1) / response_mask.sum(1)).mean().item()"
    assert "0 / 0" in side_by_side(
        edited("entropy", ("(entropy * response_mask).sum() / response_mask.sum()", mean_of_means))
    )


def test_advantages_that_are_not_whitened_differ_and_their_returns_do_not():
    def raw(final_rewards, kl_penalties, values, response_mask, gamma, lam):
        _, returns = solution("gae")(final_rewards, kl_penalties, values, response_mask, gamma, lam)
        return (returns - values) * response_mask, returns

    raw.__name__ = "compute_gae_advantages"
    assert seen(side_by_side(raw)) == ["✗ 6 of 8 differ", "✓ yours is the target"]


def test_tokens_are_text_and_padding_has_no_number():
    html = side_by_side(solution("policy_loss"))
    assert "<eos>" not in html and html.count("&lt;eos&gt;") == 4 and html.count("padding</td>") == 4


def test_a_number_has_the_colour_of_its_share_of_the_largest():
    """The largest target is 1.5, of B's second token; NaN, which has no share, is white."""
    html = side_by_side(solution("policy_loss"))
    assert html.count(f"background-color:{diverging(1)};") == 2 and html.count(f":{diverging(-0.6)};") == 2
    broken = side_by_side(edited("policy_loss", ("torch.min(", "torch.nan * torch.min(")))
    assert seen(broken) == ["✗ 6 of 6 differ"] and broken.count(f":{diverging(0)};") == 6
    assert "No number" not in broken  # the loss of all tokens is NaN too: nothing is known of the reason


@pytest.mark.parametrize("key", EXERCISES)
def test_nothing_is_shown_of_a_stub(key):
    assert side_by_side(stub(key)) == ""


def test_nothing_is_shown_of_another_shape():
    def compute_gae_advantages(final_rewards, kl_penalties, values, response_mask, gamma, lam):
        return final_rewards, final_rewards

    assert side_by_side(compute_gae_advantages) == ""


def test_the_terms_of_a_mini_batch_s_loss_are_shown_beside_the_target():
    def shown(function):
        return side_by_side(function.__globals__["minibatch_loss"])

    right = shown(solution("minibatch_update"))
    assert seen(right) == ["✓ yours is the target"] and right.count("<table>") == 2
    assert re.findall(r"(loss/\w+|total)<br>([\d.]+)", right) == 2 * [
        ("loss/policy", "1"),
        ("loss/value", "10"),
        ("loss/entropy", "100"),
        ("loss/total", "5"),
        ("total", "5"),
    ]
    # 1 + 0.5 · 10 - 0.01 · (-100) = 7, in the metrics and in the total
    turned = shown(edited("minibatch_update", ("+ ppo.entropy_coeff", "- ppo.entropy_coeff")))
    assert seen(turned) == ["✗ 2 of 5 differ"] and turned.count("✗ 7") == 2
    assert shown(stub("minibatch_update")) == ""
