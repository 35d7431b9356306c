"""Guards: plain measures of things that a reward-hungry policy does and a reader hates.

Each gives 0 for a clean story up to 1 for nothing but the fault, by rules that one can read; none runs a model. They
are not standardised (most honest stories have 0, with no spread), so a guard's weight is what the whole fault costs.
"""

import math
import re
from collections.abc import Mapping, Sequence

from prompts.template import split_sentences
from rewards.base import Scorer, StoryText

_SHORTEST = 25  # words; a story of fewer is more and more a fragment
_FIRST_PART = 1 / 3
_COPIED_RUN = 5  # words in a row
_ECHO_FROM = 0.45  # share of content words; 120 stories of the default policy reach 0.42, written ones 0.29
_ECHO_WORDS = 30  # of fewer content words no share is taken
_RETOLD_FROM = 0.57  # share of the premise's words; the same 120 stories reach 0.56, written ones 0.48
_RETOLD_WORDS = 60  # content words in which a premise can be retold; longer stories come to its words by the way
_PREMISE_WORDS = 10  # of a premise of fewer no share is taken
_STATED_FROM = 0.32  # share of the goal's words in a sentence, on average; honest stories reach 0.31
_STATED_SENTENCES, _GOAL_WORDS = 5, 4  # of fewer no share is taken

_STOP_WORDS = frozenset(
    """
    a an and are as at be been but by did do for from had has have he her hers him his i in into is it its me my not of
    off on or our out she so than that the their them they this to up was we were what when which who will with you your
    """.split()  # noqa: SIM905
)

_ASSISTANT = re.compile(
    r"""^\s*(?:sure|certainly|of\ course|absolutely)\b.{0,20}\b(?:here|i)\b
      | ^\s*(?:title|goal|premise|note|summary|moral|story|chapter|genre|characters?|the\ end)\b\s*[:.]
      | \b(?:
          here(?:'s|\ is|\ are)\ (?:a|an|the|my|your|another)\b.{0,30}
            \b(?:story|tale|continuation|version|scene|turn|draft)
        | as\ an?\ (?:ai|language\ model|assistant) | language\ model | let\ me\ know\ if | feel\ free\ to
        | i\ (?:hope|trust)\ (?:this|that|you)\b.{0,20}\b(?:helps?|enjoy(?:ed)?|story|works) | would\ you\ like\ me\ to
        | i\ (?:can|will|'ll)\ (?:also\ )?(?:write|rewrite|continue|add|expand|help\ you)
        | i\ (?:wanted|chose|decided|tried)\ to\ (?:start|begin|open|end|close|keep|leave|show)
        | shall\ i\ (?:also\ )?(?:write|rewrite|add|expand|continue)
        | which\ (?:part|ending|version)\ (?:did|do|would)\ you
        | (?:this|our)\ (?:story|tale|narrative|passage|scene|ending|premise) | (?:this|next)\ version | in\ this\ draft
        | the\ (?:story|narrative|premise|readers?|protagonist|narrator|main\ character|moral|author|best\ stories)
        | (?:the|its)\ (?:theme|pacing) | in\ (?:conclusion|summary|this\ (?:story|scene))
        | word\ count | to\ be\ continued | some\ tips | feedback | happy\ writing
        | (?:good|great|moving|wonderful|unforgettable)\ (?:story|tale)\ (?:should|that|of) | moving\ (?:moment|scene)
        | masterpiece | storytelling | imagery | unforgettable | suitable\ for\ (?:ages|children) | build\ tension
        | great\ (?:choice|prompt|question) | consider\ (?:adding|using|ending|giving)
        )\b
      | \btips?\b(?:\ \w+)?\s*:""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKUP = re.compile(r"[\[\]{}<>#|\\=]|\*\*|__|https?:|\ufffd")


class Repetition(Scorer):
    """Share of the story that says again what it has said, within a turn or across turns, 0 to 1.

    The largest of three shares: word trigrams that occurred before, sentences that occurred before, and sentences
    three quarters of whose words stood together in one sentence before.
    """

    name = "repetition"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of each story."""
        return [_repetition(story.text) for story in stories]


class Premature(Scorer):
    """How far the first third of the story already states the goal, 0 to 1: the largest share of the goal's content
    words that stand in one of its sentences, counted from one half up."""

    name = "premature"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share for each story; 0 without a goal."""
        return [_premature(story) for story in stories]


class Format(Scorer):
    """Share of the story's lines that are no clean turn, 0 to 1: stray tags or markup, no word, or broken off in the
    middle of a sentence (the last line may be)."""

    name = "format"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of each story; 1 for an empty one."""
        return [_broken(story.text) for story in stories]


class AssistantTalk(Scorer):
    """Share of sentences that talk to the user or about the story instead of telling it, 0 to 1."""

    name = "assistant"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of each story."""
        return [_share([bool(_ASSISTANT.search(s)) for s in split_sentences(story.text)]) for story in stories]


class Copying(Scorer):
    """Share of the story that copies its prompt, 0 to 1: words within runs of five or more that stand in the premise
    or the goal too. The goal's own sentence, pasted or with other endings or one other word, counts as at least one
    half."""

    name = "copying"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of each story."""
        return [_copied(story) for story in stories]


class Echo(Scorer):
    """How far the story only turns over its prompt's words, in whatever order, 0 to 1; the largest of three shares.

    The share of its content words that the premise or the goal has too, counted from 0.45 up: keyword soup. The share
    of the premise's content words that it says again, counted from 0.57 up, and less the longer the story goes on: a
    premise retold in other words keeps what it is about. And the share of the goal's content words that a sentence has
    on average, counted from 0.32 up: the goal said again and again.
    """

    name = "echo"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share for each story."""
        return [_echoed(story) for story in stories]


class TooShort(Scorer):
    """How far a finished story falls short of 25 words, 0 to 1."""

    name = "short"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Share of the 25 words that are missing."""
        return [max(0.0, 1 - len(_words(s.text)) / _SHORTEST) if s.finished else 0.0 for s in stories]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _repetition(text: str) -> float:
    words = _words(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    seen: list[frozenset[str]] = []
    again: list[bool] = []
    for sentence in split_sentences(text):
        bag = frozenset(_words(sentence))
        again.append(any(bag == old or (len(bag) > 3 and len(bag & old) >= 0.75 * len(bag | old)) for old in seen))
        seen.append(bag)
    return max(1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0, _share(again))


def _content(text: str) -> list[str]:
    """Stems of the words that carry meaning; a stem is the first five letters."""
    return [word[:5] for word in _words(text) if word not in _STOP_WORDS]


def _echoed(story: StoryText) -> float:
    told, premise, goal = _content(story.text), set(_content(story.premise)), set(_content(story.goal))
    share = sum(word in premise or word in goal for word in told) / max(len(told), _ECHO_WORDS)
    retold = len(premise.intersection(told)) / max(len(premise), _PREMISE_WORDS)
    retold *= min(1.0, _RETOLD_WORDS / max(len(told), 1))
    sentences = split_sentences(story.text)
    again = sum(len(goal.intersection(_content(sentence))) for sentence in sentences)
    stated = again / (max(len(goal), _GOAL_WORDS) * max(len(sentences), _STATED_SENTENCES))
    shares = (share, _ECHO_FROM), (retold, _RETOLD_FROM), (stated, _STATED_FROM)
    return max(0.0, *((value - start) / (1 - start) for value, start in shares))


def _premature(story: StoryText) -> float:
    goal, sentences = set(_content(story.goal)), split_sentences(story.text)
    first = sentences[: max(1, round(len(sentences) * _FIRST_PART))] if len(sentences) > 1 else []
    if not goal or not first:
        return 0.0
    stated = max(len(goal.intersection(_content(sentence))) for sentence in first) / len(goal)
    return max(0.0, 2 * stated - 1)


def _broken(text: str) -> float:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return 1.0
    unended = [not re.search(r"""[.!?…—:;-]["'”’)]*$""", line) for line in lines]
    unended[-1] = False
    return _share(
        [bool(_MARKUP.search(line)) or not _words(line) or late for line, late in zip(lines, unended, strict=True)]
    )


def _copied(story: StoryText) -> float:
    words, goal = _words(story.text), _words(story.goal)
    runs = {
        tuple(source[at : at + _COPIED_RUN])
        for source in (_words(story.premise), goal)
        for at in range(len(source) - _COPIED_RUN + 1)
    }
    copied = [False] * len(words)
    for at in range(len(words) - _COPIED_RUN + 1):
        if tuple(words[at : at + _COPIED_RUN]) in runs:
            copied[at : at + _COPIED_RUN] = [True] * _COPIED_RUN
    return max(_share(copied), 0.5 if _pasted(story.text, goal) else 0.0)


def _pasted(text: str, goal: list[str]) -> bool:
    """Whether the goal's sentence stands in the story: word for word; three quarters of one of five words or more in
    one run, with other endings (talks, talked); or as a sentence that has at most one other word and one more (stands,
    stood)."""
    words = _words(text)
    if len(goal) >= 3 and f" {' '.join(goal)} " in f" {' '.join(words)} ":
        return True
    asked, told = _beginnings(goal), f" {' '.join(_beginnings(words))} "
    run = math.ceil(0.75 * len(asked))
    if len(asked) >= 5 and any(f" {' '.join(asked[at : at + run])} " in told for at in range(len(asked) - run + 1)):
        return True
    if len(asked) < 4:
        return False
    same = len(asked) - (len(asked) >= 5)  # words, in order
    sentences = (_beginnings(_words(sentence)) for sentence in split_sentences(text))
    return any(same <= len(s) <= len(asked) + 1 and _common(asked, s) >= same for s in sentences)


def _beginnings(words: Sequence[str]) -> list[str]:
    return [word[:4] for word in words]


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    longest = [0] * (len(second) + 1)
    for a in first:
        row = longest.copy()
        for at, b in enumerate(second, start=1):
            longest[at] = row[at - 1] + 1 if a == b else max(row[at], longest[at - 1])
    return longest[-1]


GUARDS: Mapping[str, type[Scorer]] = {
    guard.name: guard for guard in (Repetition, Premature, Format, AssistantTalk, Copying, Echo, TooShort)
}
