"""The studio in a real browser, on the real server and the real model."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from storyrl.store import Store

pytestmark = pytest.mark.slow
_WAIT = 120_000  # milliseconds; the model may be slow on a busy machine
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Server:
    """`storyrl studio` as its own process, which can be stopped and started again."""

    def __init__(self, folder: Path):
        self.db = folder / "studio.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--db", str(self.db), "--no-browser", "--quiet"]
        self.process = subprocess.Popen([sys.executable, "-m", "storyrl", "studio", *options])
        for _ in range(240):
            try:
                urllib.request.urlopen(self.url, timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, "the studio stopped"
                time.sleep(0.5)
        raise AssertionError("the studio did not come up")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("studio"))
    yield running
    running.stop()


@pytest.fixture
def page(chromium: str, server: Server) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(_WAIT)
        foreign: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else foreign.append(r.url))
        page.goto(server.url)
        yield page
        browser.close()
        assert foreign == [], "the page asked other hosts"


def _turns(page: Page) -> Any:
    return page.locator(".manuscript .turn")


def test_write_pick_edit_reload_restart_and_rate(page: Page, server: Server) -> None:
    page.get_by_label("Premise").fill("Mira's brother <b>Tom</b> sank her boat. Now he stands at her door in the rain.")
    page.get_by_label("Goal").fill("Mira forgives her brother.")
    page.get_by_label("Characters").fill("Mira, Tom")
    page.get_by_role("button", name="Start story").click()
    expect(page.locator(".manuscript .premise")).to_contain_text("<b>Tom</b>")  # shown as text, not as HTML

    page.get_by_role("button", name="Suggest").click()
    page.locator("#pick-0").wait_for()
    words = page.locator(".card .words").first.inner_text()
    assert page.locator(".card").first.locator('[role="meter"]').count() == 3
    page.locator("#pick-0").click()
    expect(_turns(page)).to_have_count(1)
    assert words[:20].strip('"') in _turns(page).first.inner_text()

    page.get_by_role("button", name="Suggest").click()
    page.locator("#edit-0").click()
    own = page.locator("#own-text textarea")
    expect(own).not_to_have_value("")
    own.fill("Come in before you drown.")
    page.get_by_role("button", name="Add my turn").click()
    expect(_turns(page)).to_have_count(2)
    expect(_turns(page).last).to_contain_text("edited by you")

    page.get_by_label("narrate", exact=True).check()
    own.fill("The kettle began to sing.")
    page.get_by_role("button", name="Add my turn").click()
    expect(_turns(page)).to_have_count(3)
    page.reload()
    expect(_turns(page)).to_have_count(3)
    server.stop()
    server.start()
    page.goto(server.url)
    expect(_turns(page)).to_have_count(3)
    expect(_turns(page).last).to_contain_text("The kettle began to sing.")
    page.get_by_role("button", name="Undo last turn").click()
    expect(_turns(page)).to_have_count(2)

    page.get_by_role("tab", name="Rate").click()
    page.get_by_role("button", name="New pair").click()
    better = page.get_by_role("button", name="B is better")
    expect(better).to_be_enabled(timeout=_WAIT)
    shown = page.locator("#story-b").inner_text()
    better.click()
    expect(page.locator("#rate-status")).to_contain_text("Comparisons so far: 1")
    store = Store(str(server.db))
    comparison = store.comparisons()[0]
    assert comparison.answer == "B"
    assert comparison.text_b.split() == shown.split()
    assert store.counts()["turns"] == 2


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for tab in ("Write", "Rate"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 0


def test_a_story_without_premise_is_refused_politely(page: Page) -> None:
    page.get_by_role("button", name="Start story").click()
    expect(page.get_by_text("say first what the story is about")).to_be_visible()
