"""The store: round trips, migrations, concurrent writers, and what ratings become."""

import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from storyrl.errors import InputError
from storyrl.store import Answer, Base, Comparison, Rating, ShownCandidate, ShownTurn, Store, preferences
from storyrl.story import Kind, Prompt, Story, Turn

_PROMPT = Prompt(id="p", premise="A man walks over the hill – to the sea.", goal="He eats.")
_TURNS = (Turn(kind=Kind.NARRATE, text="Grüße, 猫."), Turn(kind=Kind.SAY, actor="Al", text="Hi.", author="writer"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "an odd näme?.db"))


def test_round_trip_and_update(store: Store) -> None:
    story = Story(id="s", prompt=_PROMPT, turns=_TURNS)
    store.save_story(story)
    assert store.load_story("s") == story
    store.save_story(story.model_copy(update={"turns": _TURNS[:1]}), title="Sea")
    reopened = Store(store.url.database)
    assert reopened.load_story("s").turns == _TURNS[:1]
    assert [(i.id, i.title, i.turns) for i in reopened.list_stories()] == [("s", "Sea", 1)]
    assert store.load_story("../s") is None
    store.set_candidates("s", 1, [ShownCandidate(_TURNS[1], {"goal": 0.5}, 1.0)])
    store.set_candidates("s", 1, [ShownCandidate(_TURNS[1], {"goal": 0.5}, 1.0, picked=True)])
    assert store.counts()["candidates"] == 1
    store.delete_story("s")
    assert set(store.counts().values()) == {0}


def test_shown_by_hand(store: Store) -> None:
    first, second, third = (ShownCandidate(Turn(kind=Kind.SAY, actor="Al", text=t), {"goal": 0.5}, 1.0) for t in "abc")
    for story_id, turns in (("s", _TURNS), ("short", ())):
        store.save_story(Story(id=story_id, prompt=_PROMPT, turns=turns))
        store.set_candidates(story_id, 1, [first, second])
    store.set_candidates("s", 0, [third])
    picked = ShownCandidate(third.turn, {}, 2.0, picked=True)
    store.set_candidates("s", 1, [second, picked])  # a second round beside the first
    assert store.shown() == [
        ShownTurn(_PROMPT, (), (third,)),
        ShownTurn(_PROMPT, _TURNS[:1], (first, second, picked)),
    ]
    store.delete_story("s")
    assert store.shown() == []


def test_migrations_make_what_the_models_say(store: Store) -> None:
    with sa.create_engine(store.url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_bad_values_and_places(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refuses the value"):
        store.add_rating(Rating(_PROMPT, "text", 6))
    (tmp_path / "no.db").write_text("this is no database, only text" * 50)
    for url in ("nosuch://x", str(tmp_path / "no.db"), "/proc/none/x.db"):
        with pytest.raises(InputError):
            Store(url)


def test_a_newer_database_is_refused(store: Store) -> None:
    with sa.create_engine(store.url).begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(InputError, match="newer storyrl"):
        Store(store.url.database)


def _write(path: str, worker: int) -> None:
    store = Store(path)
    for number in range(20):
        store.add_comparison(Comparison(_PROMPT, f"{worker}-{number}", "b", Answer.A))


def test_two_processes_open_and_write_at_once(tmp_path: Path) -> None:
    path, context = str(tmp_path / "new.db"), multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, worker)) for worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len({c.text_a for c in Store(path).comparisons()}) == 40


def test_preferences_by_hand(store: Store) -> None:
    for answer in Answer:
        store.add_comparison(Comparison(_PROMPT, "a", "b", answer))
    for text, value, aspect in (("x", 2, "style"), ("y", 5, "style"), ("z", 5, "style"), ("x", 1, "plot")):
        store.add_rating(Rating(_PROMPT, text, value, aspect))
    found = [(p["chosen"], p["rejected"], p["margin"], p["source"]) for p in preferences(store)]
    assert found == [
        ("a", "b", 1.0, "comparison"),
        ("b", "a", 1.0, "comparison"),
        ("y", "x", 3.0, "rating"),
        ("z", "x", 3.0, "rating"),
    ]
