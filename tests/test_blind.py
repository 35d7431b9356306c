"""Blind tests: sides balanced and hidden, each answer once, the win rate and its interval."""

import sqlite3
from pathlib import Path

import pytest

from storyrl.errors import InputError
from storyrl.share import Share
from storyrl.store import Answer, Store
from storyrl.story import Prompt


def _pairs(count: int) -> list[tuple[Prompt, str, str]]:
    return [(Prompt(id=str(n), premise=f"Premise {n}."), f"old {n}", f"new {n}") for n in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s.db"))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [  # by hand: (2 n p + z^2 -+ z sqrt(z^2 + 4 n p q)) / (2 (n + z^2)), z^2 = 3.8415
        (8, 10, 0.4902, 0.9433),
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (8.5, 10, 0.5412, 0.9646),
    ],
)
def test_wilson_interval(hits: float, count: int, low: float, high: float) -> None:
    assert Share(hits, count).interval == pytest.approx((low, high), abs=1e-4)


def test_nothing_asked_tells_nothing() -> None:
    assert Share(0, 0).interval == (0, 1)
    assert Share(0, 0).rate == 0.5


@pytest.mark.parametrize("count", [10, 11, 1])
def test_sides_are_balanced_and_drawn_anew(store: Store, count: int) -> None:
    orders, as_a = set(), set()
    for number in range(12):
        test = store.add_blind_pairs("old", f"new {number}", _pairs(count))
        sides = tuple(pair.after_is_a for pair in test.pairs)
        orders.add(sides)
        as_a.add(sum(sides))
        for pair in test.pairs:
            assert pair.texts == ((pair.text_after, pair.text_before) if pair.after_is_a else pair.texts)
            assert set(pair.texts) == {pair.text_before, pair.text_after}
    assert as_a <= {count // 2, count - count // 2}
    assert len(orders) > (5 if count > 1 else 1)  # by chance the same: less than once in 10^9 (2^11 for one pair)


def test_the_tuned_policy_wins_on_whichever_side_it_stands(store: Store) -> None:
    test = store.add_blind_pairs("old", "new", _pairs(4))
    right = {True: Answer.A, False: Answer.B}
    for pair, wanted in zip(test.pairs, (1.0, 1.0, 0.0, 0.5), strict=True):
        side = right[pair.after_is_a == bool(wanted)]
        store.answer_blind_pair(pair.id, Answer.TIE if wanted == 0.5 else side)
    [test] = store.blind_tests()
    assert [pair.won for pair in test.pairs] == [1.0, 1.0, 0.0, 0.5]
    assert test.result == Share(2.5, 4)
    assert test.open is None


def test_progress_is_kept_and_ten_more_join(store: Store, tmp_path: Path) -> None:
    first = store.add_blind_pairs("old", "new", _pairs(2))
    store.answer_blind_pair(first.pairs[0].id, Answer.TIE)
    store.close()
    again = Store(str(tmp_path / "s.db"))
    [test] = again.blind_tests()
    assert test.open == first.pairs[1]
    assert test.result == Share(0.5, 1)
    grown = again.add_blind_pairs("old", "new", _pairs(2))
    assert (grown.id, len(grown.pairs), grown.open) == (test.id, 4, first.pairs[1])
    assert again.add_blind_pairs("old", "newer", _pairs(1)).id != test.id


def test_an_answer_is_given_once_by_its_owner(store: Store) -> None:
    mira, tom = store.for_owner("mira"), store.for_owner("tom")
    [pair] = mira.add_blind_pairs("old", "new", _pairs(1)).pairs
    assert tom.blind_tests() == []
    with pytest.raises(InputError, match="answered already"):
        tom.answer_blind_pair(pair.id, Answer.A)
    with pytest.raises(InputError, match="A, B or tie"):
        mira.answer_blind_pair(pair.id, Answer.BOTH_BAD)
    mira.answer_blind_pair(pair.id, Answer.A)
    with pytest.raises(InputError, match="answered already"):
        mira.answer_blind_pair(pair.id, Answer.B)
    assert mira.blind_tests()[0].pairs[0].answer is Answer.A
    with pytest.raises(InputError, match="at least one pair"):
        mira.add_blind_pairs("old", "new", [])


def test_an_answer_is_taken_back_until_the_outcome_is_told(store: Store) -> None:
    mira, tom = store.for_owner("mira"), store.for_owner("tom")
    first, second = mira.add_blind_pairs("old", "new", _pairs(2)).pairs
    mira.answer_blind_pair(first.id, Answer.A)
    with pytest.raises(InputError, match="can't be taken back"):
        tom.undo_blind_answer(first.id)
    mira.undo_blind_answer(first.id)
    [test] = mira.blind_tests()
    assert test.open == first
    assert test.result.count == 0
    with pytest.raises(InputError, match="can't be taken back"):
        mira.undo_blind_answer(first.id)
    for pair in (first, second):
        mira.answer_blind_pair(pair.id, Answer.B)
    with pytest.raises(InputError, match="can't be taken back"):
        mira.undo_blind_answer(second.id)
    assert mira.blind_tests()[0].result.count == 2


def test_two_owners_do_not_share_a_test(store: Store) -> None:
    for name in ("mira", "tom"):
        store.for_owner(name).add_blind_pairs("old", "new", _pairs(1))
    assert [len(store.for_owner(name).blind_tests()[0].pairs) for name in ("mira", "tom")] == [1, 1]


def test_the_database_refuses_other_answers(store: Store, tmp_path: Path) -> None:
    [pair] = store.add_blind_pairs("old", "new", _pairs(1)).pairs
    with sqlite3.connect(tmp_path / "s.db") as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute("UPDATE blind_answers SET answer = 'both_bad' WHERE id = ?", (pair.id,))
