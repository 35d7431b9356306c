"""What a database of ratings says of a writer's taste: the choices from which rewards/taste.py learns.

A comparison answered A or B is a choice of weight 1, a tie one of weight 0.5 that calls the two equal. Of two stories
that are both bad, neither is better (0.25), and each loses (0.25) against the latest stories that the same rater chose
for the same prompt. A pair that was asked again counts once. Marks of one rater on one aspect of a prompt's texts count
by their difference, and all aspects of a pair of texts together as much as one. What a writer did with suggestions
counts a little: one that was taken beats those beside it (the writer may have looked at the first one only), and even
less those that were passed over by asking anew; what the writer made of it beats it. Whose ratings count is for the
caller to say; suggestions do not know who saw them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Protocol

from rewards.base import StoryText
from rewards.preference import read_pairs
from rewards.taste import Choice
from storyrl.story import Prompt, Turn, prose

_TIE, _BOTH_BAD = 0.5, 0.25  # weights
_WEAK = {"picked": 0.3, "asked anew": 0.15, "edited": 0.3}
_PER_MARK, _MOST = 0.5, 1.5  # weight of two marks that differ by one, and at most
_CHOSEN = 3  # stories against which a bad one loses


class _Compared(Protocol):
    """As storyrl.store.Comparison; `answer` is "A", "B", "tie" or "both_bad"."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def text_a(self) -> str: ...
    @property
    def text_b(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def rater(self) -> str: ...
    @property
    def repeat_of(self) -> int | None: ...


class _Rated(Protocol):
    """As storyrl.store.Rating."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def text(self) -> str: ...
    @property
    def value(self) -> int: ...
    @property
    def aspect(self) -> str: ...
    @property
    def rater(self) -> str: ...


class _Weak(Protocol):
    """As storyrl.store.WeakPreference; `how` is a key of _WEAK."""

    @property
    def how(self) -> str: ...
    @property
    def better(self) -> Turn: ...
    @property
    def worse(self) -> Turn: ...


class _Shown(Protocol):
    """As storyrl.store.ShownTurn."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def before(self) -> Sequence[Turn]: ...
    @property
    def weak(self) -> Sequence[_Weak]: ...


def choices_from_store(
    comparisons: Sequence[_Compared], ratings: Sequence[_Rated], shown: Sequence[_Shown]
) -> list[Choice]:
    """The choices in what a store's methods `comparisons`, `ratings` and `shown` return."""
    found = [*_of_comparisons(comparisons), *_of_ratings(ratings), *_of_shown(shown)]
    return [choice for choice in found if choice.first.text != choice.second.text]


def _of_comparisons(all_comparisons: Sequence[_Compared]) -> Iterator[Choice]:
    comparisons = [c for c in all_comparisons if c.repeat_of is None]
    chosen: dict[tuple[Prompt, str], list[str]] = defaultdict(list)
    for c in comparisons:
        if c.answer in ("A", "B"):
            chosen[c.prompt, c.rater].append(c.text_a if c.answer == "A" else c.text_b)
    for c in comparisons:
        pair = _story(c.prompt, c.text_a), _story(c.prompt, c.text_b)
        if c.answer in ("A", "B"):
            yield Choice(*pair, float(c.answer == "A"))
        elif c.answer == "tie":
            yield Choice(*pair, 0.5, _TIE)
        else:
            yield Choice(*pair, 0.5, _BOTH_BAD)
            better = [
                text for text in dict.fromkeys(chosen[c.prompt, c.rater][::-1]) if text not in (c.text_a, c.text_b)
            ]
            for text in better[:_CHOSEN]:
                yield from (Choice(_story(c.prompt, text), bad, 1.0, _BOTH_BAD) for bad in pair)


def _of_ratings(ratings: Sequence[_Rated]) -> Iterator[Choice]:
    """Pairs of texts, the better first; of two marks for one text on one aspect the later one counts."""
    marks: dict[tuple[Prompt, str], dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for r in ratings:
        marks[r.prompt, r.rater][r.aspect][r.text] = r.value
    for (prompt, _), of_aspect in marks.items():
        shared = Counter(pair for of_text in of_aspect.values() for pair in combinations(sorted(of_text), 2))
        for of_text in of_aspect.values():
            for better, high in of_text.items():
                for worse, low in of_text.items():
                    if high > low:
                        first, second = sorted((better, worse))
                        weight = min(_MOST, _PER_MARK * (high - low)) / shared[first, second]
                        yield Choice(_story(prompt, better), _story(prompt, worse), 1.0, weight)


def _of_shown(shown: Sequence[_Shown]) -> Iterator[Choice]:
    for s in shown:
        for weak in s.weak:
            better, worse = (
                StoryText(prose([*s.before, turn]), s.prompt.goal, s.prompt.premise, finished=False)
                for turn in (weak.better, weak.worse)
            )
            yield Choice(better, worse, 1.0, _WEAK[weak.how])


def _story(prompt: Prompt, text: str) -> StoryText:
    return StoryText(text, prompt.goal, prompt.premise)


def choices_from_pairs(path: Path) -> list[Choice]:
    """The choices of a file of pairs (rewards.preference.read_pairs); a pair's margin is its weight.

    Raises:
        InputError: the file is no such file.
    """
    return [
        Choice(
            StoryText(pair["chosen"], pair.get("goal", ""), pair.get("premise", "")),
            StoryText(pair["rejected"], pair.get("goal", ""), pair.get("premise", "")),
            1.0,
            float(pair.get("margin", 1.0)),
        )
        for pair in read_pairs(path)
    ]
