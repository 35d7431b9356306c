"""Which pair comes next, by hand; and the pair in the store: asked, answered, taken back, asked again."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from prompts.readers import read_prompts
from rewards.base import StoryText
from rewards.taste import Taste
from storyrl.agent import Agent
from storyrl.errors import InputError
from storyrl.store import Answer, Comparison, Judgement, OpenPair, PoolStory, Rating, Stale, Store, preferences
from storyrl.story import Kind, LoreEntry, Prompt, Story, Turn
from ui.pairs import Pairs, Ways, older_is_a
from ui.pen import Pen

_PROMPT = Prompt(id="p", premise="A man walks to the sea.", goal="He eats.", lore=(LoreEntry(text="It is cold."),))
_OTHER = Prompt(id="q", premise="A man walks home.")
_A, _B = Judgement(Answer.A), Judgement(Answer.B)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s.db")).for_owner("Ann")


def _add(store: Store, *texts: str, prompt: Prompt = _PROMPT) -> list[int]:
    return [story.id for story in store.add_to_pool([PoolStory(prompt, text, "m") for text in texts])]


# --- the store ------------------------------------------------------------------------------------------------------


def test_a_pair_is_kept_with_its_draft_until_it_is_answered(store: Store) -> None:
    first, second = _add(store, "one", "two", "one")
    assert [(s.id, s.text, s.policy, s.prompt) for s in store.pool()] == [
        (first, "one", "m", _PROMPT),
        (second, "two", "m", _PROMPT),
    ]
    assert _add(store, "two") == []  # there already
    asked = store.ask(second, first)
    assert (asked.text_a, asked.text_b, asked.prompt, asked.draft) == ("two", "one", _PROMPT, Judgement())
    said = Judgement(None, {"A": {"interest": 2}, "B": {}}, "Hm.")
    store.draft(asked.key, said)
    store.draft("another key", Judgement(comment="lost"))
    assert Store(store.url.database).for_owner("Ann").open_pair() == replace(asked, draft=said)
    with pytest.raises(InputError, match="which story is better"):
        store.answer(asked.key, said)
    number = store.answer(asked.key, Judgement(Answer.B, {"A": {"interest": 2}, "B": {"interest": 5}}, "Hm!"))
    assert store.open_pair() is None
    expected = Comparison(_PROMPT, "two", "one", Answer.B, "Ann", "m", "m", "Hm!")
    assert store.comparisons() == [expected]
    assert store.comparisons()[0].created is not None
    marks = [Rating(_PROMPT, "two", 2, "interest", "Ann"), Rating(_PROMPT, "one", 5, "interest", "Ann")]
    assert store.ratings() == marks
    store.delete_comparison(number)
    assert (store.comparisons(), store.ratings()) == ([], [])


def test_a_pair_is_answered_once_and_by_its_owner(store: Store) -> None:
    asked = store.ask(*_add(store, "one", "two"))
    bob = store.for_owner("Bob")
    assert (bob.pool(), bob.open_pair()) == ([], None)
    with pytest.raises(Stale, match="answered or put away"):
        bob.answer(asked.key, _A)
    with pytest.raises(InputError, match="two of your pool"):
        bob.ask(1, 2)
    store.answer(asked.key, _A)
    with pytest.raises(Stale, match="your answer was not stored"):
        store.answer(asked.key, _B)
    assert [c.answer for c in store.comparisons()] == [Answer.A]
    again = store.ask(2, 1)
    store.put_away()
    with pytest.raises(Stale):
        store.answer(again.key, _B)
    with pytest.raises(InputError, match="no answer to take back"):
        bob.undo_answer()


def test_a_pair_needs_two_stories_for_one_prompt(store: Store) -> None:
    [one], [other] = _add(store, "one"), _add(store, "one", prompt=_OTHER)
    for two in ((one, other), (one, one), (one, 99)):
        with pytest.raises(InputError, match="for the same prompt"):
            store.ask(*two)


def test_a_mark_that_is_refused_leaves_the_pair_open(store: Store) -> None:
    asked = store.ask(*_add(store, "one", "two"))
    with pytest.raises(InputError, match="refuses the value"):
        store.answer(asked.key, Judgement(Answer.A, {"A": {"interest": 6}}))
    assert (store.open_pair(), store.comparisons(), store.ratings()) == (asked, [], [])


def test_undo_brings_the_pair_back_as_it_was_answered(store: Store) -> None:
    one, two, three = _add(store, "one", "two", "three")
    store.answer(store.ask(one, two).key, _A)
    said = Judgement(Answer.TIE, {"A": {"language": 4}, "B": {"language": 1}}, "Neither.")
    store.answer(store.ask(three, one).key, said)
    store.ask(two, three)
    back = store.undo_answer()
    assert (back.text_a, back.text_b, back.draft) == ("three", "one", said)
    assert store.open_pair() == back  # also after a reload
    assert (len(store.comparisons()), store.ratings()) == (1, [])
    store.answer(back.key, replace(back.draft, answer=Answer.A))
    assert [c.answer for c in store.comparisons()] == [Answer.A, Answer.A]
    assert len(store.ratings()) == 2
    store.undo_answer()
    assert store.undo_answer().text_b == "two"
    with pytest.raises(InputError, match="no answer to take back"):
        store.undo_answer()


def _answered_twice(store: Store, first: Answer, second: Answer, turned: bool) -> None:
    one, two = _add(store, f"{first} {second} 1", f"{first} {second} 2")
    number = store.answer(store.ask(one, two).key, Judgement(first))
    store.answer(store.ask(*((two, one) if turned else (one, two)), repeat_of=number).key, Judgement(second))


def test_agreement_with_oneself(store: Store) -> None:
    assert store.self_agreement() is None
    _answered_twice(store, Answer.A, Answer.A, turned=False)
    assert store.self_agreement() == (1, 1)
    _answered_twice(store, Answer.A, Answer.B, turned=True)
    _answered_twice(store, Answer.B, Answer.B, turned=True)
    _answered_twice(store, Answer.TIE, Answer.TIE, turned=True)
    _answered_twice(store, Answer.TIE, Answer.BOTH_BAD, turned=False)
    assert store.self_agreement() == (3, 5)
    assert store.for_owner("Bob").self_agreement() is None
    assert len(preferences(store)) == 3  # of the first answers only
    back = store.undo_answer()
    assert store.self_agreement() == (3, 4)
    store.answer(back.key, Judgement(Answer.TIE))
    assert store.self_agreement() == (4, 5)
    store.delete_comparison(1)  # what asked again of it stands for itself from now on
    assert store.self_agreement() == (3, 4)
    assert len(preferences(store)) == 3


def test_the_latest_answers(store: Store) -> None:
    ids = _add(store, "one", "two", "three")
    said = Judgement(Answer.A, {"B": {"interest": 3}}, "Yes.")
    store.answer(store.ask(ids[0], ids[1]).key, _A)
    store.answer(store.ask(ids[1], ids[2]).key, said)
    assert [(c.text_a, j) for c, j in store.latest_answers(0, 1)] == [("two", said)]
    assert [(c.text_a, j) for c, j in store.latest_answers(1, 5)] == [("one", _A)]
    assert store.for_owner("Bob").latest_answers(0, 5) == []


# --- what to ask ----------------------------------------------------------------------------------------------------


class FakeAgent:
    """Writes one numbered turn at a time."""

    policy_name = "numbers"

    def __init__(self) -> None:
        self.written = 0

    def write_all(self, stories: Sequence[Story], turns: int, candidates: int, seed: int) -> list[Story]:
        self.written += 1
        return [s.with_turns(Turn(kind=Kind.NARRATE, text=f"{s.id}, {self.written}.")) for s in stories]


@pytest.fixture
def pairs(store: Store) -> Pairs:
    return Pairs(cast(Agent, FakeAgent()), store, Pen(), random.Random(3))


def _texts(pair: OpenPair | None) -> set[str]:
    assert pair
    return {pair.text_a, pair.text_b}


def test_blocks_of_four_have_two_of_each_side() -> None:
    draws, sides = random.Random(0), list[bool]()
    for _ in range(400):
        sides.append(older_is_a(sides, draws))
    assert {sum(sides[at : at + 4]) for at in range(0, 400, 4)} == {2}
    assert len({tuple(sides[at : at + 4]) for at in range(0, 400, 4)}) == 6  # every order occurs
    assert older_is_a([True] * 3, draws) is False  # answers were deleted
    assert older_is_a([False] * 4 + [True, True], draws) is False


def test_all_pairs_are_asked_and_none_twice_but_repeats(pairs: Pairs) -> None:
    for prompt in read_prompts("starter:train")[:20]:
        _add(pairs.store, *(f"{prompt.id} {n}" for n in range(4)), prompt=prompt)
    _add(pairs.store, "x", "y")  # for a prompt that is no starter prompt
    while (pair := pairs.ask(None, "random")) is not None:
        pairs.store.answer(pair.key, _A)
    answers = pairs.store.comparisons()
    first = [c for c in answers if c.repeat_of is None]
    assert len({frozenset((c.story_a, c.story_b)) for c in first}) == len(first) == 20 * 6
    places = {c.id: place for place, c in enumerate(answers)}
    repeats = [(place, places[c.repeat_of]) for place, c in enumerate(answers) if c.repeat_of is not None]
    assert 8 <= len(repeats) <= 24  # about one in eight of those after the first ten
    assert len({of for _, of in repeats}) == len(repeats)
    assert min(place for place, _ in repeats) >= 10
    assert min(place - of for place, of in repeats) > 5
    for place, of in repeats:
        assert _sides(answers[place]) == _sides(answers[of])
    older_was_a = sum(c.story_a < c.story_b for c in answers if c.story_a and c.story_b)
    assert abs(2 * older_was_a - len(answers)) <= 2


def _sides(c: Comparison) -> set[int | None]:
    return {c.story_a, c.story_b}


def test_a_prompt_of_one_s_own_and_a_pair_that_is_not_wanted(pairs: Pairs) -> None:
    _add(pairs.store, "one", "two", "three")
    assert pairs.ask(None, "random") is None
    first = pairs.ask(_PROMPT, "random")
    for _ in range(20):
        assert _texts(pairs.ask(_PROMPT, "random", instead_of=first)) != _texts(first)


def _read(pairs: Pairs, text: str, general: float = 0.0, **features: float) -> None:
    row = torch.zeros(len(Taste.unknown().delta) + 1)
    for name, value in features.items():
        row[int(name[1:])] = value
    row[-1] = general
    pairs._rows[StoryText(text, _PROMPT.goal, _PROMPT.premise)] = row


def test_the_most_telling_pair_is_the_least_certain_one(pairs: Pairs) -> None:
    _add(pairs.store, "plain", "long", "short", "bad")
    _read(pairs, "plain")
    _read(pairs, "long", f0=1.5)
    _read(pairs, "short", f0=-1.0)
    _read(pairs, "bad", general=-9.0, f0=-1.5)  # differs most, but everybody knows how that would be answered
    asked = pairs.ask(_PROMPT, "telling")
    assert _texts(asked) == {"long", "short"}
    assert asked
    # Once the rater likes long ones for certain, a difference of another kind tells more.
    _add(pairs.store, "dark")
    _read(pairs, "dark", f3=1.4)
    for _ in range(4):
        pairs.store.answer(asked.key, _A if asked.text_a == "long" else _B)
        asked = pairs.ask(_PROMPT, "telling")
        assert asked
    texts = [{c.text_a, c.text_b} for c in pairs.store.comparisons()] + [_texts(asked)]
    assert all("bad" not in each for each in texts)
    assert any("dark" in each for each in texts[1:3])


def test_what_was_not_read_yet_is_drawn(pairs: Pairs) -> None:
    _add(pairs.store, "plain", "long", "short")
    _read(pairs, "plain")
    assert len({frozenset(_texts(pairs.ask(_PROMPT, "telling"))) for _ in range(30)}) == 3
    _read(pairs, "long", f0=1.0)
    assert {frozenset(_texts(pairs.ask(_PROMPT, "telling"))) for _ in range(30)} == {frozenset({"plain", "long"})}


@pytest.mark.slow
def test_stories_are_written_into_the_pool_a_turn_a_job(pairs: Pairs) -> None:
    assert pairs.is_low(_PROMPT)
    assert [each for each in pairs.write("w", _PROMPT, True) if not isinstance(each, int)] == []
    assert cast(Any, pairs.agent).written == 4
    assert [s.text for s in pairs.store.pool()] == [
        f"pair-{n}, 1.\n\npair-{n}, 2.\n\npair-{n}, 3.\n\npair-{n}, 4." for n in (1, 2, 3, 4)
    ]
    assert {(s.prompt, s.policy) for s in pairs.store.pool()} == {(_PROMPT, "numbers")}
    assert (len(pairs.unanswered(_PROMPT)), pairs.is_low(_PROMPT), pairs.unread(_PROMPT)) == (6, False, [])
    writing = pairs.write("w", None, False)
    next(writing)
    writing.close()  # the window was closed
    assert len(pairs.store.pool()) == 4
    list(pairs.write("w", None, False))
    assert len(pairs.unanswered(None)) == 6


def test_stopped_writing_ends_without_stories(pairs: Pairs) -> None:
    writing = pairs.write("w", _PROMPT, True)
    pairs.agent.write_all = lambda *args: pairs.pen.stop("w") or []  # type: ignore[method-assign]
    assert set(writing) == {0}
    assert pairs.store.pool() == []


@pytest.mark.slow
def test_reading_makes_the_next_pair_a_telling_one(pairs: Pairs) -> None:
    _add(pairs.store, "He ran.", '"Who is there?" she asked. "Who?"', "It was a dark, dark night, and nobody came.")
    assert len(pairs.unread(_PROMPT)) == 3
    list(pairs.read_all("w", _PROMPT))
    assert pairs.unread(_PROMPT) == []
    assert len({frozenset(_texts(pairs.ask(_PROMPT, "telling"))) for _ in range(10)}) == 1
    asked = pairs.ask(_PROMPT, "telling")
    assert asked
    pairs.store.answer(asked.key, Judgement(Answer.A, {"A": {"interest": 5}, "B": {"interest": 1}}))
    assert _texts(pairs.ask(_PROMPT, "telling")) != _texts(asked)


def test_ways() -> None:
    ways = Ways(source="own", order="random", premise="P.", goal="G.")
    assert Ways.of(ways.model_dump()) == ways
    for broken in (None, "x", {"source": "elsewhere"}, {"premise": "x" * 5000}):
        assert Ways.of(broken) == Ways()
