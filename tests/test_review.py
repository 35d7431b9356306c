"""Weak preferences by hand, what makes them vanish, and the pages that list them and the answers."""

from pathlib import Path

import pytest

from rewards.choices import choices_from_store
from storyrl.errors import InputError
from storyrl.store import WEAK_PREFERENCES, Answer, Comparison, Judgement, Round, ShownCandidate, Store, Weak
from storyrl.story import Kind, Prompt, Story, Turn
from ui import review

_PROMPT = Prompt(id="p", premise="A <b>man</b> walks to the sea.", goal="He eats.")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s.db")).for_owner("Ann")


def _turn(text: str, author: str = "policy") -> Turn:
    return Turn.model_validate({"kind": Kind.NARRATE, "text": text, "author": author})


def _show(store: Store, *texts: str, after: int | None = None) -> Round:
    return store.show("s", [ShownCandidate(_turn(text), {}, 0.0) for text in texts], after)


def _id(shown: Round, at: int) -> int:
    number = shown.candidates[at].id
    assert number is not None
    return number


def _list(store: Store) -> list[tuple[str, str, str]]:
    return [(weak.how.value, weak.better.text, weak.worse.text) for weak in store.weak_preferences()]


def _begin(store: Store) -> int:
    return store.save_story(Story(id="s", prompt=_PROMPT), title="The <i>sea</i>").version


# --- the store ------------------------------------------------------------------------------------------------------


def test_picks_regenerations_and_edits(store: Store) -> None:
    version = _begin(store)
    passed_over = _show(store, "a", "b")
    assert _list(store) == []  # nothing was picked
    shown = _show(store, "c", "d", "c")
    later = _show(store, "e")
    tree = store.pick("s", _id(shown, 0), version)
    a_pick = [("picked", "c", "d"), ("asked anew", "c", "b"), ("asked anew", "c", "a")]
    assert _list(store) == a_pick  # not over "e", which came later, and not over the same words
    weak = store.weak_preferences()
    assert [w.key[1] for w in weak] == [_id(shown, 1), _id(passed_over, 1), _id(passed_over, 0)]
    assert {(w.story_id, w.title, w.created) for w in weak} == {("s", "The <i>sea</i>", shown.created)}
    block = tree.path[-1].id
    tree = store.edit("s", block, _turn("c, but mine", "edited"), tree.version)
    assert _list(store) == [a_pick[0], ("edited", "c, but mine", "c"), *a_pick[1:]]
    tree = store.edit("s", block, _turn("c", "edited"), tree.version)
    assert _list(store) == a_pick
    tree = store.undo("s", store.undo("s", tree.version).version)
    assert _list(store) == a_pick
    tree = store.undo("s", tree.version)
    assert _list(store) == []  # the pick was undone
    store.pick("s", _id(later, 0), tree.version, _turn("e, but mine", "edited"))
    assert ("edited", "e, but mine", "e") in _list(store)
    assert [how for how, *_ in _list(store)].count("asked anew") == 5
    assert store.for_owner("Bob").weak_preferences() == []


def test_an_edit_belongs_to_the_candidate_that_the_block_was_made_from(store: Store) -> None:
    version = _begin(store)
    shown = _show(store, "a", "b")
    tree = store.pick("s", _id(shown, 0), version)
    tree = store.pick("s", _id(shown, 1), store.switch("s", None, tree.version).version)
    store.edit("s", tree.path[-1].id, _turn("mine", "edited"), tree.version)
    assert _list(store) == [("edited", "mine", "b")]  # both were picked, on two branches


def test_a_version_of_a_passage_that_was_picked_beats_those_beside_it_and_what_it_replaced(store: Store) -> None:
    version = _begin(store)
    tree = store.pick("s", _id(_show(store, "a", "b"), 0), version)
    block = tree.path[-1].id
    versions = _show(store, "a, v", "a, w")
    tree = store.replace("s", block, _id(versions, 1), tree.version)
    assert (tree.path[-1].turn, tree.undo) == (_turn("a, w", "edited"), "edit")
    after = [("picked", "a, w", "a, v"), ("asked anew", "a, w", "b"), ("picked", "a", "b"), ("edited", "a, w", "a")]
    assert sorted(_list(store)) == sorted(after)
    tree = store.edit("s", block, _turn("a, mine", "edited"), tree.version)
    assert {("edited", "a, mine", "a"), ("edited", "a, mine", "a, w")} <= set(_list(store))
    tree = store.undo("s", tree.version)
    tree = store.replace("s", block, _id(versions, 0), tree.version)
    assert {("edited", "a, v", "a"), ("edited", "a, v", "a, w")} <= set(_list(store))
    tree = store.undo("s", store.undo("s", tree.version).version)
    assert (tree.path[-1].turn.text, _list(store)) == ("a", [("picked", "a", "b")])


def test_versions_of_the_writers_own_words_say_which_was_better(store: Store) -> None:
    tree = store.append("s", [_turn("mine", "writer"), _turn("more", "writer")], _begin(store))
    versions = _show(store, "v", "w")
    with pytest.raises(InputError, match="no longer here"):
        store.replace("s", tree.path[1].id, _id(versions, 0), tree.version)  # shown for the first block
    with pytest.raises(InputError, match="no longer here"):
        store.replace("s", tree.path[0].id, 10**12, tree.version)
    tree = store.replace("s", tree.path[0].id, _id(versions, 0), tree.version)
    assert [node.turn.text for node in tree.path] == ["v", "more"]
    assert _list(store) == [("picked", "v", "w")]


def test_a_forgotten_preference_stays_forgotten_and_its_suggestion_stays(store: Store) -> None:
    version = _begin(store)
    shown = _show(store, "a", "b", "c")
    tree = store.pick("s", _id(shown, 0), version, _turn("mine", "edited"))
    everything = _list(store)
    assert everything == [("picked", "a", "c"), ("picked", "a", "b"), ("edited", "mine", "a")]
    key = store.weak_preferences()[0].key
    with pytest.raises(InputError, match="no such suggestion"):
        store.for_owner("Bob").forget_preferences([key])
    store.forget_preferences([key])
    store.forget_preferences([key])
    assert _list(store) == everything[1:]
    assert len(store.rounds("s")[0].candidates) == 3
    store.forget_preferences([weak.key for weak in store.weak_preferences()])
    assert _list(store) == []
    tree = store.redo("s", store.undo("s", tree.version).version)
    assert _list(store) == []
    store.delete_story("s", tree.version)
    assert store.counts()["candidates"] == 0


def test_only_with_consent_they_are_learned_from(store: Store) -> None:
    version = _begin(store)
    shown = _show(store, "a", "b")
    store.pick("s", _id(shown, 0), version, _turn("mine", "edited"))

    def choices() -> list[tuple[str, str, float]]:
        found = choices_from_store(store.comparisons(), store.ratings(), store.shown(with_consent=True))
        return [(choice.first.text, choice.second.text, choice.weight) for choice in found]

    assert choices() == []
    store.set_setting(WEAK_PREFERENCES, True)
    assert choices() == [("a", "b", 0.3), ("mine", "a", 0.3)]
    store.set_setting(WEAK_PREFERENCES, False)
    assert choices() == []
    assert len(store.weak_preferences()) == 2  # still there to be looked through


# --- the pages ------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_shown_as_text_and_by_the_page(store: Store) -> None:
    version = _begin(store)
    shown = _show(store, "<script>a</script>", *(f"<i>{n}</i>" for n in range(25)))
    assert "There is nothing yet" in review.kept(store.weak_preferences(), False, 0)
    store.pick("s", _id(shown, 0), version)
    weak = store.weak_preferences()
    first = review.kept(weak, False, 0)
    assert "<script>" not in first
    assert "<i>" not in first
    assert "&lt;script&gt;a&lt;/script&gt;" in first
    assert "In “The &lt;i&gt;sea&lt;/i&gt;”" in first
    assert (first.count("<li>"), "25 entries, not used" in first, "Page 1 of 3" in first) == (10, True, True)
    assert ("Newer" in first, "Older" in first, " checked" in first) == (False, True, False)
    last = review.kept(weak, True, 99)
    assert (last.count("<li>"), "25 entries, used" in last, "Page 3 of 3" in last) == (5, True, True)
    assert ("Newer" in last, "Older" in last, " checked" in last) == (True, False, True)
    assert {weak.how for weak in weak} == {Weak.PICKED}


def test_the_answers_are_shown_as_text() -> None:
    text = "<script>x</script> " * 60
    comparison = Comparison(_PROMPT, text, "short", Answer.BOTH_BAD, comment="<u>no</u>", id=7, repeat_of=3)
    judgement = Judgement(Answer.BOTH_BAD, {"A": {"interest": 2}}, "<u>no</u>")
    page = review.answers([(comparison, judgement)], 0, 11)
    for tag in ("<script>", "<u>", "<b>"):
        assert tag not in page
    for part in ("A &lt;b&gt;man", "Both are bad", "asked a second time", "interest 2", "…", "Page 1 of 2"):
        assert part in page
    assert 'data-answer="7"' in page
    assert "not answered a pair yet" in review.answers([], 0, 0)
    assert (review.within(5, 0), review.within(5, 11), review.within(-1, 11)) == (0, 1, 0)
