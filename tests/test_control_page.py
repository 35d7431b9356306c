"""Rewriting a passage and controlling the words, in a real browser over the real server and model."""

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from storyrl.store import OWNER, Store
from ui.control import SETTING

from .studio_page import WAIT, Server, add, press, side, start, suggest, too_wide, turns

pytestmark = pytest.mark.slow
_TEXT = "Mira walked down to the harbour and looked at the boats for a long time before she spoke."
_SELECT = """([block, from, to]) => {
  const texts = document.querySelectorAll("#manuscript .block-text");
  const first = texts[block].firstChild, last = texts[block + (to === null)].firstChild;
  const start = first.data.indexOf(from);
  getSelection().setBaseAndExtent(first, start, last, to === null ? 6 : last.data.indexOf(to) + to.length);
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("control"))
    yield server
    server.stop()


@pytest.fixture(params=[1280, 390])
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A window of each width, with a story of two blocks; the test fails on an error of the page's scripts."""
    width: int = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, has_touch=width < 500)
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    start(page)
    for number, text in enumerate((_TEXT, "Her brother Tom stood by the wall."), start=1):
        add(page, text)
        expect(turns(page)).to_have_count(number)
    yield page
    context.close()
    assert errors == []


def bar(page: Page) -> Locator:
    return page.locator("#passage form")


def versions(page: Page) -> Locator:
    return page.locator("#rewriting .version")


def test_selected_words_are_written_anew_picked_and_taken_back(page: Page) -> None:
    page.evaluate(_SELECT, [0, "looked at", "time"])
    expect(bar(page).locator(".quote")).to_have_text("looked at the boats for a long time")
    page.keyboard.press("r")
    page.keyboard.type("sad")
    page.keyboard.press("Enter")
    expect(bar(page)).to_be_hidden()
    expect(page.locator("#rewriting-status")).to_contain_text("ready")
    expect(page.locator("#rewriting")).to_contain_text("Block 1, other words for “looked at the boats for a long time”")
    expect(page.locator("#rewriting").get_by_label("Hint (optional)")).to_have_value("sad")
    words = versions(page).first.locator(".words").inner_text()
    assert words.startswith("Mira walked down to the harbour and ") and words.endswith(" before she spoke.")
    assert words != _TEXT
    assert "for the story" in versions(page).first.locator(".sum").inner_text()
    assert too_wide(page) <= 0
    if not page.viewport_size or page.viewport_size["width"] > 500:
        page.keyboard.press("1")
    else:
        versions(page).first.get_by_role("button", name="Pick").tap()
    expect(turns(page).first).to_contain_text(f"{words} model, edited by you")
    expect(page.locator("#rewriting .rewriting")).to_have_count(0)
    press(page, "Undo")
    expect(turns(page).first).to_contain_text(f"{_TEXT} you")
    page.reload()
    turns(page).first.locator("p").first.click()
    page.get_by_role("button", name="Versions (").click()
    expect(versions(page).first.locator(".words")).to_have_text(words)
    press(page, "Keep it as it is")
    expect(versions(page)).to_have_count(0)
    expect(turns(page).first).to_contain_text(f"{_TEXT} you")


def test_a_selection_over_two_blocks_is_no_passage(page: Page) -> None:
    page.evaluate(_SELECT, [0, "before she", None])
    expect(bar(page)).to_contain_text("lies within one block")
    expect(bar(page).get_by_role("button", name="Rewrite")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(bar(page)).to_be_hidden()
    page.evaluate("getSelection().removeAllRanges()")
    page.keyboard.press("r")
    expect(bar(page)).to_contain_text("Select some words of one block first")


def test_words_selected_by_keyboard_in_a_form_and_a_block_that_was_changed(page: Page) -> None:
    turns(page).nth(1).locator("p").first.click()
    text = page.get_by_label("Text (Ctrl+Enter saves it)")
    text.press("Control+Home")
    for _ in range("Her brother Tom".count(" ") + 1):
        text.press("Control+Shift+ArrowRight")
    page.locator("#manuscript").get_by_role("button", name="Rewrite", exact=True).click()
    expect(bar(page).locator(".quote")).to_have_text("Her brother Tom")
    page.keyboard.press("Escape")
    text.fill("Her brother was not there.")
    page.locator("#manuscript").get_by_role("button", name="Rewrite", exact=True).click()
    bar(page).get_by_role("button", name="Rewrite").click()
    expect(page.get_by_text("no longer as you see it")).to_be_visible()
    assert versions(page).count() == 0


def test_stop_keeps_the_versions_so_far(page: Page) -> None:
    page.locator("#manuscript .turn").first.locator("p").first.click()
    page.locator("#manuscript").get_by_role("button", name="Rewrite", exact=True).click()
    page.keyboard.press("Enter")
    expect(page.locator("#rewriting .draft .words").first).not_to_have_text("…")
    press(page, "Stop")
    expect(page.locator("#rewriting .draft")).to_have_count(0)
    expect(versions(page).first).to_be_visible()
    expect(page.locator("#keep-passage")).to_be_visible()


def test_two_quick_changes_are_both_taken(page: Page) -> None:
    """The second comes while the first is still on its way, and would overtake it."""
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/queue/join*", hold_the_first)
    page.evaluate(
        """async () => {
          for (const [name, value] of [["goal", "2"], ["taste", "3"]]) {
            const slider = document.querySelector(`#weights input[name=${name}]`);
            slider.value = value;
            slider.dispatchEvent(new Event("change", { bubbles: true }));
            await new Promise((later) => setTimeout(later, 40));
          }
        }"""
    )
    page.wait_for_timeout(500)
    held[0].continue_()
    expect(page.locator("#weights output")).to_have_text(["×2", "×3", "×1"])
    page.wait_for_timeout(1500)
    expect(page.locator("#weights output")).to_have_text(["×2", "×3", "×1"])


def test_keys_lead_to_the_suggestions_from_any_tab(page: Page) -> None:
    side(page, "Goal")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("s")
    expect(page.locator("#side").get_by_role("tab", name="Next")).to_have_attribute("aria-selected", "true")
    page.locator(".card.draft").first.wait_for()
    side(page, "Map")
    page.keyboard.press("x")
    side(page, "Next")
    expect(page.get_by_role("button", name="Suggest", exact=True)).to_be_enabled()
    page.locator("#own-text textarea").fill("The boat was")
    side(page, "Goal")
    press(page, "Let it finish")
    page.locator(".card.draft").first.wait_for()
    expect(page.locator(".card.draft")).to_have_count(0)
    assert page.locator("#cards .words").count() > 0
    for text in page.locator("#cards .words").all_inner_texts():
        assert text.startswith("The boat was")


def saved(server: Server, **values: object) -> None:
    """Wait until the server has kept these settings of how the model writes."""
    store = Store(str(server.db)).for_owner(OWNER)
    for _ in range(WAIT // 200):
        manner = store.get_setting(SETTING, {})
        if all(manner.get(name) == value for name, value in values.items()):
            return
        time.sleep(0.2)
    raise AssertionError(f"{values} not saved, but {manner}")


def test_banned_words_and_min_p_are_kept_and_obeyed(page: Page, server: Server) -> None:
    side(page, "Model")
    page.locator("#manner select").select_option("bold")
    expect(page.get_by_label("Min-p")).to_have_value("0.05")
    never = page.get_by_label("Never write")
    never.fill("the\nMIRA\n\nboat")
    never.blur()
    saved(server, min_p=0.05, banned=["the", "MIRA", "boat"])
    page.reload()
    side(page, "Model")
    expect(page.get_by_label("Never write")).to_have_value("the\nMIRA\nboat")
    expect(page.locator("#manner select")).to_have_value("bold")
    side(page, "Next")
    suggest(page)
    for text in page.locator("#cards .words").all_inner_texts():
        written = text.lower().replace(",", " ").replace(".", " ").split()
        assert not {"the", "mira", "boat"} & set(written), text
    side(page, "Model")
    page.get_by_label("Never write").fill("x" * 61)
    page.get_by_label("Never write").blur()
    expect(page.get_by_text("at most 60 characters a phrase")).to_be_visible()
    page.get_by_label("Never write").fill("")  # as it was, for the other tests
    page.get_by_label("Never write").blur()
    saved(server, banned=[])
    page.locator("#manner select").select_option("usual")
    expect(page.get_by_label("Min-p")).to_have_value("0")
