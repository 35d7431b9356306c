"""Advantages: returns minus a baseline. Pure functions on tensors; G groups (prompts) of n episodes.

Baselines take one number an episode, [G, n]. With rewards by the turn they are applied to each turn's return apart.
"""

from collections.abc import Callable

import torch


def batch_mean(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward minus the mean of all, [G, n] to [G, n]: REINFORCE with a constant baseline (Williams 1992).

    The mean holds the episode itself, which shrinks the gradient by 1 - 1/(G n) and changes nothing else.
    """
    _check(rewards)
    return rewards - rewards.mean()


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward minus the mean reward of the *other* episodes of its group, [G, n] to [G, n].

    The baseline does not depend on the episode itself, so the gradient stays unbiased (Kool et al. 2019; Ahmadian et
    al. 2024, eq. 8). The advantages of a group sum to 0.
    """
    _check(rewards)
    n = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * n / (n - 1)


def group_normalised(rewards: torch.Tensor, epsilon: float = 1e-4) -> torch.Tensor:
    """(reward - mean) / (deviation + epsilon) within the group, [G, n] to [G, n] (GRPO; Shao et al. 2024, sec. 4.1.2).

    Groups whose rewards hardly differ count as much as any other, which biases the gradient towards them.
    """
    _check(rewards)
    deviation = rewards.std(dim=1, keepdim=True)
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (deviation + epsilon)


BASELINES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "reinforce": batch_mean,
    "rloo": leave_one_out,
    "grpo": group_normalised,
}


def returns_to_go(rewards: torch.Tensor, discount: float) -> torch.Tensor:
    """sum over later turns j >= k of discount^(j - k) * reward_j, [..., K] to [..., K]."""
    returns, ahead = torch.zeros_like(rewards), torch.zeros_like(rewards[..., 0])
    for turn in reversed(range(rewards.shape[-1])):
        ahead = rewards[..., turn] + discount * ahead
        returns[..., turn] = ahead
    return returns


def gae(rewards: torch.Tensor, values: torch.Tensor, discounts: torch.Tensor, trace: float) -> torch.Tensor:
    """Generalised advantage estimates of one finished episode, [T] (Schulman et al. 2016, eq. 16).

    A_t = d_t + discount_t * trace * A_(t+1) with d_t = r_t + discount_t * V_(t+1) - V_t; after the end V and A are 0.

    Args:
        rewards: [T] reward of each action token.
        values: [T] prediction of the return from before that token.
        discounts: [T] what comes after token t is worth this much: 1 within a turn.
        trace: lambda, 0 to 1: 0 believes the values, 1 the rewards.
    """
    if not rewards.shape == values.shape == discounts.shape or rewards.ndim != 1:
        raise ValueError(f"expected three [T], got {[tuple(x.shape) for x in (rewards, values, discounts)]}")
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros(())
    for t in reversed(range(len(rewards))):
        surprise = rewards[t] + discounts[t] * next_value - values[t]
        next_advantage = surprise + discounts[t] * trace * next_advantage
        next_value, advantages[t] = values[t], next_advantage
    return advantages


def _check(rewards: torch.Tensor) -> None:
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"expected rewards [G, n] with n >= 2, got {tuple(rewards.shape)}")
