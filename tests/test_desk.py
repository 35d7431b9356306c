"""What the buttons of the studio do to a story in the store, and what is shown then; no page, no model."""

import base64
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from prompts.context import context_parts
from rewards.base import Scorer, StoryText
from rewards.composite import Composite, Term
from storyrl.errors import InputError
from storyrl.exchange import EXPORTS, import_story
from storyrl.policy import WRITING
from storyrl.store import ShownCandidate, Stale, Store
from storyrl.story import Kind, LoreEntry, Prompt, Story, Turn
from ui import cards, control, library
from ui import session as steps
from ui.desk import Desk
from ui.goal import GoalMeter, curve, goal_panel, now
from ui.manuscript import manuscript, side_by_side
from ui.session import Offer, Place, Rewriting
from ui.tree_map import tree_map

from .conftest import word_tokenizer

_EVIL = '<img src=x onerror="alert(1)">\'"</textarea>'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "studio.db"))
    yield store.for_owner("local")
    store.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest.fixture
def place(desk: Desk) -> Place:
    """In a story of three turns: One. Two. Three."""
    story = steps.start("Mira finds a boat.", "Mira sails.", "Mira, Tom")
    place = desk.start(story, Place())
    for text in ("One.", "Two.", "Three."):
        place = desk.do(place, "add", {"kind": "narrate", "text": text})
    return place


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


# --- what it looks like -----------------------------------------------------------------------------------------------


def test_the_manuscript_says_who_wrote_what_and_opens_one_block(desk: Desk, place: Place) -> None:
    picked = desk.do(place, "pick", {"candidate": offer(desk, place, "Cast off!")[0]})
    tree = desk.look(picked).tree
    page = manuscript(tree, tree.path[3].id)
    assert "&quot;Cast off!&quot; said Tom." in page
    assert (page.count(">you<"), page.count(">model<"), page.count("<section")) == (3, 1, 4)
    assert page.count('aria-label="Change block 4"') == 1
    assert page.count("Write a turn before") == 0
    assert "Write a turn before" in manuscript(tree, tree.path[0].id)
    unsaved = Turn(kind=Kind.NARRATE, text="Half a thought")
    assert ">\nHalf a thought<" in manuscript(tree, tree.path[3].id, unsaved)


def test_no_text_of_a_story_becomes_html(desk: Desk) -> None:
    lore = (LoreEntry(name=_EVIL, keys=(_EVIL,), text=_EVIL, always=True),)
    fields = {"premise": _EVIL, "goal": _EVIL, "characters": (_EVIL,), "memory": _EVIL, "style": _EVIL, "note": _EVIL}
    story = Story(id="evil", prompt=Prompt(**fields, lore=lore)).with_turns(
        Turn(kind=Kind.DO, actor=_EVIL, text=_EVIL), Turn(kind=Kind.NARRATE, text=_EVIL)
    )
    tree = desk.store.save_story(story, _EVIL)
    infos = desk.store.list_stories()
    where = Rewriting(block=tree.path[1].id, start=0, end=8, hint=_EVIL)
    version = ShownCandidate(
        Turn(kind=Kind.NARRATE, text=f"{_EVIL} x"), {steps.KEPT_BEFORE: 0, steps.KEPT_AFTER: 5}, 0.0
    )
    pages = [
        cards.versions([Offer(version, {}, 0.0)], tree.path[1].turn, where, 2, True),
        manuscript(tree, tree.path[0].id),
        tree_map(tree),
        side_by_side(tree.compare(tree.path[0].id, tree.path[1].id)),
        goal_panel(story.prompt, {_EVIL: [0.1, 0.9]}),
        control.prompt_form(story.prompt),
        control.lore_table(story.prompt),
        control.context_view(context_parts(story, word_tokenizer(), 5000)),
        control.context_view(context_parts(story, word_tokenizer(), 300)),
        library.shelf(infos, infos),
    ]
    for page in pages:
        assert "<img" not in page
        assert "&lt;img" in page
        assert page.count("</textarea>") == page.count("<textarea")


def test_a_map_of_a_long_story_is_flat(desk: Desk) -> None:
    turns = tuple(Turn(kind=Kind.NARRATE, text=f"Turn {number}.") for number in range(2000))
    tree = desk.store.save_story(Story(id="long", prompt=Prompt(premise="Long."), turns=turns))
    assert tree_map(tree).count('style="--level:0"') == 2000


class Words(Scorer):
    """0.9 where a sentence holds the goal's first word, else 0.2; counts what it reads."""

    name = "goal"

    def __init__(self) -> None:
        self.read = 0

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        self.read += len(stories)
        return [0.9 if s.goal.split()[0] in s.text else 0.2 for s in stories]


class Reader:
    """An agent of which the meter needs the reward only."""

    def __init__(self, *terms: Term):
        self.reward = Composite(terms)


def test_the_goal_meter_reads_each_turn_once() -> None:
    words = Words()
    meter = GoalMeter(Reader(Term(words, 1.0, 0.0, 1.0)))  # type: ignore[arg-type]
    prompt = Prompt(premise="A boat.", goal="sails away\nreturns home")
    story = Story(id="s", prompt=prompt).with_turns(
        *(Turn(kind=Kind.NARRATE, text=text) for text in ("Rain.", "Mira sails.", "Wind."))
    )
    assert (meter.known(story), meter.before(story)) == ({}, None)
    assert meter.read(story) == {"sails away": [0.2, 0.9, 0.9], "returns home": [0.2, 0.2, 0.2]}
    assert words.read == 6
    longer = story.with_turns(Turn(kind=Kind.NARRATE, text="Mira returns."))
    assert meter.known(longer) == {}
    assert now(meter.read(longer)) == {"sails away": 0.9, "returns home": 0.9}
    assert words.read == 8
    assert (meter.aimed(story).prompt.goal, meter.before(story)) == ("returns home", 0.2)


def test_a_meter_without_goal_or_classifier_shows_nothing() -> None:
    story = Story(id="s", prompt=Prompt(premise="A boat.", goal="sails"))
    without = GoalMeter(Reader())  # type: ignore[arg-type]
    assert (without.read(story), without.works) == ({}, False)
    assert "--reward goal=0" in goal_panel(story.prompt, {}, works=False)
    assert "Without a goal" in goal_panel(Prompt(premise="A boat."), {})


def test_beats_are_ticked_and_the_curve_says_its_numbers() -> None:
    page = goal_panel(
        Prompt(premise="A boat.", goal="sails\nreturns\nrests"), {"sails": [0.1, 0.5], "returns": [0.0, 0.49]}
    )
    assert (page.count("✓"), page.count("○"), page.count("not read yet")) == (1, 2, 1)
    assert "sails: 10%, 50%. returns: 0%, 49%." in page
    assert 'points="0.0,90.0 160.0,81.0 320.0,45.0"' in page  # from nothing up to a half of 90
    assert curve({}) == ""


def test_how_the_model_writes() -> None:
    usual = control.Manner()
    assert usual.sampling == WRITING
    bold = control.changed_manner(usual, {"preset": "bold", "temperature": "0.5"})
    assert control.preset_of(bold) == "bold"
    same = bold.model_dump()
    own = control.changed_manner(bold, {**same, "preset": "bold", "temperature": "0.9", "do": "manner"})
    assert (own.temperature, own.top_p, control.preset_of(own)) == (0.9, bold.top_p, "own")
    assert control.changed_manner(own, {**own.model_dump(), "preset": "own"}) == own
    for bad in ({"temperature": "hot"}, {"top_p": 0}, {"max_tokens": 10**6}, {"temperature": "nan"}, {"min_p": 2}):
        with pytest.raises(InputError):
            control.changed_manner(usual, bad)
    assert control.Manner.of({"temperature": -1}) == usual
    for preset in control.PRESETS.values():
        assert f'value="{control.preset_of(preset)}" selected' in control.manner_form(preset)


def test_what_the_model_never_writes() -> None:
    usual = control.Manner()
    mine = control.changed_manner(
        usual, {**usual.model_dump(), "banned": " a  shiver \n\nTapestry\na shiver\n", "min_p": "0.1"}
    )
    assert mine.banned == mine.sampling.banned == ("a shiver", "Tapestry")
    assert (mine.min_p, mine.sampling.min_p, control.preset_of(mine)) == (0.1, 0.1, "own")
    bold = control.changed_manner(mine, {"preset": "bold", "banned": "a shiver"})
    assert (bold.banned, bold.temperature, control.preset_of(bold)) == (("a shiver",), 1.1, "bold")
    assert control.changed_manner(bold, {"preset": "usual"}).banned == ("a shiver",)
    assert control.Manner.of(mine.model_dump(mode="json")) == mine
    assert "\na shiver\nTapestry</textarea>" in control.manner_form(mine)
    with pytest.raises(InputError, match="Never write: at most 50 phrases, one a line; these are 51"):
        control.changed_manner(usual, {"banned": "\n".join(f"word {n}" for n in range(51))})
    with pytest.raises(InputError, match=r"Never write: at most 60 characters a phrase; 'x{20}\.\.\.' has 61"):
        control.changed_manner(usual, {"banned": "x" * 61})
    assert "<img" not in control.manner_form(control.changed_manner(usual, {"banned": _EVIL}))


def test_the_context_shows_what_was_left_out() -> None:
    turns = [Turn(kind=Kind.NARRATE, text=f"Turn number {number} of many.") for number in range(9)]
    story = Story(id="s", prompt=Prompt(premise="A boat.")).with_turns(*turns)
    context = context_parts(story, word_tokenizer(), 250)
    page = control.context_view(context)
    left = sum(not part.included for part in context.parts)
    assert 0 < left < 9
    assert f"The model reads {len(context.ids)} of at most 250 tokens" in page
    assert f"Left out: Turn 1 to Turn {left}" in page
    assert page.count("<pre>") == len(context.parts)


# --- the library ------------------------------------------------------------------------------------------------------


def test_library_steps(desk: Desk, place: Place) -> None:
    can, store, story = library.changes(desk.store), desk.store, place.story or ""
    can["rename"](story, {"version": place.version, "title": " The boat "})
    [info] = store.list_stories()
    assert info.title == "The boat"
    can["duplicate"](story, {})
    assert {info.title for info in store.list_stories()} == {"The boat", "The boat (copy)"}
    can["remove"](story, {"version": info.version})
    assert [info.title for info in store.list_stories()] == ["The boat (copy)"]
    [gone] = store.list_stories(deleted=True)
    assert desk.newest(place).story is None
    can["restore"](story, {"version": gone.version})
    assert len(store.list_stories()) == 2
    for step in ("rename", "remove", "restore"):
        with pytest.raises(Stale):
            can[step](story, {"version": 0, "title": "x"})
        with pytest.raises(InputError, match="version"):
            can[step](story, {"version": "x", "title": "x"})


@pytest.mark.parametrize("kind", EXPORTS)
def test_every_export_downloads(desk: Desk, place: Place, kind: str) -> None:
    version = desk.store.rename(place.story or "", "../../Mira's / boat <3", place.version)
    assert version
    file = library.download(desk.store, place.story or "", kind)
    assert file["name"] == f"Mira's boat 3{EXPORTS[kind][1]}"
    data = base64.b64decode(file["data"])
    if kind == "json":
        imported = import_story(data, file["name"]).story
        assert imported and [turn.text for turn in imported.turns] == ["One.", "Two.", "Three."]
    elif kind == "epub":
        assert zipfile.ZipFile(BytesIO(data)).testzip() is None
    elif kind == "lorebook":
        assert isinstance(json.loads(data), dict)
    else:
        assert b"Two." in data


def test_an_unknown_export_is_refused(desk: Desk, place: Place) -> None:
    with pytest.raises(InputError, match="no such format"):
        library.download(desk.store, place.story or "", "../etc")
