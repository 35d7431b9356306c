"""What the studio shows of a story: manuscript, map, goal meter, manner of writing, context; no page, no model."""

from collections.abc import Sequence

import pytest

from prompts.context import context_parts
from rewards.base import Scorer, StoryText
from rewards.composite import Composite, Term
from storyrl.errors import InputError
from storyrl.policy import WRITING
from storyrl.store import ShownCandidate
from storyrl.story import Kind, LoreEntry, Prompt, Story, Turn
from ui import cards, control, library
from ui import session as steps
from ui.desk import Desk
from ui.goal import GoalMeter, curve, goal_panel, now
from ui.manuscript import manuscript, side_by_side
from ui.session import Offer, Place, Rewriting
from ui.tree_map import tree_map

from .conftest import word_tokenizer
from .test_desk import offer

_EVIL = '<img src=x onerror="alert(1)">\'"</textarea>'


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
