"""Prompt files: four formats, and many kinds of broken ones."""

from pathlib import Path

import pytest

from prompts.readers import read_prompts
from storyrl.errors import InputError
from storyrl.story import LoreEntry

_GOOD = {
    "a.jsonl": '{"premise": "A door.", "goal": "It opens.", "characters": ["Tom", "Ann"]}\n\n{"premise": "B."}\n',
    "a.csv": 'premise,goal,characters\n"A door.",It opens.,Tom; Ann\nB.,,\n',
    "a.toml": '[[prompt]]\npremise = "A door."\ngoal = "It opens."\ncharacters = ["Tom", "Ann"]\n'
    '[[prompt]]\npremise = "B."\n',
}


@pytest.mark.parametrize("name", _GOOD)
def test_formats_agree(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(_GOOD[name], encoding="utf-8")
    first, second = read_prompts(tmp_path / name)
    assert (first.premise, first.goal, first.characters) == ("A door.", "It opens.", ("Tom", "Ann"))
    assert (second.premise, second.goal, second.characters) == ("B.", "", ())


_NOTED = {
    "a.jsonl": '{"premise": "A.", "note": "Slow.", "note_depth": 0, "lore": [{"keys": ["oar"], "text": "Old."}]}\n',
    "a.toml": '[[prompt]]\npremise = "A."\nnote = "Slow."\nnote_depth = 0\n'
    '[[prompt.lore]]\nkeys = ["oar"]\ntext = "Old."\n',
    "a.csv": "premise,note,note_depth\nA.,Slow.,0\n",
}


@pytest.mark.parametrize("name", _NOTED)
def test_note_and_lore(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(_NOTED[name], encoding="utf-8")
    (prompt,) = read_prompts(tmp_path / name)
    assert (prompt.note, prompt.note_depth) == ("Slow.", 0)
    assert prompt.lore == (() if name == "a.csv" else (LoreEntry(keys=("oar",), text="Old."),))


def test_plain_text_with_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffA door.\r\n\r\n# a note\r\nB – é.\r\n", encoding="utf-8")
    assert [(p.id, p.premise) for p in read_prompts(tmp_path / "a.txt")] == [("1", "A door."), ("4", "B – é.")]


_BROKEN: list[tuple[str, str | bytes, list[str]]] = [
    ("a.jsonl", '{"premise": "A."}\n{"premise": \n', [":2", "not valid JSON"]),
    ("a.jsonl", '["A."]\n', [":1", "JSON object"]),
    ("a.jsonl", '{"goal": "X."}\n', [":1", "'premise'", "required"]),
    ("a.jsonl", '{"premise": "  "}\n', [":1", "'premise'"]),
    ("a.jsonl", '{"premise": 5}\n', [":1", "'premise'", "5"]),
    ("a.jsonl", '{"premise": "A.", "gaol": "X."}\n', [":1", "'gaol'", "did you mean 'goal'"]),
    ("a.jsonl", '{"premise": "A.", "characters": "Tom"}\n', [":1", "'characters'"]),
    ("a.jsonl", '{"premise": "A.", "characters": ["Tom", ""]}\n', [":1", "'characters.1'"]),
    ("a.jsonl", '{"id": "x", "premise": "A."}\n{"id": "x", "premise": "B."}\n', [":2", "'id'", "line 1"]),
    ("a.jsonl", '{"premise": "A.", "note_depth": 51}\n', [":1", "'note_depth'", "50"]),
    ("a.jsonl", '{"premise": "A.", "lore": {"oar": "Old."}}\n', [":1", "'lore'"]),
    ("a.jsonl", '{"premise": "A.", "lore": [{"keys": ["oar"]}]}\n', [":1", "'lore.0.text'", "required"]),
    ("a.jsonl", '{"premise": "A.", "lore": [{"text": "B.", "kyes": []}]}\n', [":1", "'lore.0.kyes'", "'keys'"]),
    ("a.csv", "premise,note_depth\nA.,deep\n", [":2", "'note_depth'", "deep"]),
    ("a.csv", "premise,lore\nA.,x\n", [":1", "'lore'", "JSON Lines"]),
    ("a.jsonl", "", ["no prompts"]),
    ("a.jsonl", b'{"premise": "A."}\n{"premise": "\xff"}\n', [":2", "UTF-8"]),
    ("a.csv", "goal,characters\nX.,Tom\n", [":1", "premise"]),
    ("a.csv", "premise,goal\nA, b, c\n", [":2", "more fields"]),
    ("a.csv", 'premise\n"A.\n', ["not valid CSV"]),
    ("a.toml", "[[prompt]\npremise = 1\n", ["not valid TOML"]),
    ("a.toml", '[[story]]\npremise = "A."\n', ["'story'", "[[prompt]]"]),
    ("a.toml", '[prompt]\npremise = "A."\n', ["[[prompt]]"]),
    ("a.txt", "\n# only a note\n", ["no prompts"]),
    ("a.docx", "A.", ["'.docx'"]),
]


@pytest.mark.parametrize(("name", "content", "said"), _BROKEN)
def test_broken_files_name_file_line_and_field(
    tmp_path: Path, name: str, content: str | bytes, said: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in said:
        assert part in message


def test_missing_file_folder_and_unknown_set(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", tmp_path, "starter:tain"):
        with pytest.raises(InputError):
            read_prompts(source)
