"""What of a story the model reads before it writes the next turn, part by part.

In reading order: the instruction; premise, goal, characters, memory, lore and style; the latest turns that fit, with
the author's note among them. The parts are what a context viewer shows, and their tokens in a row are what the model
gets. What it leaves out: the text format (prompts/template.py).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompts.template import encode_head, format_turn, head_text, prompt_lines, turn_ids
from storyrl.story import LoreEntry, Prompt, Story, Turn

LORE_SHARE = 4
"""Lore takes at most the budget divided by this."""
LORE_WINDOW = 8
"""In how many of the latest turns the keys of lore are looked for; the premise counts as the turn before the first."""
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
    return _read(story, tokenizer, budget)[0].ids


def context_parts(story: Story, tokenizer: Any, budget: int) -> Context:
    """What the model reads before it writes the next turn, in at most `budget` tokens, and what it had no room for.

    Premise, goal, characters, memory and style always stay whole. Enabled lore joins the memory in its order when it
    is always in or when a key of it stands in the latest turns, as long as it fits into a quarter of the budget. Of
    the turns come the latest ones that fit, whole turns only, and the author's note stands before the last
    `note_depth` of them. If the prompt alone exceeds the budget its beginning is cut (the instruction goes first).
    """
    context, first = _read(story, tokenizer, budget)
    if not first:
        return context
    lines = [format_turn(turn) + "\n" for turn in story.turns[:first]]
    rows = tokenizer(lines, add_special_tokens=False)["input_ids"]
    early = [
        Part("turn", f"Turn {number}", line, tuple(ids), included=False, why="no room")
        for number, (line, ids) in enumerate(zip(lines, rows, strict=True), start=1)
    ]
    at = next((i for i, part in enumerate(context.parts) if part.kind in ("note", "turn")), len(context.parts))
    return replace(context, parts=(*context.parts[:at], *early, *context.parts[at:]))


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


def _read(story: Story, tokenizer: Any, budget: int) -> tuple[Context, int]:
    """The context without the turns that had no room, and how many those are."""
    head, unread = _head(story, tokenizer, budget)
    room = budget - sum(part.tokens for part in head)
    if room < 0:
        head = _cut(head, -room, tokenizer)
    note = _note(story.prompt, tokenizer)
    if note and note.tokens > room:
        note = replace(note, included=False, why="no room")
    if note and note.included:
        room -= note.tokens
    turns: list[Part] = []
    for number, turn in reversed(list(enumerate(story.turns, start=1))):
        part = _turn(turn, number, tokenizer)
        if part.tokens > room:
            break
        turns.insert(0, part)
        room -= part.tokens
    first = len(story.turns) - len(turns)
    if note:
        turns.insert(max(0, len(turns) - story.prompt.note_depth), note)
    lore_end = max((i for i, part in enumerate(head) if part.kind in _BEFORE_STYLE), default=-1) + 1
    return Context((*head[:lore_end], *unread, *head[lore_end:], *turns), budget), first


def _turn(turn: Turn, number: int, tokenizer: Any) -> Part:
    return Part("turn", f"Turn {number}", format_turn(turn) + "\n", tuple(turn_ids(turn, tokenizer)))


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
