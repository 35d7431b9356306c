"""How the next token is chosen from a model's logits: temperature, top-k, top-p, min-p, repetition penalty, refusals.

Tokens are drawn by inverse CDF from uniform numbers that the caller supplies (storyrl/decoding.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int = 80
    """Most tokens a row may get."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability (Holtzman et al. 2019), 1,000 at most; 1: all."""
    min_p: float = 0.0
    """Only tokens with at least this share of the likeliest one's probability (Nguyen et al. 2024); 0: off."""
    banned: tuple[str, ...] = ()
    """Phrases that must not be written, whatever their case; `Policy.write` sees to it."""
    repetition_penalty: float = 1.0
    """Divides (or, if negative, multiplies) the logits of tokens already in the row (Keskar et al. 2019); 1: off."""


ROLLOUT = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw one token a row by inverse CDF, [B, V] float32 and [B] to [B].

    Temperature first, then top-k, then top-p on the probabilities of what top-k left, then min-p, as transformers does.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=1)
    logits, tokens = logits / sampling.temperature, None
    if sampling.top_k:
        logits, tokens = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1)
        probs = logits.softmax(dim=1)
    elif sampling.top_p < 1:
        probs, tokens = _likeliest(logits, sampling.top_p)
    else:
        probs = logits.softmax(dim=1)
    if sampling.top_p < 1:
        probs = probs.masked_fill(probs.cumsum(dim=1) - probs >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        probs = probs.masked_fill(probs < sampling.min_p * probs.amax(dim=1, keepdim=True), 0.0)
    sums = probs.cumsum(dim=1)
    place = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True).clamp_(max=sums.shape[1] - 1)
    return (place if tokens is None else tokens.gather(1, place)).squeeze(1)


def _likeliest(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and tokens, likeliest first: enough of them to have `top_p` together, or 1,000; [B, K] both.

    Sorting the vocabulary would cost more than the rest of the step, so 64 are tried first, and only the rows that
    need more get more (others are filled up with probability 0).
    """
    log_total = logits.logsumexp(dim=1, keepdim=True)
    top, tokens = logits.topk(min(64, logits.shape[1]), dim=1)
    probs = (top - log_total).exp()
    wide = (probs.sum(dim=1) < top_p).nonzero().squeeze(1)
    if len(wide) and logits.shape[1] > 64:
        more, more_tokens = logits[wide].topk(min(1000, logits.shape[1]), dim=1)
        room = (0, more.shape[1] - 64)
        probs, tokens = torch.nn.functional.pad(probs, room), torch.nn.functional.pad(tokens, room)
        probs[wide], tokens[wide] = (more - log_total[wide]).exp(), more_tokens
    return probs, tokens


class Seen:
    """Which tokens each row has had, context included, for the repetition penalty."""

    def __init__(self, contexts: Sequence[Sequence[int]], samples: int, sampling: Sampling, device: Any):
        width = max(map(len, contexts))
        # Short contexts are filled up with their first token: a token that is named twice is lowered once.
        before = torch.tensor([[context[0]] * (width - len(context)) + list(context) for context in contexts])
        before = before.repeat_interleave(samples, dim=0)
        self.width, self.tokens = width, torch.cat([before, before[:, :1].expand(-1, sampling.max_tokens)], dim=1)
        self.tokens = self.tokens.to(device)

    def add(self, live: torch.Tensor, token: torch.Tensor, place: int) -> None:
        """The rows `live` [B] got these tokens [B] at their place after the context."""
        self.tokens[live, self.width + place] = token

    def penalise(self, logits: torch.Tensor, live: torch.Tensor, penalty: float) -> torch.Tensor:
        """The logits [B, V] of the rows `live` [B], those of tokens that they had lowered."""
        tokens = self.tokens[live]
        had = logits.gather(1, tokens)
        return logits.scatter(1, tokens, torch.where(had > 0, had / penalty, had * penalty))


def redraw(
    refuse: Callable[[list[int], int], bool],
    token: torch.Tensor,
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    sampling: Sampling,
    before: torch.Tensor,
) -> torch.Tensor:
    """The tokens [B], those that `refuse` will not have drawn again without them; `before` is [B, T]."""
    logits = logits.clone()
    open_rows = list(range(len(token)))
    while refused := [row for row in open_rows if refuse(before[row].tolist(), int(token[row]))]:
        logits[refused, token[refused]] = -torch.inf
        token[refused] = choose(logits[refused], uniforms[refused], sampling)
        open_rows = refused
    return token
