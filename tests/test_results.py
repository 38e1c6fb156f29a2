"""What comes back from the five functions: the form that the trainer can use, and whose fault another one is."""

import pytest
import torch

from course_utils.exercises import LOSSES, ExerciseError
from course_utils.results import PARTS, check_advantages, check_loss, check_unchanged, check_update_metrics

NUMBER, ROWS = torch.tensor(0.5), torch.ones(8, 24)


@pytest.mark.parametrize(
    "name, result, complaint",
    [
        ("compute_policy_loss", (ROWS, NUMBER, NUMBER), "loss as one number, a tensor of shape (), not a tensor of"),
        ("compute_policy_loss", NUMBER, "(loss, clip_frac, approx_kl), not a tensor of shape ()."),
        ("compute_policy_loss", None, "(loss, clip_frac, approx_kl), not None."),
        ("compute_policy_loss", (0.5, 0.5, 0.5), "loss as one number, a tensor of shape (), not 0.5."),
        (
            "compute_policy_loss",
            (NUMBER, ROWS, NUMBER),
            "clip_frac as one number, a tensor of shape (), not a tensor of",
        ),
        ("compute_value_loss", (torch.ones(8), NUMBER), "loss as one number, a tensor of shape (), not a tensor of"),
        ("compute_value_loss", [NUMBER], "(loss, vf_clip_frac), not (a tensor of shape ())."),
        ("compute_entropy_loss", ROWS, "loss as one number, a tensor of shape (), not a tensor of shape (8, 24)."),
        (
            "compute_entropy_loss",
            (NUMBER, NUMBER),
            "loss as one number, a tensor of shape (), not (a tensor of shape ()",
        ),
        ("compute_entropy_loss", 0.5, "loss as one number, a tensor of shape (), not 0.5."),
    ],
)
def test_a_loss_of_the_wrong_form(name, result, complaint):
    with pytest.raises(ExerciseError) as refused:
        check_loss(result, name)
    number = 1 + LOSSES.index(name)
    assert str(refused.value).startswith(f"exercise {number}: {name} must return {complaint}")
    assert f"Correct it in notebooks/0{number}_" in str(refused.value)


def test_a_right_loss_is_handed_on_with_its_graph():
    assert tuple(PARTS) == LOSSES
    loss = NUMBER.clone().requires_grad_()
    assert check_loss(loss, "compute_entropy_loss") is loss
    for result in ((loss, 0.25), [loss, torch.tensor(0.25)]):  # a list, a plain number: nobody's mistake
        given, metric = check_loss(result, "compute_value_loss")
        assert given is loss and metric.item() == 0.25


@pytest.mark.parametrize(
    "number, check", [(4, lambda: check_advantages(None, (2, 3))), (5, lambda: check_update_metrics(7))]
)
def test_the_other_two_are_named_with_their_notebook(number, check):
    with pytest.raises(ExerciseError, match=f"^exercise {number}: .* not (None|7). Correct it in notebooks/0{number}_"):
        check()


def test_an_input_that_was_not_finite_before_is_not_taken_for_changed():
    """A NaN equals nothing, itself included. The trainer has its own words for where it comes from."""
    values = torch.tensor([[0.5, torch.nan]])
    check_unchanged("compute_gae_advantages", [values.clone()], [values])
    with pytest.raises(ExerciseError, match="changed its argument final_rewards in place"):
        check_unchanged("compute_gae_advantages", [values.clone()], [values.nan_to_num()])
