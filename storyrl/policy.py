"""The policy: stories in, candidate turns out; prompts in, rollouts out.

It wraps a language model and its tokenizer. The model chooses the kind of each turn and its speaker as tokens; this
file only reads them back. What it leaves out: scoring and ranking (storyrl/agent.py), learning (storyrl/tuning).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prompts.context import Context, context_ids, context_parts
from prompts.template import end_at_sentence, format_turn, parse_turn, parse_turns
from storyrl import models
from storyrl.choosing import ROLLOUT, Sampling
from storyrl.decoding import Sampled, read_ahead, sample
from storyrl.prefix_cache import PrefixCache
from storyrl.story import Prompt, Story, Turn
from storyrl.tuning.episodes import Episode

WRITING = Sampling(max_tokens=70, temperature=0.5, top_k=40, top_p=0.9)
"""How turns are sampled for people; rollouts of tuning are sampled with `ROLLOUT`."""


Watch = Callable[[list[str]], bool]
"""Told after every token what each candidate says so far; once it answers False, the writing stops there."""


@dataclass(frozen=True)
class Candidate:
    """One possible next turn; `turn` is None when the policy ended the story instead."""

    turn: Turn | None
    tokens: int
    logprob: float  # of all its tokens, nats
    whole: bool  # ends with a sentence end


@dataclass(frozen=True)
class Rollout:
    """A story written in one go, as text and as tokens."""

    story: Story
    episode: Episode


class Policy:
    """A language model that acts in turns."""

    def __init__(self, model: Any, tokenizer: Any, name: str):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.context_limit = models.context_size(model)
        self._known = PrefixCache()
        vocabulary = model.get_input_embeddings().num_embeddings
        pieces = tokenizer.batch_decode([[token] for token in range(min(vocabulary, len(tokenizer)))])
        self._line_ends = {token for token, piece in enumerate(pieces) if "\n" in piece}
        ends = model.generation_config.eos_token_id if model.generation_config else None
        ends = ends if isinstance(ends, list) else [ends]
        self._story_ends = {token for token in [*ends, tokenizer.eos_token_id] if token is not None}

    @classmethod
    def load(
        cls, spec: str = models.DEFAULT_POLICY, device: str = "auto", dtype: torch.dtype | None = None
    ) -> "Policy":
        """The policy that a spec names (see storyrl/models.py).

        Raises:
            InputError: no such model.
        """
        return cls(*models.load(spec, device=device, dtype=dtype), name=spec)

    def write(
        self,
        stories: Sequence[Story],
        candidates: int,
        seed: int,
        sampling: Sampling = WRITING,
        may_end: bool = True,
        opening: str = "",
        watch: Watch | None = None,
    ) -> list[list[Candidate]]:
        """Draw `candidates` next turns for each story; each begins with `opening`, a tag or more of a turn's line.

        The random numbers of a candidate depend on the seed, the story's id, its number of turns and the candidate's
        number only, so a story comes out the same whatever else is written beside it (up to rounding of the model's
        arithmetic, which may differ between batch sizes).
        """
        start = list(self.tokenizer(opening, add_special_tokens=False)["input_ids"]) if opening else []
        budget = self.context_limit - sampling.max_tokens - len(start)
        contexts = [context_ids(story, self.tokenizer, budget) + start for story in stories]
        keys = [(seed, story.id, len(story.turns), number) for story in stories for number in range(candidates)]
        uniforms = uniform_rows(keys, sampling.max_tokens)
        stops = self._line_ends | self._story_ends
        never_first = self._line_ends if may_end and not opening else stops
        drawn = sample(
            *(self.model, contexts, candidates, uniforms, sampling, stops, never_first),
            refuse=self._refuser(sampling.banned, opening),
            known=self._known,
            watch=watch and (lambda rows: watch([self._text(opening, row) for row in rows])),
            is_exact=False,
        )
        return [[self._candidate(opening, row) for row in rows] for rows in drawn]

    def read_ahead(self, story: Story, sampling: Sampling = WRITING, most: int = 256) -> bool:
        """Read the next `most` tokens of what `write` would have to read first; whether more are left.

        256 tokens of a long story are about a second's work for the bundled model on two cores.
        """
        ids = context_ids(story, self.tokenizer, self.context_limit - sampling.max_tokens)
        return read_ahead(self.model, ids, most, self._known) > 0

    def context(self, story: Story, sampling: Sampling = WRITING) -> Context:
        """What the model reads before it writes the next turn, part by part, and what it had no room for."""
        return context_parts(story, self.tokenizer, self.context_limit - sampling.max_tokens)

    def _refuser(self, banned: Sequence[str], opening: str) -> Callable[[list[int], int], bool] | None:
        """Whether a row's next token would complete a banned phrase: its words from a word's beginning, in any case."""
        phrases = [r"\s+".join(map(re.escape, phrase.split())) for phrase in banned if phrase.strip()]
        if not phrases:
            return None
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})", re.IGNORECASE)
        return lambda ids, token: bool(pattern.search(self._text(opening, [*ids, token]), len(opening)))

    def _text(self, opening: str, ids: list[int]) -> str:
        return (opening + str(self.tokenizer.decode(ids, skip_special_tokens=True))).split("\n")[0]

    def _candidate(self, opening: str, row: Sampled) -> Candidate:
        turn = parse_turn(self._text(opening, row.ids))
        if turn is None:
            return Candidate(None, len(row.ids), sum(row.logprobs), whole=row.stopped)
        words, whole = end_at_sentence(turn.text)
        return Candidate(turn.model_copy(update={"text": words}), len(row.ids), sum(row.logprobs), whole)

    def rollout(self, prompts: Sequence[Prompt], samples: int, max_tokens: int, seed: int) -> list[Rollout]:
        """Write `samples` stories for each prompt in one go, at temperature 1 with nothing cut off.

        All tokens after the prompt are action tokens. Returns them prompt by prompt; `episode.group` is the prompt's
        number. A story that met the limit is marked truncated, and its text ends at its last whole sentence (a
        turn without one is left out of the text, unless it is the only one).
        """
        sampling = Sampling(max_tokens=max_tokens) if max_tokens != ROLLOUT.max_tokens else ROLLOUT
        room = self.context_limit - max_tokens
        contexts = [context_ids(Story(id=prompt.id, prompt=prompt), self.tokenizer, room) for prompt in prompts]
        keys = [(seed, prompt.id, 0, number) for prompt in prompts for number in range(samples)]
        uniforms = uniform_rows(keys, max_tokens)
        drawn = sample(self.model, contexts, samples, uniforms, sampling, self._story_ends, set())
        return [
            Rollout(self._story(f"{prompt.id}-{number}", prompt, row), self._episode(context, row, group))
            for group, (prompt, context, rows) in enumerate(zip(prompts, contexts, drawn, strict=True))
            for number, row in enumerate(rows)
        ]

    def _story(self, story_id: str, prompt: Prompt, row: Sampled) -> Story:
        turns = parse_turns(self.tokenizer.decode(row.ids, skip_special_tokens=True))
        if turns and not row.stopped:
            words, whole = end_at_sentence(turns[-1].text)
            if whole or len(turns) == 1:
                turns[-1] = turns[-1].model_copy(update={"text": words})
            else:
                turns.pop()
        return Story(id=story_id, prompt=prompt, turns=tuple(turns))

    def story_so_far(self, rollout: Rollout, tokens: int) -> Story:
        """The story as its first so many action tokens tell it."""
        episode, story = rollout.episode, rollout.story
        actions = [token for token, is_action in zip(episode.ids, episode.is_action_token, strict=True) if is_action]
        return self._story(story.id, story.prompt, Sampled(actions[:tokens], [], stopped=True))

    def _episode(self, context: list[int], row: Sampled, group: int) -> Episode:
        return Episode(
            ids=context + row.ids,
            is_action_token=[False] * len(context) + [True] * len(row.ids),
            behaviour_logprobs=row.logprobs,
            group=group,
            turn_ends=self._turn_ends(row.ids),
            truncated=not row.stopped,
        )

    def _turn_ends(self, ids: list[int]) -> tuple[int, ...]:
        """After how many tokens each turn is over, its line end included; the end of the story goes with the last."""
        words = len(ids) - bool(ids and ids[-1] in self._story_ends)
        ends = [at for at in range(1, words) if ids[at - 1] in self._line_ends and ids[at] not in self._line_ends]
        return (*ends, len(ids))

    def count_tokens(self, turns: Sequence[Turn]) -> int:
        """How many tokens turns take in the context."""
        return sum(
            len(self.tokenizer(format_turn(turn) + "\n", add_special_tokens=False)["input_ids"]) for turn in turns
        )


def uniform_rows(keys: Sequence[tuple[object, ...]], width: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), [len(keys), width]; a row depends on its key only."""
    rows = []
    for key in keys:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        rows.append(torch.rand(width, generator=torch.Generator().manual_seed(int.from_bytes(digest) >> 1)))
    return torch.stack(rows)
