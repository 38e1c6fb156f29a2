"""Monte Carlo: every token is credited with the score of the whole response, less what the critic expected."""

from torch import Tensor


def compute_gae_advantages(
    final_rewards: Tensor, kl_penalties: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (N, R). There is no λ, a token is not asked for its own KL penalty, and the
    advantages are scaled but not centred."""
    scores = final_rewards - (kl_penalties * response_mask).sum(1)  # (N,)
    still_to_come = (response_mask.flip(1).cumsum(1).flip(1) - 1).clamp(min=0)  # (N, R) tokens after this one
    returns = scores.unsqueeze(1) * gamma**still_to_come
    surprise = (returns - values) * response_mask
    scale = ((surprise**2).sum() / response_mask.sum()).sqrt() + 1e-4
    return (surprise / scale).detach(), returns.detach()
