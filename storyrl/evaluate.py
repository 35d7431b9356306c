"""Comparing two sets of stories for the same prompts: differences with paired bootstrap intervals."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storyrl.errors import InputError

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """One measure before and after: means over prompts, and the 95 % interval of the mean difference."""

    name: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    prompts: int
    stories: int  # of both sides together

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def line(self) -> str:
        """The difference as one line for a terminal."""
        verdict = "" if self.is_clear else "  (no clear change)"
        return (
            f"{self.name:12} {self.before:8.3f} -> {self.after:8.3f}   {self.difference:+.3f} "
            f"[{self.low:+.3f}, {self.high:+.3f}]  {self.prompts} prompts{verdict}"
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


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[Difference]:
    """Differences of every score, of the reward, and of plain measures of the text.

    The records are lines of `storyrl generate`. Stories are paired by prompt; several stories of a prompt are averaged
    first, so the prompts, not the stories, are resampled.

    Raises:
        InputError: no prompt is on both sides, or a record lacks a field.
    """
    try:
        values = [_by_prompt(records) for records in (before, after)]
    except (KeyError, TypeError) as error:
        raise InputError(f"a story record lacks the field {error}; expected lines of `storyrl generate`") from error
    common = sorted(values[0].keys() & values[1].keys())
    if not common:
        raise InputError("the two sets of stories have no prompt in common")
    names = [name for name in values[0][common[0]] if all(name in side[prompt] for side in values for prompt in common)]
    stories = sum(record["prompt"]["id"] in common for records in (before, after) for record in records)
    differences = []
    for name in names:
        first, second = (np.array([side[prompt][name] for prompt in common]) for side in values)
        low, high = bootstrap_interval(second - first)
        differences.append(
            Difference(name, first.mean(), second.mean(), (second - first).mean(), low, high, len(common), stories)
        )
    return differences


def _by_prompt(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Prompt id -> measure -> mean over the prompt's stories."""
    rows: dict[str, list[dict[str, float]]] = {}
    for record in records:
        row = {**record["scores"], "reward": record["reward"]}
        row |= {name: float(measure(record)) for name, measure in _MEASURES.items()}
        rows.setdefault(record["prompt"]["id"], []).append(row)
    return {
        prompt: {name: float(np.mean([row[name] for row in group])) for name in group[0]}
        for prompt, group in rows.items()
    }


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N] over 10,000 resamples (Efron 1979)."""
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(len(values), size=(1000, len(values)))].mean(axis=1) for _ in range(_RESAMPLES // 1000)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
