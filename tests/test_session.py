"""The steps of a writing session and how they look, without a page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from rewards.base import Scorer, StoryText
from rewards.composite import Composite, Term
from rewards.guards import Repetition
from storyrl.errors import InputError
from storyrl.store import Node, ShownCandidate, Tree
from storyrl.story import Kind, Prompt, Story, Turn
from ui import cards, html
from ui import session as steps
from ui.session import Offer, Place, Rewriting, Weights


class Fixed(Scorer):
    """Not asked here: the scores are given."""

    def __init__(self, name: str):
        self.name = name

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        raise AssertionError("re-ranking must not score")


REWARD = Composite(
    [
        Term(Fixed("goal"), 1.0, 0.25, 0.5),
        Term(Fixed("preference"), 0.5, 1.0, 2.0),
        Term(Repetition(), -20.0, 0.0, 1.0),
        Term(Fixed("mine:own"), 1.0, 0.0, 1.0),
    ]
)


def candidate(text: str, goal: float, taste: float, repetition: float = 0.0, own: float = 0.0) -> ShownCandidate:
    scores = {"goal": goal, "preference": taste, "repetition": repetition, "mine:own": own}
    return ShownCandidate(Turn(kind=Kind.NARRATE, text=text), scores, REWARD.reward(scores), id=7)


def test_start_cleans_its_fields() -> None:
    prompt = steps.start(" Mira finds a boat. ", "Mira sails.", "Mira, Tom ,, ").prompt
    assert (prompt.premise, prompt.goal, prompt.characters) == ("Mira finds a boat.", "Mira sails.", ("Mira", "Tom"))
    assert steps.start("A boat.", "", "").id != steps.start("A boat.", "", "").id


@pytest.mark.parametrize("premise", ["", "  \n "])
def test_start_asks_for_a_premise(premise: str) -> None:
    with pytest.raises(InputError, match="premise"):
        steps.start(premise, "", "")


def test_start_names_the_field_that_is_wrong() -> None:
    with pytest.raises(InputError, match="goal"):
        steps.start("A boat.", "x" * 5000, "")
    with pytest.raises(InputError, match="characters"):
        steps.start("A boat.", "", "[Mira]")


def test_own_turns() -> None:
    assert steps.turn_of("say", " Mira ", "Cast\n off!") == Turn(
        kind=Kind.SAY, actor="Mira", text="Cast off!", author="writer"
    )
    assert steps.turn_of("narrate", "Mira", "Rain.").actor is None


@pytest.mark.parametrize(
    ("kind", "actor", "text", "message"),
    [
        ("narrate", "", " ", "text"),
        ("say", " ", "Hello.", "who speaks"),
        ("do", "a\nb", "Runs.", "actor"),
        ("sing", "Mira", "La.", "kind"),
    ],
)
def test_own_turns_that_are_refused(kind: str, actor: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        steps.turn_of(kind, actor, text)


@pytest.mark.parametrize(
    ("author", "text", "after"),
    [
        ("policy", "Rain.", "policy"),
        ("policy", "Wind.", "edited"),
        ("edited", "Rain.", "edited"),
        ("writer", "Wind.", "writer"),
    ],
)
def test_an_edit_marks_the_model_s_turn_only(author: str, text: str, after: str) -> None:
    old = Turn.model_validate({"kind": "narrate", "text": "Rain.", "author": author})
    assert steps.edited(old, "narrate", "", text).author == after


def test_another_speaker_is_an_edit() -> None:
    old = Turn(kind=Kind.SAY, actor="Tom", text="No.")
    assert steps.edited(old, "say", "Mira", "No.").author == "edited"


@pytest.mark.parametrize(
    ("kind", "who", "words", "line"),
    [
        ("", "", "", ""),
        ("narrate", "Mira", "", "[narrate]"),
        ("say", "Mira", "", "[say Mira]"),
        ("say", "", "", "[say"),
        ("do", " Tom ", "Tom ran to", "[do Tom] Tom ran to"),
        ("narrate", "", "-", "[narrate] -"),
    ],
)
def test_how_the_model_s_turn_begins(kind: str, who: str, words: str, line: str) -> None:
    assert steps.opening(kind, who, words) == line


def test_openings_that_are_refused() -> None:
    with pytest.raises(InputError, match="actor"):
        steps.opening("say", "Mira] Hello\n[narrate")
    with pytest.raises(InputError, match="who speaks"):
        steps.opening("say", "", "Hello")


def test_the_model_aims_at_the_first_beat_that_is_ahead() -> None:
    prompt = Prompt(premise="A boat.", goal="Mira finds it.\n\n Mira sails. \nMira returns.")
    assert steps.beats(prompt.goal) == ("Mira finds it.", "Mira sails.", "Mira returns.")
    assert steps.aim(prompt, {}).goal == "Mira finds it."
    assert steps.aim(prompt, {"Mira finds it.": 0.5, "Mira sails.": 0.49}).goal == "Mira sails."
    assert steps.aim(prompt, dict.fromkeys(steps.beats(prompt.goal), 0.9)).goal == "Mira returns."


def test_a_single_goal_stays() -> None:
    prompt = Prompt(premise="A boat.", goal="Mira sails.")
    assert steps.aim(prompt, {"Mira sails.": 1.0}) is prompt


def test_weights_rank_anew_from_the_stored_scores() -> None:
    near, fine = candidate("Near.", goal=0.75, taste=-1.0), candidate("Fine.", goal=0.25, taste=3.0)
    # goal: (0.75 - 0.25) / 0.5 = 1 and 0; taste: 0.5 * (-1 - 1) / 2 = -0.5 and 0.5 * (3 - 1) / 2 = 0.5
    assert [o.total for o in steps.ranked([fine, near], REWARD, Weights())] == pytest.approx([0.5, 0.5])
    by_goal = steps.ranked([fine, near], REWARD, Weights(taste=0))
    assert [(o.candidate.turn.text, o.total) for o in by_goal] == [("Near.", 1.0), ("Fine.", 0.0)]
    by_taste = steps.ranked([fine, near], REWARD, Weights(goal=0, taste=2))
    assert [(o.candidate.turn.text, o.total) for o in by_taste] == [("Fine.", 1.0), ("Near.", -1.0)]


def test_guards_and_own_rewards_in_the_total() -> None:
    scores = candidate("Again.", 0.25, 1.0, repetition=0.1, own=3.0).scores
    assert steps.total(scores, REWARD, Weights()) == pytest.approx(1.0)  # 3 - 20 * 0.1
    assert steps.total(scores, REWARD, Weights(guards=0)) == pytest.approx(3.0)
    assert steps.total(scores, REWARD, Weights()) == pytest.approx(REWARD.reward(scores))


def test_a_turn_that_breaks_off_comes_last() -> None:
    whole, broken = candidate("Whole.", 0.1, 0.0), candidate("Broken off in the", 0.9, 3.0)
    assert [o.candidate for o in steps.ranked([broken, whole], REWARD, Weights())] == [whole, broken]


def test_candidates_of_another_reward_have_no_bars() -> None:
    old = ShownCandidate(Turn(kind=Kind.NARRATE, text="Old."), {"goal": 0.75}, 1.0)
    [offer] = steps.ranked([old], REWARD, Weights())
    assert (offer.bars, offer.total) == ({}, 1.0)


@pytest.mark.parametrize("garbage", [None, 7, "x", {"story": 7}, {"weights": {"goal": 99}}, {"version": "x"}, [1]])
def test_a_browser_s_memory_may_be_garbage(garbage: object) -> None:
    assert Place.of(garbage) == Place()


def test_a_place_goes_through_the_browser() -> None:
    place = Place(story="s", version=3, chosen=4, weights=Weights(goal=2))
    assert Place.of(place.model_dump()) == place


# --- passages ---------------------------------------------------------------------------------------------------------


def tree_of(*turns: Turn) -> Tree:
    nodes = tuple(
        Node(n + 1, n or None, turn, (n + 2,) if n + 1 < len(turns) else (), datetime.now(UTC), True, 1)
        for n, turn in enumerate(turns)
    )
    return Tree("s", "S", Prompt(premise="A boat."), 1, len(turns), nodes, None, None)


@pytest.mark.parametrize(
    ("text", "selected", "found"),
    [
        ("Come in, Tom.", "Come in", "Come in"),
        ("Come in, Tom.", 'Tom," said', "Tom."),
        ("“Come in”", "in", "in"),
        ("Come in!", '"Come in!" said Mira.', "Come in!"),
    ],
)
def test_a_selection_of_speech_as_the_page_shows_it(text: str, selected: str, found: str) -> None:
    """`"Come in, Tom," said Mira.` on the page is `Come in, Tom.` in the block."""
    turn = Turn(kind=Kind.SAY, actor="Mira", text=text)
    start = turn.prose().index(selected)
    where = steps.select(tree_of(turn), 1, start, start + len(selected), turn.prose())
    assert text[where.start : where.end] == found


def test_who_speaks_is_no_passage() -> None:
    turn = Turn(kind=Kind.SAY, actor="Mira", text="Come in.")
    start = turn.prose().index("Mira")
    with pytest.raises(InputError, match="Who speaks"):
        steps.select(tree_of(turn), 1, start, start + 4, turn.prose())


def test_a_selection_in_a_form_or_in_the_text() -> None:
    tree = tree_of(*(Turn(kind=Kind.NARRATE, text=text) for text in ("Rain.", "Wind and rain.")))
    assert steps.select(tree, 2, 5, 8, "Wind and rain.", " darker ") == Rewriting(
        block=2, start=5, end=8, hint="darker"
    )
    with pytest.raises(InputError, match="no longer as you see it"):
        steps.select(tree, 2, 0, 4, "Wind and snow.")
    with pytest.raises(InputError, match="not in the story"):
        steps.select(tree, 3, 0, 4, "Rain.")
    with pytest.raises(InputError, match="hint"):
        steps.select(tree, 2, 5, 8, "Wind and rain.", "x" * 201)


def version(text: str, before: object, after: object, **scores: float) -> ShownCandidate:
    kept: dict[str, Any] = {steps.KEPT_BEFORE: before, steps.KEPT_AFTER: after}
    return ShownCandidate(Turn(kind=Kind.NARRATE, text=text), {**scores, **kept}, 0.0, id=7)


def test_versions_belong_to_the_words_around_them() -> None:
    old = Turn(kind=Kind.NARRATE, text="Rain fell here.", author="writer")
    fits = version("Rain lay there, and here.", 5, 5)
    assert steps.framed(fits, old) == ("Rain ", "lay there, and ", "here.")
    assert steps.framed(fits, old.model_copy(update={"text": "Rain was not heard here."})) is not None
    for text in ("Hail fell here.", "Rain fell there!", "Rain here."):
        assert steps.framed(fits, old.model_copy(update={"text": text})) is None
    assert steps.framed(fits, Turn(kind=Kind.DO, actor="Tom", text="Rain fell here.")) is None
    for before, after in ((None, 5), (-1, 5), ("5", 5), (5, 10**9)):
        assert steps.framed(version("Rain fell here.", before, after), old) is None
    assert steps.framed(version("All new.", 0, 0), old) == ("", "All new.", "")


def test_versions_are_sorted_by_story_and_joint_together() -> None:
    scores = {"preference": 1.0, "repetition": 0.0, "mine:own": 0.0}
    # goal: (0.75 - 0.25) / 0.5 = 1 and (0.5 - 0.25) / 0.5 = 0.5
    near = version("Near. End.", 0, 5, goal=0.75, fit=-0.7, **scores)
    smooth = version("Smooth. End.", 0, 5, goal=0.5, fit=0.1, **scores)
    offers = steps.ranked_versions([near, smooth], REWARD, Weights())
    assert [o.candidate.turn.text for o in offers] == ["Smooth. End.", "Near. End."]
    turn = Turn(kind=Kind.NARRATE, text="Old. End.")
    page = cards.versions(offers, turn, Rewriting(block=3, start=0, end=4), 2, has_goal=True)
    assert "+0.50 for the story, +0.10 for the joint" in page and ">+0.60<" in page
    assert ">×1.11<" in page and ">×0.50<" in page  # e to the 0.1 and to the -0.7
    assert "Block 2, other words for “Old.”" in page
    assert 'Smooth.<span class="kept"> End.</span>' in page
    lively = steps.ranked_versions([near, smooth], REWARD, Weights(goal=3))
    assert [o.candidate.turn.text for o in lively] == ["Near. End.", "Smooth. End."]


def test_a_version_without_a_joint_and_one_that_is_in_the_story() -> None:
    turn = Turn(kind=Kind.NARRATE, text="Old.")
    shown = [Offer(version(text, 0, 0), {}, -1.0) for text in ("Old.", "New.")]
    page = cards.versions(shown, turn, Rewriting(block=3, start=0, end=4), 1, has_goal=False)
    assert page.count("Nothing follows") == 2
    assert page.count("in the story now</span>") == page.count(" disabled>") == 1


_EVIL = '<img src=x onerror="alert(1)">\'"</textarea>'


def test_every_text_is_escaped() -> None:
    prompt = Prompt(premise=_EVIL, goal=_EVIL, characters=(_EVIL,))
    turn = Turn(kind=Kind.DO, actor=_EVIL, text=_EVIL)
    shown = Offer(ShownCandidate(turn, {"goal": 0.5}, 0.0), {"goal": 0.5}, 0.0)
    pages = [
        cards.cards([shown], has_goal=True, before=0.1),
        cards.drafts([_EVIL]),
        html.turn_fields("Text", turn, [_EVIL], "key"),
        html.button(_EVIL, "do", data_x=_EVIL),
        html.choice(_EVIL, "x", [(_EVIL, _EVIL)], _EVIL),
        html.about(prompt),
        html.story_html("A", Story(id="s", prompt=prompt).with_turns(turn).text),
        html.status(_EVIL),
    ]
    for page in pages:
        assert "<img" not in page
        assert "&lt;img" in page
        assert page.count("</textarea>") == page.count("<textarea")


def test_a_card_has_its_numbers_as_text() -> None:
    offer = Offer(candidate("Rain.", 0.9, -1.0), {"goal": 0.9, "preference": 0.125, "clean": 1.0}, -1.5)
    page = cards.cards([offer], has_goal=True, before=0.62)
    assert 'aria-label="goal: has happened by now with a probability of 90 %, +28 by this turn"' in page
    assert ">90 % +28<" in page
    assert 'aria-label="taste: better than 12 % of the model&#x27;s usual stories (score -1.00)"' in page
    assert 'aria-label="clean: no fault found"' in page
    assert 'aria-valuenow="25"' in page  # a total of -1.5 on a bar from -3 to +3
    assert ">-1.50<" in page
    assert 'data-candidate="7"' in page


def test_a_card_without_goal_has_no_goal_bar() -> None:
    offer = Offer(candidate("Rain.", 0.9, 0.0), {"goal": 0.9}, 0.0)
    assert "goal" not in cards.cards([offer], has_goal=False, before=None)


def test_a_total_beyond_the_bar_s_end_stays_on_it() -> None:
    for total, end in ((9.0, "width:100%"), (-9.0, "width:0%")):
        assert end in cards.cards([Offer(candidate("Rain.", 0, 0), {}, total)], has_goal=True, before=None)


def test_drafts_hide_their_tag() -> None:
    page = cards.drafts(["[say Mira] Come in", "[say", ""])
    assert ">Come in<" in page
    assert "[say" not in page
    assert page.count("…") == 2
