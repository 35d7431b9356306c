"""Rewriting a passage inside a turn: where a passage begins and ends, other versions of it, and how each one joins on.

The model reads the story up to the passage and writes on from there. A version ends as the passage did: with a
sentence, or, in mid-sentence, at the word after which the words that follow are likeliest. What it leaves out: the
reward and the order of the versions (storyrl/agent.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from prompts.context import context_ids
from prompts.template import end_at_sentence, format_turn
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import WRITING, Policy, Watch
from storyrl.story import Prompt, Story, Turn
from storyrl.tuning.episodes import Episode, collate, share_prefix
from storyrl.tuning.logprobs import can_share_prefix, plain_logprobs, shared_logprobs

FIT = "fit"
"""Under which name `Version.fit` stands among the scores of a suggestion."""
MOST_WORDS = 300
"""The longest passage that can be rewritten at once."""
_OPENING = 2000  # characters of the turn before the passage that the model reads at most
_NEARBY = 512  # tokens of the story that are read to judge a joint
_FOLLOWING = 24  # tokens after the passage whose probability is asked
_JOINTS = 1200  # tokens that are read for all joints together, about
_MOST_ENDS = 8  # of one version that are tried
_SHORT = 6  # words; for a passage up to this length twice as many are drawn, because many come out the same
_STILL = 3  # looks without anything new after which a version is over
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Passage:
    """The characters from `start` to `end` of the text of a story's turn `number` (from 0)."""

    number: int
    start: int
    end: int


@dataclass(frozen=True)
class Version:
    """Other words for a passage: the whole turn with them."""

    turn: Turn
    fit: float | None
    """Nats a token by which the words that follow are likelier than after the old passage; None: nothing follows."""
    whole: bool
    """False where it breaks off in a sentence although the passage ended one."""
    tokens: int
    """How many were written for it."""


def passage(story: Story, number: int, start: int, end: int) -> Passage:
    """The whole words at the characters `start` to `end` of a turn, with what closes their sentence.

    Raises:
        InputError: no word stands there, or too many, or the story has no such turn.
    """
    if not 0 <= number < len(story.turns):
        raise InputError(f"block {number + 1}: the story has {len(story.turns)} blocks; select the words again")
    text = story.turns[number].text
    words = [match.span() for match in _WORD.finditer(text)]
    inside = [(first, last) for first, last in words if first < end and last > start]
    if not inside:
        raise InputError("Please select the words that shall be written anew.")
    if len(inside) > MOST_WORDS:
        raise InputError(f"At most {MOST_WORDS} words can be written anew at once; you selected {len(inside)}.")
    first = 0 if inside[0] == words[0] and start <= 0 else inside[0][0]
    last = inside[-1][1]
    close = last + len(text[last:].split(" ")[0])
    if _ends_sentence(text[:close]) or (inside[-1] == words[-1] and end >= len(text)):
        last = close
    return Passage(number, first, last)


def rewrite(
    policy: Policy,
    story: Story,
    where: Passage,
    versions: int,
    seed: int,
    sampling: Sampling = WRITING,
    hint: str = "",
    watch: Watch | None = None,
) -> list[Version]:
    """Up to so many distinct other versions of a passage; fewer where the model repeats itself or was stopped.

    Args:
        sampling: its `max_tokens` does not count; that follows from the passage.
        hint: a wish, which the model reads as the author's note right before the turn.
        watch: told after every token what each version says so far, without the words before the passage.
    """
    turn = story.turns[where.number]
    before, old, after = turn.text[: where.start], turn.text[where.start : where.end], turn.text[where.end :]
    so_far = story.model_copy(update={"turns": story.turns[: where.number]})
    asked = so_far.model_copy(update={"prompt": _with_hint(so_far.prompt, hint)})
    drafts = _Drafts(
        _line(turn, before), old, whole_sentence=not _WORD.search(after) or _ends_sentence(old), watch=watch
    )
    tokens = len(policy.tokenizer(old, add_special_tokens=False)["input_ids"])
    sampling = replace(sampling, max_tokens=2 * tokens + 16)
    count = versions if len(old.split()) > _SHORT else 2 * versions
    [drawn] = policy.write([asked], count, seed, sampling, may_end=False, opening=drafts.opening, watch=drafts.look)
    follows = _follows(story, where)
    most = min(max(_JOINTS // (count * (tokens + _FOLLOWING)), 1), _MOST_ENDS) if follows else 1
    ends = [drafts.ends(text, most) for text in drafts.texts]
    fits: dict[str, float] = {}
    if follows and (found := list(dict.fromkeys(words for row in ends for words in row))):
        first, *rest = joints(policy, so_far, [_line(turn, before + words) for words in (old, *found)], follows)
        fits = {words: fit - first for words, fit in zip(found, rest, strict=True)}
    kept: dict[str, Version] = {}
    for row, candidate in zip(ends, drawn, strict=True):
        if new_ends := [words for words in row if words != old and words not in kept]:
            words = max(new_ends, key=lambda each: fits.get(each, 0.0))
            new = turn.model_copy(update={"text": before + words + after, "author": "policy"})
            whole = not drafts.whole_sentence or _ends_sentence(words)
            kept[words] = Version(new, fits.get(words), whole, candidate.tokens)
    return list(kept.values())[:versions]


@torch.inference_mode()
def joints(policy: Policy, story: Story, lines: Sequence[str], follows: str) -> list[float]:
    """Mean log-probability (nats a token) of the first tokens of `follows` after each of some lines of a next turn.

    They are read in one batch, after as much of the story as is near.
    """
    tokenizer, device = policy.tokenizer, policy.model.device
    context = context_ids(story, tokenizer, _NEARBY)
    heads = tokenizer(list(lines), add_special_tokens=False)["input_ids"]
    wholes = tokenizer([line + follows for line in lines], add_special_tokens=False)["input_ids"]
    episodes, counts = [], []
    for head, ids in zip(heads, wholes, strict=True):
        same = next((at for at, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b), len(head))
        ids = ids[: same + _FOLLOWING]
        episodes.append(Episode(context + ids, [False] * (len(context) + same) + [True] * (len(ids) - same)))
        counts.append(len(ids) - same)
    if can_share_prefix(policy.model):
        logprobs, _ = shared_logprobs(policy.model, share_prefix(episodes, device))
    else:
        logprobs, _ = plain_logprobs(policy.model, collate(episodes, device))
    return [float(row.mean()) for row in logprobs.float().split(counts)]


class _Drafts:
    """The versions as they are written: what each says so far, when there is enough, and where each may end."""

    def __init__(self, opening: str, old: str, whole_sentence: bool, watch: Watch | None):
        self.opening, self.whole_sentence, self._watch = opening, whole_sentence, watch
        self.texts: list[str] = []
        self._length = len(old.split())
        self._still: list[int] = []

    def look(self, texts: list[str]) -> bool:
        """Takes what the policy wrote so far; False: that is enough."""
        new = [text[len(self.opening) :].strip() for text in texts]
        self.texts, before = new, self.texts or [""] * len(new)
        self._still = [
            count + 1 if now == then else 0
            for count, now, then in zip(self._still or [0] * len(new), new, before, strict=True)
        ]
        going = self._watch is None or self._watch(new)
        return going and not all(
            still >= _STILL or self._enough(text) for still, text in zip(self._still, new, strict=True)
        )

    def _enough(self, text: str) -> bool:
        words = len(text.split())
        if self.whole_sentence:
            return words >= self._length and (_ends_sentence(text) or words > 1.7 * self._length + 8)
        return words > 1.6 * self._length + 2

    def ends(self, text: str, most: int) -> list[str]:
        """What a version may be, cut at up to `most` places near the old passage's length; the nearest first."""
        cuts = [text[: match.end()] for match in re.finditer(r"\S+", text)]
        if self.whole_sentence:
            whole, most = [cut for cut in cuts if _ends_sentence(cut)], 1
            cuts = whole or cuts[-1:]
        elif len(cuts) > 1 and not _ends_sentence(text):
            cuts.pop()  # the last word may go on
        cuts = [cut for cut in cuts if 0.5 * self._length <= len(cut.split()) <= 1.6 * self._length + 1] or cuts
        cuts.sort(key=lambda cut: abs(len(cut.split()) - self._length))
        if not self.whole_sentence:
            cuts = [cut.rstrip(",;:.!?…—-") for cut in cuts]
        return [cut for cut in dict.fromkeys(cuts) if _WORD.search(cut)][:most]


def _ends_sentence(text: str) -> bool:
    return end_at_sentence(text) == (text, True)


def _line(turn: Turn, words: str) -> str:
    """The line of a turn that says these words so far; of many, the last ones."""
    nearby = words[-_OPENING:].partition(" ")[2] if len(words) > _OPENING else words
    return format_turn(turn.model_copy(update={"text": nearby})).rstrip()


def _with_hint(prompt: Prompt, hint: str) -> Prompt:
    if not hint.strip():
        return prompt
    note = "; ".join(each for each in (prompt.note, hint.strip()) if each)
    return prompt.model_copy(update={"note": note, "note_depth": 0})


def _follows(story: Story, where: Passage) -> str:
    """What a version must lead to: the rest of its turn, or else the next turn."""
    after = story.turns[where.number].text[where.end :]
    if _WORD.search(after):
        return after
    return after + "\n" + format_turn(story.turns[where.number + 1]) if where.number + 1 < len(story.turns) else ""
