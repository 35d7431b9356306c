"""Scorers on the real encoder, the composite, and the Bradley-Terry fit."""

import math

import pytest
import torch

from rewards import composite
from rewards.base import Scorer, StoryText
from rewards.encoder import SentenceEncoder, shared_encoder
from rewards.goal import GoalSimilarity
from rewards.guards import Repetition
from rewards.preference import features, fit
from storyrl.errors import InputError

_NEAR = StoryText(
    'He stood in the rain. "Come in," she said. At last she forgave her brother.', "Mira forgives her brother."
)
_FAR = StoryText("The train left at nine. Nobody was on it. The station was shut.", "Mira forgives her brother.")


def test_goal_prefers_the_story_that_says_it() -> None:
    near, far, empty = GoalSimilarity().score([_NEAR, _FAR, StoryText("", "X.")])
    assert near > far + 0.2
    assert empty == 0.0


def test_scores_do_not_depend_on_the_batch() -> None:
    stories = [_NEAR, _FAR, StoryText("One. " * 30 + "Two is here.", "A goal."), StoryText("Short.", "Mira leaves.")]
    shipped = composite.build()
    together = shipped.score(stories)
    shared_encoder()._known.clear()
    for story, expected in zip(stories, together, strict=True):
        alone = shipped.score([story])[0]
        shared_encoder()._known.clear()
        assert alone.reward == pytest.approx(expected.reward, abs=1e-4)


def test_repetition_by_hand() -> None:
    assert Repetition().score([StoryText("a b c d"), StoryText("a b c. a b c."), StoryText("")]) == [0.0, 0.5, 0.0]


class Constant(Scorer):
    def __init__(self, name: str, value: float):
        self.name, self.value = name, value

    def score(self, stories: object) -> list[float]:
        return [self.value]


def test_composite_by_hand() -> None:
    terms = [composite.Term(Constant("up", 3.0), 2.0, 1.0, 4.0), composite.Term(Constant("down", 0.5), -1.0, 0.25, 0.5)]
    whole = composite.Composite(terms)
    (result,) = whole.score([_NEAR])
    assert result.reward == pytest.approx(2 * 0.5 - 0.5)
    assert result.scores == {"up": 3.0, "down": 0.5}
    bars = whole.bars(result.scores)
    assert bars["up"] == pytest.approx(0.5 * (1 + math.erf(0.5 / math.sqrt(2))))
    assert bars["down"] == pytest.approx(1 - bars["up"])


def test_unknown_and_switched_off_terms() -> None:
    assert set(composite.build({"preference": 0}).terms) == {"goal", "repetition"}
    with pytest.raises(InputError, match="did you mean 'goal'"):
        composite.build({"gaol": 1.0})
    with pytest.raises(InputError, match="every term"):
        composite.build({"goal": 0, "preference": 0, "repetition": 0})


def test_bradley_terry_recovers_known_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([2.0, -1.0, 0.0])
    left, right = torch.randn(4000, 3, generator=generator), torch.randn(4000, 3, generator=generator)
    wins = torch.rand(4000, generator=generator) < torch.sigmoid((left - right) @ truth)
    chosen, rejected = torch.where(wins[:, None], left, right), torch.where(wins[:, None], right, left)
    weight = fit(chosen, rejected, torch.ones(4000), epochs=5, weight_decay=0.0)
    assert torch.allclose(weight, truth, atol=0.15)


def test_features_of_an_empty_story_are_finite() -> None:
    encoder: SentenceEncoder = shared_encoder()
    rows = features([StoryText(""), StoryText("..."), _NEAR], encoder)
    assert rows.isfinite().all()
    assert rows.shape == (3, encoder.dimension + 5)
