"""Guards: plain measures of things that a reward-hungry policy does and a reader hates."""

import re
from collections.abc import Sequence

from prompts.template import split_sentences
from rewards.base import Scorer, StoryText


class Repetition(Scorer):
    """Share of the story that says again what it has said, 0 (nothing) to 1; higher is worse.

    The larger of two shares: word trigrams that occurred before, and sentences that occurred before.
    """

    name = "repetition"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of each story."""
        return [max(_repeated(_trigrams(s.text)), _repeated(_sentences(s.text))) for s in stories]


def _trigrams(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return list(zip(words, words[1:], words[2:], strict=False))


def _sentences(text: str) -> list[str]:
    return [" ".join(re.findall(r"\w+", sentence.lower())) for sentence in split_sentences(text)]


def _repeated(things: Sequence[object]) -> float:
    return 1 - len(set(things)) / len(things) if things else 0.0
