"""What readers say of a tuning run: rewards/data/tuned_run.jsonl, with 95 % intervals over prompts.

240 pairs of stories for the held-out prompts, before and after `storyrl tune` of 100 steps (README). Readers did not
know which was which: two said of each of the 480 whether the prompt's goal is reached (1, arguable 0.5, 0), two others
which of 120 pairs they would rather have, and how much sense each side makes (1 to 5). Prints a table.

    python -m tests.bench.tuned_run
"""

import numpy as np

from rewards.base import StoryText
from rewards.goal import GoalReached
from rewards.goal_data import own_file
from storyrl.files import read_jsonl
from tests.bench import metrics

_SIDES = ("before", "after")
_REACHED = 0.75  # mean of the two readings from which a goal counts as reached where there must be one label


def main() -> None:
    """Print the figures."""
    rows = [row for _, row in read_jsonl(own_file("tuned_run.jsonl"))]
    prompts = np.array([row["id"].rpartition("-")[0] for row in rows])
    read = {side: np.array([row[f"reached_{side}"] for row in rows], dtype=float) for side in _SIDES}  # [N, 2]
    same = np.concatenate([read[side][:, 0] == read[side][:, 1] for side in _SIDES]).mean()
    print(f"{len(rows)} stories a side; the two readings agree on {same:.3f} of the {2 * len(rows)} goals")
    for name, least in (("reached, both readers", 1.0), ("reached or arguable, both", 0.5)):
        _difference(name, *((read[side].min(axis=1) >= least).astype(float) for side in _SIDES), prompts)

    compared = [row for row in rows if "preferred" in row]
    prompts_of_pairs = np.array([row["id"] for row in compared])
    for reader in range(2):
        share = np.array([row["preferred"][reader] == "after" for row in compared], dtype=float)
        _line(f"reader {reader + 1} prefers after", _interval(metrics.mean(share), prompts_of_pairs))
    senses = (np.array([row[f"sense_{side}"] for row in compared]).mean(axis=1) for side in _SIDES)
    _difference("sense, 1 to 5", *senses, prompts_of_pairs)

    scorer = GoalReached()
    for side in _SIDES:
        scores = np.array(scorer.score([StoryText(row[side], row["goal"], row["premise"]) for row in rows]))
        reached = read[side].mean(axis=1) >= _REACHED
        counts = f"{reached.sum()} reached; {(scores > 0.5).sum()} score above one half"
        _line(f"goal score, AUC {side}", f"{_interval(metrics.auc(scores, reached), prompts)}  {counts}")


def _difference(name: str, before: np.ndarray, after: np.ndarray, clusters: np.ndarray) -> None:
    change = _interval(metrics.mean(after - before), clusters, sign="+")
    _line(name, f"{before.mean():.3f} -> {after.mean():.3f}  {change}  of {len(before)} a side")


def _line(name: str, value: str) -> None:
    print(f"{name:<28}{value}")


def _interval(measure: metrics.Measure, clusters: np.ndarray, sign: str = "") -> str:
    found = metrics.estimate(measure, clusters)
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


if __name__ == "__main__":
    main()
