"""The agent: a policy that proposes turns and a reward that ranks them.

Used by batch generation and by the studio alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prompts.context import Context
from rewards.base import StoryText
from rewards.composite import Composite
from storyrl.choosing import Sampling
from storyrl.policy import WRITING, Candidate, Policy, Watch
from storyrl.rewrite import FIT, Passage, rewrite
from storyrl.story import Story, Turn, prose

_UNFINISHED = -100.0  # added to the reward of a turn that breaks off in mid-sentence: it goes behind every whole one


@dataclass(frozen=True)
class Suggestion:
    """A candidate turn with what the scorers say of the story that it would make."""

    turn: Turn
    text: str
    scores: dict[str, float]
    bars: dict[str, float]  # 0..1, see Composite.bars
    reward: float
    tokens: int
    whole: bool


class Agent:
    """Writes stories turn by turn, each turn the best of several by reward."""

    def __init__(self, policy: Policy, reward: Composite):
        self.policy, self.reward = policy, reward

    @property
    def policy_name(self) -> str:
        """The policy's spec."""
        return self.policy.name

    def suggest(
        self,
        story: Story,
        candidates: int,
        seed: int,
        sampling: Sampling = WRITING,
        opening: str = "",
        watch: Watch | None = None,
    ) -> list[Suggestion]:
        """Distinct next turns for a story, best first; at least one, unless `watch` stopped the writing too early.

        `opening` is what each turn's line begins with: "[narrate]", "[say Mira]", "[say" (whoever), or some words too.
        """
        drawn = self.policy.write([story], candidates, seed, sampling, may_end=False, opening=opening, watch=watch)
        return self._ranked([story], drawn)[0]

    def read_ahead(self, story: Story, sampling: Sampling = WRITING) -> bool:
        """Read a piece of what `suggest` would have to read first; whether more is left."""
        return self.policy.read_ahead(story, sampling)

    def rewrite(
        self,
        story: Story,
        where: Passage,
        versions: int,
        seed: int,
        sampling: Sampling = WRITING,
        hint: str = "",
        watch: Watch | None = None,
    ) -> list[Suggestion]:
        """Other versions of a passage, each as its whole turn, the best by reward and joint first; see storyrl/rewrite.

        The scores are those of the story up to this turn, and FIT unless nothing follows.
        """
        found = rewrite(self.policy, story, where, versions, seed, sampling, hint, watch)
        fits = {version.turn: {FIT: version.fit} for version in found if version.fit is not None}
        so_far = story.model_copy(update={"turns": story.turns[: where.number]})
        [ranked] = self._ranked([so_far], [[Candidate(v.turn, v.tokens, math.nan, v.whole) for v in found]])
        fitted = [replace(each, scores={**each.scores, **fits.get(each.turn, {})}) for each in ranked]
        return sorted(fitted, key=lambda s: -(s.reward + s.scores.get(FIT, 0.0) + (0.0 if s.whole else _UNFINISHED)))

    def context(self, story: Story, sampling: Sampling = WRITING) -> Context:
        """What the model reads before it writes the next turn."""
        return self.policy.context(story, sampling)

    def _ranked(self, stories: Sequence[Story], drawn: Sequence[Sequence[Candidate]]) -> list[list[Suggestion]]:
        ranked: list[list[Suggestion]] = []
        offers = [list({c.turn: c for c in candidates if c.turn}.values()) for candidates in drawn]
        texts = [
            StoryText(prose([*story.turns, offer.turn]), story.prompt.goal, story.prompt.premise, finished=False)
            for story, row in zip(stories, offers, strict=True)
            for offer in row
            if offer.turn
        ]
        scored = iter(zip(texts, self.reward.score(texts), strict=True))
        for row in offers:
            suggestions = []
            for offer in row:
                text, result = next(scored)
                assert offer.turn is not None
                bars = self.reward.bars(result.scores)
                suggestions.append(
                    Suggestion(offer.turn, text.text, result.scores, bars, result.reward, offer.tokens, offer.whole)
                )
            ranked.append(sorted(suggestions, key=lambda s: -(s.reward + (0.0 if s.whole else _UNFINISHED))))
        return ranked

    def write_all(
        self,
        stories: Sequence[Story],
        turns: int,
        candidates: int,
        seed: int,
        min_turns: int = 4,
    ) -> list[Story]:
        """Write up to `turns` turns to each story, side by side.

        After `min_turns` turns a story ends when at least half of its candidates end it.
        """
        stories = list(stories)
        going = list(range(len(stories)))
        for number in range(turns):
            may_end = number >= min_turns
            drawn = self.policy.write([stories[i] for i in going], candidates, seed, WRITING, may_end)
            ended = {i for i, row in zip(going, drawn, strict=True) if 2 * sum(c.turn is None for c in row) >= len(row)}
            rows = [(i, row) for i, row in zip(going, drawn, strict=True) if i not in ended]
            ranked = self._ranked([stories[i] for i, _ in rows], [row for _, row in rows])
            for (i, _), suggestions in zip(rows, ranked, strict=True):
                stories[i] = stories[i].with_turns(suggestions[0].turn)
            going = [i for i, _ in rows]
            if not going:
                break
        return stories
