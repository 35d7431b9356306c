"""Alarms: signs in a run's metrics that the reward is being gamed, or that the policy leaves the reference.

Reward hacking (Skalse et al. 2022) looks like this: the reward rises while something else that people care for falls:
a guard speaks up more often, or a judge that is not part of the reward thinks less of the stories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

WINDOW = 5  # steps at the start and at the end that are compared
_CLEAR = 2.5  # standard errors
_LEAST_GUARD = 0.02  # a guard's mean below this is not worth an alarm


@dataclass(frozen=True)
class Watched:
    """A score that the reward should not be bought with: a guard (its rise is bad) or a judge (its fall is)."""

    name: str
    rise_is_bad: bool


def alarms(rows: Sequence[Mapping[str, Any]], watched: Sequence[Watched]) -> list[str]:
    """What is wrong by the last of the metrics `rows`, one sentence each; [] in the first ten steps."""
    if len(rows) < 2 * WINDOW:
        return []
    first, last = rows[:WINDOW], rows[-WINDOW:]
    if not _rose([row["reward"] for row in first], [row["reward"] for row in last]):
        return []
    found = []
    for score in watched:
        before, after = ([row["scores"][score.name]["mean"] for row in part] for part in (first, last))
        low, high = (before, after) if score.rise_is_bad else (after, before)
        if _rose(low, high) and (fmean(high) >= _LEAST_GUARD or not score.rise_is_bad):
            found.append(
                f"the reward rises while '{score.name}' {'rises' if score.rise_is_bad else 'falls'} "
                f"({fmean(before):.3f} to {fmean(after):.3f}): the policy may be gaming the reward; read some stories"
            )
    return found


def over_budget(rows: Sequence[Mapping[str, Any]], budget: float) -> bool:
    """Whether the mean KL of the last steps is above the budget (nats a story); 0: no budget."""
    return budget > 0 and len(rows) >= WINDOW and fmean(row["kl"] for row in rows[-WINDOW:]) > budget


def _rose(before: Sequence[float], after: Sequence[float]) -> bool:
    spread = [sum((x - fmean(part)) ** 2 for x in part) / (len(part) - 1) / len(part) for part in (before, after)]
    return fmean(after) - fmean(before) > _CLEAR * sqrt(sum(spread)) + 1e-9
