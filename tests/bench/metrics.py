"""Measures of scores against labels, with 95 % intervals: plain numpy, no models.

A measure looks at N rows under R weightings of them at once, weights [R, N], and gives R values: the value itself is
that with all weights 1, and a bootstrap over clusters of rows is one call with how often each cluster was drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Estimate = dict[str, Any]  # value, low, high: floats; None where there are none (one class only, no rows)
Measure = Callable[[np.ndarray], np.ndarray]

_RESAMPLES = 2000
_BINS = 10


def estimate(measure: Measure, clusters: Sequence[str] | np.ndarray, seed: int = 0) -> Estimate:
    """A measure of N rows with its 95 % interval: percentile bootstrap over clusters, 2,000 resamples (Efron 1979)."""
    names, places = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(names):
        return {"value": None, "low": None, "high": None}
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    values = measure(draws[:, places].astype(float))
    known = values[np.isfinite(values)]
    value = float(measure(np.ones((1, len(places))))[0])
    if not np.isfinite(value) or not len(known):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def mean(values: np.ndarray) -> Measure:
    """Weighted mean of `values` [N]."""
    return lambda weights: _divide(weights @ values, weights.sum(axis=1))


def auc(scores: np.ndarray, labels: np.ndarray) -> Measure:
    """Chance that a positive row scores above a negative one, ties counting half: the area under the ROC curve."""
    order = np.argsort(scores, kind="stable")
    is_first = np.diff(scores[order], prepend=np.nan) != 0  # of the rows of one score

    def measure(weights: np.ndarray) -> np.ndarray:
        positive, negative = (
            np.add.reduceat(weights[:, order] * side[order], np.flatnonzero(is_first), axis=1)
            for side in (labels.astype(float), 1 - labels.astype(float))
        )
        below = np.cumsum(negative, axis=1) - negative / 2
        return _divide((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    return measure


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> Measure:
    """Mean of the F1 of both classes, 2 TP / (2 TP + FP + FN); 0 for a class that is neither there nor predicted."""

    def measure(weights: np.ndarray) -> np.ndarray:
        wrong = weights @ (predicted != labels).astype(float)
        scores = []
        for side in (True, False):
            right = 2 * (weights @ ((predicted == side) & (labels == side)).astype(float))
            scores.append(right / np.maximum(right + wrong, 1e-12))
        return np.mean(scores, axis=0)

    return measure


def all_right(right: np.ndarray, sets: Sequence[str] | np.ndarray) -> Measure:
    """Share of sets all of whose rows are right; the rows of a set must have one weight."""
    names, first, places = np.unique(np.asarray(sets), return_index=True, return_inverse=True)
    wrong = np.bincount(places, weights=~right, minlength=len(names))
    return lambda weights: mean((wrong == 0).astype(float))(weights[:, first])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> Measure:
    """Expected calibration error: mean distance of probability and share of positives over ten equal bins, by size."""
    gaps = np.zeros((len(labels), _BINS))
    gaps[np.arange(len(labels)), bins(probabilities)] = probabilities - labels
    return lambda weights: _divide(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def bins(probabilities: np.ndarray) -> np.ndarray:
    """Number of the bin of each probability, 0 to 9; 1.0 is in the last one."""
    return np.minimum((probabilities * _BINS).astype(int), _BINS - 1)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Mean probability, share of positives and number of rows of each bin that has any."""
    places = bins(probabilities)
    rows = [np.flatnonzero(places == place) for place in range(_BINS)]
    return [
        {"probability": float(probabilities[r].mean()), "share": float(labels[r].mean()), "n": len(r)}
        for r in rows
        if len(r)
    ]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation (Pearson's of the ranks); None when one side is constant."""
    a, b = (ranks(np.asarray(side, dtype=float)) for side in (first, second))
    if not len(a) or a.std() == 0 or b.std() == 0:
        return None
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))


def spearman_estimate(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Estimate:
    """The rank correlation with its 95 % interval: percentile bootstrap over rows, 2,000 resamples."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(len(first), size=len(first)) for _ in range(_RESAMPLES)]
    known = [rho for row in rows if (rho := spearman(first[row], second[row])) is not None]
    value = spearman(first, second)
    if value is None or not known:
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing below."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
