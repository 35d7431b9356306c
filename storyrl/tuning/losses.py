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
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    lengths: torch.Tensor,
    clip: float,
    stories: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-(1/m) sum_u min(w_u A_u, clip(w_u, 1 - c, 1 + c) A_u), w_u = pi(u) / pi_old(u) (Schulman et al. 2017, eq. 7).

    A unit u is what is judged as one: a token in PPO, a turn or a whole story where these are rewarded. At pi = pi_old
    the gradient is that of `policy_gradient_loss`. The old log-probabilities must come from the same arithmetic as the
    new ones: those of the sampler differ in bfloat16 by enough to be clipped.

    Args:
        logprobs: [N] nats a token, with gradient. old_logprobs, advantages: [N] without; A is the same within a unit.
        lengths: [U] tokens of each unit, N in all; none is 0.

    Returns:
        The loss, and the share of units whose gradient was cut off.
    """
    _check(logprobs, advantages)
    unit = torch.repeat_interleave(lengths)  # [N] which unit a token belongs to
    log_ratio = torch.zeros(len(lengths), device=logprobs.device).index_add(0, unit, logprobs - old_logprobs.detach())
    ratio, advantage = log_ratio.exp(), advantages.detach()[lengths.cumsum(0) - 1]
    free, held = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(free, held).sum() / stories, (held < free).float().mean()


def value_loss(values: torch.Tensor, returns: torch.Tensor, stories: int) -> torch.Tensor:
    """(1/2m) sum_t (V_t - R_t)^2 over the tokens of m stories."""
    _check(values, returns)
    return 0.5 * (values - returns.detach()).square().sum() / stories


def _check(one: torch.Tensor, two: torch.Tensor) -> None:
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"expected two [N], got {tuple(one.shape)} and {tuple(two.shape)}")
