"""What the store takes and gives, as plain data: marks, comparisons, shown candidates, lines of the library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from storyrl.errors import InputError
from storyrl.share import Share
from storyrl.story import Prompt, Turn

OWNER = "local"
"""Whose stories and ratings these are where nobody signs in."""

WEAK_PREFERENCES = "weak_preferences"
"""Setting, bool: the owner agrees that picks and edits of suggestions teach the taste model."""

SIDES = ("A", "B")
"""The two stories of a pair, in the order in which they are shown."""


class Stale(InputError):
    """The story or pair was changed since the caller saw it; nothing was written."""


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


class Weak(StrEnum):
    """What a writer did with a suggestion, as far as it says something of taste."""

    PICKED = "picked"
    """Took one of those that were shown together."""
    ASKED_ANEW = "asked anew"
    """Took one of a later round for the same turn: this one was passed over by asking for others."""
    EDITED = "edited"
    """Took it and changed its words."""


@dataclass(frozen=True)
class WeakPreference:
    """One turn preferred to another while writing. `key` names the two candidates (the same twice: an edit of it)."""

    how: Weak
    better: Turn
    worse: Turn
    key: tuple[int, int]
    story_id: str
    title: str
    created: datetime
    """When the better one, or what it was edited from, was shown."""


@dataclass(frozen=True)
class ShownTurn:
    """All candidates that a writer saw for one turn, the oldest first, and the turns before it as they are now.

    `weak` are the weak preferences that they amount to, without those that the writer deleted.
    """

    prompt: Prompt
    before: tuple[Turn, ...]
    candidates: tuple[ShownCandidate, ...]
    weak: tuple[WeakPreference, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Rating:
    """A mark from 1 to 5 for one aspect of a text. The store gives the id, and the answer that it belongs to."""

    prompt: Prompt
    text: str
    value: int
    aspect: str = "overall"
    rater: str = OWNER
    comment: str = ""
    id: int | None = field(default=None, compare=False)
    comparison: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Comparison:
    """A blind comparison of two texts for the same prompt. The store gives what comes after the comment.

    Of a pair from the pool it knows the two stories' ids; `repeat_of` is the answer of which this one asked again.
    """

    prompt: Prompt
    text_a: str
    text_b: str
    answer: Answer
    rater: str = OWNER
    policy_a: str = ""
    policy_b: str = ""
    comment: str = ""
    id: int | None = field(default=None, compare=False)
    story_a: int | None = field(default=None, compare=False)
    story_b: int | None = field(default=None, compare=False)
    repeat_of: int | None = field(default=None, compare=False)
    created: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PoolStory:
    """A story that was written to be compared with others for the same prompt. The store gives the id."""

    prompt: Prompt
    text: str
    policy: str
    id: int = 0


@dataclass(frozen=True)
class Judgement:
    """What a rater says of a pair: marks from 1 to 5 by side ("A", "B") and aspect; without an answer, a draft."""

    answer: Answer | None = None
    marks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True)
class OpenPair:
    """The pair that a rater is asked about, and what was said of it so far. `key` is another one for each pair."""

    key: str
    prompt: Prompt
    text_a: str
    text_b: str
    draft: Judgement


@dataclass(frozen=True)
class BlindPair:
    """Stories of two policies for one prompt, shown as A and B; `answer` is None until it is given."""

    id: int
    prompt: Prompt
    text_before: str
    text_after: str
    after_is_a: bool
    answer: Answer | None = None

    @property
    def texts(self) -> tuple[str, str]:
        """Story A and story B."""
        both = self.text_before, self.text_after
        return both[::-1] if self.after_is_a else both

    @property
    def won(self) -> float:
        """What the answer gives the tuned policy: 1, 0, or 0.5 for a tie."""
        if self.answer is Answer.TIE:
            return 0.5
        return float((self.answer is Answer.A) == self.after_is_a)


@dataclass(frozen=True)
class BlindTest:
    """A blind test of the policy `after` against the policy `before` it, with its pairs in the order of asking."""

    id: int
    before: str
    after: str
    created: datetime
    pairs: tuple[BlindPair, ...]

    @property
    def open(self) -> BlindPair | None:
        """The next pair without an answer."""
        return next((pair for pair in self.pairs if pair.answer is None), None)

    @property
    def result(self) -> Share:
        """How often the tuned policy was preferred among the answered pairs; ties count half."""
        answered = [pair.won for pair in self.pairs if pair.answer is not None]
        return Share(sum(answered), len(answered))
