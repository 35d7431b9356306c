"""The text format in which a language model reads and writes turns (prompts/context.py: how much of a story it reads).

One turn is one line, and the tag that opens it is written by the model itself, so the choice of what to do and who
does it is part of the action and gets gradient:

    [narrate] The rain had stopped by noon.
    [say Mira] You can keep the boat.
    [do Tom] Tom threw her the rope.

The end-of-text token after a turn ends the story. `parse_turns` takes whatever a model writes, also one that never
saw the format: a line without a tag is narration, `Mira: ...` is speech.
"""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from storyrl.story import Kind, Prompt, Turn

INSTRUCTION = "Write a story in turns, one a line: [narrate] what happens, [say NAME] speech, [do NAME] action."

_TAG = re.compile(r"^\[\s*(narrate|say|do)\b[\s:]*([^\]\n]*)\]\s*(.*)$", re.IGNORECASE)
_UNCLOSED_TAG = re.compile(r"^\[\s*(?:narrate|say|do)\b[\s:]*", re.IGNORECASE)
_SPEAKER = re.compile(r"^([A-Z][\w'’.-]*(?: [A-Z][\w'’.-]*){0,2}):\s+(.+)$")
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)]*(?=\s|$)""")
_NOT_AN_END = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Sgt|Capt|Lt|Col|Prof|Rev|Jr|Sr)\.$")


def format_turn(turn: Turn) -> str:
    """The line that stands for a turn, without the line break."""
    tag = turn.kind.value if turn.actor is None else f"{turn.kind.value} {turn.actor}"
    return f"[{tag}] {turn.text}"


def format_turns(turns: Sequence[Turn]) -> str:
    """The lines of several turns, each ended by a line break."""
    return "".join(format_turn(turn) + "\n" for turn in turns)


def parse_turns(text: str) -> list[Turn]:
    """The turns in what a model wrote; lines with no words in them are dropped."""
    turns = []
    for line in text.split("\n"):
        turn = parse_turn(line)
        if turn is not None:
            turns.append(turn)
    return turns


def parse_turn(line: str) -> Turn | None:
    """One line as a turn; None when it holds no words."""
    line = line.strip().lstrip("*>- ").strip()
    kind, actor, words = Kind.NARRATE, "", line
    if match := _TAG.match(line):
        kind, actor, words = Kind(match[1].lower()), match[2].strip(), match[3].strip()
    elif match := _SPEAKER.match(line):
        kind, actor, words = Kind.SAY, match[1], match[2]
    else:
        words = _UNCLOSED_TAG.sub("", line)
    if kind is not Kind.NARRATE and not actor:
        kind = Kind.NARRATE
    if kind is Kind.SAY:
        words = _unquote(words)
    if not re.search(r"\w", words):
        return None
    try:
        return Turn(kind=kind, actor=actor if kind is not Kind.NARRATE else None, text=words)
    except ValidationError:  # a "name" of a hundred characters, say: keep the words, drop the claim
        return Turn(kind=Kind.NARRATE, text=words)


def _unquote(words: str) -> str:
    if len(words) > 1 and words[0] in '"“' and words[-1] in '"”' and not re.search(r'["“”]', words[1:-1]):
        return words[1:-1]
    return words


def end_at_sentence(text: str) -> tuple[str, bool]:
    """Cut `text` after its last complete sentence.

    Returns the text and whether it now ends with a sentence; without any sentence end the text comes back whole.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if not _is_title(text, match.end())]
    return (text[: ends[-1]], True) if ends else (text, False)


def _is_title(text: str, end: int) -> bool:
    """Whether the full stop at `end` belongs to a title before a name (Mr., Dr.)."""
    return _NOT_AN_END.search(text[max(0, end - 6) : end]) is not None


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, by punctuation; never empty strings."""
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if not _is_title(text, match.end()):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if re.search(r"\w", sentence)]


def prompt_lines(prompt: Prompt) -> dict[str, str]:
    """The labelled line of each field that the model always reads, in reading order; empty fields are left out."""
    fields = {
        "premise": prompt.premise,
        "goal": prompt.goal,
        "characters": ", ".join(prompt.characters),
        "memory": prompt.memory,
        "style": prompt.style,
    }
    return {field: f"{field.capitalize()}: {value}" for field, value in fields.items() if value}


def format_prompt(prompt: Prompt) -> str:
    """The prompt as the labelled lines that the model reads; empty fields are left out."""
    return "\n".join(prompt_lines(prompt).values())


def head_text(body: str, tokenizer: Any) -> str:
    """All that stands before the first turn around the prompt's lines: the chat template where the model has one."""
    if not getattr(tokenizer, "chat_template", None):
        return f"{INSTRUCTION}\n\n{body}\n\nStory:\n"
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": body}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode_head(text: str, tokenizer: Any, **options: Any) -> Any:
    """The tokenizer's encoding of a head; a chat template has written the special tokens already."""
    return tokenizer(text, add_special_tokens=not getattr(tokenizer, "chat_template", None), **options)


def head_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Token ids of all that stands before the first turn, without note and lore."""
    return list(encode_head(head_text(format_prompt(prompt), tokenizer), tokenizer)["input_ids"])


def turn_ids(turn: Turn, tokenizer: Any) -> list[int]:
    """Token ids of one turn with its line break."""
    return list(tokenizer(format_turn(turn) + "\n", add_special_tokens=False)["input_ids"])
