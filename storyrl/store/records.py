"""What the store takes and gives, as plain data: marks, comparisons, shown candidates, lines of the library."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from storyrl.errors import InputError
from storyrl.story import Prompt, Turn

OWNER = "local"
"""Whose stories and ratings these are where nobody signs in."""

WEAK_PREFERENCES = "weak_preferences"
"""Setting, bool: the owner agrees that picks among suggestions teach the taste model."""


class Stale(InputError):
    """The story was changed since the caller saw it; nothing was written."""


class Answer(StrEnum):
    """What a rater said of two stories."""

    A = "A"
    B = "B"
    TIE = "tie"
    BOTH_BAD = "both_bad"


@dataclass(frozen=True)
class StoryInfo:
    """A story in a list; `turns` and `words` are those of its current path."""

    id: str
    title: str
    updated: datetime
    turns: int
    words: int
    version: int
    deleted: datetime | None = None


@dataclass(frozen=True)
class ShownCandidate:
    """A candidate turn that a writer saw. The store gives the id."""

    turn: Turn
    scores: dict[str, float]
    reward: float
    picked: bool = False
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Round:
    """Candidates that were shown together for the turn after block `after` (None: for the first turn)."""

    id: int
    story_id: str
    after: int | None
    created: datetime
    candidates: tuple[ShownCandidate, ...]


@dataclass(frozen=True)
class ShownTurn:
    """All candidates that a writer saw for one turn, the oldest first, and the turns before it as they are now."""

    prompt: Prompt
    before: tuple[Turn, ...]
    candidates: tuple[ShownCandidate, ...]


@dataclass(frozen=True)
class Rating:
    """A mark from 1 to 5 for one aspect of a text. The store gives the id."""

    prompt: Prompt
    text: str
    value: int
    aspect: str = "overall"
    rater: str = OWNER
    comment: str = ""
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Comparison:
    """A blind comparison of two texts for the same prompt. The store gives the id."""

    prompt: Prompt
    text_a: str
    text_b: str
    answer: Answer
    rater: str = OWNER
    policy_a: str = ""
    policy_b: str = ""
    comment: str = ""
    id: int | None = field(default=None, compare=False)
