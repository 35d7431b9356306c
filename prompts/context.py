"""What of a story the model reads before it writes the next turn, part by part.

In reading order: the instruction; premise, goal, characters, memory, lore and style; the latest turns that fit, with
the author's note among them. The parts are what a context viewer shows, and their tokens in a row are what the model
gets. What it leaves out: the text format (prompts/template.py).
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from prompts.template import encode_head, format_turn, head_text, prompt_lines
from storyrl.story import LoreEntry, Prompt, Story, Turn

LORE_SHARE = 4
"""Lore takes at most the budget divided by this."""
LORE_WINDOW = 8
"""In how many of the latest turns the keys of lore are looked for; the premise counts as the turn before the first."""
_STEPS = 8  # in how many steps the room for turns is emptied; see `first_turn`
_BEFORE_STYLE = ("premise", "goal", "characters", "memory", "lore")


@dataclass(frozen=True)
class Part:
    """A piece of the context, or of what had no room in it."""

    kind: str
    """instruction, premise, goal, characters, memory, lore, style, note or turn."""
    label: str
    text: str
    """What the model reads, line breaks and all."""
    ids: tuple[int, ...]
    """The tokens of `text`."""
    included: bool = True
    why: str = ""
    """Why lore came in, and why a part was cut or left out."""

    @property
    def tokens(self) -> int:
        """How many tokens it takes, or would take."""
        return len(self.ids)


@dataclass(frozen=True)
class Context:
    """The parts in reading order; those that are not included stand where they would have stood."""

    parts: tuple[Part, ...]
    budget: int
    """The most tokens that there may be."""

    @property
    def ids(self) -> list[int]:
        """The tokens that the model gets."""
        return [token for part in self.parts if part.included for token in part.ids]


def context_ids(story: Story, tokenizer: Any, budget: int) -> list[int]:
    """What the model reads before it writes the next turn, in at most `budget` tokens; the rule: `context_parts`."""
    return context_parts(story, tokenizer, budget).ids


def context_parts(story: Story, tokenizer: Any, budget: int) -> Context:
    """What the model reads before it writes the next turn, in at most `budget` tokens, and what it had no room for.

    Premise, goal, characters, memory and style always stay whole. Enabled lore joins the memory in its order when it
    is always in or when a key of it stands in the latest turns, as long as it fits into a quarter of the budget. Of
    the turns come the latest that fit, whole turns only (see `first_turn`), and the author's note stands before the
    last `note_depth` of them. If the prompt alone exceeds the budget its beginning is cut (the instruction goes first).
    """
    head, unread = _head(story, tokenizer, budget)
    room = budget - sum(part.tokens for part in head)
    if room < 0:
        head = _cut(head, -room, tokenizer)
    note = _note(story.prompt, tokenizer)
    if note and note.tokens > room:
        note = replace(note, included=False, why="no room")
    if note and note.included:
        room -= note.tokens
    turns = _turns(story.turns, room, tokenizer)
    if note:
        latest = sum(part.included for part in turns)
        turns.insert(len(turns) - min(story.prompt.note_depth, latest), note)
    lore_end = max((i for i, part in enumerate(head) if part.kind in _BEFORE_STYLE), default=-1) + 1
    return Context((*head[:lore_end], *unread, *head[lore_end:], *turns), budget)


def triggered(lore: Sequence[LoreEntry], story: Story) -> list[tuple[LoreEntry, str]]:
    """The entries that come into question for the next turn, in their order, each with the reason."""
    lines = [story.prompt.premise, *(format_turn(turn) for turn in story.turns[-LORE_WINDOW:])][-LORE_WINDOW:]
    text = _plain("\n".join(lines))
    found = []
    for entry in lore:
        if entry.enabled and entry.always:
            found.append((entry, "always in"))
        elif entry.enabled and (key := next((key for key in entry.keys if _mentions(text, _plain(key))), None)):
            found.append((entry, f"key '{key}'"))
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _mentions(text: str, key: str) -> bool:
    """Whether `key` stands in `text` as a whole word or phrase."""
    return key in text and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) is not None


def _turns(turns: Sequence[Turn], room: int, tokenizer: Any) -> list[Part]:
    """The turns, of which the latest are included."""
    lines = [format_turn(turn) + "\n" for turn in turns]
    rows = tokenizer(lines, add_special_tokens=False)["input_ids"] if lines else []
    first = first_turn([len(ids) for ids in rows], room)
    return [
        Part("turn", f"Turn {n}", line, tuple(ids), included=n > first, why="" if n > first else "no room")
        for n, (line, ids) in enumerate(zip(lines, rows, strict=True), start=1)
    ]


def first_turn(tokens: Sequence[int], room: int) -> int:
    """How many of the first turns are left out, for turns of so many tokens.

    Left out is a multiple of an eighth of the room, or the few tokens more that make it whole turns. So the context of
    a long story keeps its beginning for a while as the story grows, and what was read of it need not be read again.
    Where that would leave no turn, as many are left out as must be.
    """
    ends = list(accumulate(tokens))
    excess = ends[-1] - room if ends else 0
    if excess <= 0:
        return 0
    step = max(room // _STEPS, 1)
    by_steps = bisect_left(ends, -(-excess // step) * step) + 1
    return by_steps if by_steps < len(ends) else min(bisect_left(ends, excess) + 1, len(ends))


def _note(prompt: Prompt, tokenizer: Any) -> Part | None:
    if not prompt.note:
        return None
    line = f"(Note: {' '.join(prompt.note.split())})\n"
    return Part("note", "Author's note", line, tuple(tokenizer(line, add_special_tokens=False)["input_ids"]))


def _head(story: Story, tokenizer: Any, budget: int) -> tuple[list[Part], list[Part]]:
    """The parts before the first turn, and the triggered lore that had no room."""
    lines = prompt_lines(story.prompt)
    before = [(kind, kind.capitalize(), line, "") for kind, line in lines.items() if kind != "style"]
    after = [(kind, kind.capitalize(), line, "") for kind, line in lines.items() if kind == "style"]
    head = _split([*before, *after], tokenizer)
    room = min(budget // LORE_SHARE, budget - sum(part.tokens for part in head))
    lore, unread = [], []
    for entry, why in triggered(story.prompt.lore, story):
        line = f"Memory: {' '.join(entry.text.split())}"
        label = entry.name or ", ".join(entry.keys[:3]) or "Lore"
        ids = tuple(tokenizer(line + "\n", add_special_tokens=False)["input_ids"])
        if len(ids) <= room:
            lore.append(("lore", label, line, why))
            room -= len(ids)
        else:
            unread.append(Part("lore", label, line + "\n", ids, included=False, why=f"{why}, but no room"))
    return (_split([*before, *lore, *after], tokenizer) if lore else head), unread


def _split(lines: Sequence[tuple[str, str, str, str]], tokenizer: Any) -> list[Part]:
    """The head for (kind, label, line, why), encoded as one text; a token belongs to the part in which it starts."""
    body = "\n".join(line for _, _, line, _ in lines)
    text = head_text(body, tokenizer)
    start = text.find(body)
    if start < 0 or not tokenizer.is_fast:  # a template that rewrites the prompt, a tokenizer that cannot say where
        return [Part("instruction", "Instruction and prompt", text, tuple(encode_head(text, tokenizer)["input_ids"]))]
    starts, names = [0], [("instruction", "Instruction", "")]
    for kind, label, line, why in lines:
        starts.append(start)
        names.append((kind, label, why))
        start += len(line) + 1
    starts.append(start - 1)
    names.append(("instruction", "Start of the story", ""))
    encoded = encode_head(text, tokenizer, return_offsets_mapping=True)
    rows: list[list[int]] = [[] for _ in starts]
    row = 0
    for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        row = max(row, bisect_right(starts, begin) - 1)  # special tokens say 0 wherever they stand
        rows[row].append(token)
    ends = [*starts[1:], len(text)]
    return [
        Part(kind, label, text[begin:end], tuple(ids), why=why)
        for (kind, label, why), begin, end, ids in zip(names, starts, ends, rows, strict=True)
    ]


def _cut(parts: Sequence[Part], excess: int, tokenizer: Any) -> list[Part]:
    """The parts without their first `excess` tokens."""
    kept = []
    for part in parts:
        if excess >= part.tokens:
            kept.append(replace(part, included=False, why="no room"))
        elif excess > 0:
            ids = part.ids[excess:]
            kept.append(replace(part, text=tokenizer.decode(ids), ids=ids, why="its beginning had no room"))
        else:
            kept.append(part)
        excess = max(0, excess - part.tokens)
    return kept
