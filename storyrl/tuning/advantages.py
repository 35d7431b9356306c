"""Advantages: rewards minus a baseline. Pure functions on tensors; G groups (prompts) of n episodes."""

import torch


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward minus the mean reward of the *other* episodes of its group, [G, n] to [G, n].

    The baseline does not depend on the episode itself, so the gradient stays unbiased (Kool et al. 2019; Ahmadian et
    al. 2024, eq. 8). The advantages of a group sum to 0.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"expected rewards [G, n] with n >= 2, got {tuple(rewards.shape)}")
    n = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * n / (n - 1)
