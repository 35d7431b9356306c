"""Stories in and out of files: our own exact JSON, manuscripts, books, and the formats of other writing tools.

Functions between bytes and stories, and two thin helpers that read and write a file. What it leaves out: branches of a
story (the current path is what is written), scores and ratings.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, TextIO, cast

from pydantic import Field, ValidationError

from prompts.template import end_at_sentence
from storyrl.epub import to_epub
from storyrl.errors import InputError, first_problem, nearest, readable_file
from storyrl.files import atomic_writer
from storyrl.foreign import (
    is_chat,
    is_kobold,
    is_lorebook,
    read_chat,
    read_kobold,
    read_lorebook,
    to_chat,
    to_kobold,
    to_lorebook,
)
from storyrl.manuscript import MAX_TURNS, Draft, clean, read_markdown, read_text, to_markdown, to_text
from storyrl.story import LoreEntry, Prompt, Record, Story, Turn

MAX_BYTES = 20_000_000
VERSION = 1
_SUFFIXES = ("", ".json", ".jsonl", ".md", ".markdown", ".txt", ".text")
_MAX_PREMISE = 300


@dataclass(frozen=True)
class Imported:
    """What a file held: a story, or only lore to add to one."""

    kind: str
    """json, koboldai, sillytavern, lorebook, markdown or text."""
    title: str
    story: Story | None
    """With an id of its own; None for a lorebook."""
    lore: tuple[LoreEntry, ...]
    """The entries of a lorebook; those of a story are in its prompt."""
    notes: tuple[str, ...] = ()
    """What was guessed, cut or left out, a sentence each."""


class _File(Record):
    """Our own format."""

    storyrl: Literal[1]
    title: str = Field("", max_length=200)
    prompt: Prompt
    turns: tuple[Turn, ...] = Field((), max_length=MAX_TURNS)


_FIELDS = (*_File.model_fields, *Prompt.model_fields, *Turn.model_fields, *LoreEntry.model_fields)


def import_story(data: bytes, filename: str) -> Imported:
    """The story or lorebook in a file of any format that is known here, told by its content and its suffix.

    Raises:
        InputError: too large, not text, an unknown format, or broken; the message begins with the file's name.
    """
    name = PureWindowsPath(filename).name or "file"
    try:
        return _import(data, PureWindowsPath(name))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _import(data: bytes, name: PureWindowsPath) -> Imported:
    suffix = name.suffix.lower()
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES // 1_000_000} MB; split the story")
    if suffix not in _SUFFIXES:
        raise InputError(f"files to import end in {', '.join(filter(None, _SUFFIXES))}; got '{suffix}'")
    text = _decoded(data).strip()
    if not text:
        raise InputError("the file is empty")
    if suffix in (".json", ".jsonl") or (suffix == "" and text.startswith("{")):
        return _import_json(text, name.stem)
    markdown = suffix in (".md", ".markdown") or (suffix == "" and text.startswith("# "))
    draft = (read_markdown if markdown else read_text)(clean(text))
    return _imported("markdown" if markdown else "text", draft, name.stem)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text; save the file as UTF-8 text or export it as JSON") from error


def _import_json(text: str, stem: str) -> Imported:
    value = _parsed(text)
    rows = value if isinstance(value, list) else [value]
    if is_chat(rows):
        return _imported("sillytavern", read_chat(rows), stem)
    if isinstance(value, dict):
        if "storyrl" in value:
            return _own(value)
        if is_kobold(value):
            return _imported("koboldai", read_kobold(value), stem)
        if is_lorebook(value):
            draft = read_lorebook(value)
            return Imported("lorebook", draft.title or stem, None, draft.fields["lore"], tuple(draft.notes))
    raise InputError(
        "JSON, but none of: a story of ours, a KoboldAI save, a SillyTavern chat, a lorebook, a character card"
    )


def _parsed(text: str) -> Any:
    """The JSON value in `text`, or the list of them where it is JSON Lines."""
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            first, *rest = text.split("\n")
            if not rest or not _is_object(first):
                raise InputError(f"line {error.lineno}: not valid JSON ({error.msg})") from error
        values = []
        for number, line in enumerate([first, *rest], start=1):
            try:
                values += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise InputError(f"line {number}: not valid JSON ({error.msg})") from error
        return values
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise InputError("JSON that is nested too deeply or holds an endless number") from error


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _own(value: dict[str, Any]) -> Imported:
    if isinstance(value["storyrl"], int) and value["storyrl"] > VERSION:
        raise InputError(f"written in version {value['storyrl']} of the format; update this program to read it")
    try:
        file = _File.model_validate(value)
    except ValidationError as error:
        raise InputError(first_problem(error, _FIELDS)) from error
    story = Story(id=uuid.uuid4().hex, prompt=file.prompt, turns=file.turns)
    return Imported("json", file.title, story, ())


def _imported(kind: str, draft: Draft, stem: str) -> Imported:
    """A draft as a story with a premise and a title."""
    fields = {name: value for name, value in draft.fields.items() if value != ""}
    if not draft.turns and not fields.get("premise"):
        raise InputError("holds no text of a story")
    if not fields.get("premise"):
        fields["premise"] = _opening(draft.turns[0].text)
        draft.notes.append("The file holds no premise; its first sentences stand in for one.")
    try:
        prompt = Prompt(**fields)
    except ValidationError as error:
        raise InputError(first_problem(error, Prompt.model_fields)) from error
    story = Story(id=uuid.uuid4().hex, prompt=prompt, turns=draft.turns)
    title = " ".join((draft.title or stem).split())[:200]
    return Imported(kind, title, story, (), tuple(draft.notes))


def _opening(text: str) -> str:
    return end_at_sentence(text[:_MAX_PREMISE])[0]


def _own_format(story: Story, title: str) -> bytes:
    value = {
        "storyrl": VERSION,
        "title": " ".join(title.split())[:200],
        "prompt": story.prompt.model_dump(mode="json"),
        "turns": [turn.model_dump(mode="json", exclude_none=True) for turn in story.turns],
    }
    return _json(value)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _chat(story: Story, title: str) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in to_chat(story)).encode()


EXPORTS: dict[str, tuple[Callable[[Story, str], bytes], str, str]] = {
    "json": (_own_format, ".json", "application/json"),
    "markdown": (lambda story, title: to_markdown(title, story.prompt, story.turns).encode(), ".md", "text/markdown"),
    "text": (lambda story, title: to_text(title, story.turns).encode(), ".txt", "text/plain"),
    "epub": (
        lambda story, title: to_epub(title, [turn.prose() for turn in story.turns]),
        ".epub",
        "application/epub+zip",
    ),
    "koboldai": (lambda story, title: _json(to_kobold(story)), ".json", "application/json"),
    "sillytavern": (_chat, ".jsonl", "application/jsonl"),
    "lorebook": (lambda story, title: _json(to_lorebook(story.prompt.lore)), ".json", "application/json"),
}
"""What a story can be written as: function, suffix and media type. Only `json` keeps everything."""


def export_story(story: Story, kind: str, title: str) -> tuple[bytes, str, str]:
    """A story as (content, suffix, media type).

    Raises:
        InputError: no such kind.
    """
    if kind not in EXPORTS:
        raise InputError(f"{kind}: no such format to export{nearest(kind, EXPORTS)}")
    write, suffix, media_type = EXPORTS[kind]
    return write(story, title), suffix, media_type


def read_story(path: Path) -> Imported:
    """Import a file.

    Raises:
        InputError: no such file, or as `import_story`.
    """
    try:
        with readable_file(path).open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return import_story(data, path.name)


def write_story(path: Path, story: Story, kind: str, title: str) -> None:
    """Export to a file, which is whole or absent.

    Raises:
        InputError: no such kind, or the file cannot be written.
    """
    data, _, _ = export_story(story, kind, title)
    with atomic_writer(path) as handle:
        cast(TextIO, handle).buffer.write(data)
