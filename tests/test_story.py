"""Prompt, Turn, Story, and the turn format."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prompts.context import context_ids
from prompts.readers import read_prompts
from prompts.template import end_at_sentence, format_turn, head_ids, parse_turns, split_sentences
from storyrl.sft import read_stories, shipped_stories
from storyrl.story import Kind, Prompt, Story, Turn

from .conftest import word_tokenizer


def test_turns_know_who_acts() -> None:
    with pytest.raises(ValidationError, match="needs an actor"):
        Turn(kind=Kind.SAY, text="Hello.")
    with pytest.raises(ValidationError, match="has no actor"):
        Turn(kind=Kind.NARRATE, actor="Tom", text="Rain.")


@pytest.mark.parametrize(
    "fields",
    [{"note_depth": -1}, {"note_depth": 51}, {"note": "x" * 4001}, {"lore": [{"text": "x"}] * 501}, {"lore": [{}]}]
    + [{"lore": [{"text": "x", "keys": keys}]} for keys in ([""], ["k" * 101], ["k"] * 51)],
)
def test_note_and_lore_have_limits(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Prompt.model_validate({"premise": "A."} | fields)


@pytest.mark.parametrize(
    ("words", "prose"),
    [
        ("Come in.", '"Come in," said Mira.'),
        ("Come in!", '"Come in!" said Mira.'),
        ("Wait...", '"Wait..." said Mira.'),
        ("well", '"well," said Mira.'),
    ],
)
def test_speech_as_prose(words: str, prose: str) -> None:
    assert Turn(kind=Kind.SAY, actor="Mira", text=words).prose() == prose


def test_format_round_trip_of_all_shipped_stories() -> None:
    for story in read_stories(shipped_stories()):
        lines = "\n".join(format_turn(turn) for turn in story.turns)
        parsed = parse_turns(lines)
        assert [(t.kind, t.actor) for t in parsed] == [(t.kind, t.actor) for t in story.turns]
        assert [t.text.strip('"') for t in parsed] == [t.text.strip('"') for t in story.turns]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[say Mira] Yes.", [("say", "Mira", "Yes.")]),
        ("[SAY: Mira] Yes.", [("say", "Mira", "Yes.")]),
        ('Mira: "Yes."', [("say", "Mira", "Yes.")]),
        ("Once upon a time.\n\n", [("narrate", None, "Once upon a time.")]),
        ("[say] Yes.", [("narrate", None, "Yes.")]),
        ("[do Tom Tom ran.", [("narrate", None, "Tom Tom ran.")]),
        ("[narrate]\n[ ]\n***", []),
        ("[say " + "x" * 100 + "] Yes.", [("narrate", None, "Yes.")]),
        ("- [narrate Tom] Rain.", [("narrate", None, "Rain.")]),
    ],
)
def test_parser_survives(text: str, expected: list[tuple[str, str | None, str]]) -> None:
    found = [(t.kind.value, t.actor, t.text) for t in parse_turns(text)]
    assert found == expected


def test_sentence_ends() -> None:
    assert end_at_sentence("He ran. She w") == ("He ran.", True)
    assert end_at_sentence('"Go!" he said. And th') == ('"Go!" he said.', True)
    assert end_at_sentence("no end here") == ("no end here", False)
    assert end_at_sentence("He met Mr. Gray and") == ("He met Mr. Gray and", False)
    assert split_sentences("One. Two! Three") == ["One.", "Two!", "Three"]


def test_context_keeps_the_prompt_and_the_latest_whole_turns() -> None:
    tokenizer = word_tokenizer()
    turns = tuple(Turn(kind=Kind.NARRATE, text=f"Turn number {i}.") for i in range(50))
    story = Story(id="s", prompt=Prompt(premise="A door.", goal="It opens."), turns=turns)
    head = len(head_ids(story.prompt, tokenizer))
    text = tokenizer.decode(context_ids(story, tokenizer, head + 100))
    assert "Premise: A door.\nGoal: It opens." in text
    shown = re.findall(r"Turn number (\d+)\.", text)
    assert shown == [str(i) for i in range(50 - len(shown), 50)]
    assert 0 < len(shown) < 5
    assert len(context_ids(story, tokenizer, 40)) == 40


def _names(rows: list[Prompt]) -> set[str]:
    titles = {"Captain", "Detective", "Doctor", "Inspector", "Lord", "Madame", "Major", "Mayor", "Officer", "Professor"}
    titles |= {
        "Queen",
        "Sergeant",
        "Sheriff",
        "Sister",
        "Uncle",
        "King",
        "Lady",
        "Aunt",
        "Miss",
        "Mrs",
        "Old",
        "Father",
    }
    words = {word for row in rows for name in row.characters for word in re.findall(r"[A-Z][\w-]{2,}", name)}
    return words - titles


def test_starter_sets_are_large_and_disjoint() -> None:
    train, heldout = read_prompts("starter:train"), read_prompts("starter:heldout")
    stories = [story.prompt for story in read_stories(shipped_stories())]
    assert len(train) >= 300
    assert len(heldout) >= 120
    assert not {p.goal for p in train + stories} & {p.goal for p in heldout}
    assert not {p.premise for p in train + stories} & {p.premise for p in heldout}
    assert not _names(heldout) & _names(train + stories)
    assert len({p.genre for p in heldout}) >= 10
    assert all(p.goal and p.characters for p in train + heldout)


def test_shipped_files_are_json_lines() -> None:
    for package, folder in (("prompts", "sets"), ("prompts", "stories"), ("rewards", "data")):
        for path in Path(str(resources.files(package).joinpath(folder))).glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert len({row["id"] for row in rows}) == len(rows)
