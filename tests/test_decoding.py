"""Sampling: against transformers, independent of batch and dropping, and from the right distribution."""

import copy
from typing import Any

import pytest
import torch

from storyrl.choosing import Sampling, choose
from storyrl.decoding import read_ahead, sample
from storyrl.prefix_cache import PrefixCache
from storyrl.tuning.episodes import Episode, collate
from storyrl.tuning.logprobs import action_logprobs

_CONTEXTS = [[1, 2, 3, 4, 5], [7, 8], [9, 9, 9]]


def test_greedy_equals_transformers(tiny: Any) -> None:
    rows = sample(tiny, _CONTEXTS, 1, torch.rand(3, 12), Sampling(max_tokens=12, temperature=0), stop_ids={256})
    for context, (row,) in zip(_CONTEXTS, rows, strict=True):
        ids = torch.tensor([context])
        expected = tiny.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert row.ids == expected[0, len(context) :].tolist()


def test_logprobs_equal_a_plain_forward(tiny: Any) -> None:
    rows = sample(tiny, _CONTEXTS, 2, torch.rand(6, 10), Sampling(max_tokens=10), stop_ids={256})
    for context, pair in zip(_CONTEXTS, rows, strict=True):
        for row in pair:
            ids = context + row.ids
            batch = collate([Episode(ids, [place >= len(context) for place in range(len(ids))])])
            expected = action_logprobs(tiny, batch)[0, len(context) :]
            assert torch.allclose(torch.tensor(row.logprobs), expected, atol=1e-4)


def test_dropping_finished_rows_and_neighbours_change_nothing(tiny: Any) -> None:
    stops = set(range(60))
    uniforms = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    settings = Sampling(max_tokens=20, temperature=0.9, top_k=100, top_p=0.95, repetition_penalty=1.2)
    dropped = sample(tiny, _CONTEXTS, 2, uniforms, settings, stops)
    kept = sample(tiny, _CONTEXTS, 2, uniforms, settings, stops, drop_finished=False)
    alone = [sample(tiny, [c], 2, uniforms[2 * i : 2 * i + 2], settings, stops)[0] for i, c in enumerate(_CONTEXTS)]
    ids = [[[row.ids for row in pair] for pair in rows] for rows in (dropped, kept, alone)]
    assert ids[0] == ids[1] == ids[2]
    lengths = [len(row.ids) for pair in dropped for row in pair]
    assert min(lengths) < 20, "the test must have rows that finish early"
    assert all(row.stopped == (row.ids[-1] in stops) for pair in dropped for row in pair)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.6), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(min_p=0.6), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=0.5, min_p=0.2), [16 / 29, 9 / 29, 4 / 29, 0]),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
    ],
)
def test_distribution_by_hand(sampling: Sampling, expected: list[float]) -> None:
    draws = 20_000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(draws, 4)
    uniforms = (torch.arange(draws) + 0.5) / draws
    counts = torch.bincount(choose(logits, uniforms, sampling), minlength=4) / draws
    assert torch.allclose(counts, torch.tensor(expected), atol=1e-3)


def test_never_first(tiny: Any) -> None:
    rows = sample(tiny, [[1]], 200, torch.rand(200, 2), Sampling(max_tokens=2), set(), never_first=range(200))
    assert all(row.ids[0] >= 200 for row in rows[0])


def test_a_refused_token_is_drawn_again(tiny: Any) -> None:
    uniforms = torch.rand(1, 12)
    free = sample(tiny, [[1, 2]], 1, uniforms, Sampling(max_tokens=12), set())[0][0].ids
    unwanted = {free[3], free[7]}
    refused = sample(
        tiny, [[1, 2]], 1, uniforms, Sampling(max_tokens=12), set(), refuse=lambda _, token: token in unwanted
    )
    ids = refused[0][0].ids
    assert ids[:3] == free[:3] and len(ids) == 12 and not unwanted & set(ids)


def test_known_beginnings_change_nothing(tiny: Any) -> None:
    """Stories grow at different paces, one is new, one was shortened: all as if read from the beginning."""
    known, uniforms = PrefixCache(), torch.rand(8, 10)
    settings = Sampling(max_tokens=10, temperature=0.9)
    sample(tiny, [[1, 2, 3, 4, 5], [7, 8], [9, 9, 9, 4, 4]], 2, torch.rand(6, 10), settings, set(), known=known)
    contexts = [[1, 2, 3, 4, 5, 6, 7, 8], [7, 8, 1], [3, 3, 3], [9, 9, 9]]
    assert [known.find(tiny, context)[0] for context in contexts] == [5, 2, 0, 2]
    fresh = sample(tiny, contexts, 2, uniforms, settings, set())
    again = sample(tiny, contexts, 2, uniforms, settings, set(), known=known)
    for one, other in zip(fresh, again, strict=True):
        assert [row.ids for row in one] == [row.ids for row in other]
        for a, b in zip(one, other, strict=True):
            assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4)
    assert [known.find(tiny, context)[0] for context in contexts] == [7, 2, 2, 2]


def test_reading_ahead_changes_nothing(tiny: Any) -> None:
    known, uniforms, context = PrefixCache(), torch.rand(2, 6), [1, 2, 3, 4, 5, 6, 7]
    assert [read_ahead(tiny, context, 3, known) for _ in range(4)] == [4, 1, 0, 0]
    assert known.find(tiny, [*context, 8])[0] == 6  # the last one is left to whoever needs its logits
    settings = Sampling(max_tokens=6)
    before = sample(tiny, [[*context, 8]], 2, uniforms, settings, set())
    after = sample(tiny, [[*context, 8]], 2, uniforms, settings, set(), known=known)
    for one, other in zip(before[0], after[0], strict=True):
        assert one.ids == other.ids
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)


def test_known_contexts_are_bounded_and_forgotten_with_the_weights(tiny: Any) -> None:
    known, settings = PrefixCache(most_tokens=10), Sampling(max_tokens=1)
    for context in ([1] * 6, [2] * 4, [3] * 5):
        sample(tiny, [context], 1, torch.rand(1, 1), settings, set(), known=known)
    assert [known.find(tiny, [n] * 9)[0] for n in (1, 2, 3)] == [0, 4, 5]
    model = copy.deepcopy(tiny)
    assert known.find(model, [3] * 9)[0] == 0
    sample(model, [[3] * 5], 1, torch.rand(1, 1), settings, set(), known=known)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert known.find(model, [3] * 9)[0] == 0
