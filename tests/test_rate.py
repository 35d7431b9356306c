"""The Rate tab: what its form says, and the tab in a browser with the stand-in agent and with the real model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from storyrl.errors import InputError
from storyrl.store import OWNER, WEAK_PREFERENCES, Answer, Comparison, Judgement, OpenPair, Store
from storyrl.story import Prompt
from ui.rate import judgement, pair_html

from .studio_page import Server, press, room, start, suggest

# --- the form -------------------------------------------------------------------------------------------------------


def test_what_the_form_says() -> None:
    fields = {
        "answer": "tie",
        "comment": "Hm.",
        "A coherence": "5",
        "B goal reached": "1",
        "B language": "",
        "C x": "9",
    }
    said = Judgement(Answer.TIE, {"A": {"coherence": 5}, "B": {"goal reached": 1}}, "Hm.")
    assert judgement(fields) == said
    assert judgement({}) == Judgement(None, {"A": {}, "B": {}}, "")
    for broken, message in (
        ({"answer": "C"}, "no such answer"),
        ({"A interest": "6"}, "interest of A: expected a mark from 1 to 5"),
        ({"A interest": "<b>"}, "expected a mark"),
        ({"comment": "x" * 2001}, "at most 2000 characters, got 2001"),
        ({"answer": ["A"]}, "no such answer"),
    ):
        with pytest.raises(InputError, match=message):
            judgement(broken)


def test_stories_and_drafts_are_shown_as_text() -> None:
    draft = Judgement(Answer.B, {"B": {"interest": 4}}, '"><script>')
    page = pair_html(OpenPair("k", Prompt(premise="<b>", goal="<i>"), "<u>", "<s>", draft))
    for tag in ("<script>", "<b>", "<u>", "<s>"):
        assert tag not in page
    assert page.count('aria-pressed="true"') == 1
    assert "<details open><summary>Marks" in page
    assert "Goal reached" in page
    assert "Goal reached" not in pair_html(OpenPair("k", Prompt(premise="P."), "a", "b", Judgement()))


# --- the tab --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(fake: tuple[str, Store]) -> Store:
    """The local writer's part of the store, without answers and an open pair."""
    mine = fake[1].for_owner(OWNER)
    mine.put_away()
    for comparison in mine.comparisons():
        mine.delete_comparison(comparison.id or 0)
    mine.set_setting("rating", None)
    return mine


@pytest.fixture
def page(context: BrowserContext, fake: tuple[str, Store], store: Store) -> Iterator[Page]:
    page = context.new_page()
    page.goto(fake[0])
    room(page, "Rate")
    yield page
    page.close()  # so that its window writes no more pairs


def inner(page: Page, name: str) -> None:
    page.locator("#rate-rooms").get_by_role("tab", name=name, exact=True).click()


def new_pair(page: Page) -> str:
    """Ask for a pair; the text of its stories."""
    press(page, "New pair")
    expect(page.locator("#answer-A")).to_be_visible(timeout=120_000)
    return shown(page)


def shown(page: Page) -> str:
    return page.locator("#pair .pair").inner_text()


def answered(page: Page, number: int) -> None:
    expect(page.locator("#rate-status")).to_contain_text(f"answered {number} pair")


def mark(page: Page, aspect: str, side: str) -> Locator:
    return page.get_by_role("group", name=aspect).get_by_role("combobox", name=side, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_answer_and_undo_by_keys(page: Page, store: Store, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    first = new_pair(page)
    page.get_by_text("Marks from 1 to 5").click()
    mark(page, "Character", "B").select_option("4")
    comment = page.get_by_label("Comment")
    comment.fill("ab")
    comment.press("t")  # a letter in a text field, not an answer
    expect(comment).to_have_value("abt")
    comment.blur()
    answered(page, 0)
    page.keyboard.press("2")
    answered(page, 1)
    expect(page.locator("#pair .pair")).not_to_have_text(first)
    expect(comment).to_have_value("")
    [said] = store.comparisons()
    assert (said.answer, said.comment) == (Answer.B, "abt")
    assert [(r.aspect, r.value, r.text) for r in store.ratings()] == [("character", 4, said.text_b)]
    page.keyboard.press("u")
    expect(page.locator("#rate-status")).to_contain_text("Taken back: you had said 'B is better'")
    assert (store.comparisons(), store.ratings()) == ([], [])
    page.reload()
    room(page, "Rate")
    expect(comment).to_have_value("abt")
    expect(mark(page, "Character", "B")).to_have_value("4")
    expect(page.locator("#answer-B")).to_have_attribute("aria-pressed", "true")
    assert shown(page).split() == first.split()
    for tab in ("Compare", "What the studio keeps", "My answers"):
        inner(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 0, tab


@pytest.mark.slow
def test_a_draft_survives_a_reload_and_a_second_window_is_told(
    page: Page, context: BrowserContext, store: Store, fake: tuple[str, Store]
) -> None:
    new_pair(page)
    page.get_by_label("Comment").fill("Not sure yet.")
    page.get_by_label("Comment").blur()
    page.wait_for_timeout(1000)
    other = context.new_page()
    other.goto(fake[0])
    room(other, "Rate")
    expect(other.get_by_label("Comment")).to_have_value("Not sure yet.")
    press(page, "About the same")
    answered(page, 1)
    press(other, "A is better")
    expect(other.get_by_text("your answer was not stored")).to_be_visible()
    expect(other.get_by_label("Comment")).to_have_value("")
    assert shown(other) == shown(page)
    assert [c.answer for c in store.comparisons()] == [Answer.TIE]
    other.close()


@pytest.mark.slow
def test_stories_run_out_and_new_ones_come(page: Page, store: Store) -> None:
    new_pair(page)
    for number in range(1, 9):  # there are six pairs of four stories
        page.locator("#answer-A").click()
        answered(page, number)
        page.locator("#answer-A").wait_for()
    answers = store.comparisons()
    assert len({frozenset((c.text_a, c.text_b)) for c in answers}) == 8
    assert len({c.prompt.id for c in answers}) >= 2
    sides = [c.story_a < c.story_b for c in answers if c.story_a and c.story_b]
    assert (sum(sides[:4]), sum(sides[4:])) == (2, 2)


@pytest.mark.slow
def test_a_prompt_of_one_s_own(page: Page, store: Store) -> None:
    page.get_by_label("a prompt of my own").check()
    press(page, "New pair")
    expect(page.locator("#rate-status")).to_contain_text("has no premise yet, so this is a starter prompt")
    page.get_by_label("My premise").fill("Two <b>foxes</b> share a den.")
    page.get_by_label("My goal").fill("One leaves.")
    new_pair(page)
    expect(page.locator("#pair .about")).to_have_text("Two <b>foxes</b> share a den. Goal: One leaves.")
    page.get_by_label("one at random").check()
    page.reload()
    room(page, "Rate")
    expect(page.get_by_label("My goal")).to_have_value("One leaves.")
    expect(page.get_by_label("one at random")).to_be_checked()
    press(page, "Both are bad")
    answered(page, 1)
    expect(page.locator("#pair .about")).to_contain_text("foxes")
    assert store.comparisons()[0].prompt.premise == "Two <b>foxes</b> share a den."


@pytest.mark.slow
def test_answers_are_listed_and_deleted(page: Page, store: Store) -> None:
    for number in range(12):
        text = f"Story <b>{number}</b>"
        store.add_comparison(Comparison(Prompt(premise=f"Premise {number}."), text, "Other", Answer.B, comment="<u>"))
    inner(page, "My answers")
    rows = page.locator("#answers .kept > li")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("Premise 11.")
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(2)
    rows.first.get_by_text("The two stories").click()
    expect(rows.first).to_contain_text("Story <b>1</b>")
    rows.first.get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(1)
    expect(page.locator("#answers-status")).to_contain_text("Deleted")
    assert "Premise 1." not in {c.prompt.premise for c in store.comparisons()}


@pytest.mark.slow
def test_consent_and_what_is_kept(page: Page, store: Store) -> None:
    room(page, "Write")
    start(page, "A story to keep")
    suggest(page)
    page.locator("#pick-0").click()
    expect(page.locator("#manuscript .turn")).to_have_count(1)
    room(page, "Rate")
    inner(page, "What the studio keeps")
    rows, box = page.locator("#kept .kept > li"), page.get_by_label("Learn from what I pick")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("A story to keep")
    expect(rows.first).to_contain_text("<b>bold</b>")
    expect(box).not_to_be_checked()
    assert store.get_setting(WEAK_PREFERENCES) is None
    box.check()
    expect(page.locator("#kept-status")).to_contain_text("counts from now on")
    assert sum(len(turn.weak) for turn in store.shown(with_consent=True)) == 2
    rows.first.get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(1)
    page.reload()
    room(page, "Rate")
    inner(page, "What the studio keeps")
    expect(box).to_be_checked()
    page.once("dialog", lambda dialog: dialog.accept())
    press(page, "Delete all")
    expect(rows).to_have_count(0)
    box.uncheck()
    expect(page.locator("#kept-status")).to_contain_text("not used any more")
    assert store.get_setting(WEAK_PREFERENCES) is False


@pytest.mark.slow
def test_the_open_pair_outlives_a_killed_server(context: BrowserContext, tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        page = context.new_page()
        page.goto(server.url)
        room(page, "Rate")
        first = new_pair(page)
        page.get_by_label("Comment").fill("I was about to say")
        page.get_by_label("Comment").blur()
        page.wait_for_timeout(1500)
        server.restart(page)
        room(page, "Rate")
        expect(page.get_by_label("Comment")).to_have_value("I was about to say")
        assert shown(page).split() == first.split()
        page.keyboard.press("a")
        answered(page, 1)
        page.locator("#answer-A").wait_for()
        assert shown(page).split() != first.split()
    finally:
        server.stop()
    [comparison] = Store(str(server.db)).comparisons()
    assert (comparison.comment, comparison.policy_a) == ("I was about to say", "storyteller")
