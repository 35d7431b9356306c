"""Episodes: rollouts as tokens, and their padded batch. True in `is_action_token` means: written by the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Episode:
    """One rollout as tokens.

    Attributes:
        ids: context and action tokens, T of them.
        is_action_token: T flags; True where the policy chose the token.
        behaviour_logprobs: log-probabilities (nats) that the sampler gave to the action tokens, in order; empty for
            text that was not sampled.
        group: episodes of one prompt share it; the baseline is taken within a group.
        truncated: True when the token limit, not the policy, ended the story.
    """

    ids: list[int]
    is_action_token: list[bool]
    behaviour_logprobs: list[float] = field(default_factory=list)
    group: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class Batch:
    """B episodes padded on the right to T tokens.

    Attributes:
        ids: [B, T] int64. is_action_token: [B, T] bool; False on padding too.
    """

    ids: torch.Tensor
    is_action_token: torch.Tensor


def collate(episodes: Sequence[Episode], device: str | torch.device = "cpu") -> Batch:
    """Pad episodes into one batch. The padding id is 0 and is never looked at."""
    rows, width = len(episodes), max(len(episode.ids) for episode in episodes)
    ids = torch.zeros(rows, width, dtype=torch.long)
    is_action_token = torch.zeros(rows, width, dtype=torch.bool)
    for row, episode in enumerate(episodes):
        length = len(episode.ids)
        ids[row, :length] = torch.tensor(episode.ids)
        is_action_token[row, :length] = torch.tensor(episode.is_action_token)
    return Batch(ids.to(device), is_action_token.to(device))
