"""Stories as manuscripts: plain text and Markdown, there and back.

A manuscript keeps who speaks but not who acts, and not who wrote a turn: storyrl/exchange.py has the exact format. What
it leaves out: files, and every format that is not for reading (storyrl/foreign.py).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prompts.template import end_at_sentence, parse_turn
from storyrl.errors import InputError
from storyrl.story import Kind, Name, Prompt, Turn

MAX_TURNS = 20_000
MAX_LINE = 4000  # characters of a field of a prompt
_MAX_TEXT = 20_000  # characters of a turn
_LABELS = ("premise", "goal", "characters", "memory", "style", "genre", "note")
_LABELLED = re.compile(rf"({'|'.join(_LABELS)}): (.+)", re.IGNORECASE)
_NOT_NAMES = {"he", "she", "they", "it", "i", "we", "you", "someone", "nobody", "everyone"}
_VERBS = "said|asked|replied|answered|whispered|shouted|cried"
_QUOTE = r'["“]([^"“”]+)["”]'
_SPEECH_FIRST = re.compile(rf"{_QUOTE} (?:{_VERBS}) ([^.,;:!?\"“”]{{1,60}})\.")
_NAME_FIRST = re.compile(rf"([^.,;:!?\"“”]{{1,60}}) (?:{_VERBS})[,:] {_QUOTE}")
_NAME = re.compile(r"[A-Z][\w'’-]*(?: [A-Z][\w'’-]*){0,2}")
_TAGGED = re.compile(r"\[(?:narrate|say|do)\b[^\]]{0,70}\]", re.IGNORECASE)
_HEADING = re.compile(r"[^\n\[\"“]{0,99}[\w)]")
_EMPHASIS = re.compile(r"(?<![\w\\])(\*{1,3}|_{1,3})(?=\S)([^*_]+)\1(?!\w)")
_SPECIAL = re.compile(r"([\\`*_<&\[\]])")
_BLOCK_START = re.compile(r"^(\d*)([#>+.)-])")
_ESCAPED = re.compile(r"\\([\\`*_<>&\[\]#+.()-])")
_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])
_NAMES: TypeAdapter[str] = TypeAdapter(Name)


@dataclass
class Draft:
    """What was found in a file that is not in the exact format; a premise may be missing."""

    title: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the prompt."""
    turns: tuple[Turn, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What was guessed, cut or left out, a sentence each."""


def clean(text: str) -> str:
    """Text without control characters and lone surrogates, with line breaks as line feeds."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_CONTROL)


def name_or_none(text: str) -> str | None:
    """A name as characters have it; None when nothing of the kind is left of `text`."""
    try:
        return _NAMES.validate_python(" ".join(re.sub(r"[\[\]]", "", text).split())[:60])
    except ValidationError:
        return None


def paragraphs(text: str) -> list[str]:
    """Blocks between empty lines; lines, where no line is empty."""
    lines, blocks = [line.strip() for line in text.strip().split("\n")], [""]
    if all(lines):
        return lines
    for line in lines:
        if line:
            blocks[-1] = f"{blocks[-1]} {line}".strip()
        elif blocks[-1]:
            blocks.append("")
    return [block for block in blocks if block]


def text_turns(blocks: Iterable[str], characters: Sequence[str] = ()) -> tuple[Turn, ...]:
    """Paragraphs as turns of the writer.

    Quoted speech with `said NAME` is a say turn where the whole paragraph is just that and NAME is one of the
    characters or looks like a name; a paragraph in the tagged format is what its tag says; the rest narrates.

    Raises:
        InputError: more than MAX_TURNS paragraphs.
    """
    turns = []
    for block in blocks:
        for piece in pieces(block):
            turns.append(_turn(piece, characters))
            if len(turns) > MAX_TURNS:
                raise InputError(f"more than {MAX_TURNS:,} paragraphs; split the file into several stories")
    return tuple(turns)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that fit into turns, cut after sentences where there are any."""
    text, start = " ".join(text.split()), 0
    while start < len(text):
        piece = text[start : start + _MAX_TEXT]
        if start + len(piece) < len(text):
            sentences, whole = end_at_sentence(piece)
            piece = sentences if whole else piece.rpartition(" ")[0] or piece
        yield piece.strip()
        start += len(piece)


def _turn(text: str, characters: Sequence[str]) -> Turn:
    if _TAGGED.match(text) and (turn := parse_turn(text)):
        return turn.model_copy(update={"author": "writer"})
    words = actor = None
    if match := _SPEECH_FIRST.fullmatch(text):
        words, actor = match[1].strip(), match[2]
        words = words[:-1] + "." if words.endswith(",") else words
    elif match := _NAME_FIRST.fullmatch(text):
        words, actor = match[2].strip(), match[1]
    is_name = actor in characters or (actor and _NAME.fullmatch(actor) and actor.lower() not in _NOT_NAMES)
    if words and actor and is_name and (name := name_or_none(actor)):
        return Turn(kind=Kind.SAY, actor=name, text=words, author="writer")
    return Turn(kind=Kind.NARRATE, text=text, author="writer")


def labelled(prompt: Prompt) -> list[str]:
    """The fields of a prompt as lines `Premise: ...`, one a field; lore is left out."""
    values = {label: getattr(prompt, label) for label in _LABELS} | {"characters": ", ".join(prompt.characters)}
    return [f"{label.capitalize()}: {' '.join(value.split())}" for label, value in values.items() if value]


def read_labelled(lines: Sequence[str]) -> dict[str, Any] | None:
    """The fields that `labelled` wrote; None when any line is something else."""
    fields: dict[str, Any] = {}
    for line in lines:
        match = _LABELLED.fullmatch(line.strip())
        if not match:
            return None
        fields[match[1].lower()] = match[2][:MAX_LINE]
    if "characters" in fields:
        names = (name_or_none(name) for name in fields["characters"].split(","))
        fields["characters"] = tuple(name for name in names if name)[:20]
    return fields or None


def to_text(title: str, turns: Sequence[Turn]) -> str:
    """Title and paragraphs with an empty line between them."""
    return "\n\n".join([*([title] if title else []), *(turn.prose() for turn in turns)]) + "\n"


def to_markdown(title: str, prompt: Prompt, turns: Sequence[Turn]) -> str:
    """The title as heading, the prompt as quotation, the turns as paragraphs; nothing in them acts as Markdown."""
    heading = [f"# {_escape(' '.join(title.split()))}"] if title else []
    quotation = "\n".join(f"> {_escape(line)}  " for line in labelled(prompt))
    return "\n\n".join([*heading, quotation, *(_escape(turn.prose()) for turn in turns)]) + "\n"


def read_text(text: str) -> Draft:
    """Paragraphs of plain text as turns; a first one that is no sentence, above an empty line, is the title."""
    draft, blocks = Draft(), paragraphs(text)
    if len(blocks) > 1 and _HEADING.fullmatch(text.strip().split("\n\n")[0]):
        draft.title = blocks.pop(0)
        draft.notes.append("The first line was taken as the title.")
    draft.turns = text_turns(blocks)
    return draft


def read_markdown(text: str) -> Draft:
    """The first heading as title, a quotation as `to_markdown` writes it as prompt, the paragraphs as turns."""
    draft, blocks = Draft(), list[str]()
    for block in re.split(r"\n[ \t]*\n", text.strip()):
        lines = [line.strip() for line in block.strip().split("\n")]
        quoted = [_plain(line[1:].strip()) for line in lines if line.startswith(">")]
        if not blocks and not draft.fields and len(quoted) == len(lines) and (fields := read_labelled(quoted)):
            draft.fields = fields
            continue
        if lines[0].startswith("#") and not draft.title and not blocks:
            draft.title = _plain(lines.pop(0).lstrip("#").strip())
        if not re.fullmatch(r"[*_ -]*", "".join(lines)):  # else a rule between scenes
            blocks.append(_plain(" ".join(re.sub(r"^(?:#+|>)\s*", "", line) for line in lines)))
    draft.turns = text_turns(blocks, draft.fields.get("characters", ()))
    return draft


def _escape(text: str) -> str:
    return _BLOCK_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", _EMPHASIS.sub(r"\2", text))
