"""The composite reward: a weighted sum of standardised scores, with every term kept.

    reward(story) = sum over terms of weight * (score - mean) / deviation

mean and deviation of each score were measured on samples of the default policy (weights/standard.json), so a weight of
1 means: one standard deviation of the policy's usual stories. In tuning, beta * KL is taken off this sum.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rewards.base import Scorer, StoryText
from rewards.encoder import shared_encoder
from rewards.goal import GoalSimilarity
from rewards.guards import Repetition
from rewards.preference import Preference
from storyrl.errors import InputError, nearest
from storyrl.files import write_json

DEFAULT_WEIGHTS: Mapping[str, float] = {"goal": 1.0, "preference": 0.5, "repetition": -0.5}


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
        """For each term the share (0 to 1) of the default policy's stories that this one beats.

        By the normal curve through the measured mean and deviation; a term with negative weight is turned over.
        """
        sign = {name: math.copysign(1.0, term.weight) for name, term in self.terms.items()}
        return {name: _normal(sign[name] * term.standardised(scores[name])) for name, term in self.terms.items()}


def _normal(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _standard_file() -> Path:
    return Path(str(resources.files("rewards").joinpath("weights", "standard.json")))


def build(
    weights: Mapping[str, float] | None = None, device: str = "auto", preference: Path | None = None
) -> Composite:
    """The composite with the shipped scorers.

    Args:
        weights: by term; terms that are not named keep their default weight, 0 switches one off.
        preference: a folder of `storyrl fit preference`; None: the shipped weights.

    Raises:
        InputError: an unknown term, or all switched off.
    """
    encoder = shared_encoder(device)
    makers: dict[str, Callable[[], Scorer]] = {
        "goal": lambda: GoalSimilarity(encoder),
        "preference": lambda: Preference(preference, encoder),
        "repetition": Repetition,
    }
    for name in weights or {}:
        if name not in makers:
            raise InputError(f"reward '{name}': no such term{nearest(name, makers)}")
    chosen = {name: weight for name, weight in {**DEFAULT_WEIGHTS, **(weights or {})}.items() if weight}
    if not chosen:
        raise InputError("reward: every term has weight 0; give at least one another weight")
    standard = json.loads(_standard_file().read_text(encoding="utf-8"))
    return Composite(
        [
            Term(makers[name](), weight, standard[name]["mean"], standard[name]["deviation"])
            for name, weight in chosen.items()
        ]
    )


def standardise(scorers: Sequence[Scorer], stories: Sequence[StoryText]) -> None:
    """Measure each scorer's mean and deviation on the default policy's stories and write weights/standard.json."""
    standard = {}
    for scorer in scorers:
        scores = scorer.score(stories)
        mean = sum(scores) / len(scores)
        deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        standard[scorer.name] = {"mean": mean, "deviation": deviation, "stories": len(scores)}
    write_json(_standard_file(), standard)
