"""Comparing two sets of stories written for the same prompts: differences with paired bootstrap intervals.

What it leaves out: writing and scoring the stories (`storyrl generate`, a tuning run), and judging the measures
themselves: a score that rises says that the scorer likes the stories better, not that readers do.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storyrl.errors import InputError, nearest

_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 1_000_000  # random indices held in memory together
FEWEST_PROMPTS = 6  # below, even prompts that all move the same way do so by chance with p > 0.05 (sign test)


@dataclass(frozen=True)
class Difference:
    """One measure before and after: means over prompts, and the 95 % interval of the mean difference."""

    name: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    n: int
    """Prompts that both sides have."""
    n_stories: int
    """Stories for these prompts, of both sides together."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0, and there are prompts enough (6) for it to mean anything."""
        return self.n >= FEWEST_PROMPTS and (self.low > 0 or self.high < 0)

    def line(self) -> str:
        """The difference as one line for a terminal."""
        verdict = "" if self.is_clear else "  (no clear change)"
        return (
            f"{self.name:12} {self.before:8.3f} -> {self.after:8.3f}   {self.difference:+.3f} "
            f"[{self.low:+.3f}, {self.high:+.3f}]  {self.n} prompts{verdict}"
        )


def _distinct_trigrams(record: dict[str, Any]) -> float:
    words = re.findall(r"\w+", record["text"].lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


_MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "words": lambda record: len(record["text"].split()),
    "turns": lambda record: len(record["turns"]),
    "say_share": lambda record: sum(t["kind"] == "say" for t in record["turns"]) / max(1, len(record["turns"])),
    "distinct_3": _distinct_trigrams,
}


def compare(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], names: Sequence[str] | None = None
) -> list[Difference]:
    """Differences of the scores, of the reward, and of plain measures of the text.

    The records are lines of `storyrl generate`. Stories are paired by prompt; several stories of a prompt are averaged
    first, so the prompts, not the stories, are resampled. The plain measures are `words` and `turns` (a story),
    `say_share` (share of the turns that are speech) and `distinct_3` (share of distinct word trigrams; 1 for a story
    of fewer than three words).

    Args:
        before: stories of the one side.
        after: stories of the other side.
        names: the measures to compare, in this order; None: all that both sides have.

    Raises:
        InputError: no prompt is on both sides, a record lacks a field, or a name is unknown.
    """
    sides = [means_by_prompt(records) for records in (before, after)]
    common = [prompt for prompt in sides[0] if prompt in sides[1]]
    if not common:
        raise InputError("the two sets of stories have no prompt in common")
    known = [name for name in sides[0][common[0]] if name in sides[1][common[0]]]
    for name in names or ():
        if name not in known:
            raise InputError(f"'{name}' is no measure of both sets of stories{nearest(name, known)}")
    shared = set(common)
    n_stories = sum(record["prompt"]["id"] in shared for records in (before, after) for record in records)
    differences = []
    for name in known if names is None else names:
        first, second = (np.array([side[prompt][name] for prompt in common]) for side in sides)
        difference, low, high = mean_interval(second - first)
        differences.append(
            Difference(name, float(first.mean()), float(second.mean()), difference, low, high, len(common), n_stories)
        )
    return differences


def means_by_prompt(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Prompt id -> measure -> mean over the prompt's stories, prompts in order of appearance.

    Raises:
        InputError: a record lacks a field or a score that the first one has, or holds something that is no number.
    """
    groups: dict[str, list[dict[str, float]]] = {}
    scores: list[str] = []
    for number, record in enumerate(records, start=1):
        try:
            prompt = record["prompt"]["id"]
            row = dict(record["scores"]) | {"reward": record["reward"]}
            row |= {name: measure(record) for name, measure in _MEASURES.items()}
            scores = scores or list(row)
            groups.setdefault(prompt, []).append({name: _finite(name, row[name]) for name in scores})
        except KeyError as error:
            raise InputError(
                f"story {number}: the field {error} is missing; expected lines of `storyrl generate`"
            ) from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"story {number}: {error}; expected lines of `storyrl generate`") from None
    return {
        prompt: {name: float(np.mean([row[name] for row in rows])) for name in scores}
        for prompt, rows in groups.items()
    }


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"'{name}' is {value!r}, no finite number")
    return float(value)


def mean_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `values` [N] and its 95 % interval: percentile bootstrap, 10,000 resamples (Efron 1979).

    Raises:
        InputError: there are no values.
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        raise InputError("there are no values to take the mean of")
    rng = np.random.default_rng(seed)
    chunk = max(1, min(_RESAMPLES, _DRAWS_AT_ONCE // len(array)))
    means = np.concatenate(
        [
            array[rng.integers(len(array), size=(min(chunk, _RESAMPLES - start), len(array)))].mean(axis=1)
            for start in range(0, _RESAMPLES, chunk)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
