"""Losses on action tokens. Pure functions; N tokens of some stories, one after the other.

Their sum over the parts of a batch is the batch's loss: each is divided by the number of the batch's stories, so a long
story weighs more than a short one, as the gradient of an expectation over stories has it.
"""

import torch


def policy_gradient_loss(logprobs: torch.Tensor, advantages: torch.Tensor, stories: int) -> torch.Tensor:
    """-(1/m) sum_t A_t log pi(a_t) over the tokens of m stories: minus its gradient is REINFORCE (Williams 1992).

    Args:
        logprobs: [N] nats, with gradient.
        advantages: [N] of the story or turn that the token belongs to, without gradient.
        stories: m, of the whole batch.
    """
    _check(logprobs, advantages)
    return -(advantages.detach() * logprobs).sum() / stories


def clipped_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: float, stories: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """-(1/m) sum_t min(w_t A_t, clip(w_t, 1 - c, 1 + c) A_t), w_t = pi / pi_old (PPO; Schulman et al. 2017, eq. 7).

    At pi = pi_old its gradient is that of `policy_gradient_loss`. `old_logprobs` [N] must come from the same arithmetic
    as `logprobs`: those of the sampler differ in bfloat16 by enough to be clipped.

    Returns:
        The loss, and the share of tokens whose gradient was cut off.
    """
    _check(logprobs, advantages)
    ratio = (logprobs - old_logprobs.detach()).exp()
    free, held = ratio * advantages.detach(), ratio.clamp(1 - clip, 1 + clip) * advantages.detach()
    return -torch.minimum(free, held).sum() / stories, (held < free).float().mean()


def value_loss(values: torch.Tensor, returns: torch.Tensor, stories: int) -> torch.Tensor:
    """(1/2m) sum_t (V_t - R_t)^2 over the tokens of m stories."""
    _check(values, returns)
    return 0.5 * (values - returns.detach()).square().sum() / stories


def _check(one: torch.Tensor, two: torch.Tensor) -> None:
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"expected two [N], got {tuple(one.shape)} and {tuple(two.shape)}")
