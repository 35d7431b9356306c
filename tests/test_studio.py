"""The studio in a real browser: with a stand-in for the agent, and once with the real server and the real model."""

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from storyrl.agent import Agent, Suggestion
from storyrl.errors import InputError
from storyrl.store import Answer, Store
from storyrl.story import Kind, Story, Turn
from ui.app import launch

pytestmark = pytest.mark.slow  # all of them need a browser, and the first one the model
_WAIT = 120_000  # milliseconds; the model may be slow on a busy machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_TRICKY = "<b>bold</b> ${1+1} {{value}}"  # neither HTML nor a template


class FakeAgent:
    """Writes numbered sentences without a model; fails when the premise says so."""

    policy_name = "secret-policy-name"

    def suggest(self, story: Story, candidates: int, seed: int) -> list[Suggestion]:
        time.sleep(0.5)
        if "fail" in story.prompt.premise:
            raise InputError("the model is out of words")
        turns = [Turn(kind=Kind.SAY, actor="Tom", text=f"Suggestion {i} {_TRICKY}") for i in range(candidates)]
        terms = {"goal": 0.5, "preference": 0.5, "repetition": 0.5}
        return [Suggestion(turn, turn.text, terms, terms, -float(i), 9, True) for i, turn in enumerate(turns)]

    def write_all(self, stories: Sequence[Story], turns: int, candidates: int, seed: int) -> list[Story]:
        time.sleep(0.3)
        return [s.with_turns(Turn(kind=Kind.NARRATE, text=f"{s.id} goes on, {seed}.")) for s in stories]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes] | None" = None) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert process is None or process.poll() is None, "the studio stopped"
            time.sleep(0.5)
    raise AssertionError("the studio did not come up")


class Server:
    """`storyrl studio` as its own process, which can be stopped and started again."""

    def __init__(self, folder: Path):
        self.db, self.port = folder / "studio.db", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--db", str(self.db), "--no-browser", "--quiet"]
        self.process = subprocess.Popen([sys.executable, "-m", "storyrl", "studio", *options])
        wait_for(self.url, self.process)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Store]:
    """The address of a studio with the stand-in agent, and its store."""
    port, store = free_port(), Store(str(tmp_path_factory.mktemp("fake") / "studio.db"))
    options = {"host": "127.0.0.1", "port": port, "open_browser": False}
    threading.Thread(target=launch, args=(FakeAgent(), store), kwargs=options, daemon=True).start()
    wait_for(f"http://127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}", store


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile; the test fails when a page asks any other host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_WAIT)
    expect.set_options(timeout=30_000)
    local, foreign = ("http://127.0.0.1:", "data:", "blob:"), []
    context.on("request", lambda request: None if request.url.startswith(local) else foreign.append(request.url))
    yield context
    context.close()
    assert foreign == [], "the page asked other hosts"


@pytest.fixture
def page(context: BrowserContext, fake: tuple[str, Store]) -> Page:
    page = context.new_page()
    page.goto(fake[0])
    return page


def turns(page: Page) -> Locator:
    return page.locator(".manuscript .turn")


def start(page: Page, premise: str = "Mira's brother Tom sank her boat.") -> None:
    page.get_by_label("Premise").fill(premise)
    page.get_by_label("Goal").fill("Mira forgives her brother.")
    page.get_by_label("Characters").fill("Mira, Tom")
    page.get_by_role("button", name="Start story").click()
    expect(page.locator(".manuscript .premise")).to_have_text(premise)


def add(page: Page, text: str) -> None:
    page.get_by_label("Narrate", exact=True).check()
    page.locator("#own-text textarea").fill(text)
    page.get_by_role("button", name="Add my turn").click()
    expect(page.locator("#own-text textarea")).to_have_value("")


def suggest(page: Page) -> None:
    page.get_by_role("button", name="Suggest").click()
    page.locator("#pick-0").wait_for()


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
        page.get_by_role("button", name="Undo last turn").click()  # the page stayed open meanwhile
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


def _write(page: Page) -> None:
    start(page, f"Mira's brother {_TRICKY} sank her boat. Now he stands at her door in the rain.")
    suggest(page)
    first = page.locator(".card").first
    words = first.locator(".words").inner_text()
    assert first.locator('[role="meter"]').count() == 4  # three terms and their total
    page.locator("#pick-0").click()
    expect(turns(page)).to_have_count(1)
    assert words[:20].strip('"“”.') in turns(page).first.inner_text()

    suggest(page)
    page.locator("#edit-0").click()
    own = page.locator("#own-text textarea")
    expect(own).not_to_have_value("")
    own.fill("Come in before you drown.")
    page.get_by_role("button", name="Add my turn").click()
    expect(turns(page)).to_have_count(2)
    expect(turns(page).last).to_contain_text("edited by you")
    add(page, "The kettle began to sing.")
    expect(turns(page)).to_have_count(3)


def _rate(page: Page) -> str:
    page.get_by_role("tab", name="Rate").click()
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
    for tab in ("Write", "Rate"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 0


def test_a_story_without_premise_is_refused_politely(page: Page) -> None:
    page.get_by_role("button", name="Start story").click()
    expect(page.get_by_text("say first what the story is about")).to_be_visible()


def test_what_the_model_writes_is_shown_as_text(page: Page) -> None:
    start(page, f"A boat {_TRICKY}")
    suggest(page)
    expect(page.locator(".card .words").first).to_have_text(f"Suggestion 0 {_TRICKY}")
    page.locator("#pick-0").click()
    expect(turns(page).first).to_contain_text(_TRICKY)


def test_stories_are_kept_and_reopened(page: Page, fake: tuple[str, Store]) -> None:
    start(page, "The first story")
    add(page, "Once.")
    page.get_by_role("button", name="New story").click()
    start(page, "The second story")
    page.locator("#saved input").click()
    page.get_by_role("option", name="The first story (1 turn)").first.click()
    expect(page.locator(".manuscript .premise")).to_have_text("The first story")
    expect(turns(page)).to_have_count(1)
    page.get_by_role("button", name="New story").click()
    expect(page.get_by_label("Premise")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Premise")).to_be_visible()


def test_shown_candidates_are_stored_and_the_picked_one_marked(page: Page, fake: tuple[str, Store]) -> None:
    before = fake[1].counts()["candidates"]
    start(page)
    suggest(page)
    assert fake[1].counts()["candidates"] == before + 3
    page.locator("#pick-1").click()
    expect(turns(page)).to_have_count(1)
    assert fake[1].counts()["candidates"] == before + 3
    page.get_by_role("button", name="Undo last turn").click()
    expect(turns(page)).to_have_count(0)
    expect(page.get_by_role("button", name="Undo last turn")).to_be_disabled()


def test_nothing_changes_the_story_while_the_model_writes_and_a_draft_survives(page: Page) -> None:
    start(page)
    own = page.locator("#own-text textarea")
    own.fill("Half a thou")
    page.get_by_role("button", name="Suggest").click()
    expect(page.locator("#write-status")).to_contain_text("Writing 3 suggestions")
    for name in ("Suggest", "Add my turn", "Undo last turn", "New story"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    page.locator("#pick-0").click()
    expect(turns(page)).to_have_count(1)
    expect(own).to_have_value("Half a thou")
    own.press("End")
    own.press_sequentially("ght.")
    own.press("Control+Enter")
    expect(turns(page)).to_have_count(2)
    expect(turns(page).last).to_contain_text("Half a thought. you")


def test_after_a_failure_the_page_can_be_used_again(page: Page) -> None:
    start(page, "Let it fail")
    page.get_by_role("button", name="Suggest").click()
    expect(page.get_by_text("the model is out of words")).to_be_visible()
    expect(page.get_by_role("button", name="Suggest")).to_be_enabled()
    add(page, "Silence.")
    expect(turns(page)).to_have_count(1)


def test_a_second_window_overwrites_nothing(page: Page, context: BrowserContext, fake: tuple[str, Store]) -> None:
    start(page)
    other = context.new_page()
    other.goto(fake[0])
    expect(other.locator(".manuscript .premise")).to_be_visible()
    add(page, "From the first window.")
    other.locator("#own-text textarea").fill("From the second window.")
    other.get_by_role("button", name="Add my turn").click()
    expect(other.get_by_text("changed in another window")).to_be_visible()
    expect(other.locator("#own-text textarea")).to_have_value("From the second window.")
    other.reload()
    expect(turns(other)).to_have_count(1)


def test_a_pair_is_blind_and_answered_once(page: Page, fake: tuple[str, Store]) -> None:
    start(page, "My own premise")
    page.get_by_role("tab", name="Rate").click()
    page.get_by_label("the prompt of my open story").check()
    page.get_by_role("button", name="New pair").click()
    expect(page.locator("#rate-status")).to_contain_text("of 4 turns")
    expect(page.get_by_role("button", name="New pair")).to_be_disabled()
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
    assert "storyrl-story" in stored
    page.evaluate("localStorage.setItem('storyrl-story', 'garbage')")
    page.reload()
    expect(page.get_by_label("Premise")).to_be_visible()


def test_a_taken_port_is_an_input_error(fake: tuple[str, Store]) -> None:
    port = int(fake[0].rsplit(":", 1)[1])
    with pytest.raises(InputError, match="try another --port"):
        launch(cast(Agent, FakeAgent()), fake[1], "127.0.0.1", port, False)
