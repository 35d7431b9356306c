"""Stories as trees: branches, undo and redo, versions under concurrent writers, the library, owners, suggestions."""

import multiprocessing
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from storyrl.errors import InputError
from storyrl.store import WEAK_PREFERENCES, ShownCandidate, ShownTurn, Stale, Store, Tree
from storyrl.store.changes import UNDO_STEPS
from storyrl.story import Kind, Prompt, Story, Turn

_PROMPT = Prompt(id="p", premise="A man walks to the sea.", goal="He eats.")


def _turn(text: str) -> Turn:
    return Turn(kind=Kind.NARRATE, text=text, author="writer")


def _shown(*texts: str) -> list[ShownCandidate]:
    return [ShownCandidate(Turn(kind=Kind.NARRATE, text=text), {"goal": 0.5}, 1.0) for text in texts]


def _path(tree: Tree) -> str:
    return " ".join(node.turn.text for node in tree.path)


def _map(tree: Tree) -> dict[str, list[str]]:
    """The blocks that follow each block, by their texts; "" is the beginning."""
    text = {None: "", **{node.id: node.turn.text for node in tree.nodes}}
    places = {text[place]: [text[child] for child in tree.following(place)] for place in text}
    return {place: children for place, children in places.items() if children}


def _id(tree: Tree, text: str) -> int:
    [found] = [node.id for node in tree.nodes if node.turn.text == text]
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s.db"))


@pytest.fixture
def tree(store: Store) -> Tree:
    """a - b - c, and x - y beside b."""
    tree = store.save_story(Story(id="s", prompt=_PROMPT, turns=tuple(_turn(t) for t in "abc")))
    assert tree.version == 1 and tree.undo is None
    return store.append("s", [_turn("x"), _turn("y")], 1, after=_id(tree, "a"))


# --- the tree -------------------------------------------------------------------------------------------------------


def test_a_branch_keeps_the_old_continuation(store: Store, tree: Tree) -> None:
    assert (_path(tree), tree.version, tree.undo) == ("a x y", 2, "append")
    assert _map(tree) == {"": ["a"], "a": ["b", "x"], "b": ["c"], "x": ["y"]}
    assert [n.turn.text for n in tree.nodes] == ["a", "b", "c", "x", "y"]
    assert [n.turn.text for n in tree.nodes if n.on_path] == ["a", "x", "y"]
    assert store.load_story("s") == tree.story == Story(id="s", prompt=_PROMPT, turns=tuple(map(_turn, "axy")))
    assert store.tree("s") == tree
    fork = tree.compare(_id(tree, "c"), _id(tree, "y"))
    sides = [[n.turn.text for n in part] for part in (fork.common, fork.first, fork.second)]
    assert sides == [["a"], ["b", "c"], ["x", "y"]]
    assert tree.compare(_id(tree, "a"), _id(tree, "y")).first == ()
    assert [tree.end(_id(tree, text)) for text in "abx"] == [_id(tree, text) for text in "ycy"]
    tree = store.switch("s", _id(tree, "b"), tree.version)
    assert (_path(tree), tree.end(_id(tree, "a"))) == ("a b", _id(tree, "c"))
    tree = store.append("s", [_turn("second start")], tree.version, after=None)
    assert (_path(tree), _map(tree)[""]) == ("second start", ["a", "second start"])
    assert _path(store.switch("s", None, tree.version)) == ""


def test_edit_insert_and_delete_keep_what_follows(store: Store, tree: Tree) -> None:
    edited = Turn(kind=Kind.SAY, actor="Al", text="two words", author="edited")
    tree = store.edit("s", _id(tree, "x"), edited, tree.version)
    assert (_path(tree), tree.path[1].turn, tree.path[1].words) == ("a two words y", edited, 2)
    tree = store.insert("s", [_turn("i"), _turn("j")], tree.version, after=_id(tree, "a"))
    assert _map(tree) == {"": ["a"], "a": ["b", "i"], "b": ["c"], "i": ["j"], "j": ["two words"], "two words": ["y"]}
    tree = store.insert("s", [_turn("0")], tree.version, after=None)
    tree = store.insert("s", [_turn("end")], tree.version, after=tree.tip)
    assert _path(tree) == "0 a i j two words y end"
    with pytest.raises(InputError, match="current path only"):
        store.insert("s", [_turn("k")], tree.version, after=_id(tree, "b"))
    tree = store.delete("s", _id(tree, "a"), tree.version)
    assert (_path(tree), _map(tree)["0"]) == ("0 i j two words y end", ["b", "i"])
    tree = store.delete("s", _id(tree, "end"), tree.version)
    assert _path(tree) == "0 i j two words y"
    tree = store.delete("s", _id(tree, "j"), tree.version, with_following=True)
    assert (_path(tree), _map(tree)) == ("0 i", {"": ["0"], "0": ["b", "i"], "b": ["c"]})
    [info] = store.list_stories()
    assert (info.turns, info.words, info.version) == (2, 2, tree.version)


def test_save_story_walks_on_what_is_there(store: Store, tree: Tree) -> None:
    before = _map(tree)
    tree = store.save_story(Story(id="s", prompt=_PROMPT, turns=tuple(map(_turn, "ab"))), "Sea")
    assert (_path(tree), _map(tree), tree.title) == ("a b", before, "Sea")
    tree = store.save_story(Story(id="s", prompt=_PROMPT, turns=tuple(map(_turn, "abd"))))
    assert (_path(tree), _map(tree)) == ("a b d", {**before, "b": ["c", "d"]})
    same = store.save_story(tree.story)
    assert same == tree  # nothing to do: neither a version nor an undo step
    with pytest.raises(Stale):
        store.save_story(Story(id="s", prompt=_PROMPT), expected_version=tree.version - 1)
    with pytest.raises(InputError, match="no such story"):
        store.save_story(Story(id="unknown", prompt=_PROMPT), expected_version=1)


def test_what_is_not_there_is_refused_and_nothing_is_written(store: Store, tree: Tree) -> None:
    other = store.save_story(Story(id="other", prompt=_PROMPT, turns=(_turn("foreign"),)))
    foreign, v = other.path[0].id, tree.version
    calls: list[Callable[[], Any]] = [
        lambda: store.tree("../s"),
        lambda: store.edit("s", foreign, _turn("z"), v),
        lambda: store.edit("s", 2**80, _turn("z"), v),
        lambda: store.append("s", [_turn("z")], v, after=foreign),
        lambda: store.switch("s", foreign, v),
        lambda: store.delete("s", foreign, v, with_following=True),
        lambda: store.pick("s", 1, v),
        lambda: store.pick("s", 2**80, v),
        lambda: store.show("s", _shown("z"), after=foreign),
        lambda: store.redo("s", v),
        lambda: store.rename("s", " \n", v),
        lambda: store.rename("s", "x" * 201, v),
        lambda: tree.compare(foreign, _id(tree, "a")),
    ]
    for call in calls:
        with pytest.raises(InputError) as error:
            call()
        assert not isinstance(error.value, Stale) and "\n" not in str(error.value)
    assert (store.tree("s"), store.tree("other"), store.rounds()) == (tree, other, [])


def test_a_deep_story(store: Store) -> None:
    turns = tuple(_turn(f"turn {n}") for n in range(1500))
    tree = store.save_story(Story(id="deep", prompt=_PROMPT, turns=turns))
    assert store.load_story("deep").turns == turns
    tree = store.delete("deep", tree.path[1].id, tree.version, with_following=True)
    assert (len(tree.nodes), len(store.undo("deep", tree.version).path)) == (1, 1500)


# --- undo and redo --------------------------------------------------------------------------------------------------


def _state(tree: Tree) -> tuple[Any, ...]:
    return tree.title, tree.prompt, tree.tip, tree.nodes


def _random_step(store: Store, tree: Tree, dice: random.Random, number: int) -> Tree:
    """One change of whatever kind; it may change nothing."""
    ids, path, v = [n.id for n in tree.nodes], [None, *(n.id for n in tree.path)], tree.version
    node = dice.choice(ids) if ids else None
    steps: list[Callable[[], Tree]] = [
        lambda: store.append("s", [_turn(f"a{number}"), _turn(f"b{number}")], v, after=node),
        lambda: store.append("s", [_turn(f"c{number}")], v),
        lambda: store.insert("s", [_turn(f"i{number}")], v, after=dice.choice(path)),
        lambda: store.switch("s", node, v),
        lambda: store.set_prompt("s", _PROMPT.model_copy(update={"goal": f"g{number}"}), v),
        lambda: store.set_prompt("s", _PROMPT.model_copy(update={"memory": f"m{number}", "goal": ""}), v),
        lambda: store.save_story(Story(id="s", prompt=_PROMPT, turns=tuple(map(_turn, "abq"))), f"Title {number}"),
    ]
    if node is not None:
        steps += [
            lambda: store.edit("s", node, _turn(f"e{number}"), v),
            lambda: store.delete("s", node, v),
            lambda: store.delete("s", node, v, with_following=dice.random() < 0.3),
            lambda: store.pick("s", store.show("s", _shown(f"p{number}"), after=node).candidates[0].id, v),
        ]
    return dice.choice(steps)()


@pytest.mark.parametrize("seed", range(4))
def test_undo_and_redo_retrace_every_step(store: Store, tree: Tree, seed: int) -> None:
    dice, states = random.Random(seed), [tree]
    for number in range(40):
        after = _random_step(store, states[-1], dice, number)
        if after.version != states[-1].version:
            states.append(after)
    picked = [[c.picked for c in shown.candidates] for shown in store.rounds()]
    store = Store(store.url.database)  # as after a restart
    now = store.tree("s")
    for target in reversed(states[:-1]):
        now = store.undo("s", now.version)
        assert _state(now) == _state(target)
    assert not any(c.picked for shown in store.rounds() for c in shown.candidates)
    for target in states[1:]:
        now = store.redo("s", now.version)
        assert _state(now) == _state(target)
    assert [[c.picked for c in shown.candidates] for shown in store.rounds()] == picked
    assert len(picked) > 0 and len(states) > 30
    info = store.list_stories()[0]
    assert (info.turns, info.words) == (len(now.path), sum(n.words for n in now.path))


def test_a_new_change_drops_what_was_undone(store: Store, tree: Tree) -> None:
    tree = store.undo("s", store.append("s", [_turn("z")], tree.version).version)
    assert (_path(tree), tree.undo, tree.redo) == ("a x y", "append", "append")
    tree = store.edit("s", _id(tree, "y"), _turn("new"), tree.version)
    assert (tree.undo, tree.redo) == ("edit", None)
    with pytest.raises(InputError, match="nothing to redo"):
        store.redo("s", tree.version)
    tree = store.undo("s", store.undo("s", tree.version).version)
    assert (_path(tree), tree.undo, tree.redo) == ("a b c", None, "append")
    with pytest.raises(InputError, match="nothing to undo"):
        store.undo("s", tree.version)


def test_the_log_keeps_the_latest_steps(store: Store, tree: Tree) -> None:
    node = _id(tree, "a")
    for number in range(UNDO_STEPS + 5):
        tree = store.edit("s", node, _turn(f"a{number}"), tree.version)
    for _ in range(UNDO_STEPS):
        tree = store.undo("s", tree.version)
    assert (tree.node(node).turn.text, tree.undo) == ("a4", None)
    assert UNDO_STEPS >= 200


def test_undoing_a_pick_puts_its_candidates_back_on_the_table(store: Store, tree: Tree) -> None:
    first, second = store.show("s", _shown("m", "n")), store.show("s", _shown("o"))
    assert (first.after, [r.id for r in store.open_candidates("s")]) == (tree.tip, [second.id, first.id])
    tree = store.pick("s", first.candidates[1].id, tree.version)
    assert (_path(tree), tree.path[-1].turn.author, store.open_candidates("s")) == ("a x y n", "policy", [])
    tree = store.undo("s", tree.version)
    assert (_path(tree), store.open_candidates("s")) == ("a x y", [second, first])
    edited = Turn(kind=Kind.NARRATE, text="o, edited", author="edited")
    tree = store.pick("s", second.candidates[0].id, tree.version, edited)
    assert (tree.path[-1].turn, tree.undo) == (edited, "pick")
    assert [[c.picked for c in r.candidates] for r in store.open_candidates("s", after=first.after)] == [
        [True],
        [False, False],
    ]
    tree = store.switch("s", _id(tree, "a"), tree.version)
    tree = store.pick("s", first.candidates[0].id, tree.version)  # goes where it was shown
    assert _path(tree) == "a x y m"


# --- versions -------------------------------------------------------------------------------------------------------


def test_a_stale_window_writes_nothing(store: Store, tree: Tree) -> None:
    shown, old = store.show("s", _shown("m")), tree.version
    tree = store.edit("s", _id(tree, "a"), _turn("A"), old)
    node = tree.path[0].id
    calls: list[Callable[[], Any]] = [
        lambda: store.append("s", [_turn("z")], old),
        lambda: store.pick("s", shown.candidates[0].id, old),
        lambda: store.insert("s", [_turn("z")], old, after=None),
        lambda: store.edit("s", node, _turn("z"), old),
        lambda: store.delete("s", node, old),
        lambda: store.switch("s", None, old),
        lambda: store.set_prompt("s", Prompt(premise="z"), old),
        lambda: store.undo("s", old),
        lambda: store.redo("s", old),
        lambda: store.rename("s", "z", old),
        lambda: store.delete_story("s", old),
        lambda: store.undelete_story("s", old),
    ]
    for call in calls:
        with pytest.raises(Stale, match=f"at version {tree.version}, you saw {old}"):
            call()
    assert (store.tree("s"), store.rounds()) == (tree, [shown])


def _append_and_edit(path: str, worker: int) -> None:
    """Add 8 turns, each then edited, whatever the others do in between."""
    store = Store(path)
    for number in range(8):
        for step in ("append", "edit"):
            while True:
                tree = store.tree("s")
                own = [n for n in tree.path if n.turn.text == f"{worker}-{number}"]
                try:
                    if step == "append":
                        store.append("s", [_turn(f"{worker}-{number}")], tree.version)
                    else:
                        store.edit("s", own[0].id, _turn(f"{worker}-{number} edited"), tree.version)
                    break
                except Stale:
                    time.sleep(random.random() / 200)


def test_processes_that_write_one_story_lose_nothing(tmp_path: Path) -> None:
    path, context = str(tmp_path / "s.db"), multiprocessing.get_context("spawn")
    store = Store(path)
    store.save_story(Story(id="s", prompt=_PROMPT))
    workers = [context.Process(target=_append_and_edit, args=(path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    tree = store.tree("s")
    assert {n.turn.text for n in tree.path} == {f"{w}-{n} edited" for w in range(3) for n in range(8)}
    assert (tree.version, len(tree.path), len(tree.nodes)) == (1 + 2 * 24, 24, 24)
    for _ in range(48):
        tree = store.undo("s", tree.version)
    assert (tree.nodes, tree.undo) == ((), None)


# --- the library ----------------------------------------------------------------------------------------------------


def test_search(store: Store) -> None:
    for story_id, premise, text in [
        ("one", "A 100% ÜBUNG in patience", "He ate."),
        ("two", "Another_thing", "The KETTLE sang – 猫."),
        ("three", "Plain", "He slept."),
    ]:
        turns = (_turn(text), _turn("Ende gut."))
        store.save_story(Story(id=story_id, prompt=Prompt(premise=premise), turns=turns), title=f"Title {story_id}")
    tree = store.save_story(Story(id="three", prompt=Prompt(premise="Plain"), turns=(_turn("Gone branch"),)))

    def found(search: str) -> set[str]:
        return {info.id for info in store.list_stories(search)}

    assert found("kettle") == found("猫") == found("her_thing") == {"two"}
    assert found("übung") == found("100%") == found("tle One") == {"one"}
    assert found("%") == {"one"} and found("_") == {"two"}
    assert found("slept") == {"three"}  # on another branch
    assert found(" ") == found("title") == {"one", "two", "three"}
    assert found("'; drop table stories; --") == set()
    store.delete("three", tree.nodes[0].id, tree.version, with_following=True)
    assert found("slept") == set()


def test_rename_duplicate_delete_and_undelete(store: Store, tree: Tree) -> None:
    assert store.rename("s", "  The\nsea ", tree.version) == tree.version + 1
    copy = store.tree(store.duplicate("s"))
    assert (copy.title, copy.version, copy.undo) == ("The sea (copy)", 1, None)
    assert (_path(copy), _map(copy), copy.prompt) == (_path(tree), _map(tree), tree.prompt)
    assert {n.id for n in copy.nodes}.isdisjoint(n.id for n in tree.nodes)
    store.append(copy.story_id, [_turn("only there")], 1)
    assert _path(store.tree("s")) == "a x y"

    version = store.delete_story("s", store.tree("s").version)
    assert [i.id for i in store.list_stories()] == [copy.story_id]
    [info] = store.list_stories(deleted=True)
    assert (info.id, info.version, store.load_story("s")) == ("s", version, None)
    assert abs((datetime.now(UTC) - info.deleted).total_seconds()) < 60
    for call in (
        lambda: store.tree("s"),
        lambda: store.append("s", [_turn("z")], version),
        lambda: store.save_story(tree.story),
        lambda: store.duplicate("s"),
    ):
        with pytest.raises(InputError, match="was deleted"):
            call()
    store.undelete_story("s", version)
    assert (_path(store.tree("s")), store.tree("s").undo) == ("a x y", "rename")


def test_deleted_stories_go_for_good_after_30_days(store: Store, tree: Tree) -> None:
    store.show("s", _shown("m"))
    store.delete_story("s", tree.version)
    for days, left in ((29, 1), (31, 0)):
        with sa.create_engine(store.url).begin() as connection:
            deleted = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
            connection.execute(sa.text("update stories set deleted = :d"), {"d": deleted})
        assert len(Store(store.url.database).list_stories(deleted=True)) == left
    with sa.create_engine(store.url).begin() as connection:
        for table in ("stories", "turns", "operations", "rounds", "candidates"):
            assert connection.scalar(sa.text(f"select count(*) from {table}")) == 0


def test_a_thousand_stories_are_listed_at_once(store: Store) -> None:
    text = "The old lighthouse keeper counted the gulls again, and the wind answered him as it always did at dusk."
    for number in range(2):
        turns = tuple(_turn(f"{text} {n}") for n in range(100))
        store.save_story(Story(id=f"{number}", prompt=_PROMPT, turns=turns), title=f"Story {number}")
    with sa.create_engine(store.url).begin() as connection:
        numbers = "with recursive n(x) as (select 2 union all select x + 1 from n where x < 999) "
        columns = "owner, title, prompt, version, tip_id, turn_count, word_count, created, updated"
        query = f"insert into stories (id, {columns}) {numbers} select x, {columns} from n, stories where id = '0'"
        connection.execute(sa.text(query))
        columns = "kind, actor, text, author, removed, created"
        query = f"insert into turns (story_id, {columns}) {numbers} select x, {columns} from n, turns "
        connection.execute(sa.text(query + "where story_id = '0'"))
        assert connection.scalar(sa.text("select count(*) from turns")) == 100_000

    def seconds(search: str, found: int) -> float:
        began = time.process_time()  # the database runs in this process
        assert len(store.list_stories(search)) == found
        return time.process_time() - began

    assert min(seconds("", 1000) for _ in range(3)) < 0.2
    assert min(seconds("GULLS again", 1000) for _ in range(2)) < 1


# --- owners ---------------------------------------------------------------------------------------------------------


def test_an_owner_never_sees_or_touches_what_is_anothers(store: Store) -> None:
    ann, bob = store.for_owner("Ann"), store.for_owner("Bob")
    tree = ann.save_story(Story(id="s", prompt=_PROMPT, turns=(_turn("a"),)))
    shown, v = ann.show("s", _shown("m")), tree.version
    calls: list[Callable[[], Any]] = [
        lambda: bob.tree("s"),
        lambda: bob.append("s", [_turn("z")], v),
        lambda: bob.pick("s", shown.candidates[0].id, v),
        lambda: bob.undo("s", v),
        lambda: bob.rename("s", "z", v),
        lambda: bob.duplicate("s"),
        lambda: bob.delete_story("s", v),
        lambda: bob.undelete_story("s", v),
        lambda: bob.show("s", _shown("z")),
        lambda: bob.forget_preferences([(shown.candidates[0].id,) * 2]),
        lambda: bob.open_candidates("s"),
        lambda: bob.delete_round(shown.id),
        lambda: bob.save_story(Story(id="s", prompt=_PROMPT)),
    ]
    for call in calls:
        with pytest.raises(InputError):
            call()
    bob.save_story(Story(id="t", prompt=_PROMPT))
    with pytest.raises(InputError, match="no longer here"):
        bob.pick("t", shown.candidates[0].id, 1)
    assert (bob.load_story("s"), bob.list_stories("sea")[0].id, len(bob.list_stories())) == (None, "t", 1)
    assert (bob.rounds(), bob.rounds("s"), bob.shown()) == ([], [], [])
    assert bob.counts() == {"stories": 1, "turns": 0, "candidates": 0, "ratings": 0, "comparisons": 0}
    assert (ann.tree("s"), ann.rounds()) == (tree, [shown])
    assert (len(store.list_stories()), len(store.shown()), store.load_story("s")) == (2, 1, tree.story)
    assert store.counts()["stories"] == 2
    store.save_story(Story(id="u", prompt=_PROMPT))
    assert [i.id for i in store.for_owner("local").list_stories()] == ["u"]


# --- suggestions ----------------------------------------------------------------------------------------------------


def test_shown_gives_the_path_to_each_block_on_every_branch(store: Store, tree: Tree) -> None:
    store.show("s", _shown("m"), after=_id(tree, "c"))
    store.show("s", _shown("n"))
    store.show("s", _shown("o"), after=None)
    store.show("s", _shown("p"))
    expected = [
        ShownTurn(_PROMPT, (), tuple(_shown("o"))),
        ShownTurn(_PROMPT, tuple(map(_turn, "abc")), tuple(_shown("m"))),
        ShownTurn(_PROMPT, tuple(map(_turn, "axy")), tuple(_shown("n", "p"))),
    ]
    assert store.shown() == expected
    tree = store.delete("s", _id(tree, "x"), tree.version, with_following=True)
    assert store.shown() == expected[:2]
    assert len(store.rounds("s")) == 4  # still there to be looked through, and for undo
    store.undo("s", tree.version)
    assert store.shown() == expected


def test_consent_and_the_deletion_of_single_rounds(store: Store) -> None:
    rounds = {}
    for name in ("Ann", "Bob", "Cay"):
        mine = store.for_owner(name)
        mine.save_story(Story(id=name, prompt=_PROMPT))
        rounds[name] = mine.show(name, _shown(f"{name} 1")), mine.show(name, _shown(f"{name} 2"))
    store.for_owner("Ann").set_setting(WEAK_PREFERENCES, True)
    store.for_owner("Bob").set_setting(WEAK_PREFERENCES, False)
    assert [[c.turn.text for c in s.candidates] for s in store.shown(with_consent=True)] == [["Ann 1", "Ann 2"]]
    assert (len(store.shown()), store.for_owner("Bob").shown(with_consent=True)) == (3, [])
    ann = store.for_owner("Ann")
    first, second = rounds["Ann"]
    assert ann.rounds() == [second, first]
    tree = ann.pick("Ann", first.candidates[0].id, 1)
    ann.delete_round(first.id)
    with pytest.raises(InputError, match="no such round"):
        ann.delete_round(first.id)
    assert ann.rounds() == [second]
    tree = ann.redo("Ann", ann.undo("Ann", tree.version).version)  # the pick is undone without its candidate
    assert (_path(tree), store.counts()["candidates"]) == ("Ann 1", 5)
