"""The steps of a writing session, without a page."""

import pytest

from storyrl.agent import Suggestion
from storyrl.errors import InputError
from storyrl.story import Kind, Prompt, Story, Turn
from ui import session as steps
from ui.session import Session


def suggestion(text: str, reward: float = 0.5, actor: str | None = None) -> Suggestion:
    turn = Turn(kind=Kind.SAY if actor else Kind.NARRATE, actor=actor, text=text)
    scores, bars = {"goal": 0.25, "preference": -1.0}, {"goal": 0.9, "preference": 0.125}
    return Suggestion(turn, text, scores, bars, reward, tokens=9, whole=True)


@pytest.fixture
def fresh() -> Session:
    return steps.start(" Mira finds a boat. ", "Mira sails.", "Mira, Tom ,, ")


@pytest.fixture
def offered(fresh: Session) -> Session:
    return Session(fresh.story, (suggestion("The boat leaked."), suggestion("Bail!", 0.1, "Tom")))


def test_start_cleans_its_fields(fresh: Session) -> None:
    prompt = fresh.story.prompt
    assert (prompt.premise, prompt.goal, prompt.characters) == ("Mira finds a boat.", "Mira sails.", ("Mira", "Tom"))
    assert fresh.story.turns == ()
    assert fresh.story.id != steps.start("Mira finds a boat.", "", "").story.id


@pytest.mark.parametrize("premise", ["", "  \n "])
def test_start_asks_for_a_premise(premise: str) -> None:
    with pytest.raises(InputError, match="premise"):
        steps.start(premise, "", "")


def test_start_names_the_field_that_is_wrong() -> None:
    with pytest.raises(InputError, match="goal"):
        steps.start("A boat.", "x" * 5000, "")
    with pytest.raises(InputError, match="characters"):
        steps.start("A boat.", "", "[Mira]")


def test_pick_adds_the_model_s_turn_and_clears_the_table(offered: Session) -> None:
    after = steps.pick(offered, 1)
    assert after.story.turns == (Turn(kind=Kind.SAY, actor="Tom", text="Bail!", author="policy"),)
    assert after.suggestions == ()
    assert offered.story.turns == ()  # nothing is changed in place


def test_a_suggestion_that_is_gone_cannot_be_taken(fresh: Session, offered: Session) -> None:
    for step in (steps.pick, steps.edit):
        with pytest.raises(InputError, match="no longer"):
            step(fresh, 0)
        with pytest.raises(InputError, match="no longer"):
            step(offered, 2)


def test_an_edited_suggestion_is_marked(offered: Session) -> None:
    editing = steps.edit(offered, 0)
    assert editing.editing == offered.suggestions[0].turn
    after = steps.add_turn(editing, "narrate", "", "The boat leaked badly.")
    assert after.story.turns[0].author == "edited"
    assert after.editing is None


def test_a_discarded_draft_leaves_no_mark(offered: Session) -> None:
    after = steps.add_turn(steps.discard(steps.edit(offered, 0)), "narrate", "", "Rain.")
    assert after.story.turns[0].author == "writer"


def test_the_draft_outlives_a_pick_and_an_undo(offered: Session) -> None:
    after = steps.undo(steps.pick(steps.edit(offered, 0), 1))
    assert after.editing == offered.suggestions[0].turn


def test_own_turns(fresh: Session) -> None:
    after = steps.add_turn(fresh, "say", " Mira ", "Cast\n off!")
    assert after.story.turns == (Turn(kind=Kind.SAY, actor="Mira", text="Cast off!", author="writer"),)
    assert steps.add_turn(fresh, "narrate", "Mira", "Rain.").story.turns[0].actor is None


@pytest.mark.parametrize(
    ("kind", "actor", "text", "message"),
    [("narrate", "", " ", "text"), ("say", " ", "Hello.", "who speaks"), ("do", "a\nb", "Runs.", "actor")],
)
def test_own_turns_that_are_refused(fresh: Session, kind: str, actor: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        steps.add_turn(fresh, kind, actor, text)


def test_undo(fresh: Session) -> None:
    one = steps.add_turn(fresh, "narrate", "", "Rain.")
    assert steps.undo(steps.add_turn(one, "narrate", "", "Wind.")).story == one.story
    with pytest.raises(InputError, match="no turn"):
        steps.undo(fresh)


def test_shown_marks_the_picked_one(offered: Session) -> None:
    assert [candidate.picked for candidate in steps.shown(offered)] == [False, False]
    shown = steps.shown(offered, picked=1)
    assert [(c.turn.text, c.reward, c.picked) for c in shown] == [
        ("The boat leaked.", 0.5, False),
        ("Bail!", 0.1, True),
    ]


_EVIL = '<img src=x onerror="alert(1)">'


def test_every_text_is_escaped() -> None:
    prompt = Prompt(premise=_EVIL, goal=_EVIL, characters=(_EVIL,))
    story = Story(id="s", prompt=prompt).with_turns(Turn(kind=Kind.DO, actor=_EVIL, text=_EVIL))
    pages = [
        steps.manuscript(Session(story)),
        steps.card(suggestion(_EVIL, actor=_EVIL), has_goal=True),
        steps.about(prompt),
        steps.story_html("A", story.text),
        steps.status(_EVIL),
    ]
    for html in pages:
        assert "<img" not in html
        assert "&lt;img" in html


def test_the_manuscript_says_who_wrote_what(offered: Session) -> None:
    html = steps.manuscript(steps.add_turn(steps.pick(offered, 1), "narrate", "", "Rain."))
    assert "&quot;Bail!&quot; said Tom." in html
    assert html.index(">model<") < html.index(">you<")


def test_a_card_has_its_numbers_as_text() -> None:
    html = steps.card(suggestion("Rain.", reward=-1.5), has_goal=True)
    assert 'aria-label="goal: has happened by now with a probability of 90 %"' in html
    assert 'aria-label="taste: better than 12 % of the model&#x27;s usual stories (score -1.00)"' in html
    assert "taste: better than 12 %" in html
    assert 'aria-valuenow="25"' in html  # a total of -1.5 on a bar from -3 to +3
    assert ">-1.50<" in html


def test_a_card_without_goal_has_no_goal_bar() -> None:
    assert "goal" not in steps.card(suggestion("Rain."), has_goal=False)


def test_a_total_beyond_the_bar_s_end_stays_on_it() -> None:
    assert "width:100%" in steps.card(suggestion("Rain.", reward=9.0), has_goal=True)
    assert "width:0%" in steps.card(suggestion("Rain.", reward=-9.0), has_goal=True)
