"""What the preference model is measured against: lengths and counts, the policy's likelihood, and a linear probe.

Each predictor gives for N pairs its score of the preferred text less that of the other, [N]; NaN where it was not run.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from prompts.template import head_ids, turn_ids
from rewards.encoder import shared_encoder
from rewards.preference import fit
from rewards.preference_data import Pair
from rewards.style import plain
from storyrl import console
from storyrl.policy import Policy
from storyrl.story import Kind, Prompt, Turn
from storyrl.tuning.episodes import Episode, collate
from storyrl.tuning.logprobs import action_logprobs

PROBE = "probe on MiniLM"
PROBE_PAIRS = 300  # a source; encoding a sentence costs more than all else
POLICY_PAIRS = 40  # a source: a forward pass of the policy in float32 takes a second a story
POLICY_WORDS = 220  # of the longer text
_EPOCHS, _RATE, _DECAY = 3, 0.01, 0.1  # of the probe
_BATCH = 8


def _distinct(text: str, size: int) -> float:
    """Share of different runs of `size` words."""
    words = plain(text).split()
    runs = list(zip(*(words[at:] for at in range(size)), strict=False))
    return len(set(runs)) / max(1, len(runs))


COUNTS: Mapping[str, Callable[[str], float]] = {
    "fewer words": lambda text: -float(len(text.split())),
    "distinct-1": lambda text: _distinct(text, 1),
    "distinct-2": lambda text: _distinct(text, 2),
}


def text_gaps(pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """The predictors that only count."""
    return {
        name: np.array([count(pair.chosen) - count(pair.rejected) for pair in pairs]) for name, count in COUNTS.items()
    }


def rows_where(is_asked: np.ndarray) -> list[int]:
    """Numbers of the rows where `is_asked` [N] is True."""
    return [int(row) for row in np.flatnonzero(is_asked)]


def first_rows(pairs: Sequence[Pair], among: np.ndarray, count: int) -> list[int]:
    """At most `count` pairs of each source, evenly over those `among` [N] bool."""
    rows: list[int] = []
    for source in dict.fromkeys(pair.source for pair in pairs):
        some = [row for row in rows_where(among) if pairs[row].source == source]
        rows += [some[at * len(some) // count] for at in range(count)] if len(some) > count else some
    return sorted(rows)


def probe_gaps(pairs: Sequence[Pair], tested: np.ndarray, trained: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """A Bradley-Terry model on the mean of a text's sentence vectors, fitted in the same folds, on fewer pairs."""
    encoder = shared_encoder()
    rows = first_rows(pairs, np.ones(len(pairs), dtype=bool), PROBE_PAIRS)
    texts = list(dict.fromkeys(text for row in rows for text in (pairs[row].chosen, pairs[row].rejected)))
    vectors: dict[str, torch.Tensor] = {}
    with console.progress("sentence vectors", len(texts)) as update:
        for start in range(0, len(texts), 200):
            part = texts[start : start + 200]
            vectors.update(zip(part, (v.mean(dim=0) for v in encoder.encode_stories(part)), strict=True))
            update(start + len(part))
    table = torch.stack([vectors[pairs[row].chosen] - vectors[pairs[row].rejected] for row in rows])
    table = table / table.std(dim=0).clamp(min=1e-6)
    place = {row: at for at, row in enumerate(rows)}
    gaps = np.full(len(pairs), np.nan)
    for fold, fitted_on in enumerate(trained):
        seen = torch.tensor([place[row] for row in fitted_on if row in place])
        asked = [row for row in rows if tested[row] == fold]
        weight = fit(
            table[seen],
            torch.zeros_like(table[seen]),
            torch.ones(len(seen)),
            epochs=_EPOCHS,
            learning_rate=_RATE,
            weight_decay=_DECAY,
        )
        gaps[asked] = (table[[place[row] for row in asked]] @ weight).double().numpy()
    return {PROBE: gaps}


@torch.no_grad()
def policy_gaps(pairs: Sequence[Pair], tested: np.ndarray) -> dict[str, np.ndarray]:
    """Mean log-probability of a text's tokens as one narrated turn after its premise, and the negative."""
    policy = Policy.load()
    is_short = [max(len(pair.chosen.split()), len(pair.rejected.split())) <= POLICY_WORDS for pair in pairs]
    rows = first_rows(pairs, (tested >= 0) & np.array(is_short), POLICY_PAIRS)
    episodes = [
        _episode(text, pairs[row].premise, policy) for row in rows for text in (pairs[row].chosen, pairs[row].rejected)
    ]
    means = np.zeros(len(episodes))
    order = sorted(range(len(episodes)), key=lambda at: len(episodes[at].ids))
    with console.progress("log-probabilities", len(order)) as update:
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            batch = collate([episodes[at] for at in part], policy.model.device)
            totals = action_logprobs(policy.model, batch).sum(dim=1) / batch.is_action_token.sum(dim=1)
            means[part] = totals.double().cpu().numpy()
            update(start + len(part))
    gaps = np.full(len(pairs), np.nan)
    gaps[rows] = means[::2] - means[1::2]
    return {"likelier to the policy": gaps, "less likely to the policy": -gaps}


def _episode(text: str, premise: str, policy: Policy) -> Episode:
    context = head_ids(Prompt(premise=premise or "A story."), policy.tokenizer)
    told = turn_ids(Turn(kind=Kind.NARRATE, text=text), policy.tokenizer)
    return Episode(context + told, [False] * len(context) + [True] * len(told))
