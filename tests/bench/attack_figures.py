"""Attacks on the reward, and what the learned scorers cost.

Attacks: how many handwritten attacks (gaming.jsonl, on which the guards were set, and gaming_fresh.jsonl, by writers
who knew neither guards nor scorers) beat the median honest story, under each scorer of the composite and under their
sum. Better means higher, or lower where the composite's weight is negative.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prompts.readers import read_prompts
from rewards import composite, goal_data, preference_data
from rewards.base import Scorer, StoryText
from rewards.goal import GoalReached
from rewards.preference import Preference
from storyrl import console
from storyrl.files import read_jsonl

_WRITTEN = 300  # stories by people, evenly over all
_QUICK = 40
_STORIES, _WORDS, _RUNS = 64, 120, 5
_GEMM = (2048, 384, 1536)  # rows, inner, columns
REWARD = "reward"


def attack_figures(name: str, quick: bool) -> dict[str, Any]:
    """Counts by scorer, and the attacks that beat the median under the composite.

    Args:
        name: of the file with the attacks, in rewards/data.
        quick: only 40 honest stories of each kind.
    """
    attacks = [row for _, row in read_jsonl(goal_data.own_file(name))]
    count = _QUICK if quick else _WRITTEN
    stories = {
        "attacks": [StoryText(row["text"], row["goal"], row["premise"]) for row in attacks],
        "model": spread(policy_stories(), count),
        "written": spread(written_stories(), count),
    }
    console.say(f"attacks: {sum(map(len, stories.values()))} stories ...")
    reward = composite.build()
    scored = {name: reward.score(some) for name, some in stories.items()}
    signs = {name: 1.0 if term.weight > 0 else -1.0 for name, term in reward.terms.items()} | {REWARD: 1.0}
    columns = {
        name: {
            side: np.array([row.reward if name == REWARD else row.scores[name] for row in rows])
            for side, rows in scored.items()
        }
        for name in signs
    }
    return {
        "attacks": len(attacks),
        "honest": {side: len(stories[side]) for side in ("model", "written")},
        "scorers": {name: _counts(sides, signs[name]) for name, sides in columns.items()},
        "by_kind": _by_kind(attacks, columns[REWARD]),
    }


def _counts(sides: Mapping[str, np.ndarray], sign: float) -> dict[str, Any]:
    """Attacks that beat the median of each kind of honest stories, and those that equal it."""
    figures: dict[str, Any] = {"median": {side: float(np.median(values)) for side, values in sides.items()}}
    for side in ("model", "written"):
        gap = sign * (sides["attacks"] - np.median(sides[side]))
        figures[side] = {"beat": int((gap > 0).sum()), "equal": int((gap == 0).sum())}
    return figures


def _by_kind(attacks: Sequence[Mapping[str, Any]], sides: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By kind of attack: how many there are, and which beat the median of each kind of honest stories."""
    figures: dict[str, Any] = {}
    for row, value in zip(attacks, sides["attacks"], strict=True):
        kind = figures.setdefault(row["kind"], {"n": 0, "model": [], "written": []})
        kind["n"] += 1
        for side in ("model", "written"):
            if value > np.median(sides[side]):
                kind[side].append(row["id"])
    return figures


def policy_stories() -> list[StoryText]:
    """The ranked stories of the default policy for the held-out prompts: hw000 is of the first prompt, and so on."""
    prompts = read_prompts("starter:heldout")
    rows = [row for _, row in read_jsonl(goal_data.own_file("goal_policy.jsonl")) if row["id"].startswith("hw")]
    for row in rows:
        goals = [goal["goal"] for goal in row["goals"] if goal["kind"] == "prompt"]
        if goals != [prompts[int(row["id"][2:])].goal]:
            raise RuntimeError(f"story {row['id']} is not of prompt number {row['id'][2:]}")
    return [StoryText(row["story"], p.goal, p.premise) for row in rows for p in [prompts[int(row["id"][2:])]]]


def written_stories() -> list[StoryText]:
    """The stories written for storyrl, with their goals."""
    goals = {
        row["id"]: row["goal"]
        for name in ("authored.jsonl", "plain.jsonl")
        for _, row in read_jsonl(Path(str(resources.files("prompts").joinpath("stories", name))))
    }
    named = [(name, premise) for name, premise, _ in preference_data.written_stories()]
    texts = preference_data.written_texts()
    return [StoryText(text, goals[name], premise) for text, (name, premise) in zip(texts, named, strict=True)]


def spread(stories: Sequence[StoryText], count: int) -> list[StoryText]:
    """At most `count` stories, evenly over all."""
    return [stories[at * len(stories) // count] for at in range(count)] if len(stories) > count else list(stories)


# --- speed ----------------------------------------------------------------------------------------------------------


def speed_figures(quick: bool) -> dict[str, Any]:
    """Seconds for 64 stories of 120 words by the learned scorers, once loaded, and whether a batch changes a score.

    Args:
        quick: one run in place of the median of five.
    """
    console.say("speed ...")
    stories = [
        StoryText(" ".join(story.text.split()[:_WORDS]), story.goal, story.premise, finished=False)
        for story in written_stories()
        if len(story.text.split()) >= _WORDS
    ][:_STORIES]
    makers: dict[str, Callable[[], Scorer]] = {GoalReached.name: GoalReached, Preference.name: Preference}
    runs = 1 if quick else _RUNS
    seconds = {name: scoring_seconds([make], stories, runs) for name, make in makers.items()}
    return {
        "stories": len(stories),
        "words": _WORDS,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "seconds": seconds | {"both": scoring_seconds(list(makers.values()), stories, runs)},
        "gemm_gflops": gemm_gflops(),
        "differences": {name: batch_differences(make, stories) for name, make in makers.items()},
    }


def scoring_seconds(makers: Sequence[Callable[[], Scorer]], stories: Sequence[StoryText], runs: int) -> float:
    """Median over runs, each by scorers that are loaded and warm but have not seen the stories."""
    times = []
    for _ in range(runs):
        scorers = [make() for make in makers]
        for scorer in scorers:
            scorer.score([StoryText("It rained.", "It rains.")])
        start = time.perf_counter()
        for scorer in scorers:
            scorer.score(stories)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def gemm_gflops() -> float:
    """Speed of float32 matrix products of the classifier's shape, 10^9 operations a second."""
    rows, inner, columns = _GEMM
    a, b = torch.rand(rows, inner), torch.rand(inner, columns)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2e-9 * rows * inner * columns / statistics.median(times)


def batch_differences(make: Callable[[], Scorer], stories: Sequence[StoryText]) -> dict[str, float]:
    """Largest difference of a story's score in the batch from its score alone, and from that in another order.

    Each time by a scorer that has not seen the stories: it may remember what it has read.
    """
    together = np.array(make().score(stories))
    one = make()
    alone = np.array([one.score([story])[0] for story in stories])
    order = np.random.default_rng(0).permutation(len(stories))
    shuffled = np.array(make().score([stories[at] for at in order]))
    return {
        "alone": float(np.abs(together - alone).max()),
        "shuffled": float(np.abs(together[order] - shuffled).max()),
    }
