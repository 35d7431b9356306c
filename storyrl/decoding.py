"""Batched sampling from a causal language model: each context is read once, however many samples are drawn from it.

One loop for everything: rollouts of tuning (temperature 1, nothing cut off, log-probabilities kept), candidate turns of
the studio and of batch generation. Contexts are padded on the left, so that all rows write the same cache column; the
cache is allocated once; rows that are done leave the batch. Tokens are drawn by inverse CDF from uniform numbers that
the caller supplies, so a row's result depends on its own numbers only, not on who else is in the batch.
What it leaves out: beam search and speculative decoding.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from storyrl.choosing import Sampling, Seen, choose, redraw
from storyrl.packed import half_weights
from storyrl.prefix_cache import Layers, PrefixCache, common
from storyrl.step import Stepper, can_step

_WORTH_SHARING = 8  # tokens that all contexts begin with


@dataclass(frozen=True)
class Sampled:
    """One row of tokens.

    Attributes:
        ids: tokens, the stopping one included.
        logprobs: log pi(token) in nats under the model at temperature 1 with nothing cut off, one a token.
        stopped: False when `max_tokens` ended the row.
    """

    ids: list[int]
    logprobs: list[float]
    stopped: bool


class _RowCache(DynamicLayer):
    """Keys and values of one layer in a tensor of so many columns, allocated once."""

    is_compileable = False
    is_initialized: bool

    def __init__(self, columns: int):
        super().__init__()
        self.columns, self.length = columns, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = key_states.shape[2]
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            shape = list(key_states.shape)
            shape[2] = self.columns
            self.keys, self.values = (
                key_states.new_empty(shape),
                value_states.new_empty([*shape[:3], value_states.shape[3]]),
            )
        self.keys[:, :, self.length : self.length + new] = key_states
        self.values[:, :, self.length : self.length + new] = value_states
        self.length += new
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def take(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times."""
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)


@torch.inference_mode()
def sample(
    model: Any,
    contexts: Sequence[Sequence[int]],
    samples: int,
    uniforms: torch.Tensor,
    sampling: Sampling,
    stop_ids: Collection[int],
    never_first: Collection[int] = (),
    drop_finished: bool = True,
    refuse: Callable[[list[int], int], bool] | None = None,
    known: PrefixCache | None = None,
    watch: Callable[[list[list[int]]], bool] | None = None,
    is_exact: bool = True,
) -> list[list[Sampled]]:
    """Draw `samples` continuations of each context.

    Args:
        contexts: B lists of token ids.
        uniforms: [B * samples, max_tokens] numbers in [0, 1); row b * samples + n makes sample n of context b.
        stop_ids: a token of these ends the row; it is kept as the row's last token.
        never_first: tokens that must not come first.
        drop_finished: let finished rows leave the batch (the result is the same, it is only faster).
        refuse: told a row's tokens and its next one; if it answers True, another is drawn in its place.
        known: contexts read earlier, whose beginnings need not be read again; these ones are added.
        watch: told all rows' tokens after each step but the last; if it answers False, the drawing stops there.
        is_exact: False may read weights rounded to float16 (storyrl/packed.py): faster where rows are few.

    Returns:
        B lists of `samples` rows.
    """
    device = model.device
    rows = len(contexts) * samples
    stops, uniforms = torch.tensor(sorted(stop_ids), device=device), uniforms.to(device)
    ids = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(rows, sampling.max_tokens, device=device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    stopped = torch.zeros(rows, dtype=torch.bool, device=device)
    grid = torch.arange(rows, device=device).view(-1, samples)  # the rows that are in the batch, a line a context
    with half_weights(not is_exact):
        decoder, logits = _begin(model, contexts, samples, sampling.max_tokens, known)
        seen = Seen(contexts, samples, sampling, device) if sampling.repetition_penalty != 1.0 else None
        for place in range(sampling.max_tokens):
            live = grid.flatten()
            adjusted = seen.penalise(logits, live, sampling.repetition_penalty) if seen else logits
            if place == 0 and never_first:
                adjusted = adjusted.index_fill(1, torch.tensor(sorted(never_first), device=device), -torch.inf)
            token = choose(adjusted, uniforms[live, place], sampling)
            if refuse:
                token = redraw(refuse, token, adjusted, uniforms[live, place], sampling, ids[live, :place])
            logprob = logits.gather(1, token[:, None]).squeeze(1) - logits.logsumexp(dim=1)
            going = ~stopped[live]
            at = live[going]
            ids[at, place], logprobs[at, place], lengths[at] = token[going], logprob[going], place + 1
            stopped[at] = torch.isin(token[going], stops)
            if seen:
                seen.add(live, token, place)
            if bool(stopped[live].all()) or place + 1 == sampling.max_tokens:
                break
            if watch and not watch([ids[r, : lengths[r]].tolist() for r in range(rows)]):
                break
            if drop_finished and (keep := _worth_keeping(~stopped[grid])) is not None:
                decoder.take(keep)
                grid, token = live[keep], token[keep.flatten()]
            logits = decoder.logits(token)
    return [
        [
            Sampled(ids[r, : lengths[r]].tolist(), logprobs[r, : lengths[r]].tolist(), bool(stopped[r]))
            for r in range(b * samples, (b + 1) * samples)
        ]
        for b in range(len(contexts))
    ]


@torch.inference_mode()
def read_ahead(model: Any, ids: Sequence[int], most: int, known: PrefixCache) -> int:
    """Read the next `most` tokens of a context that are not known yet; returns how many are left to be read."""
    length, _ = known.find(model, ids)
    end = min(length + most, len(ids))
    if length + 1 < len(ids):
        with half_weights():
            _read(model, [ids[:end]], 0, known)
    return len(ids) - end


def _worth_keeping(going: torch.Tensor) -> torch.Tensor | None:
    """Which places of the batch to go on with, [C', S']; None if dropping the finished ones would save too little.

    `going` [C, S]: unfinished rows, a line a context. Contexts keep equally many, so some finished ones may stay.
    """
    counts = going.sum(dim=1)
    lines, width = counts.nonzero().squeeze(1), int(counts.max())
    if len(lines) * width > 0.75 * going.numel():
        return None
    first = going.int().argsort(dim=1, descending=True, stable=True)[lines, :width]
    return lines[:, None] * going.shape[1] + first


def _begin(
    model: Any, contexts: Sequence[Sequence[int]], samples: int, room: int, known: PrefixCache | None
) -> tuple["Stepper | _Whole", torch.Tensor]:
    """Read the contexts: what decodes on from there, and the logits [B, V] of all samples' first tokens."""
    knows = can_step(model)
    is_token, cache, logits = _read(model, contexts, 0 if knows else room, known)
    decoder = Stepper(model, cache, is_token, samples, room) if knows else _Whole(model, cache, is_token, samples)
    return decoder, logits.repeat_interleave(samples, dim=0)


class _Whole:
    """Decodes with the model's own forward pass, as any causal language model can."""

    def __init__(self, model: Any, cache: Cache, is_token: torch.Tensor, samples: int):
        self.model, self.cache, self.is_token = model, cache, is_token
        self.take(torch.arange(len(is_token), device=model.device).repeat_interleave(samples))

    def take(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times."""
        for layer in self.cache.layers:
            layer.take(rows.flatten())
        self.is_token = self.is_token[rows.flatten()]

    def logits(self, token: torch.Tensor) -> torch.Tensor:
        """[B, V] float32 after one more token [B] of each row."""
        self.is_token = torch.cat([self.is_token, self.is_token.new_ones(len(token), 1)], dim=1)
        return _forward(self.model, token[:, None], self.is_token, self.cache)


def _read(
    model: Any, contexts: Sequence[Sequence[int]], room: int, known: PrefixCache | None
) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Prefill: the mask [B, T], the filled cache and the logits [B, V] after the last token of each context.

    The columns of a row: padding, what is known of its context, padding again, the rest of it.
    """
    found: list[tuple[int, Layers]] = [known.find(model, ids) if known else (0, []) for ids in contexts]
    if len(contexts) > 1 and not any(length for length, _ in found):
        found = [_read_beginning(model, contexts)] * len(contexts)
    before = max(length for length, _ in found)
    width = max(len(ids) - length for ids, (length, _) in zip(contexts, found, strict=True))
    ids = torch.zeros(len(contexts), width, dtype=torch.long, device=model.device)
    is_token = torch.zeros(len(contexts), before + width, dtype=torch.bool, device=model.device)
    for row, (context, (length, _)) in enumerate(zip(contexts, found, strict=True)):
        rest = list(context)[length:]
        ids[row, width - len(rest) :] = torch.tensor(rest, device=model.device)
        is_token[row, before - length : before] = True
        is_token[row, before + width - len(rest) :] = True
    layers = model.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[_RowCache(before + width + room) for _ in range(layers)])
    if before:
        _recall(cache, [layers for _, layers in found], before)
    logits = _forward(model, ids, is_token, cache)
    if known:
        for row, context in enumerate(contexts):
            own = slice(before + width) if len(contexts) == 1 else is_token[row].nonzero().squeeze(1)
            known.keep(context, [(layer.keys[row][:, own], layer.values[row][:, own]) for layer in cache.layers])
    return is_token, cache, logits


def _read_beginning(model: Any, contexts: Sequence[Sequence[int]]) -> tuple[int, Layers]:
    """How many tokens (if it is worth it) all contexts begin with, and their keys and values, read once for all."""
    length = min(len(context) - 1 for context in contexts)
    length = min(length, *(common(contexts[0], context) for context in contexts[1:]))
    if length < _WORTH_SHARING:
        return 0, []
    _, cache, _ = _read(model, [contexts[0][:length]], 0, None)
    return length, [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def _recall(cache: Cache, known: Sequence[Layers], before: int) -> None:
    """Begin the cache with what is known of each row, on the right of its first `before` columns."""
    first = next(layers for layers in known if layers)
    for number, layer in enumerate(cache.layers):
        keys, values = (part.new_zeros(len(known), part.shape[0], before, part.shape[2]) for part in first[number])
        for row, layers in enumerate(known):
            if layers:
                length = layers[number][0].shape[1]
                keys[row, :, before - length :], values[row, :, before - length :] = layers[number]
        layer.update(keys, values)


def _forward(model: Any, ids: torch.Tensor, is_token: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Logits [B, V] in float32 after the last of the new tokens `ids` [B, S]; `is_token` [B, T] is of the cache too."""
    positions = (is_token.long().cumsum(dim=1) - 1).clamp_(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=is_token.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()
