"""What the model has read lately, so that a context that begins alike is not read again from its beginning.

A writer's story grows at its end: between two suggestions the model's context changes little. The keys and values of
its unchanged beginning are kept here (as vLLM's automatic prefix caching does), those of the least recently used
contexts are dropped first. They depend on the model's weights: when these change, everything is forgotten.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values [heads, T, width] of each layer."""


class PrefixCache:
    """Keys and values of the contexts read last, up to `most_tokens` tokens (of 46 KB each, SmolLM2 in float32)."""

    def __init__(self, most_tokens: int = 2**14):
        self.most_tokens = most_tokens
        self._kept: OrderedDict[tuple[int, ...], Layers] = OrderedDict()
        self._weights: tuple[tuple[int, int], ...] = ()

    def find(self, model: Any, ids: Sequence[int]) -> tuple[int, Layers]:
        """How many of the first tokens of `ids` were read before (never all of them), and their keys and values."""
        weights = tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights
        best = max(self._kept, key=lambda known: common(known, ids), default=())
        length = min(common(best, ids), len(ids) - 1)
        if length <= 0:
            return 0, []
        self._kept.move_to_end(best)
        return length, [(keys[:, :length], values[:, :length]) for keys, values in self._kept[best]]

    def keep(self, ids: Sequence[int], layers: Layers) -> None:
        """Remember a context that was read; what it begins with need not be kept apart."""
        for known in [known for known in self._kept if common(known, ids) == len(known)]:
            del self._kept[known]
        self._kept[tuple(ids)] = layers
        while sum(map(len, self._kept)) > self.most_tokens and len(self._kept) > 1:
            self._kept.popitem(last=False)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))
