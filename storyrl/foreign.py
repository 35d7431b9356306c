"""Stories and lorebooks of other writing tools: KoboldAI saves and SillyTavern chats, lorebooks and character cards.

The formats are those of KoboldAI-Client (aiserver.py; koboldai_settings.py for version 2), KoboldAI Lite (index.html)
and SillyTavern (world-info.js, authors-note.js). Version 2 of KoboldAI stores some values as pickles in base64: those
are refused where a story needs them and never looked at elsewhere. What it leaves out: what these tools know and we do
not (secondary keys, regular expressions as keys, depths of entries, pictures); `Draft.notes` says so.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from storyrl.errors import InputError, first_problem
from storyrl.manuscript import (
    MAX_LINE,
    MAX_TURNS,
    Draft,
    clean,
    labelled,
    name_or_none,
    paragraphs,
    pieces,
    read_labelled,
    text_turns,
)
from storyrl.story import Kind, LoreEntry, Story, Turn

Json = dict[str, Any]
_MAX_LORE = 500
_MAX_CHARACTERS = 20
_NARRATOR = "Narrator"


def is_kobold(value: Json) -> bool:
    """Whether a JSON object is a KoboldAI save."""
    return "actions" in value and ("prompt" in value or "file_version" in value)


def read_kobold(save: Json) -> Draft:
    """A save of KoboldAI Lite or KoboldAI version 1 or 2; its text chunks in a row are the story.

    Raises:
        InputError: the parts of the story are not of the format, or pickled.
    """
    draft = Draft(title=_text(save, "story_name"))
    chunks = [_text(save, "prompt"), *_chunks(save.get("actions"))]
    story = re.sub(r"\{\{\[(?:INPUT|OUTPUT)\]\}\}", "\n\n", _without_comments("".join(chunks)))
    draft.turns = tuple(_adventure(turn) for turn in text_turns(paragraphs(story)))
    memory = _text(save, "memory")
    draft.fields = read_labelled(memory.split("\n")) or {"memory": _cut(memory, "memory", draft)}
    note = _text(save, "authornote") or _text(save, "authorsnote")
    if note:
        draft.fields["note"] = _cut(note, "author's note", draft)
    depth = save.get("andepth")
    if isinstance(depth, int) and note:
        draft.fields["note_depth"] = min(max(depth, 0), 50)
    world = save.get("worldinfo_v2")
    entries = world.get("entries") if isinstance(world, dict) else save.get("worldinfo")
    draft.fields["lore"] = _lore(entries if entries is not None else [], "worldinfo", draft)
    return draft


def _adventure(turn: Turn) -> Turn:
    """Adventure mode writes what the player does as `> You open the door.`"""
    if not turn.text.startswith("> You "):
        return turn
    return turn.model_copy(update={"kind": Kind.DO, "actor": "You", "text": turn.text[2:]})


def _chunks(actions: Any) -> Iterable[str]:
    """The texts of the actions: a list in version 1, a table by number in version 2 (those after its count: undone)."""
    if isinstance(actions, list):
        if not all(isinstance(action, str) for action in actions):
            raise InputError("field 'actions': expected a list of texts; save the story anew in KoboldAI")
        return actions
    if isinstance(actions, str) and actions.startswith("base64:"):
        raise InputError(_PICKLED.format("actions"))
    try:
        rows = sorted((int(number), row) for number, row in actions["actions"].items())
        return [_text(row, "Selected Text") for number, row in rows if number <= int(actions["action_count"])]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError("field 'actions': neither a list of texts nor KoboldAI's numbered actions") from error


_PICKLED = "field '{}': holds pickled data, which can run programs and is never read; save as KoboldAI version 1"


def _without_comments(text: str) -> str:
    """KoboldAI's comments and pictures stand between `[<|` and `|>]`."""
    kept, start = [], 0
    while (begin := text.find("[<|", start)) >= 0 and (end := text.find("|>]", begin)) >= 0:
        kept.append(text[start:begin])
        start = end + 3
    return "".join([*kept, text[start:]])


def to_kobold(story: Story) -> Json:
    """A save that KoboldAI Lite and KoboldAI load; the prompt stands in the memory as labelled lines."""
    prompt, texts = story.prompt, [turn.prose() for turn in story.turns]
    return {
        "gamestarted": bool(texts),
        "prompt": texts[0] if texts else "",
        "memory": "\n".join(labelled(prompt.model_copy(update={"note": ""}))),
        "authorsnote": prompt.note,
        "anotetemplate": "[Author's note: <|>]",
        "actions": [f"\n\n{text}" for text in texts[1:]],
        "actions_metadata": {},
        "worldinfo": [
            {
                "key": ",".join(key.replace(",", " ") for key in entry.keys),
                "keysecondary": "",
                "content": entry.text,
                "comment": entry.name,
                "folder": None,
                "num": number,
                "init": True,
                "selective": False,
                "constant": entry.always,
                "widisabled": not entry.enabled,
            }
            for number, entry in enumerate(prompt.lore)
        ],
        "wifolders_d": {},
        "wifolders_l": [],
    }


def is_lorebook(value: Json) -> bool:
    """Whether a JSON object is a lorebook or a character card, which may hold one."""
    return "entries" in value or "character_book" in value or str(value.get("spec", "")).startswith("chara_card")


def read_lorebook(book: Json) -> Draft:
    """A SillyTavern lorebook (`entries` by number), or the `character_book` of a character card (`entries` in a list).

    Raises:
        InputError: there are no entries, or they are not of the format.
    """
    if isinstance(book.get("data"), dict):
        book = book["data"]
    inner = book.get("character_book")
    if isinstance(inner, dict):
        book = inner
    if "entries" not in book:
        raise InputError("this character card holds no lorebook (no field 'character_book.entries')")
    draft = Draft(title=_text(book, "name"))
    draft.fields["lore"] = _lore(book["entries"], "entries", draft)
    if not draft.fields["lore"]:
        raise InputError("field 'entries': holds no entry with text")
    return draft


def _lore(entries: Any, where: str, draft: Draft) -> tuple[LoreEntry, ...]:
    """Entries of any of the tools in their insertion order; ones without text are left out."""
    rows = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"field '{where}': expected a list or a table of entries")
    rows = [row for row in rows if _text(row, "content").strip()]
    if all(isinstance(_order(row), int) for row in rows):
        rows.sort(key=_order)
    if len(rows) > _MAX_LORE:
        draft.notes.append(f"Only the first {_MAX_LORE} of {len(rows)} lore entries were taken.")
    if any(row.get("keysecondary") or row.get("secondary_keys") for row in rows):
        draft.notes.append("Secondary keys of lore entries were left out.")
    return tuple(_entry(row, f"{where}.{number}", draft) for number, row in enumerate(rows[:_MAX_LORE]))


def _order(row: Json) -> Any:
    return row.get("order", row.get("insertion_order"))


def _entry(row: Json, where: str, draft: Draft) -> LoreEntry:
    keys = row.get("key", row.get("keys", []))
    keys = keys.split(",") if isinstance(keys, str) else keys
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InputError(f"field '{where}.keys': expected texts")
    words = [" ".join(clean(key).split()) for key in keys if not _is_pattern(key.strip())]
    name = _text(row, "comment") or _text(row, "name") or _text(row, "title")
    if len(words) < len(keys):
        draft.notes.append(f"Lore '{name or where}': keys that are regular expressions were left out.")
    try:
        return LoreEntry(
            name=" ".join(name.split())[:200],
            keys=tuple(word[:100] for word in words if word)[:50],
            text=_cut(_text(row, "content"), f"lore '{name or where}'", draft),
            always=row.get("constant") is True,
            enabled=row.get("enabled") is not False and not row.get("disable") and not row.get("widisabled"),
        )
    except ValidationError as error:
        raise InputError(f"field '{where}': {first_problem(error)}") from error


def _is_pattern(key: str) -> bool:
    """Whether a key is written as a regular expression: `/pattern/flags`."""
    return len(key) > 2 and key.startswith("/") and key.rstrip(string.ascii_lowercase).endswith("/")


def to_lorebook(lore: Sequence[LoreEntry]) -> Json:
    """A lorebook that SillyTavern imports."""
    return {
        "entries": {
            str(number): {
                "uid": number,
                "key": list(entry.keys),
                "keysecondary": [],
                "comment": entry.name,
                "content": entry.text,
                "constant": entry.always,
                "vectorized": False,
                "selective": True,
                "selectiveLogic": 0,
                "addMemo": bool(entry.name),
                "order": 100 + number,
                "position": 0,
                "disable": not entry.enabled,
                "probability": 100,
                "useProbability": True,
                "depth": 4,
                "displayIndex": number,
            }
            for number, entry in enumerate(lore)
        }
    }


def is_chat(rows: Sequence[Any]) -> bool:
    """Whether JSON lines are a SillyTavern chat."""
    return bool(rows) and all(isinstance(row, dict) for row in rows) and any("mes" in row for row in rows[:2])


def read_chat(rows: Sequence[Json]) -> Draft:
    """A SillyTavern chat: a header and a message a line; what is hidden there is left out.

    A paragraph in asterisks is what its sender does, one in quotation marks or without any marks what the sender says,
    and a mixture of both is told of the sender as an action.

    Raises:
        InputError: more than MAX_TURNS paragraphs.
    """
    header = rows[0] if "mes" not in rows[0] else {}
    messages = [row for row in rows if "mes" in row]
    shown = [row for row in messages if not row.get("is_system")]
    draft, turns = Draft(), list[Turn]()
    if len(shown) < len(messages):
        draft.notes.append(f"{len(messages) - len(shown)} hidden messages were left out.")
    for row in shown:
        turns += _message_turns(row, header)
        if len(turns) > MAX_TURNS:
            raise InputError(f"more than {MAX_TURNS:,} paragraphs; split the chat into several files")
    draft.turns = tuple(turns)
    draft.fields["characters"] = tuple(dict.fromkeys(turn.actor for turn in turns if turn.actor))[:_MAX_CHARACTERS]
    about = header.get("chat_metadata")
    if isinstance(about, dict):
        draft.fields["premise"] = _cut(_text(about, "scenario"), "scenario", draft)
        draft.fields["note"] = _cut(_text(about, "note_prompt"), "author's note", draft)
        depth = about.get("note_depth")
        if isinstance(depth, int) and draft.fields["note"]:
            draft.fields["note_depth"] = min(max(depth, 0), 50)
    return draft


def _message_turns(row: Json, header: Json) -> Iterable[Turn]:
    names = {"{{char}}": _text(header, "character_name"), "{{user}}": _text(header, "user_name")}
    text = re.sub(r"\{\{(?:char|user)\}\}", lambda match: names[match[0]] or match[0], _text(row, "mes"))
    extra = row.get("extra")
    narrator = isinstance(extra, dict) and extra.get("type") == "narrator"
    actor = None if narrator else name_or_none(_text(row, "name"))
    author = "writer" if row.get("is_user") is True else "policy"
    for block in paragraphs(text):
        for piece in pieces(block):
            kind, words = _act(piece) if actor else (Kind.NARRATE, piece)
            if words.strip():
                yield Turn(kind=kind, actor=actor, text=words, author=author)


def _act(text: str) -> tuple[Kind, str]:
    """What a paragraph of a chat message does, and its words without the marks."""
    if re.fullmatch(r'["“][^"“”]+["”]', text):
        return Kind.SAY, text[1:-1]
    return (Kind.DO, text.replace("*", "")) if re.search(r'[*"“”]', text) else (Kind.SAY, text)


def to_chat(story: Story) -> list[Json]:
    """The header and the messages of a SillyTavern chat; a turn is a message."""
    prompt = story.prompt
    header = {
        "user_name": "You",
        "character_name": prompt.characters[0] if prompt.characters else _NARRATOR,
        "chat_metadata": {
            "scenario": prompt.premise,
            "note_prompt": prompt.note,
            "note_interval": 1,
            "note_position": 1,
            "note_depth": prompt.note_depth,
        },
    }
    return [header, *(_message(turn) for turn in story.turns)]


def _message(turn: Turn) -> Json:
    marks = {Kind.SAY: '"{}"', Kind.DO: "*{}*", Kind.NARRATE: "{}"}
    words = turn.text.strip('"“”') if turn.kind is Kind.SAY else turn.text
    return {
        "name": turn.actor or _NARRATOR,
        "is_user": turn.author == "writer",
        "is_system": False,
        "mes": marks[turn.kind].format(words),
        "extra": {} if turn.actor else {"type": "narrator"},
    }


def _text(row: Mapping[str, Any], field: str) -> str:
    """A text of a row, cleaned; empty where there is none.

    Raises:
        InputError: the field is something else than a text, or a pickle.
    """
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"field '{field}': expected a text, got {type(value).__name__}")
    if value.startswith("base64:"):
        raise InputError(_PICKLED.format(field))
    return clean(value)


def _cut(text: str, what: str, draft: Draft) -> str:
    if len(text) > MAX_LINE:
        draft.notes.append(f"The {what} was cut to {MAX_LINE} characters.")
    return text[:MAX_LINE]
