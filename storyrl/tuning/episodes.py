"""Episodes: rollouts as tokens, and their batches. True in `is_action_token` means: written by the policy."""

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
        turn_ends: how many action tokens were written by the end of each turn, in order; empty: it is one turn.
        truncated: True when the token limit, not the policy, ended the story.
    """

    ids: list[int]
    is_action_token: list[bool]
    behaviour_logprobs: list[float] = field(default_factory=list)
    group: int = 0
    turn_ends: tuple[int, ...] = ()
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


@dataclass(frozen=True)
class SharedPrefix:
    """B episodes that begin with the same P tokens, which are kept once; the rest is padded on the right to S tokens.

    Attributes:
        prefix: [P] int64, P >= 1, none of them an action.
        ids: [B, S] int64. is_action_token: [B, S] bool; False on padding too.
    """

    prefix: torch.Tensor
    ids: torch.Tensor
    is_action_token: torch.Tensor


def share_prefix(episodes: Sequence[Episode], device: str | torch.device = "cpu") -> SharedPrefix:
    """Episodes of one prompt with what they share before their first action kept once.

    Raises:
        ValueError: an episode begins with an action, or two share no first token.
    """
    first, width = episodes[0].ids, 0
    most = min(_first_action(episode) for episode in episodes)
    while width < most and all(episode.ids[width] == first[width] for episode in episodes):
        width += 1
    if width == 0:
        raise ValueError("episodes of a group must share a first token that is no action")
    rests = collate([Episode(e.ids[width:], e.is_action_token[width:]) for e in episodes], device)
    return SharedPrefix(torch.tensor(first[:width], device=device), rests.ids, rests.is_action_token)


def _first_action(episode: Episode) -> int:
    flags = episode.is_action_token
    return flags.index(True) if True in flags else len(flags)
