"""Import and export: exact round trips, the other tools' formats, broken and hostile files."""

import base64
import io
import json
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from storyrl.errors import InputError
from storyrl.exchange import EXPORTS, Imported, export_story, import_story, read_story, write_story
from storyrl.generate import prompt_record
from storyrl.story import Kind, LoreEntry, Prompt, Story, Turn

_LORE = (
    LoreEntry(name="The boat", keys=("boat", "old boat"), text="It leaks."),
    LoreEntry(text="The sea is rising.", always=True),
    LoreEntry(keys=("Ghost",), text="Unseen.", enabled=False),
)
_PROMPT = Prompt(
    id="boat",
    premise="Two siblings share a boat.",
    goal="Mira forgives her brother.",
    characters=("Mira", "Tom Gray"),
    memory="They quarrelled.",
    style="plain",
    genre="drama",
    note="Slow down.",
    note_depth=5,
    lore=_LORE,
)
_STORY = Story(
    id="s1",
    prompt=_PROMPT,
    turns=(
        Turn(kind=Kind.NARRATE, text="The rain had *stopped* by noon & <b>cleared</b>.", author="writer"),
        Turn(kind=Kind.SAY, actor="Mira", text="You can keep the boat.", author="policy"),
        Turn(kind=Kind.DO, actor="Tom Gray", text="Tom threw her the rope.", author="edited"),
        Turn(kind=Kind.SAY, actor="Tom Gray", text="No!", author="writer"),
    ),
)


def _round_trip(kind: str) -> Imported:
    data, suffix, _ = export_story(_STORY, kind, "The Boat")
    return import_story(data, f"x{suffix}")


def _told(imported: Imported) -> list[tuple[str, str | None, str]]:
    assert imported.story
    return [(turn.kind.value, turn.actor, turn.text) for turn in imported.story.turns]


def test_own_format_is_exact() -> None:
    back = _round_trip("json")
    assert back.story
    assert (back.kind, back.title, back.notes) == ("json", "The Boat", ())
    assert (back.story.prompt, back.story.turns) == (_PROMPT, _STORY.turns)
    assert back.story.id != _STORY.id  # a file never overwrites a story of the library


def test_files_from_before_note_and_lore_are_written_and_read_as_before() -> None:
    old = {"id": "x", "premise": "A.", "goal": "", "characters": [], "memory": "", "style": "", "genre": ""}
    assert Prompt.model_validate(old).model_dump(mode="json") == old
    assert prompt_record(Prompt.model_validate(old)) == {"id": "x", "premise": "A."}
    assert Prompt.model_validate(prompt_record(_PROMPT)) == _PROMPT
    assert Prompt.model_validate_json(_PROMPT.model_dump_json()) == _PROMPT


def test_markdown_round_trip() -> None:
    back = _round_trip("markdown")
    assert back.story
    assert (back.kind, back.title, back.notes) == ("markdown", "The Boat", ())
    assert back.story.prompt == _PROMPT.model_copy(update={"id": "prompt", "note_depth": 3, "lore": ()})
    assert _told(back) == [
        ("narrate", None, "The rain had *stopped* by noon & <b>cleared</b>."),
        ("say", "Mira", "You can keep the boat."),
        ("narrate", None, "Tom threw her the rope."),
        ("say", "Tom Gray", "No!"),
    ]


_MARKS = ["# no heading", "1. no list", "> no quote", "- no", "a_b_c *x* \\* `y` [z](u)", "...", "___", "&amp; <i>"]


@pytest.mark.parametrize("text", _MARKS)
def test_story_text_never_acts_as_markdown(text: str) -> None:
    story = Story(id="s", prompt=Prompt(premise=text), turns=(Turn(kind=Kind.NARRATE, text=f"{text} end."),))
    data, _, _ = export_story(story, "markdown", text)
    last = data.decode().strip().split("\n\n")[-1]
    assert not last.startswith(("#", "1.", ">", "- "))
    back = import_story(data, "a.md")
    assert back.story
    assert (back.title, back.story.prompt.premise, back.story.turns[0].text) == (text, text, f"{text} end.")


def test_markdown_of_others() -> None:
    text = "# A *Storm*\r\n\r\nShe **ran**\r\nhome.\r\n\r\n* * *\r\n\r\n## Two\r\n\r\n> He _slept_.\r\n"
    back = import_story(text.encode(), "a.md")
    assert back.story
    assert back.title == "A Storm"
    assert [turn.text for turn in back.story.turns] == ["She ran home.", "Two", "He slept."]
    assert back.story.prompt.premise == "She ran home."
    assert "premise" in back.notes[0]


@pytest.mark.parametrize(
    ("paragraph", "kind", "actor", "words"),
    [
        ('"Come in," said Mira.', "say", "Mira", "Come in."),
        ("“Who is it?” asked Old Tom.", "say", "Old Tom", "Who is it?"),
        ('Mira said, "Come in."', "say", "Mira", "Come in."),
        ('"Come in," she said.', "narrate", None, '"Come in," she said.'),
        ('"Come in," said She.', "narrate", None, '"Come in," said She.'),
        ('"Come in," said the old man.', "narrate", None, '"Come in," said the old man.'),
        ('"Come in," said Mira. "Sit."', "narrate", None, '"Come in," said Mira. "Sit."'),
        ('"Come in," said Mira, smiling.', "narrate", None, '"Come in," said Mira, smiling.'),
        ("[do Tom] Tom ran.", "do", "Tom", "Tom ran."),
        ("Chapter One: Rain", "narrate", None, "Chapter One: Rain"),
    ],
)
def test_speech_in_plain_text(paragraph: str, kind: str, actor: str | None, words: str) -> None:
    back = import_story(f"It rained.\n\n{paragraph}\n".encode(), "a.txt")
    assert _told(back)[1] == (kind, actor, words)
    assert back.story
    assert {turn.author for turn in back.story.turns} == {"writer"}


def test_plain_text_paragraphs() -> None:
    lines, blocks = b"A line.\nA second.\n", b"\n\nWrapped\nlines.\n \nNext."
    assert [words for *_, words in _told(import_story(lines, "a.txt"))] == ["A line.", "A second."]
    assert [words for *_, words in _told(import_story(blocks, "a.txt"))] == ["Wrapped lines.", "Next."]
    back = _round_trip("text")
    assert back.title == "The Boat"
    assert [turn.text for turn in back.story.turns] == [  # type: ignore[union-attr]
        "The rain had *stopped* by noon & <b>cleared</b>.",
        "You can keep the boat.",
        "Tom threw her the rope.",
        "No!",
    ]
    long = "Word goes on. " * 4000
    pieces = [t for *_, t in _told(import_story(long.encode(), "a.txt"))]
    assert [len(piece) <= 20_000 for piece in pieces] == [True] * 3
    assert " ".join(pieces) == long.strip()
    assert len(_told(import_story(b"x" * 50_000, "a.txt"))) == 3
    utf16 = import_story("Größe.".encode("utf-16"), "a.txt")
    assert _told(utf16) == [("narrate", None, "Größe.")]


def test_kobold_round_trip() -> None:
    back = _round_trip("koboldai")
    assert back.story
    assert back.kind == "koboldai"
    assert back.story.prompt == _PROMPT.model_copy(update={"id": "prompt", "note_depth": 3})
    assert [actor for _, actor, _ in _told(back)] == [None, "Mira", None, "Tom Gray"]


_KOBOLD_1: dict[str, Any] = {
    "gamestarted": True,
    "prompt": "You stand at a door.",
    "memory": "The door is\nlocked.",
    "authorsnote": "Be brief.",
    "anotetemplate": "[Author's note: <|>]",
    "actions": ["\n\n> You open the door.\n", "\nIt creaks", " and opens.[<|p|aGk=|p|>]\n{{[INPUT]}}Go on{{[OUTPUT]}}"],
    "actions_metadata": {},
    "worldinfo": [
        {"key": "door, old door", "keysecondary": "key", "content": "Oak.", "comment": "", "constant": False},
        {"key": "hall", "content": "Dark.", "comment": "Hall", "constant": True, "widisabled": True, "init": True},
        {"key": "", "keysecondary": "", "content": "", "comment": "", "folder": -1, "init": False},
    ],
    "wifolders_d": {},
    "wifolders_l": [],
}


def test_kobold_version_1() -> None:
    back = import_story(json.dumps(_KOBOLD_1).encode(), "save.json")
    assert _told(back) == [
        ("narrate", None, "You stand at a door."),
        ("do", "You", "You open the door."),
        ("narrate", None, "It creaks and opens."),
        ("narrate", None, "Go on"),
    ]
    assert back.story
    prompt = back.story.prompt
    assert (prompt.memory, prompt.note, prompt.premise) == ("The door is\nlocked.", "Be brief.", "You stand at a door.")
    assert prompt.lore == (
        LoreEntry(keys=("door", "old door"), text="Oak."),
        LoreEntry(name="Hall", keys=("hall",), text="Dark.", always=True, enabled=False),
    )
    assert "Secondary keys of lore entries were left out." in back.notes


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


_PICKLE = "base64:" + base64.encodebytes(pickle.dumps(_Bomb())).decode()


def _kobold_2() -> dict[str, Any]:
    entry = {"title": "Door", "key": ["door"], "keysecondary": [], "content": "Oak.", "constant": False, "uid": 0}
    return {
        "file_version": 2,
        "story_name": "The Door",
        "prompt": "You stand at a door.",
        "memory": "",
        "authornote": "Be brief.",
        "andepth": 4,
        "lua_edited": _PICKLE,  # sets are always pickled there; nothing reads them
        "actions": {
            "action_count": 10,
            "actions": {
                str(i): {"Selected Text": f" Then {i}.", "Options": [{"text": "other"}]} for i in (10, 2, 11, *range(2))
            },
        },
        "worldinfo_v2": {"folders": {"root": [0]}, "entries": {"0": entry}},
        "worldinfo": [],
    }


def test_kobold_version_2() -> None:
    back = import_story(json.dumps(_kobold_2()).encode(), "story.json")
    assert back.title == "The Door"
    assert _told(back) == [("narrate", None, "You stand at a door. Then 0. Then 1. Then 2. Then 10.")]
    assert back.story
    assert (back.story.prompt.note, back.story.prompt.note_depth) == ("Be brief.", 4)
    assert back.story.prompt.lore == (LoreEntry(name="Door", keys=("door",), text="Oak."),)


@pytest.mark.parametrize("field", ["prompt", "memory", "authornote", "actions"])
def test_pickles_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"story.json: field '{field}': holds pickled data"):
        import_story(json.dumps(_kobold_2() | {field: _PICKLE}).encode(), "story.json")


_BOOK = {
    "0": {"uid": 0, "key": ["Eldoria", "/wood(s)?/i"], "keysecondary": [], "comment": "Forest",
          "content": "Dark woods.", "constant": False, "order": 100, "disable": False},
    "2": {"uid": 2, "key": [], "keysecondary": ["x"], "comment": "", "content": "Magic exists.", "constant": True,
          "order": 5, "disable": True},
    "3": {"uid": 3, "key": ["empty"], "content": "", "order": 1},
}  # fmt: skip


def test_lorebooks() -> None:
    book = import_story(json.dumps({"entries": _BOOK}).encode(), "Eldoria.json")
    magic = LoreEntry(text="Magic exists.", always=True, enabled=False)
    assert (book.kind, book.title, book.story) == ("lorebook", "Eldoria", None)
    assert book.lore == (magic, LoreEntry(name="Forest", keys=("Eldoria",), text="Dark woods."))
    assert len(book.notes) == 2
    entries = [
        {"keys": ["Eldoria"], "content": "Dark woods.", "extensions": {}, "enabled": False, "insertion_order": 10},
        {"keys": ["b"], "content": "B.", "extensions": {}, "enabled": True, "insertion_order": 9, "name": "Bee"},
    ]
    inner = {"name": "World", "extensions": {}, "entries": entries}
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": "Ann", "character_book": inner}}
    for value in (card, {"character_book": inner}, inner):
        found = import_story(json.dumps(value).encode(), "card.json")
        assert found.title == "World"
        assert found.lore == (
            LoreEntry(name="Bee", keys=("b",), text="B."),
            LoreEntry(keys=("Eldoria",), text="Dark woods.", enabled=False),
        )
    assert _round_trip("lorebook").lore == _LORE
    many = {"entries": {str(i): {"key": ["k"], "content": str(i)} for i in range(501)}}
    assert len(import_story(json.dumps(many).encode(), "a.json").lore) == 500


_CHAT = [
    {
        "user_name": "Sam",
        "character_name": "Ann",
        "create_date": "2024-1-1",
        "chat_metadata": {"note_prompt": "Gently.", "note_depth": 4, "scenario": "A quiet café."},
    },
    {"name": "Ann", "is_user": False, "is_system": False, "mes": '*Ann waves at {{user}}.*\n\n"Hello."', "swipes": []},
    {"name": "Sam", "is_user": True, "is_system": False, "mes": "Hi, {{char}}!"},
    {"name": "Ann", "is_user": False, "is_system": False, "mes": '*She nods.* "Sit."', "extra": {"api": "x"}},
    {"name": "Note", "is_user": False, "is_system": True, "mes": "hidden"},
    {"name": "System", "is_user": False, "is_system": False, "mes": "Night falls.", "extra": {"type": "narrator"}},
]


def _lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_sillytavern_chat() -> None:
    back = import_story(_lines(_CHAT), "Ann - chat.jsonl")
    assert _told(back) == [
        ("do", "Ann", "Ann waves at Sam."),
        ("say", "Ann", "Hello."),
        ("say", "Sam", "Hi, Ann!"),
        ("do", "Ann", 'She nods. "Sit."'),
        ("narrate", None, "Night falls."),
    ]
    assert back.story
    prompt = back.story.prompt
    assert [turn.author for turn in back.story.turns] == ["policy", "policy", "writer", "policy", "policy"]
    assert (prompt.premise, prompt.note, prompt.note_depth) == ("A quiet café.", "Gently.", 4)
    assert (prompt.characters, back.title) == (("Ann", "Sam"), "Ann - chat")
    assert back.notes == ("1 hidden messages were left out.",)
    assert _told(import_story(_lines(_CHAT[2:3]), "a.jsonl")) == [("say", "Sam", "Hi, {{char}}!")]


def test_sillytavern_round_trip() -> None:
    back = _round_trip("sillytavern")
    assert _told(back) == [
        ("narrate", None, "The rain had *stopped* by noon & <b>cleared</b>."),
        ("say", "Mira", "You can keep the boat."),
        ("do", "Tom Gray", "Tom threw her the rope."),
        ("say", "Tom Gray", "No!"),
    ]
    assert back.story
    assert (back.story.prompt.premise, back.story.prompt.note_depth) == (_PROMPT.premise, 5)


def test_epub_is_a_book() -> None:
    data, suffix, media_type = export_story(_STORY, "epub", 'A <Boat> & "more"\x07')
    assert (suffix, media_type) == (".epub", "application/epub+zip")
    archive = zipfile.ZipFile(io.BytesIO(data))
    first = archive.infolist()[0]
    assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
    assert data[30:58] == b"mimetypeapplication/epub+zip"
    container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
    rootfile = next(node.get("full-path") for node in container.iter() if node.tag.endswith("rootfile"))
    package = ElementTree.fromstring(archive.read(str(rootfile)))
    names = {"opf": "http://www.idpf.org/2007/opf", "dc": "http://purl.org/dc/elements/1.1/"}
    items = {item.get("id"): item for item in package.findall("opf:manifest/opf:item", names)}
    assert {item.get("href") for item in items.values()} <= set(archive.namelist())
    assert [item.get("id") for item in items.values() if item.get("properties") == "nav"] == ["nav"]
    assert [ref.get("idref") in items for ref in package.findall("opf:spine/opf:itemref", names)] == [True]
    identifier = package.find("opf:metadata/dc:identifier", names)
    assert identifier is not None
    assert package.get("unique-identifier") == identifier.get("id")
    assert package.findtext("opf:metadata/dc:title", namespaces=names) == 'A <Boat> & "more"'
    page = ElementTree.fromstring(archive.read("story.xhtml"))
    texts = ["".join(node.itertext()) for node in page.iter("{http://www.w3.org/1999/xhtml}p")]
    assert texts == [turn.prose() for turn in _STORY.turns]
    ElementTree.fromstring(archive.read("nav.xhtml"))


_BROKEN: list[tuple[str, bytes, str]] = [
    ("a.json", b'{"storyrl": 2, "prompt": {"premise": "A."}}', "version 2"),
    ("a.json", b'{"storyrl": 1, "prompt": {"goal": "A."}}', "'prompt.premise': required"),
    ("a.json", b'{"storyrl": 1, "prompt": {"premise": "A."}, "turns": [{"kind": "sing"}]}', "'turns.0.kind'"),
    ("a.json", b'{"storyrl": 1, "prompt": {"premise": "A."}, "branches": []}', "'branches': unknown"),
    ("a.json", b'{"storyrl": 1, "prompt": {"premise": "\\ud800"}}', "'prompt.premise'"),
    ("a.json", b'{"storyrl": 1, "prompt": "A."}', "'prompt'"),
    ("a.json", b'{"some": "thing"}', "none of"),
    ("a.json", b"[1, 2]", "none of"),
    ("a.json", b"3", "none of"),
    ("a.json", b'{"premise": ', "line 1: not valid JSON"),
    ("a.jsonl", b'{"mes": "a"}\n{"mes": \n', "line 2: not valid JSON"),
    ("a.json", b"[" * 1_000_000, "nested too deeply"),
    ("a.json", b'{"a":' * 1_000_000, "nested too deeply"),
    ("a.json", b'{"storyrl": ' + b"9" * 5000 + b"}", "endless number"),
    ("a.json", b'{"prompt": 5, "actions": []}', "'prompt': expected a text, got int"),
    ("a.json", b'{"prompt": "", "actions": []}', "no text of a story"),
    ("a.json", b'{"prompt": "A.", "actions": [1]}', "'actions'"),
    ("a.json", b'{"prompt": "A.", "actions": {"action_count": 1}}', "'actions'"),
    ("a.json", b'{"prompt": "A.", "actions": {"action_count": 1, "actions": {"0": 1}}}', "'actions'"),
    ("a.json", b'{"prompt": "A.", "actions": [], "worldinfo": 5}', "'worldinfo'"),
    ("a.json", b'{"entries": [1]}', "'entries'"),
    ("a.json", b'{"entries": {}}', "'entries'"),
    ("a.json", b'{"entries": [{"content": "x", "keys": [1]}]}', "'entries.0.keys'"),
    ("a.json", b'{"spec": "chara_card_v2", "data": {"name": "Ann"}}', "no lorebook"),
    ("a.jsonl", b'{"user_name": "S"}\n{"mes": 5}', "'mes'"),
    ("a.txt", b"", "empty"),
    ("a.txt", b" \n ", "empty"),
    ("a.txt", b"caf\xe9", "UTF-8"),
    ("a.json", pickle.dumps("x"), "UTF-8"),
    ("a.md", b"> Goal: none", "no text of a story"),
    ("a.docx", b"PK", "'.docx'"),
    ("a.txt", b"a.\n\n" * 20_001, "more than 20,000 paragraphs"),
    ("a.txt", b"a" * 20_000_001, "larger than 20 MB"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "said"), _BROKEN, ids=range(len(_BROKEN)))
def test_broken_files_say_what_is_wrong(name: str, data: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        import_story(data, f"..\\..\\/etc/{name}")
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert said in message
    assert len(message) < 400


def test_foreign_texts_are_cleaned_and_cut() -> None:
    save = _KOBOLD_1 | {"prompt": "A\x00 door\ud800.", "memory": "m" * 5000, "actions": []}
    back = import_story(json.dumps(save).encode(), "a.json")
    assert back.story
    assert back.story.turns[0].text == "A door?."
    assert len(back.story.prompt.memory) == 4000
    assert "The memory was cut to 4000 characters." in back.notes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "*a " * 300_000),
        ("a.md", "x " + "**" * 300_000),
        ("a.md", "\\" * 600_000),
        ("a.md", "[say " + ":" * 600_000),
        ("a.txt", '"' * 600_000),
        ("a.txt", ('"a" said ' + "A" * 19_000 + "\n\n") * 30),
        ("a.txt", "[say " + ":" * 600_000),
        ("a.json", json.dumps(_KOBOLD_1 | {"actions": ["[<|" * 200_000]})),
        ("a.json", json.dumps({"entries": [{"keys": ["/" * 300_000 + "a" * 300_000 + "B"], "content": "x"}]})),
    ],
    ids=range(9),
)
def test_hostile_texts_take_no_time(name: str, text: str) -> None:
    start = time.process_time()
    import_story(text.encode(), name)
    assert time.process_time() - start < 3


def test_files(tmp_path: Path) -> None:
    for kind in EXPORTS:
        path = tmp_path / f"story-{kind}{EXPORTS[kind][1]}"
        write_story(path, _STORY, kind, "The Boat")
        if kind != "epub":
            assert path.read_bytes() == export_story(_STORY, kind, "The Boat")[0]
            assert read_story(path).kind == kind
    with pytest.raises(InputError, match="did you mean 'json'"):
        write_story(tmp_path / "x.json", _STORY, "jsn", "")
    assert not (tmp_path / "x.json").exists()
    with pytest.raises(InputError, match="no such file"):
        read_story(tmp_path / "none.json")
    (tmp_path / "big.txt").write_bytes(b"a" * 20_000_100)
    with pytest.raises(InputError, match="larger than 20 MB"):
        read_story(tmp_path / "big.txt")
