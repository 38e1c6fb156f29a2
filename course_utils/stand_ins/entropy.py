"""How sure the policy is of its favourite token: a rough measure that points the same way as entropy."""

from torch import Tensor


def compute_entropy_loss(logits_new: Tensor, response_mask: Tensor) -> Tensor:
    """Minus the mean probability of not drawing the favourite; logits_new (B, R, V), response_mask (B, R)."""
    doubt = 1 - logits_new.float().softmax(dim=-1).amax(dim=-1)  # (B, R)
    return -(doubt * response_mask).sum() / response_mask.sum()
