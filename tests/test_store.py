"""The store: round trips, migrations, concurrent writers, and what ratings become."""

import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
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
    store.show("s", [ShownCandidate(_TURNS[1], {"goal": 0.5}, 1.0)])
    assert store.counts()["candidates"] == 1
    store.delete_story("s", store.tree("s").version)
    assert set(store.counts().values()) == {0}


def test_shown_by_hand(store: Store) -> None:
    first, second, third = (ShownCandidate(Turn(kind=Kind.SAY, actor="Al", text=t), {"goal": 0.5}, 1.0) for t in "abc")
    tree = store.save_story(Story(id="s", prompt=_PROMPT, turns=_TURNS))
    store.show("s", [first, second], after=tree.path[0].id)
    store.show("s", [third], after=None)
    store.show("s", [second, third], after=tree.path[0].id)  # a second round beside the first
    assert store.shown() == [
        ShownTurn(_PROMPT, (), (third,)),
        ShownTurn(_PROMPT, _TURNS[:1], (first, second, second, third)),
    ]
    store.delete_story("s", store.tree("s").version)
    assert store.shown() == []


def test_migrations_make_what_the_models_say(store: Store) -> None:
    with sa.create_engine(store.url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_bad_values_and_places(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refuses the value"):
        store.add_rating(Rating(_PROMPT, "text", 6))
    with pytest.raises(InputError, match="surrogates"):
        store.add_rating(Rating(_PROMPT, "\ud800", 5))
    with pytest.raises(InputError, match="refuses the value"):
        store.delete_rating(2**80)
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


def test_answers_can_be_taken_back_by_their_rater_only(store: Store) -> None:
    ann, bob = store.for_owner("Ann"), store.for_owner("Bob")
    first = ann.add_comparison(Comparison(_PROMPT, "a", "b", Answer.A))
    second = ann.add_comparison(Comparison(_PROMPT, "a", "c", Answer.B, rater="Bob"))  # Ann's all the same
    mark = bob.add_rating(Rating(_PROMPT, "a", 4))
    assert [(c.id, c.rater) for c in ann.comparisons()] == [(first, "Ann"), (second, "Ann")]
    assert (bob.comparisons(), ann.ratings()) == ([], [])
    assert [r.rater for r in store.ratings()] == ["Bob"]
    assert (ann.counts()["comparisons"], bob.counts()["comparisons"], store.counts()["comparisons"]) == (2, 0, 2)
    assert (len(preferences(bob)), len(preferences(store))) == (0, 2)
    for call in (lambda: bob.delete_comparison(second), lambda: ann.delete_rating(mark)):
        with pytest.raises(InputError, match="no such answer"):
            call()
    ann.delete_comparison(second)
    assert [c.id for c in store.comparisons()] == [first]
    with pytest.raises(InputError, match="no such answer"):
        ann.delete_comparison(second)
    bob.delete_rating(mark)
    assert store.counts()["ratings"] == 0


def test_settings(store: Store) -> None:
    ann = store.for_owner("Ann")
    ann.set_setting("presets", {"dry": [0.7, None]})
    ann.set_setting("presets", {"dry": [0.8, "ü"]})
    assert Store(store.url.database).for_owner("Ann").get_setting("presets") == {"dry": [0.8, "ü"]}
    assert store.for_owner("Bob").get_setting("presets", 1) == 1
    for name in ("", " ", "x" * 201):
        with pytest.raises(InputError, match="user name"):
            store.for_owner(name)


def _migrated(path: Path, revision: str) -> sa.Engine:
    config = Config()
    config.set_main_option("script_location", "storyrl:migrations")
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def _old_database(path: Path) -> None:
    """Made by the first version: two stories, candidates where they are reached and where they are not any more."""
    day, prompt = "2026-01-02 03:04:05.000006", _PROMPT.model_dump_json()
    engine = _migrated(path, "0001")
    with engine.begin() as connection:
        for story_id, title in (("s", "Sea"), ("t", "Tree"), ("empty", "Nothing")):
            row = {"i": story_id, "t": title, "p": prompt, "d": day}
            connection.execute(sa.text("insert into stories values (:i, :t, :p, :d, :d)"), row)
        for number, (story_id, position, text) in enumerate(
            [("t", 1, "t one."), ("s", 0, "s zero."), ("s", 1, "s one now."), ("t", 0, "t zero."), ("s", 2, "s two.")]
        ):
            row = {"n": number + 5, "s": story_id, "p": position, "t": text}
            query = "insert into turns values (:n, :s, null, :p, 'say', 'Al', :t, 'edited')"
            connection.execute(sa.text(query), row)
        for story_id, position, text, picked in [
            ("s", 1, "b", True),
            ("s", 0, "a", False),
            ("s", 1, "c", False),
            ("t", 2, "taken back", True),
            ("t", 4, "far", False),
        ]:
            row = {"s": story_id, "p": position, "t": text, "k": picked, "d": day}
            query = "insert into candidates (story_id, position, kind, text, scores, reward, picked, created) "
            connection.execute(sa.text(query + """values (:s, :p, 'narrate', :t, '{"goal": 0.5}', 1.5, :k, :d)"""), row)
        query = "insert into ratings values (1, :p, 'x', 'local', 'style', 3, '', :d)"
        connection.execute(sa.text(query), {"p": prompt, "d": day})


def test_a_database_of_the_first_version_comes_over(tmp_path: Path) -> None:
    _old_database(tmp_path / "old.db")
    store = Store(str(tmp_path / "old.db")).for_owner("local")
    old = [Turn(kind=Kind.SAY, actor="Al", text=text, author="edited") for text in ("s zero.", "s one now.", "s two.")]
    assert store.load_story("s") == Story(id="s", prompt=_PROMPT, turns=tuple(old))
    assert [turn.text for turn in store.load_story("t").turns] == ["t zero.", "t one."]
    assert store.load_story("empty").turns == ()
    infos = [(i.id, i.title, i.turns, i.words, i.version) for i in store.list_stories()]
    assert infos == [("empty", "Nothing", 0, 0, 1), ("s", "Sea", 3, 7, 1), ("t", "Tree", 2, 4, 1)]
    a, b, c, back, far = (Turn(kind=Kind.NARRATE, text=text) for text in ("a", "b", "c", "taken back", "far"))
    seen = [(_PROMPT, (), (a,)), (_PROMPT, (old[0],), (b, c)), (_PROMPT, store.load_story("t").turns, (back,))]
    assert [(s.prompt, s.before, tuple(c.turn for c in s.candidates)) for s in store.shown()] == seen
    assert [c.picked for s in store.shown() for c in s.candidates] == [False, True, False, True]
    assert store.shown()[0].candidates[0] == ShownCandidate(a, {"goal": 0.5}, 1.5)
    rounds = store.rounds("t")  # of "far" the place is gone: it is kept, and not taken for something else
    assert [[c.turn for c in each.candidates] for each in rounds] == [[far], [back]]
    assert {each.created.isoformat() for each in rounds} == {"2026-01-02T03:04:05.000006+00:00"}
    assert [r.value for r in store.ratings()] == [3]
    with sa.create_engine(store.url).connect() as connection:
        assert connection.execute(sa.text("pragma foreign_key_check")).all() == []
        gone = connection.execute(sa.text("select text from turns where removed order by id")).scalars().all()
        assert gone == ["taken back", "…"]
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert [n.turn.text for n in store.append("t", [a], 1).path] == ["t zero.", "t one.", "a"]
