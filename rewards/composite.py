"""The composite reward: a weighted sum of standardised scores, with every term kept.

    reward(story) = sum over terms of weight * (score - mean) / deviation

mean and deviation of the learned scores were measured on samples of the default policy (weights/standard.json), so a
weight of 1 means: one standard deviation of the policy's usual stories. Guards are shares from 0 to 1 that are nearly
always 0, and a reward of the user's own comes in its own unit: both stand as they are (mean 0, deviation 1), so that a
guard's weight is what a story of nothing but that fault costs. `shaping` and `verbs` (rewards/shaping.py) are off
unless a weight is given. In tuning, beta * KL is taken off this sum.
"""

import functools
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rewards.base import Scorer, StoryText
from rewards.goal import GoalReached
from rewards.guards import GUARDS
from rewards.preference import Preference
from rewards.shaping import Shaping, VerbDistance
from storyrl.errors import InputError, nearest

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "goal": 1.0,
    "preference": 0.5,
    "repetition": -20.0,
    "premature": -1.0,
    "format": -4.0,
    "assistant": -20.0,
    "copying": -16.0,
    "echo": -20.0,
    "short": -4.0,
    "shaping": 0.0,
    "verbs": 0.0,
}


@dataclass(frozen=True)
class Scored:
    """The scores of a story, each in its scorer's unit, and their reward (standard deviations)."""

    scores: dict[str, float]
    reward: float


@dataclass(frozen=True)
class Term:
    """A scorer with its weight and the mean and deviation of its score on the default policy's stories."""

    scorer: Scorer
    weight: float
    mean: float
    deviation: float

    def standardised(self, score: float) -> float:
        """The score in deviations from the mean."""
        return (score - self.mean) / self.deviation


class Composite:
    """The reward of a story as a sum of terms."""

    def __init__(self, terms: Sequence[Term]):
        self.terms = {term.scorer.name: term for term in terms}

    def score(self, stories: Sequence[StoryText]) -> list[Scored]:
        """Scores and reward of each story.

        Raises:
            InputError: a scorer gave something that is no finite number, or not one number a story.
        """
        columns = {name: term.scorer.score(stories) for name, term in self.terms.items()}
        for name, column in columns.items():
            if len(column) != len(stories):
                raise InputError(f"scorer '{name}': gave {len(column)} scores for {len(stories)} stories")
            for story, score in zip(stories, column, strict=True):
                if not math.isfinite(score):
                    raise InputError(f"scorer '{name}': gave {score} for the story '{story.text[:60]}...'")
        rows = [{name: column[row] for name, column in columns.items()} for row in range(len(stories))]
        return [Scored(scores, self.reward(scores)) for scores in rows]

    def reward(self, scores: Mapping[str, float]) -> float:
        """The weighted sum of standardised scores."""
        return sum(term.weight * term.standardised(scores[name]) for name, term in self.terms.items())

    def bars(self, scores: Mapping[str, float]) -> dict[str, float]:
        """What to show of the scores, each from 0 to 1, more being better.

        A probability stands as it is. For another standardised term it is the share of the default policy's stories
        that this one beats, by the normal curve through the measured mean and deviation (turned over where the weight
        is negative). All guards together are one bar, `clean`: 1 minus the worst of them. Rewards of the user's own
        have no scale and no bar.
        """
        bars = {}
        for name, term in self.terms.items():
            if isinstance(term.scorer, GoalReached):
                bars[name] = scores[name]
            elif name not in GUARDS and ":" not in name:
                bars[name] = _normal(math.copysign(1.0, term.weight) * term.standardised(scores[name]))
        guards = [scores[name] for name in self.terms if name in GUARDS]
        return {**bars, "clean": 1 - max(guards)} if guards else bars


class Custom(Scorer):
    """A reward function of the user's own, with TRL's signature, named `module:function`; its own unit.

    The module is looked for where Python looks, and in the working folder.
    """

    def __init__(self, name: str):
        self.name = name
        module, _, function = name.partition(":")
        if "" not in sys.path:
            sys.path.append("")
        try:
            self._function = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"reward '{name}': cannot import it ({error}); expected module:function") from error

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """What f(prompts, completions, goal=..., premise=...) gives: the premises, and the stories as prose."""
        premises = [story.premise for story in stories]
        return list(
            self._function(
                prompts=premises,
                completions=[story.text for story in stories],
                goal=[story.goal for story in stories],
                premise=premises,
            )
        )


def _normal(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def standard_file() -> Path:
    """Mean and deviation of the learned scores on the default policy's stories."""
    return Path(str(resources.files("rewards").joinpath("weights", "standard.json")))


def build(
    weights: Mapping[str, float] | None = None,
    device: str = "auto",
    preference: Path | None = None,
    judge: str = "",
) -> Composite:
    """The composite with the shipped scorers.

    Args:
        weights: by term; terms that are not named keep their default weight, 0 switches one off; a name
            `module:function` adds a reward of the user's own.
        preference: a folder of `storyrl fit preference`, whose taste is added to the shipped weights; None: no taste.
        judge: a term (or `module:function`) that is scored and kept but adds nothing to the reward.

    Raises:
        InputError: an unknown term, all switched off, or a judge that is rewarded.
    """
    goal = functools.cache(lambda: GoalReached(device=device))
    makers: dict[str, Callable[[], Scorer]] = {
        "goal": goal,
        "preference": lambda: Preference(preference),
        "shaping": lambda: Shaping(goal()),
        "verbs": VerbDistance,
        **GUARDS,
    }
    for name in [*(weights or {}), *filter(None, [judge])]:
        if ":" in name:
            makers[name] = functools.partial(Custom, name)
        elif name not in makers:
            raise InputError(f"reward '{name}': no such term{nearest(name, makers)}")
    chosen = {name: weight for name, weight in {**DEFAULT_WEIGHTS, **(weights or {})}.items() if weight}
    if not chosen:
        raise InputError("reward: every term has weight 0; give at least one another weight")
    if judge in chosen:
        raise InputError(f"judge '{judge}': is part of the reward; give it weight 0 ({judge}=0) or choose another")
    if judge:
        chosen[judge] = 0.0
    standard = {
        name: {"mean": row["mean"], "deviation": row["deviation"]}
        for name, row in json.loads(standard_file().read_text(encoding="utf-8")).items()
    }
    return Composite(
        [
            Term(makers[name](), weight, **standard.get(name, {"mean": 0.0, "deviation": 1.0}))
            for name, weight in chosen.items()
        ]
    )


def parse_weights(options: Sequence[str]) -> dict[str, float]:
    """Weights from `name=weight` texts.

    Raises:
        InputError: one is of another form.
    """
    weights = {}
    for option in options:
        name, equals, number = option.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError as error:
            raise InputError(f"--reward {option}: expected name=weight, e.g. goal=2") from error
        if not equals or not math.isfinite(weights[name.strip()]):
            raise InputError(f"--reward {option}: expected name=weight, e.g. goal=2")
    return weights
