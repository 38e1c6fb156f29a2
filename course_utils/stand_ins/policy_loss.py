"""REINFORCE with a baseline: the policy gradient without PPO's ratio and clipping."""

from torch import Tensor


def compute_policy_loss(
    log_probs_new: Tensor, log_probs_old: Tensor, advantages: Tensor, response_mask: Tensor, clip_ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, clip_frac, approx_kl), three scalars; the tensors are (B, R). The two metrics are always 0."""
    loss = -(log_probs_new * advantages * response_mask).sum() / response_mask.sum()
    zero = loss.new_zeros(())
    return loss, zero, zero
