"""Figures of the preference model in five-fold cross-validation, by kind of pair, and what moves its score.

A pair is tested by weights that saw neither its texts nor its group. Where pairs are drawn from rated texts every text
has a fold: pairs across folds are not tested, and a fold's weights see no pair that touches it. Not redone for each
fold: means, deviations and knots of the measures, and the counts of word pairs. What these counts are worth on texts
that they have not seen, the row "new words" tells: the tested fold's tales and written stories are left out of them.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards import preference_data
from rewards.base import StoryText
from rewards.preference import Features, load_shipped, shipped_weights
from rewards.preference_data import Pair
from rewards.style import NAMES, WordPairs
from rewards.train_preference import Prepared, all_pairs, fit_pairs, prepare, word_pairs
from storyrl import console
from storyrl.files import read_jsonl
from storyrl.story import prose
from tests.bench import metrics, preference_baselines
from tests.bench.preference_baselines import rows_where

FOLDS = 5
SOURCES = ("lamp", "lamp_scores", "roc", "scratchplot", "authored", "policy", "corrupted")
MODEL, MORE_EPOCHS, NEW_WORDS = "model", "model, 3 epochs", "model, new words"
_RATED = ("lamp_scores", "roc", "scratchplot")  # pairs that are drawn from rated texts
_COUNTED = ("policy", "corrupted")  # pairs whose preferred side is in the counts of word pairs
_NAMED = ("corrupted", "authored")  # pairs with a kind
_QUICK_PAIRS = 150  # a source
_MATCHED = 0.1  # of the longer text's words
_SHOWN_MEASURES = 10

Gaps = dict[str, np.ndarray]  # by predictor: its score of the preferred text less the other's, [N]; NaN: not known


@dataclass(frozen=True)
class Split:
    """The fold that tests each pair (-1: none), and the pairs that each fold's weights are fitted on."""

    tested: np.ndarray  # [N]
    trained: tuple[list[int], ...]


def preference_figures(data: Path, quick: bool) -> dict[str, Any]:
    """All figures of the section.

    Args:
        data: the data folder.
        quick: at most 150 pairs of each kind, and no log-probabilities of the policy.
    """
    pairs = all_pairs(data)
    if quick:
        rng = random.Random(0)
        by_source = [[pair for pair in pairs if pair.source == source] for source in SOURCES]
        pairs = [pair for some in by_source for pair in rng.sample(some, min(_QUICK_PAIRS, len(some)))]
    console.say(f"preference: features of {len(pairs)} pairs ...")
    prepared, split = prepare(pairs, word_pairs(data)), split_pairs(pairs)
    console.say("preference: cross-validation ...")
    weights = {epochs: [fit_pairs(prepared, rows, epochs) for rows in split.trained] for epochs in (1, 3)}
    gaps = {
        MODEL: _model_gaps(prepared, split, weights[1]),
        MORE_EPOCHS: _model_gaps(prepared, split, weights[3]),
        NEW_WORDS: _new_word_gaps(pairs, prepared.features, split, weights[1], data),
        **preference_baselines.text_gaps(pairs),
    }
    console.say("preference: linear probe on sentence vectors ...")
    gaps |= preference_baselines.probe_gaps(pairs, split.tested, split.trained)
    if not quick:
        console.say("preference: log-probabilities under the policy ...")
        gaps |= preference_baselines.policy_gaps(pairs, split.tested)
    for gap in gaps.values():
        gap[split.tested < 0] = np.nan
    return {
        "pairs": {source: sum(pair.source == source for pair in pairs) for source in SOURCES},
        "sources": {source: _source_figures(pairs, gaps, source) for source in SOURCES},
        "by_kind": {source: _kind_figures(pairs, gaps[MODEL], source) for source in _NAMED},
        "ratings": _rating_figures(data, prepared, weights[1], pairs),
        "measures": measure_effects(),
    }


def fold_of(key: str) -> int:
    """A fixed fold for a text or a group, by checksum."""
    return zlib.crc32(key.encode()) % FOLDS


def split_pairs(pairs: Sequence[Pair]) -> Split:
    """Folds in which no text is both tested and trained on."""
    home = {text: p.group for p in pairs if p.source == "lamp" for text in (p.chosen, p.rejected)}
    folds = []
    for pair in pairs:
        texts = (pair.chosen, pair.rejected) if pair.source in _RATED else ()
        keys = [home.get(text, text[:60]) for text in texts] or [pair.group]
        folds.append({fold_of(key) for key in keys})
    tested = np.array([min(some) if len(some) == 1 else -1 for some in folds])
    trained = []
    for fold in range(FOLDS):
        asked = {text for row in rows_where(tested == fold) for text in (pairs[row].chosen, pairs[row].rejected)}
        others = [row for row in range(len(pairs)) if fold not in folds[row]]
        trained.append([row for row in others if not {pairs[row].chosen, pairs[row].rejected} & asked])
    return Split(tested, tuple(trained))


def _model_gaps(prepared: Prepared, split: Split, weights: Sequence[Tensor]) -> np.ndarray:
    """Score differences of all pairs, each by the weights of the fold that tests it."""
    table = (prepared.chosen - prepared.rejected) @ torch.stack(list(weights), dim=1)
    return table.double().numpy()[np.arange(len(split.tested)), split.tested]


def _new_word_gaps(
    pairs: Sequence[Pair], features: Features, split: Split, weights: Sequence[Tensor], data: Path
) -> np.ndarray:
    """The same for pairs whose texts are in the counts of word pairs, with counts that leave the fold's texts out."""
    gaps = np.full(len(pairs), np.nan)
    for fold, weight in enumerate(weights):
        rows = [row for row in rows_where(split.tested == fold) if pairs[row].source in _COUNTED]
        scorer = replace(features, pairs=_word_pairs_without(fold, data))
        chosen = scorer([StoryText(pairs[row].chosen, "", pairs[row].premise) for row in rows])
        rejected = scorer([StoryText(pairs[row].rejected, "", pairs[row].premise) for row in rows])
        gaps[rows] = ((chosen - rejected) @ weight).double().numpy()
    return gaps


def _word_pairs_without(fold: int, data: Path) -> WordPairs:
    """As rewards.train_preference.word_pairs counts, without a fold's tales and written stories."""
    tales = [
        row["text"]
        for _, row in read_jsonl(data / "public_domain_tales" / "tales.jsonl")
        if row["fairytaleqa_overlap"] not in ("val", "test") and fold_of(row["title"]) != fold
    ]
    stories = [prose(turns) for name, _, turns in preference_data.written_stories() if fold_of(name) != fold]
    return WordPairs.count([*tales, *stories])


def _source_figures(pairs: Sequence[Pair], gaps: Gaps, source: str) -> dict[str, Any]:
    """By predictor: pairs, accuracy, accuracy on pairs of like length, and how much the score follows length."""
    figures = {}
    words = np.array([[len(pair.chosen.split()), len(pair.rejected.split())] for pair in pairs])
    is_matched = np.abs(words[:, 0] - words[:, 1]) <= _MATCHED * words.max(axis=1)
    for name, gap in gaps.items():
        rows = [row for row in rows_where(np.isfinite(gap)) if pairs[row].source == source]
        matched = [row for row in rows if is_matched[row]]
        if rows:
            figures[name] = {
                "pairs": len(rows),
                "accuracy": _accuracy(pairs, gap, rows),
                "matched_pairs": len(matched),
                "matched_accuracy": _accuracy(pairs, gap, matched),
                "with_length": metrics.spearman(gap[rows], words[rows, 0] - words[rows, 1]),
            }
    return figures


def _accuracy(pairs: Sequence[Pair], gap: np.ndarray, rows: Sequence[int]) -> metrics.Estimate:
    """Share of pairs whose preferred side scores higher, equal scores counting half; resampled by group."""
    right = (gap[rows] > 0) + 0.5 * (gap[rows] == 0)
    return metrics.estimate(metrics.mean(right), [pairs[row].group for row in rows])


def _kind_figures(pairs: Sequence[Pair], gap: np.ndarray, source: str) -> dict[str, Any]:
    """Accuracy of the model by kind of pair, the least first."""
    rows = [row for row in rows_where(np.isfinite(gap)) if pairs[row].source == source]
    by_kind = {kind: [r for r in rows if pairs[r].kind == kind] for kind in sorted({pairs[r].kind for r in rows})}
    figures: dict[str, Any] = {
        kind: {"n": len(some), "accuracy": _accuracy(pairs, gap, some)} for kind, some in by_kind.items()
    }
    return dict(sorted(figures.items(), key=lambda item: item[1]["accuracy"]["value"]))


def _rating_figures(data: Path, prepared: Prepared, weights: Sequence[Tensor], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Rank correlation of readers' mean ratings with scores by weights that saw none of these sets, or no text of a
    fold. No weights are ever fitted on the long stories."""
    others = [row for row, pair in enumerate(pairs) if pair.source not in ("roc", "scratchplot")]
    never = fit_pairs(prepared, others)
    figures: dict[str, Any] = {}
    sets = {
        "roc": preference_data.roc(data),
        "scratchplot": preference_data.scratchplot(data),
        "long stories": preference_data.long_stories(),
        "long stories, models' only": preference_data.long_stories(by_model_only=True),
    }
    for source, rated in sets.items():
        rows = prepared.features([StoryText(one.text) for one in rated])
        ratings = np.array([one.rating for one in rated])
        by_fold = (rows @ torch.stack(list(weights), dim=1)).double().numpy()
        predictors = {
            "fitted without these sets": (rows @ never).double().numpy(),
            "fitted on other folds": by_fold[np.arange(len(rated)), [fold_of(one.text[:60]) for one in rated]],
            **{
                name: np.array([count(one.text) for one in rated])
                for name, count in preference_baselines.COUNTS.items()
            },
        }
        figures[source] = {"texts": len(rated)} | {
            name: metrics.spearman_estimate(scores, ratings) for name, scores in predictors.items()
        }
    return figures


def measure_effects() -> list[dict[str, Any]]:
    """The measures that move the shipped score most: its change when a measure goes from one deviation under its mean
    to one above, the others staying; and the weight of its line without the bends."""
    model = load_shipped(shipped_weights())
    count, knots = len(NAMES), model.features.knots
    line, bends = model.weight[:count], model.weight[count : count + knots.numel()].view_as(knots)

    def curve(at: float) -> Tensor:
        return line * at + (bends * (at - knots).clamp(min=0)).sum(dim=1)

    effects = (curve(1.0) - curve(-1.0)).tolist()
    order = sorted(range(count), key=lambda at: -abs(effects[at]))[:_SHOWN_MEASURES]
    return [{"name": NAMES[at], "effect": effects[at], "line": float(line[at])} for at in order]
