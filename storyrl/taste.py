"""Learning a writer's taste from what the store holds of them, and saying what came of it.

The learning itself is rewards/taste.py; here are the choices it learns from, how well it foretells the writer's own
answers, and its weights in words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rewards.base import StoryText
from rewards.choices import choices_from_store
from rewards.preference import load_shipped, shipped_weights
from rewards.taste import MEASURES, Choice, Taste, counted, taste_features
from storyrl.errors import InputError
from storyrl.share import Share
from storyrl.store import Store

FEWEST = 10
"""Answers below which an agreement says nothing."""

_FOLDS = 10
_LEAST = 0.01  # nats a deviation; a weight below this is not worth a word
_WORDS = {
    "distinct words in 100": ("a richer vocabulary", "plain, recurring words"),
    "most frequent word": ("one word that comes back", "no word that comes back often"),
    "word length": ("longer words", "shorter words"),
    "sentence length": ("longer sentences", "shorter sentences"),
    "sentence spread": ("long and short sentences mixed", "sentences of like length"),
    "short sentences": ("very short sentences", "few very short sentences"),
    "speech": ("more of the story told in speech", "less of the story told in speech"),
    "lines of speech": ("more lines of dialogue", "fewer lines of dialogue"),
    "commas": ("more commas", "fewer commas"),
    "questions": ("more questions", "fewer questions"),
    "exclamations": ("more exclamations", "fewer exclamations"),
    "first and second person": ("more 'I' and 'you'", "less 'I' and 'you'"),
    "hedges": ("more 'seemed' and 'as if'", "less 'seemed' and 'as if'"),
    "bright words": ("brighter words", "fewer bright words"),
    "dark words": ("darker words", "fewer dark words"),
    "bright end": ("brighter endings", "endings that are not bright"),
    "dark end": ("darker endings", "endings that are not dark"),
    "words of the senses": ("more to see, hear and smell", "less to see, hear and smell"),
    "words of movement": ("more movement", "less movement"),
    "usual word pairs": ("familiar turns of phrase", "unusual turns of phrase"),
}


@dataclass(frozen=True)
class Agreement:
    """How often the learned taste, and the shipped model without one, agree with the same answers."""

    learned: Share
    shipped: Share


def choices_of(store: Store, picks: bool = False) -> list[Choice]:
    """What the store's ratings, and the suggestions of writers who agreed to that, say of taste.

    Args:
        store: seen by one owner, or by all.
        picks: count suggestions of those who did not say that they agree, too.
    """
    return choices_from_store(store.comparisons(), store.ratings(), store.shown(with_consent=not picks))


def check(choices: Sequence[Choice]) -> None:
    """Raises InputError if there is nothing to learn from."""
    if not choices:
        raise InputError("the database holds no comparisons yet; rate some stories in `storyrl studio`")


def learn(choices: Sequence[Choice], out: Path, update: Callable[..., object] = lambda done, total: None) -> Path:
    """Learn a taste and write it into the folder `out`; returns the file.

    Args:
        choices: what to learn from.
        out: the folder; a taste in it is replaced.
        update: called with how many of the `total` stories have been read.

    Raises:
        InputError: there are no choices, or the folder cannot be written.
    """
    check(choices)
    return Taste.learn(choices, update).save(out)


def agreement(choices: Sequence[Choice]) -> Agreement | None:
    """How often a taste agrees with answers that it has not seen: cross-validation in ten parts.

    Answers for one prompt stay in one part, so that no story is both learned from and asked about. Only clear choices
    are asked about (weight 1 or more: one is better, or marks two or more apart); the others are learned from. None:
    fewer than 10 of them, or all for one prompt.
    """
    prompts = list(dict.fromkeys((choice.first.premise, choice.first.goal) for choice in choices))
    parts = torch.tensor([prompts.index((choice.first.premise, choice.first.goal)) % _FOLDS for choice in choices])
    better = torch.tensor([choice.first_better for choice in choices])
    weights = torch.tensor([choice.weight for choice in choices])
    asked = (weights >= 1) & (better != 0.5)
    if int(asked.sum()) < FEWEST or len(prompts) < 2:
        return None
    places: dict[StoryText, int] = {}
    for choice in choices:
        for story in (choice.first, choice.second):
            places.setdefault(story, len(places))
    features, shipped = taste_features(list(places)), load_shipped(shipped_weights()).scores(list(places))
    first, second = torch.tensor([[places[c.first], places[c.second]] for c in choices]).T
    gaps, general = features[first] - features[second], counted(shipped)[first] - counted(shipped)[second]
    right = torch.zeros(len(choices), dtype=torch.bool)
    for part in range(min(_FOLDS, len(prompts))):
        known, test = parts != part, parts == part
        scores = Taste.fit(gaps[known], general[known], better[known], weights[known]).combine(features, shipped)
        right[test] = ((scores[first] > scores[second]) == (better > 0.5))[test]
    count, shipped_right = int(asked.sum()), (shipped[first] > shipped[second]) == (better > 0.5)
    return Agreement(Share(int(right[asked].sum()), count), Share(int(shipped_right[asked].sum()), count))


def leanings(taste: Taste, most: int = 4) -> list[str]:
    """What the taste likes more than the shipped model does, in words, the strongest first."""
    weights = taste.delta[: len(MEASURES)].tolist()
    order = sorted(range(len(weights)), key=lambda place: -abs(weights[place]))[:most]
    return [_WORDS[MEASURES[place]][weights[place] < 0] for place in order if abs(weights[place]) >= _LEAST]
