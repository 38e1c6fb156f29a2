"""What check() shows of the worked example: the learner's numbers beside the target, token by token."""
import re

import pytest

from course_utils.checks.side_by_side import side_by_side
from course_utils.exercises import EXERCISES
from course_utils.figures.token_explorer import diverging
from tests.solutions import edited, solution, stub


def seen(html: str) -> list[str]:
    """What stands above each pair of tables."""
    return re.findall(r"[✓✗] [^<]*(?=</div>)", html)


@pytest.mark.parametrize("key", EXERCISES)
def test_a_solution_is_the_target(key):
    html = side_by_side(solution(key))
    assert seen(html) and set(seen(html)) == {"✓ yours is the target"}
    assert html.count("<table>") == 2 * len(seen(html)) and "✗" not in html


@pytest.mark.parametrize("key, old, new, expected", [
    # r · A = (.9375, .375, 1.25, -.3125), (-.5, -1.5) against the clipped (.9, .6, 1.25, -.3), (-.8, -1.5): four differ
    ("policy_loss", "torch.min(", "torch.max(", ["✗ 4 of 6 differ"]),
    ("value_loss", "0.5 * ", "", ["✗ 6 of 6 differ"]),
    ("entropy", "return -", "return ", ["✗ 6 of 6 differ"]),
])
def test_the_tokens_that_differ_are_marked(key, old, new, expected):
    html = side_by_side(edited(key, (old, new)))
    assert seen(html) == expected
    yours, target = html.split("<table>")[1:]
    assert yours.count("✗") == int(expected[0].split()[1]) and "✗" not in target


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


@pytest.mark.parametrize("key", EXERCISES)
def test_nothing_is_shown_of_a_stub(key):
    assert side_by_side(stub(key)) == ""


def test_nothing_is_shown_of_another_shape():
    def compute_gae_advantages(final_rewards, kl_penalties, values, response_mask, gamma, lam):
        return final_rewards, final_rewards

    assert side_by_side(compute_gae_advantages) == ""
