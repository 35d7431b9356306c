"""What the buttons of the studio do to a story in the store, and what is shown then; no page, no model."""

import re
from typing import Any

import pytest

from storyrl.errors import InputError
from storyrl.store import ShownCandidate, Stale
from storyrl.story import Kind, LoreEntry, Turn
from ui import session as steps
from ui.desk import Desk
from ui.manuscript import side_by_side
from ui.session import Place, Rewriting
from ui.tree_map import tree_map

_EVIL = '<img src=x onerror="alert(1)">\'"</textarea>'


def texts(desk: Desk, place: Place) -> list[str]:
    return [node.turn.text for node in desk.look(place).tree.path]


def ids(desk: Desk, place: Place) -> list[int]:
    return [node.id for node in desk.look(place).tree.path]


def offer(desk: Desk, place: Place, *words: str) -> list[int]:
    shown = [ShownCandidate(Turn(kind=Kind.SAY, actor="Tom", text=text), {"goal": 0.5}, 0.0) for text in words]
    assert place.story
    return [c.id for c in desk.store.show(place.story, shown).candidates if c.id is not None]


def test_blocks_are_changed_in_place_and_marked(desk: Desk, place: Place) -> None:
    picked = desk.do(place, "pick", {"candidate": offer(desk, place, "Cast off!")[0]})
    here = ids(desk, picked)
    after = desk.do(picked, "save", {"block": here[3], "kind": "do", "actor": "Mira", "text": "Mira casts off."})
    after = desk.do(after, "save", {"block": here[0], "kind": "narrate", "actor": "", "text": "First."})
    turns = desk.look(after).tree.story.turns
    assert [turn.author for turn in turns] == ["writer", "writer", "writer", "edited"]
    assert (turns[3].kind, turns[3].actor, turns[0].text) == (Kind.DO, "Mira", "First.")
    assert ids(desk, after) == here


def test_insert_and_delete(desk: Desk, place: Place) -> None:
    one, two, _ = ids(desk, place)
    after = desk.do(place, "insert", {"after": str(one), "kind": "narrate", "text": "One and a half."})
    after = desk.do(after, "insert", {"after": "", "kind": "narrate", "text": "Zero."})
    assert texts(desk, after) == ["Zero.", "One.", "One and a half.", "Two.", "Three."]
    after = desk.do(after, "delete", {"block": one})
    assert texts(desk, after) == ["Zero.", "One and a half.", "Two.", "Three."]
    after = desk.do(after, "delete", {"block": two, "following": "yes"})
    assert texts(desk, after) == ["Zero.", "One and a half."]
    for _ in range(4):
        after = desk.do(after, "undo", {})
    assert texts(desk, after) == ["One.", "Two.", "Three."]
    after = desk.do(after, "redo", {})
    assert "One and a half." in texts(desk, after)


def test_branches(desk: Desk, place: Place) -> None:
    one, _, three = ids(desk, place)
    back = desk.do(place, "branch", {"block": one})
    assert texts(desk, back) == ["One."]
    other = desk.do(back, "add", {"kind": "say", "actor": "Tom", "text": "Two, otherwise."})
    assert texts(desk, other) == ["One.", "Two, otherwise."]
    page = tree_map(desk.look(other).tree)
    assert page.count("<li") == 4
    levels = [int(level) for level in re.findall(r"--level:(\d)", page)]
    assert levels == [0, 1, 1, 0]  # the branch that one left stands under its fork, before the path goes on
    assert page.count("aria-current") == 1
    compared = desk.do(other, "compare", {"block": three})
    tree = desk.look(compared).tree
    assert tree.tip is not None
    page = side_by_side(tree.compare(tree.tip, three))
    assert "After 1 shared turn: One." in page
    assert page.index("Two, otherwise") < page.index("Two.") < page.index("Three.")
    again = desk.do(compared, "go", {"block": three})
    assert texts(desk, again) == ["One.", "Two.", "Three."]


def test_going_to_a_block_in_the_middle_reads_on_to_its_end(desk: Desk, place: Place) -> None:
    one, two, _ = ids(desk, place)
    other = desk.do(desk.do(place, "branch", {"block": one}), "add", {"kind": "narrate", "text": "Else."})
    assert texts(desk, desk.do(other, "go", {"block": two})) == ["One.", "Two.", "Three."]


def test_suggestions_outlive_the_page_and_the_old_ones_stay(desk: Desk, place: Place) -> None:
    old, new = offer(desk, place, "Old."), offer(desk, place, "New.", "Newer.")
    look = Desk(desk.store).look(Place.of(place.model_dump()))
    assert look.round and [c.turn.text for c in look.round.candidates] == ["New.", "Newer."]
    older = desk.do(look.place, "round", {"round": look.rounds[1].id})
    shown = desk.look(older).round
    assert shown and [c.turn.text for c in shown.candidates] == ["Old."]
    picked = desk.do(older, "pick", {"candidate": old[0]})
    assert texts(desk, picked)[-1] == "Old."
    assert desk.look(picked).rounds == ()
    back = desk.do(picked, "undo", {})
    assert len(desk.look(back).rounds) == 2
    assert texts(desk, desk.do(back, "pick", {"candidate": new[1]}))[-1] == "Newer."


@pytest.mark.parametrize(("words", "author"), [("Mine.", "edited"), ("Theirs.", "policy")])
def test_pick_and_edit(desk: Desk, place: Place, words: str, author: str) -> None:
    [number] = offer(desk, place, "Theirs.")
    taken = desk.do(place, "take", {"candidate": number})
    added = desk.do(taken, "add", {"kind": "say", "actor": "Tom", "text": words})
    turn = desk.look(added).tree.story.turns[-1]
    assert (turn.text, turn.author, added.draft) == (words, author, None)
    [round_] = desk.store.rounds()
    assert round_.candidates[0].picked


def test_a_draft_stays_at_the_end_of_the_story(desk: Desk, place: Place) -> None:
    first, second = offer(desk, place, "First.", "Second.")
    taken = desk.do(place, "take", {"candidate": first})
    picked = desk.do(taken, "pick", {"candidate": second})
    added = desk.do(picked, "add", {"kind": "say", "actor": "Tom", "text": "First, changed."})
    assert texts(desk, added)[-2:] == ["Second.", "First, changed."]
    assert desk.look(added).tree.story.turns[-1].author == "edited"


def test_a_dropped_draft_leaves_no_mark(desk: Desk, place: Place) -> None:
    taken = desk.do(place, "take", {"candidate": offer(desk, place, "Theirs.")[0]})
    added = desk.do(desk.do(taken, "discard", {}), "add", {"kind": "narrate", "text": "Mine."})
    assert desk.look(added).tree.story.turns[-1].author == "writer"


@pytest.mark.parametrize("step", ["add", "save", "insert", "delete", "branch", "go", "pick", "prompt", "lore", "undo"])
def test_a_window_that_is_behind_changes_nothing(desk: Desk, place: Place, step: str) -> None:
    [number], block = offer(desk, place, "Theirs."), ids(desk, place)[0]
    newer = desk.do(place, "add", {"kind": "narrate", "text": "From another window."})
    before = desk.look(newer).tree
    fields = {"kind": "narrate", "text": "Mine.", "block": block, "after": block, "candidate": number, "always": True}
    with pytest.raises(Stale):
        desk.do(place, step, {**fields, "memory": "x"})
    assert desk.look(newer).tree == before
    assert desk.newest(place).version == newer.version


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        ("choose", {}),
        ("save", {"block": "1; drop table", "text": "x"}),
        ("save", {"block": "9" * 400, "text": "x"}),
        ("save", {"block": 10**12, "kind": "narrate", "text": "x"}),
        ("pick", {"candidate": -1}),
        ("weights", {"goal": "nan"}),
        ("weights", {"goal": 1e9}),
        ("prompt", {"note_depth": "deep"}),
        ("prompt", {"premise": ""}),
        ("lore", {"text": "No key."}),
        ("lore", {"keys": "x", "text": " "}),
        ("lore", {"keys": "x", "text": "x", "entry": "-1"}),
        ("unlore", {"entry": "5"}),
        ("rewrite", {"block": "1"}),
        ("rewrite", {"block": "1", "start": "x", "end": 5, "seen": "One."}),
        ("version", {"round": "x"}),
        ("versions", {"block": 10**12}),
        ("replace", {"block": 1, "candidate": "x"}),
        ("replace", {"block": 1, "candidate": 10**12}),
        ("__init__", {}),
        ("", {}),
    ],
)
def test_a_browser_may_send_anything(desk: Desk, place: Place, step: str, fields: dict[str, Any]) -> None:
    before = desk.look(place).tree
    with pytest.raises(InputError):
        desk.do(place, step, fields)
    assert desk.look(place).tree == before


def test_nobody_opens_another_owner_s_story(desk: Desk, place: Place) -> None:
    other = Desk(desk.store.for_owner("someone else"))
    assert other.newest(place) == Place()
    with pytest.raises(InputError, match="no such story"):
        other.do(place, "add", {"kind": "narrate", "text": "Mine now."})
    with pytest.raises(InputError, match="No story is open"):
        desk.do(Place(), "add", {"kind": "narrate", "text": "Where?"})


def test_places_of_blocks_that_are_gone_are_forgotten(desk: Desk, place: Place) -> None:
    three = ids(desk, place)[2]
    chosen = desk.do(desk.do(place, "choose", {"block": three}), "compare", {"block": three})
    gone = desk.store.delete(place.story or "", three, place.version)
    look = desk.look(chosen)
    assert (look.place.chosen, look.place.compare, look.place.version) == (None, None, gone.version)


def test_memory_note_and_lore(desk: Desk, place: Place) -> None:
    fields = {"memory": "It is winter.", "note": "Let it snow.", "note_depth": "1", "characters": "Mira, Tom, Ann"}
    after = desk.do(place, "prompt", fields)
    after = desk.do(after, "lore", {"name": "Boat", "keys": "boat, ship ,", "text": "It leaks.", "enabled": True})
    after = desk.do(after, "lore", {"keys": "", "text": "Always.", "always": True, "enabled": True})
    prompt = desk.look(after).tree.prompt
    assert (prompt.memory, prompt.note, prompt.note_depth, prompt.characters[2]) == (
        "It is winter.",
        "Let it snow.",
        1,
        "Ann",
    )
    assert prompt.lore == (
        LoreEntry(name="Boat", keys=("boat", "ship"), text="It leaks."),
        LoreEntry(text="Always.", always=True),
    )
    after = desk.do(
        after, "lore", {"entry": "0", "name": "Boat", "keys": "boat", "text": "It sinks.", "enabled": False}
    )
    assert desk.look(after).tree.prompt.lore[0] == LoreEntry(
        name="Boat", keys=("boat",), text="It sinks.", enabled=False
    )
    after = desk.do(after, "unlore", {"entry": "0"})
    assert [entry.text for entry in desk.look(after).tree.prompt.lore] == ["Always."]
    assert len(desk.look(desk.do(after, "undo", {})).tree.prompt.lore) == 2


def rewritten(desk: Desk, place: Place, block: int, start: int, end: int, *words: str) -> Place:
    """With versions of a passage in the store, as the panel keeps them."""
    tree = desk.look(place).tree
    node = tree.node(block)
    text, kept = node.turn.text, {steps.KEPT_BEFORE: start, steps.KEPT_AFTER: len(node.turn.text) - end}
    shown = [
        ShownCandidate(node.turn.model_copy(update={"text": text[:start] + each + text[end:]}), {"fit": 0.5, **kept}, 0)
        for each in words
    ]
    desk.store.show(tree.story_id, shown, node.parent)
    return desk.do(place, "versions", {"block": block})


def test_a_version_replaces_its_passage_and_the_others_stay_listed(desk: Desk, place: Place) -> None:
    place = desk.do(place, "add", {"kind": "narrate", "text": "Rain fell on the town."})
    block = ids(desk, place)[3]
    place = rewritten(desk, place, block, 0, 9, "Snow lay", "Ash fell")
    look = desk.look(place)
    assert look.versions_of(block) == 2
    assert look.rounds == ()  # they are no suggestions for the next turn
    number = look.versions[block][0].candidates[1].id
    after = desk.do(place, "replace", {"block": block, "candidate": number})
    assert texts(desk, after)[3] == "Ash fell on the town."
    assert desk.look(after).tree.path[3].turn.author == "edited"
    assert after.rewriting is None
    assert [(w.how, w.better.text, w.worse.text) for w in desk.store.weak_preferences()] == [
        ("picked", "Ash fell on the town.", "Snow lay on the town.")
    ]
    assert desk.look(desk.do(after, "versions", {"block": block})).versions_of(block) == 2
    back = desk.do(after, "undo", {})
    assert (texts(desk, back)[3], desk.look(back).tree.path[3].turn.author) == ("Rain fell on the town.", "writer")
    moved = desk.do(back, "save", {"block": block, "kind": "narrate", "text": "Rain fell on the hill."})
    assert desk.look(desk.do(moved, "versions", {"block": block})).versions_of(block) == 0
    with pytest.raises(InputError, match="the block was changed"):
        desk.do(moved, "replace", {"block": block, "candidate": number})


def test_a_stale_window_replaces_nothing(desk: Desk, place: Place) -> None:
    block = ids(desk, place)[1]
    place = rewritten(desk, place, block, 0, 4, "Zwei.")
    number = desk.look(place).versions[block][0].candidates[0].id
    newer = desk.do(place, "add", {"kind": "narrate", "text": "From another window."})
    with pytest.raises(Stale):
        desk.do(place, "replace", {"block": block, "candidate": number})
    assert texts(desk, newer)[1] == "Two."


def test_versions_of_a_block_that_is_gone_are_put_away(desk: Desk, place: Place) -> None:
    block = ids(desk, place)[2]
    place = rewritten(desk, place, block, 0, 6, "Drei.")
    gone = desk.do(place, "delete", {"block": block})
    assert desk.look(gone).place.rewriting is None
    assert desk.do(place, "keep", {}).rewriting is None


def test_a_selection_of_what_was_changed_meanwhile_is_refused(desk: Desk, place: Place) -> None:
    block = ids(desk, place)[0]
    seen = {"block": block, "start": "0", "end": "4", "seen": "One."}
    assert desk.do(place, "rewrite", {**seen, "hint": " darker "}).rewriting == Rewriting(
        block=block, start=0, end=4, hint="darker"
    )
    changed = desk.do(place, "save", {"block": block, "kind": "narrate", "text": "Once."})
    for bad in ({}, {"seen": None}, {"seen": "Once.", "start": "4"}, {"seen": "Once.", "hint": "x" * 201}):
        with pytest.raises(InputError):
            desk.do(changed, "rewrite", {**seen, **bad})
    with pytest.raises(InputError, match="not in the story any more"):
        desk.do(changed, "rewrite", {**seen, "block": 10**9})


def test_weights_are_kept_where_the_writer_is(desk: Desk, place: Place) -> None:
    after = desk.do(place, "weights", {"goal": "2.5", "taste": "0", "guards": "1", "do": "weights"})
    assert (after.weights.goal, after.weights.taste) == (2.5, 0.0)
    assert desk.open(place.story or "", after).weights == after.weights
