"""The squared error of the critic, without clipping."""

from torch import Tensor


def compute_value_loss(
    values_new: Tensor, values_old: Tensor, returns: Tensor, response_mask: Tensor, clip_range_value: float
) -> tuple[Tensor, Tensor]:
    """(loss, vf_clip_frac), two scalars; the tensors are (B, R). The metric is always 0."""
    loss = ((values_new - returns) ** 2 * response_mask).sum() / response_mask.sum()
    return loss, loss.new_zeros(())
