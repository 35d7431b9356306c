"""The studio in a real browser: with a stand-in for the agent, and once with the real server and the real model."""

from pathlib import Path
from typing import cast

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from storyrl.agent import Agent
from storyrl.errors import InputError
from storyrl.store import Answer, Store
from storyrl.story import Story
from ui.app import launch

from .studio_page import TRICKY, FakeAgent, Server, add, press, room, side, start, suggest, too_wide, turns

pytestmark = pytest.mark.slow  # all of them need a browser, and the first one the model


@pytest.fixture
def page(context: BrowserContext, fake: tuple[str, Store]) -> Page:
    page = context.new_page()
    page.goto(fake[0])
    return page


def test_write_pick_edit_reload_restart_and_rate(context: BrowserContext, tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        page = context.new_page()
        page.goto(server.url)
        _write(page)
        page.reload()
        expect(turns(page)).to_have_count(3)
        server.stop()
        server.start()
        page.wait_for_timeout(8000)  # the page stayed open; when it finds its server again it may load itself anew
        expect(turns(page)).to_have_count(3)
        press(page, "Undo")
        expect(turns(page)).to_have_count(2)
        page.goto(server.url)
        expect(turns(page)).to_have_count(2)
        expect(turns(page).last).to_contain_text("Come in before you drown")
        shown = _rate(page)
    finally:
        server.stop()
    store = Store(str(server.db))
    comparison = store.comparisons()[0]
    assert comparison.answer is Answer.B
    assert comparison.text_b.split() == shown.split()
    assert comparison.comment == "I like the rain."
    assert store.counts()["turns"] == 2
    assert [turn.author for turn in _only_story(store).turns] == ["policy", "edited"]


def test_a_story_is_read_ahead_after_each_step(page: Page) -> None:
    premise = "A story that is read ahead."
    start(page, premise)
    add(page, "It went on.")
    for _ in range(50):
        if FakeAgent.ahead.count((premise, 1)) == 3:
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)
    assert FakeAgent.ahead.count((premise, 1)) == 3  # until nothing was left, and no longer
    assert 1 <= FakeAgent.ahead.count((premise, 0)) <= 3


def _write(page: Page) -> None:
    start(page, f"Mira's brother {TRICKY} sank her boat. Now he stands at her door in the rain.")
    suggest(page)
    first = page.locator(".card").first
    words = first.locator(".words").inner_text()
    assert first.locator('[role="meter"]').count() == 4  # three terms and their total
    page.locator("#pick-0").click()
    expect(turns(page)).to_have_count(1)
    assert words[:20].strip('"“”.') in turns(page).first.inner_text()

    page.get_by_label("Next turn").click()
    page.get_by_role("option", name="Say", exact=True).click()
    page.get_by_label("Who (or empty)").fill("Mira")
    suggest(page)
    assert set(page.locator(".card .who").all_inner_texts()) == {"Mira says"}
    page.locator("#edit-0").click()
    own = page.locator("#own-text textarea")
    expect(own).not_to_have_value("")
    own.fill("Come in before you drown.")
    press(page, "Add my turn")
    expect(turns(page)).to_have_count(2)
    expect(turns(page).last).to_contain_text("edited by you")
    add(page, "The kettle began to sing.")
    expect(turns(page)).to_have_count(3)
    side(page, "Goal")
    expect(page.locator(".curve")).to_contain_text("after each of 3 turns")
    side(page, "Context")
    expect(page.locator("#context")).to_contain_text("The kettle began to sing.")
    side(page, "Next")


def _rate(page: Page) -> str:
    room(page, "Rate")
    page.get_by_role("button", name="New pair").click()
    better = page.get_by_role("button", name="B is better")
    better.wait_for()
    text = "\n".join(page.locator("#story-b p").all_inner_texts())
    page.get_by_label("Comment").fill("I like the rain.")
    better.click()
    expect(page.locator("#rate-status")).to_contain_text("You have answered 1 pair so far")
    return text


def _only_story(store: Store) -> Story:
    [info] = store.list_stories()
    story = store.load_story(info.id)
    assert story
    return story


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    start(page, "Mira " + "a" * 300)  # a word that is too long for any line
    suggest(page)
    page.locator("#pick-0").click()
    turns(page).locator("p").click()
    page.get_by_role("button", name="Delete with all that follows").wait_for()
    for tab in ("Goal", "Map", "Memory", "Model", "Context"):
        side(page, tab)
        page.wait_for_timeout(300)
        assert too_wide(page) <= 0, tab
    for tab in ("Library", "Rate"):
        room(page, tab)
        page.wait_for_timeout(300)
        assert too_wide(page) <= 0, tab


def test_a_story_without_premise_is_refused_politely(page: Page) -> None:
    press(page, "Start story")
    expect(page.get_by_text("say first what the story is about")).to_be_visible()


def test_what_the_model_writes_is_shown_as_text(page: Page) -> None:
    start(page, f"A boat {TRICKY}")
    suggest(page)
    words = page.locator(".card .words").first.inner_text()
    assert TRICKY in words
    page.locator("#pick-0").click()
    expect(turns(page).first).to_contain_text(TRICKY)


def test_cards_show_how_the_goal_moves_and_weights_rank_anew(page: Page) -> None:
    start(page)
    suggest(page)
    # goal 0.25, 0.9, 0.25; the second one repeats itself: 20 * 0.1 less
    expect(page.locator(".card .words").nth(2)).to_contain_text("Suggestion 1")
    assert page.locator(".card").nth(2).get_by_text("90 % +90").count() == 1
    page.get_by_role("slider", name="Clean").fill("0")
    expect(page.locator(".card .words").first).to_contain_text("Suggestion 1")
    page.reload()
    expect(page.locator(".card .words").first).to_contain_text("Suggestion 1")


def test_old_suggestions_stay_and_more_like_this_keeps_the_kind(page: Page) -> None:
    start(page)
    suggest(page)
    first = page.locator(".card .words").first.inner_text()
    page.get_by_role("button", name="More like this").first.click()
    expect(page.get_by_text("Round 2 of 2 here")).to_be_visible()
    assert set(page.locator(".card .who").all_inner_texts()) == {"Tom says"}
    page.get_by_role("button", name="Older").click()
    expect(page.locator(".card .words").first).to_have_text(first)


def test_blocks_are_changed_where_they_stand(page: Page) -> None:
    start(page)
    add(page, "One.")
    add(page, "Two.")
    turns(page).first.locator("p").click()
    text = page.get_by_label("Text (Ctrl+Enter saves it)")
    text.fill("First.")
    page.locator("#manuscript").get_by_label("Kind").first.select_option("say")
    page.locator("#manuscript").get_by_label("Who").first.fill("Tom")
    text.press("Control+Enter")
    expect(turns(page).first).to_contain_text('"First," said Tom.')
    turns(page).first.locator("p").click()
    page.get_by_text("Write a turn after this one").click()
    page.get_by_label("Text (Ctrl+Enter puts it there)").first.fill("In between.")
    press(page, "Put it there")
    expect(turns(page)).to_have_count(3)
    expect(turns(page).nth(1)).to_contain_text("In between.")
    page.locator("body").click(position={"x": 2, "y": 2})
    for key, count in (("Control+z", 2), ("Control+Shift+z", 3)):
        page.keyboard.press(key)
        expect(turns(page)).to_have_count(count)
    turns(page).nth(1).locator("p").click()
    press(page, "Delete with all that follows")
    expect(turns(page)).to_have_count(1)


def test_branches_are_mapped_and_compared(page: Page) -> None:
    start(page)
    for text in ("One.", "Two."):
        add(page, text)
    turns(page).first.locator("p").click()
    press(page, "Branch from here")
    expect(turns(page)).to_have_count(1)
    add(page, "Another two.")
    side(page, "Map")
    page.get_by_role("button", name="Compare the branch").click()
    expect(page.locator(".sides article").nth(1)).to_contain_text("Two.")
    page.get_by_role("button", name="Turn 2, Narration, on a branch").click()
    expect(turns(page).last).to_contain_text("Two. you")


def test_keys(page: Page) -> None:
    start(page)
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("s")
    expect(page.locator("#write-status")).to_contain_text("3 suggestions are ready")
    second = page.locator(".card .words").nth(1).inner_text()
    page.keyboard.press("2")
    expect(turns(page).first).to_contain_text(second.rstrip("."))
    page.keyboard.press("n")
    page.keyboard.type("s1x")  # letters, not keys
    expect(page.locator("#own-text textarea")).to_have_value("s1x")


def test_stop_keeps_what_was_written(page: Page) -> None:
    start(page, "The model writes slowly")
    press(page, "Suggest")
    expect(page.locator(".card.draft .words").first).to_have_text("Half a suggestion 0")
    press(page, "Stop")
    expect(page.locator("#pick-0")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_one_writes_on_while_the_model_writes(page: Page) -> None:
    start(page, "The model writes slowly")
    press(page, "Suggest")
    page.locator(".card.draft").first.wait_for()
    add(page, "Meanwhile.")
    expect(turns(page)).to_have_count(1)
    press(page, "Stop")
    expect(page.get_by_role("button", name="Suggest", exact=True)).to_be_enabled()
    press(page, "Undo")
    expect(page.locator("#pick-0")).to_be_visible()  # for the turn that they were written for


def test_the_model_finishes_the_writer_s_words(page: Page) -> None:
    start(page)
    page.locator("#own-text textarea").fill("The boat was")
    press(page, "Let it finish")
    expect(page.locator(".card .words").first).to_contain_text("The boat was Suggestion")


def test_the_goal_in_steps(page: Page) -> None:
    start(page)
    side(page, "Goal")
    goal = page.get_by_label("Goal: an event")
    goal.fill("Mira finds the boat.\nMira forgives Tom.")
    goal.blur()
    expect(page.locator(".beats li")).to_have_count(2)
    add(page, "They found the boat and did not forgive.")
    expect(page.locator(".beats .mark").first).to_have_text("✓")
    page.reload()
    side(page, "Goal")
    expect(page.locator(".beats .mark").first).to_have_text("✓")


def test_memory_lore_and_model_are_kept(page: Page) -> None:
    start(page)
    side(page, "Memory")
    page.get_by_label("Memory: facts").fill("It is winter.")
    page.get_by_label("Memory: facts").blur()
    page.get_by_text("Add an entry").click()
    page.get_by_label("Keys, with commas").fill("boat")
    page.get_by_label("What the model is told").fill("It leaks.")
    page.locator("#lore").get_by_role("button", name="Save").click()
    expect(page.locator("#lore details")).to_have_count(2)
    side(page, "Model")
    page.locator("#manner select").select_option("bold")
    expect(page.get_by_label("Temperature")).to_have_value("1.1")
    page.reload()
    side(page, "Context")
    expect(page.locator("#context")).to_contain_text("It is winter.")
    expect(page.locator("#context")).to_contain_text("It leaks.")
    side(page, "Model")
    expect(page.get_by_label("Temperature")).to_have_value("1.1")
    page.locator("#manner select").select_option("usual")
    expect(page.get_by_label("Temperature")).to_have_value("0.5")


def test_library(page: Page, tmp_path: Path) -> None:
    start(page, "A story for the library")
    add(page, "Once.")
    room(page, "Library")
    mine = page.locator(".stories li", has_text="A story for the library")
    mine.get_by_label("Title").fill("The shelf")
    mine.get_by_role("button", name="Rename").click()
    expect(page.locator("#library-status")).to_contain_text("Renamed.")
    page.get_by_label("Search titles").fill("shelf")
    mine = page.locator(".stories li", has_text="The shelf")
    expect(page.locator(".stories li")).to_have_count(1)
    with page.expect_download() as waiting:
        mine.get_by_role("button", name="Export", exact=True).click()
    assert waiting.value.suggested_filename == "The shelf.json"
    waiting.value.save_as(tmp_path / "again.json")
    mine.get_by_role("button", name="Delete").click()
    expect(page.locator("#library-status")).to_contain_text("can be taken back")
    page.locator(".deleted li", has_text="The shelf").get_by_role("button").click()
    expect(page.locator(".stories li")).to_have_count(1)
    page.locator("#import input[type=file], input[type=file]").first.set_input_files(tmp_path / "again.json")
    expect(turns(page)).to_have_count(1)
    expect(turns(page).first).to_contain_text("Once.")
    room(page, "Library")
    expect(page.locator(".stories li")).to_have_count(2)
    page.locator(".stories .title").first.click()
    expect(page.locator(".manuscript .premise")).to_have_text("A story for the library")
    side(page, "Goal")
    expect(page.locator(".curve")).to_contain_text("after each of 1 turn")  # read without a further step


def test_after_a_failure_the_page_can_be_used_again(page: Page) -> None:
    start(page, "Let it fail")
    press(page, "Suggest")
    expect(page.get_by_text("the model is out of words")).to_be_visible()
    expect(page.get_by_role("button", name="Suggest", exact=True)).to_be_enabled()
    add(page, "Silence.")
    expect(turns(page)).to_have_count(1)


def test_a_second_window_overwrites_nothing(page: Page, context: BrowserContext, fake: tuple[str, Store]) -> None:
    start(page)
    add(page, "Shared.")
    other = context.new_page()
    other.goto(fake[0])
    turns(other).first.locator("p").click()
    other.get_by_label("Text (Ctrl+Enter saves it)").fill("From the second window.")
    add(page, "From the first window.")
    press(other, "Save")
    expect(other.get_by_text("changed in another window")).to_be_visible()
    expect(turns(other)).to_have_count(2)
    expect(other.get_by_label("Text (Ctrl+Enter saves it)")).to_have_value("From the second window.")
    press(other, "Save")
    expect(turns(other).first).to_contain_text("From the second window.")
    page.locator("#own-text textarea").fill("My own words.")
    press(page, "Add my turn")
    expect(page.get_by_text("changed in another window")).to_be_visible()
    expect(page.locator("#own-text textarea")).to_have_value("My own words.")
    press(page, "Add my turn")
    expect(turns(page)).to_have_count(3)


def test_a_pair_is_blind_and_answered_once(page: Page, fake: tuple[str, Store]) -> None:
    start(page, "My own premise")
    room(page, "Rate")
    page.get_by_label("the prompt of my open story").check()
    page.get_by_role("button", name="New pair").click()
    expect(page.locator("#rate-status")).to_contain_text("of 4 turns")
    page.get_by_role("button", name="Both are bad").wait_for()
    expect(page.locator("#story-a p")).to_have_count(4)
    assert FakeAgent.policy_name not in page.content()
    page.evaluate("for (const name of ['tie', 'A', 'tie', 'B']) document.querySelector('#answer-' + name).click()")
    expect(page.locator("#rate-status")).to_contain_text("answered 1 pair so far")
    page.wait_for_timeout(1000)
    [comparison] = fake[1].comparisons()
    assert comparison.prompt.premise == "My own premise"
    assert comparison.policy_a == comparison.policy_b == FakeAgent.policy_name


def test_a_story_id_that_nobody_gave_opens_nothing(page: Page) -> None:
    start(page)
    stored = page.evaluate("Object.keys(localStorage)")
    assert "storyrl-place" in stored
    page.evaluate("localStorage.setItem('storyrl-place', 'garbage')")
    page.reload()
    expect(page.locator("#premise textarea")).to_be_visible()


def test_a_taken_port_is_an_input_error(fake: tuple[str, Store]) -> None:
    port = int(fake[0].rsplit(":", 1)[1])
    with pytest.raises(InputError, match="try another --port"):
        launch(cast(Agent, FakeAgent(None)), fake[1], "127.0.0.1", port, False)
