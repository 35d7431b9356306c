"""Which two stories a rater is asked about next, and the stories to ask about. No gradio.

Stories for one prompt are written side by side into the rater's pool in the store; every two of them that were not
compared yet are a pair to ask about. Which comes next is drawn, or it is the one whose answer would tell most of the
rater's taste. Now and then an answered pair is asked again, to see how far the rater agrees with themselves.
"""

import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import combinations
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from prompts.readers import read_prompts
from rewards.base import StoryText
from rewards.choices import choices_from_store
from rewards.preference import load_shipped, shipped_weights
from rewards.taste import Taste, counted, information, taste_features
from storyrl.agent import Agent
from storyrl.policy import Watch
from storyrl.store import Answer, Comparison, OpenPair, PoolStory, Store
from storyrl.story import Prompt, Story
from ui.pen import Done, Pen, Rank, Waiting

TURNS = 4
"""Turns of a story."""

ANSWERS = {
    Answer.A: "A is better",
    Answer.B: "B is better",
    Answer.TIE: "About the same",
    Answer.BOTH_BAD: "Both are bad",
}
"""The answers in the rater's words."""

_STORIES = 4  # written side by side for a prompt: six pairs
_CANDIDATES = 3  # a turn; the best by reward is taken
_LOW = 3  # pairs left to ask about, from which on more stories are written
_BLOCK = 4  # answers in a row in which the older story is A as often as B
_REPEATS_FROM, _REPEAT_CHANCE, _APART = 10, 1 / 8, 5  # answers; chance of a repeat; answers before it is asked again
_KEPT = 20_000  # stories whose features are remembered
_AT_ONCE = 16  # stories read between two looks at whether to go on

Two = tuple[PoolStory, PoolStory]


class Ways(BaseModel):
    """How a rater wants to be asked: one of the owner's settings."""

    model_config = ConfigDict(frozen=True)

    source: Literal["starter", "mine", "own"] = "starter"
    order: Literal["telling", "random"] = "telling"
    premise: str = Field("", max_length=4000, description="of the rater's own prompt")
    goal: str = Field("", max_length=4000)

    @classmethod
    def of(cls, value: object) -> "Ways":
        """The ways in a setting; whatever is none are the usual ones."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls()


class Pairs:
    """The pools of all raters; the store knows whose is meant."""

    def __init__(self, agent: Agent, store: Store, pen: Pen, draws: random.Random | None = None):
        self.agent, self.store, self.pen = agent, store, pen
        self._draws = draws or random.Random()
        self._starters = dict.fromkeys(read_prompts("starter:train"))
        self._rows: dict[StoryText, Tensor] = {}

    # --- what to ask --------------------------------------------------------------------------------------------------

    def unanswered(self, prompt: Prompt | None) -> list[Two]:
        """The pairs for a prompt (None: for any starter prompt) that were not compared yet, the older story first."""
        return self._unanswered(prompt, self.store.comparisons())

    def is_low(self, prompt: Prompt | None) -> bool:
        """Whether it is time to write more stories."""
        return len(self.unanswered(prompt)) <= _LOW

    def ask(self, prompt: Prompt | None, order: str, instead_of: OpenPair | None = None) -> OpenPair | None:
        """Open the next pair for a prompt (None: for any starter prompt); None: there is none in the pool.

        Args:
            prompt: what the stories were written to.
            order: "telling" or "random".
            instead_of: a pair that is not to be asked now.
        """
        answers = self.store.comparisons()
        sides = [c.story_a < c.story_b for c in answers if c.story_a is not None and c.story_b is not None]
        again = self._to_repeat(prompt, answers)
        if again and again.story_a and again.story_b:
            older, newer, of = min(again.story_a, again.story_b), max(again.story_a, again.story_b), again.id
        else:
            pairs = [two for two in self._unanswered(prompt, answers) if not _same(two, instead_of)]
            if not pairs:
                return None
            two = self._most_telling(pairs, answers) if order == "telling" else None
            first, second = two or self._draws.choice(pairs)
            older, newer, of = first.id, second.id, None
        return self.store.ask(*((older, newer) if older_is_a(sides, self._draws) else (newer, older)), of)

    def _unanswered(self, prompt: Prompt | None, answers: Sequence[Comparison]) -> list[Two]:
        answered = {frozenset((c.story_a, c.story_b)) for c in answers}
        of_prompt: dict[Prompt, list[PoolStory]] = defaultdict(list)
        for story in self.store.pool():
            of_prompt[story.prompt].append(story)
        return [
            two
            for each, stories in of_prompt.items()
            if self._fits(each, prompt)
            for two in combinations(stories, 2)
            if frozenset((two[0].id, two[1].id)) not in answered
        ]

    def _fits(self, prompt: Prompt, wanted: Prompt | None) -> bool:
        return prompt in self._starters if wanted is None else prompt == wanted

    def _to_repeat(self, prompt: Prompt | None, answers: Sequence[Comparison]) -> Comparison | None:
        """An answer to ask for again, mostly None."""
        if len(answers) < _REPEATS_FROM or self._draws.random() >= _REPEAT_CHANCE:
            return None
        repeated = {c.repeat_of for c in answers}
        old = [
            c
            for c in answers[:-_APART]
            if c.repeat_of is None and c.id not in repeated and c.story_a and c.story_b and self._fits(c.prompt, prompt)
        ]
        return self._draws.choice(old) if old else None

    # --- what the answer would tell -----------------------------------------------------------------------------------

    def _most_telling(self, pairs: Sequence[Two], answers: Sequence[Comparison]) -> Two | None:
        """The pair about which the taste is least certain; None: the stories of the answers or pairs are unread yet."""
        choices = choices_from_store(answers, self.store.ratings(), [])
        first, second = self._known([c.first for c in choices]), self._known([c.second for c in choices])
        read = [two for two in pairs if all(_text(story) in self._rows for story in two)]
        a, b = self._known([_text(older) for older, _ in read]), self._known([_text(newer) for _, newer in read])
        if first is None or second is None or a is None or b is None or not read:
            return None
        taste, gaps = Taste.unknown(), first - second
        if choices:
            better, weights = [c.first_better for c in choices], [c.weight for c in choices]
            taste = Taste.fit(gaps[:, :-1], gaps[:, -1], torch.tensor(better), torch.tensor(weights))
        return read[int(information(taste, (a - b)[:, :-1], (a - b)[:, -1]).argmax())]

    def _known(self, stories: Sequence[StoryText]) -> Tensor | None:
        """What was read of stories, [B, G + 1]: features of taste, and what of the shipped score is counted."""
        rows = [self._rows.get(story) for story in stories]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            return None
        return torch.stack(found) if found else torch.zeros(0, len(Taste.unknown().delta) + 1)

    def unread(self, prompt: Prompt | None) -> list[StoryText]:
        """The stories of answers and of pairs to ask about whose features are not known yet."""
        answers = self.store.comparisons()
        choices = choices_from_store(answers, self.store.ratings(), [])
        texts = [text for choice in choices for text in (choice.first, choice.second)]
        texts += [_text(story) for two in self._unanswered(prompt, answers) for story in two]
        return [text for text in dict.fromkeys(texts) if text not in self._rows]

    def read(self, stories: Sequence[StoryText]) -> None:
        """Read stories, at least one, with the models of taste; for a job of the pen."""
        features, general = taste_features(stories), counted(load_shipped(shipped_weights()).scores(stories))
        self._rows.update(zip(stories, torch.cat([features, general[:, None]], dim=1), strict=True))
        while len(self._rows) > _KEPT:
            del self._rows[next(iter(self._rows))]

    # --- what the model does ------------------------------------------------------------------------------------------

    def write(self, key: str, prompt: Prompt | None, is_awaited: bool) -> Generator[Waiting | int]:
        """Write stories for a prompt (None: for a starter prompt) into the pool, and read them; each turn is a job.

        Yields where it is in line, or how many turns are written. Ends without stories when it was stopped before.
        """
        used = {story.prompt for story in self.store.pool()} if prompt is None else set()
        starters = [each for each in self._starters if each not in used] or list(self._starters)
        prompt = prompt or self._draws.choice(starters)
        stories = [Story(id=f"pair-{number + 1}", prompt=prompt) for number in range(_STORIES)]
        rank, policy = Rank.USUAL if is_awaited else Rank.IDLE, self.agent.policy_name
        for number in range(TURNS):
            written: list[Story] = []

            for event in self.pen.run(key, self._turn(stories), "pairs", rank):
                if isinstance(event, Done):
                    written = event.result
                yield event if isinstance(event, Waiting) else number
            if not written:
                return
            stories = written
        added = self.store.add_to_pool([PoolStory(prompt, story.text, policy) for story in stories])
        texts = [_text(story) for story in added]
        for reading in self.pen.run(key, self._reader(texts), "taste", rank) if texts else ():
            yield reading if isinstance(reading, Waiting) else TURNS

    def _turn(self, stories: Sequence[Story]) -> Callable[[Watch], list[Story]]:
        return lambda _: self.agent.write_all(stories, 1, _CANDIDATES, secrets.randbits(31))

    def read_all(self, key: str, prompt: Prompt | None) -> Iterator[None]:
        """Read what is unread, a little at a time, when nobody else needs the models."""
        todo = self.unread(prompt)
        for start in range(0, len(todo), _AT_ONCE):
            for _ in self.pen.run(key, self._reader(todo[start : start + _AT_ONCE]), "taste", Rank.IDLE):
                yield

    def _reader(self, stories: Sequence[StoryText]) -> Callable[[Watch], None]:
        return lambda _: self.read(stories)


def older_is_a(sides: Sequence[bool], draws: random.Random) -> bool:
    """Whether the older story of the next pair is A: blocks of four answers, in each of which it is so twice.

    Permuted blocks (Matts & Lachin 1988); `sides` says how it was in the answers so far.
    """
    block = list(sides[len(sides) - len(sides) % _BLOCK :])
    left = [side for side in (True, False) for _ in range(_BLOCK // 2 - block.count(side))]
    return draws.choice(left)


def _text(story: PoolStory) -> StoryText:
    """A story as rewards/choices.py gives it."""
    return StoryText(story.text, story.prompt.goal, story.prompt.premise)


def _same(two: Two, pair: OpenPair | None) -> bool:
    return pair is not None and {story.text for story in two} == {pair.text_a, pair.text_b}
