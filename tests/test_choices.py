"""What ratings amount to as choices, by hand."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rewards.base import StoryText
from rewards.choices import choices_from_pairs, choices_from_store
from rewards.taste import Choice
from storyrl.store import Answer, Comparison, Rating, ShownCandidate, ShownTurn, Store, Weak, WeakPreference
from storyrl.story import Kind, Prompt, Story, Turn

_PROMPT = Prompt(id="p", premise="A man walks to the sea.", goal="He eats.")
_OTHER = Prompt(id="q", premise="A man walks home.")


def _rows(choices: list[Choice]) -> list[tuple[str, str, float, float]]:
    return [(c.first.text, c.second.text, c.first_better, c.weight) for c in choices]


def _compared(a: str, b: str, answer: Answer, prompt: Prompt = _PROMPT, rater: str = "local") -> Comparison:
    return Comparison(prompt, a, b, answer, rater)


def test_comparisons() -> None:
    said = [_compared("a", "b", Answer.A), _compared("a", "c", Answer.B), _compared("b", "c", Answer.TIE)]
    found = choices_from_store(said, [], [])
    assert _rows(found) == [("a", "b", 1.0, 1.0), ("a", "c", 0.0, 1.0), ("b", "c", 0.5, 0.5)]
    assert found[0].first == StoryText("a", "He eats.", "A man walks to the sea.")
    assert choices_from_store([_compared("a", "a", Answer.A)], [], []) == []


def test_both_bad_lose_against_what_this_rater_chose_for_this_prompt() -> None:
    said = [
        _compared("x", "y", Answer.BOTH_BAD),
        _compared("a", "x", Answer.A),
        _compared("b", "c", Answer.B),
        _compared("other prompt", "b", Answer.A, _OTHER),
        _compared("other rater", "b", Answer.A, rater="Ann"),
    ]
    assert _rows(choices_from_store(said, [], []))[:5] == [
        ("x", "y", 0.5, 0.25),
        ("c", "x", 1.0, 0.25),
        ("c", "y", 1.0, 0.25),
        ("a", "x", 1.0, 0.25),
        ("a", "y", 1.0, 0.25),
    ]


def test_a_pair_that_was_asked_again_counts_once() -> None:
    said = [_compared("a", "b", Answer.A), replace(_compared("b", "a", Answer.A), repeat_of=1)]
    bad = _compared("x", "y", Answer.BOTH_BAD)
    assert _rows(choices_from_store([*said, bad], [], [])) == [
        ("a", "b", 1.0, 1.0),
        ("x", "y", 0.5, 0.25),
        ("a", "x", 1.0, 0.25),
        ("a", "y", 1.0, 0.25),
    ]


def test_both_bad_lose_against_three_at_most_and_never_against_themselves() -> None:
    chosen = [_compared(text, "-", Answer.A) for text in ("a", "b", "c", "d", "x", "d")]
    found = _rows(choices_from_store([*chosen, _compared("x", "y", Answer.BOTH_BAD)], [], []))[6:]
    assert found[0] == ("x", "y", 0.5, 0.25)
    assert [row[0] for row in found[1:]] == ["d", "d", "c", "c", "b", "b"]


def test_ratings() -> None:
    marks = [
        *(Rating(_PROMPT, text, value) for text, value in (("a", 1), ("b", 3), ("c", 3), ("d", 5))),
        Rating(_PROMPT, "a", 2),  # thought better of it
        Rating(_PROMPT, "a", 5, aspect="style"),
        Rating(_PROMPT, "b", 4, aspect="style"),
        Rating(_PROMPT, "e", 5, rater="Ann"),
        Rating(_OTHER, "e", 5),
    ]
    assert sorted(_rows(choices_from_store([], marks, []))) == [
        ("a", "b", 1.0, 0.25),  # style; a and b are marked for two aspects, so each counts half
        ("b", "a", 1.0, 0.25),
        ("c", "a", 1.0, 0.5),
        ("d", "a", 1.0, 1.5),
        ("d", "b", 1.0, 1.0),
        ("d", "c", 1.0, 1.0),
    ]
    capped = choices_from_store([], [Rating(_PROMPT, "a", 1), Rating(_PROMPT, "b", 5)], [])
    assert _rows(capped) == [("b", "a", 1.0, 1.5)]


def test_suggestions() -> None:
    before, better, worse = (Turn(kind=Kind.NARRATE, text=text) for text in ("It rained.", "He ran.", "He sat."))
    day = datetime(2026, 1, 2, tzinfo=UTC)
    weak = tuple(WeakPreference(how, better, worse, (1, 2), "s", "Rain", day) for how in Weak)
    found = choices_from_store([], [], [ShownTurn(_PROMPT, (before,), (), weak), ShownTurn(_PROMPT, (), ())])
    assert _rows(found) == [
        ("It rained.\n\nHe ran.", "It rained.\n\nHe sat.", 1.0, weight) for weight in (0.3, 0.15, 0.3)
    ]
    assert found[0].first == StoryText("It rained.\n\nHe ran.", "He eats.", "A man walks to the sea.", finished=False)


def test_from_a_database(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s.db"))
    assert choices_from_store(store.comparisons(), store.ratings(), store.shown()) == []
    store.add_comparison(_compared("a", "b", Answer.BOTH_BAD))
    store.add_rating(Rating(_PROMPT, "c", 1))
    store.add_rating(Rating(_PROMPT, "d", 2))
    store.save_story(Story(id="s", prompt=_PROMPT))
    turns = [Turn(kind=Kind.SAY, actor="Al", text=text) for text in ("Hi.", "Ho.")]
    shown = store.show("s", [ShownCandidate(turn, {}, 0.0) for turn in turns])
    store.pick("s", shown.candidates[1].id, 1)
    assert _rows(choices_from_store(store.comparisons(), store.ratings(), store.shown())) == [
        ("a", "b", 0.5, 0.25),
        ("d", "c", 1.0, 0.5),
        ('"Ho," said Al.', '"Hi," said Al.', 1.0, 0.3),
    ]


def test_from_a_file_of_pairs(tmp_path: Path) -> None:
    rows = [
        {"chosen": "a", "rejected": "b", "premise": "P.", "goal": "G."},
        {"chosen": "c", "rejected": "d", "margin": 2},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = choices_from_pairs(path)
    assert _rows(found) == [("a", "b", 1.0, 1.0), ("c", "d", 1.0, 2.0)]
    assert [found[0].second, found[1].second] == [StoryText("b", "G.", "P."), StoryText("d")]
