"""Several writers on the page of one studio: signing in, a library each, two at once."""

import http.client
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from storyrl.store import OWNER, Store
from ui.app import _OPEN, launch
from ui.users import Door

from .conftest import word_tokenizer
from .studio_page import FakeAgent, add, free_port, press, room, side, start, suggest, turns, wait_for
from .test_users import PASSWORD, cheap_hashes, users

__all__ = ["cheap_hashes", "users"]  # fixtures


@pytest.fixture
def guarded(users: Path, tmp_path: Path) -> tuple[str, Store]:
    """The address of a studio with accounts and the stand-in agent, and its store."""
    port, store = free_port(), Store(str(tmp_path / "guarded.db"))
    args = (FakeAgent(word_tokenizer()), store, "127.0.0.1", port, False, Door(users))
    threading.Thread(target=launch, args=args, daemon=True).start()
    wait_for(f"http://127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}", store


def sign_in(page: Page, name: str, password: str = "") -> None:
    page.get_by_label("username").fill(name)
    page.get_by_label("password").fill(password or f"{PASSWORD} {name}")
    page.get_by_role("button", name="Login").click()


def sign_out(page: Page) -> None:
    page.get_by_role("link", name="Sign out").click()
    page.get_by_label("username").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_two_writers_on_one_browser(context: BrowserContext, guarded: tuple[str, Store], width: int) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(guarded[0])
    expect(page.get_by_text("After 5 wrong passwords")).to_be_visible()
    sign_in(page, "Ann", "wrong password")
    expect(page.get_by_text("Incorrect")).to_be_visible()
    sign_in(page, "Ann")
    expect(page.locator("#signed-in")).to_contain_text("Signed in as Ann")
    start(page, "Ann's own story")
    add(page, "Ann writes.")
    side(page, "Model")
    page.locator("#manner select").select_option("bold")
    expect(page.get_by_label("Temperature")).to_have_value("1.1")
    assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 0
    sign_out(page)

    sign_in(page, "Bob")
    expect(page.locator("#signed-in")).to_contain_text("Signed in as Bob")
    expect(page.locator("#premise textarea")).to_be_visible()
    assert "Ann" not in page.content()
    room(page, "Library")
    expect(page.get_by_text("There is no story yet")).to_be_visible()
    room(page, "Write")
    start(page, "Bob's own story")
    add(page, "Bob writes.")
    side(page, "Model")
    expect(page.get_by_label("Temperature")).not_to_have_value("1.1")
    sign_out(page)

    sign_in(page, "Ann")
    expect(turns(page)).to_have_count(1)
    expect(turns(page)).to_contain_text("Ann writes.")
    room(page, "Library")
    expect(page.locator(".stories li")).to_have_count(1)
    titles = {
        name: [info.title for info in guarded[1].for_owner(name).list_stories()] for name in ("Ann", "Bob", OWNER)
    }
    assert titles == {"Ann": ["Ann's own story"], "Bob": ["Bob's own story"], OWNER: []}


@pytest.mark.slow
def test_two_writers_at_once(browser: Browser, guarded: tuple[str, Store]) -> None:
    expect.set_options(timeout=30_000)
    contexts = [browser.new_context() for _ in range(2)]
    pages = [each.new_page() for each in contexts]
    for page, name in zip(pages, ("Ann", "Bob"), strict=True):
        page.goto(guarded[0])
        sign_in(page, name)
        start(page, f"{name}: the model writes {'slowly' if name == 'Ann' else 'at once'}")
        press(page, "Suggest")
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    ann, bob = pages
    expect(bob.locator("#write-status")).to_contain_text("Next in line")
    press(ann, "Stop")
    expect(ann.locator("#write-status")).to_contain_text("ready")
    expect(bob.locator("#write-status")).to_contain_text("ready")
    for page, name in zip(pages, ("Ann", "Bob"), strict=True):
        suggest(page) if name == "Bob" else None
        page.locator("#pick-0").click()
        expect(turns(page)).to_have_count(1)
    assert [guarded[1].for_owner(name).counts()["turns"] for name in ("Ann", "Bob", OWNER)] == [1, 1, 0]
    for each in contexts:
        each.close()


@pytest.mark.slow
def test_without_signing_in_nothing_answers(guarded: tuple[str, Store]) -> None:
    for path, body in (
        ("config", None),
        ("gradio_api/queue/data?session_hash=x", None),
        ("gradio_api/queue/join", b"{}"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{guarded[0]}/{path}", body), timeout=10)
        assert refused.value.code == 401, path
    page = urllib.request.urlopen(guarded[0], timeout=10).read().decode()
    assert "Suggest" not in page


@pytest.mark.slow
def test_an_open_studio_warns_and_says_no_more(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port, store = free_port(), Store(str(tmp_path / "open.db"))
    args = (FakeAgent(word_tokenizer()), store, "0.0.0.0", port, False)
    threading.Thread(target=launch, args=args, daemon=True).start()
    wait_for(f"http://127.0.0.1:{port}")
    assert f"WARNING: {_OPEN}" in " ".join(capfd.readouterr().err.split())
    # A page that was open while the studio was started anew asks for its old events; gradio raises within the answer.
    with suppress(OSError, http.client.HTTPException):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/gradio_api/queue/data?session_hash=gone", timeout=10).read()
    time.sleep(0.5)
    assert "Traceback" not in capfd.readouterr().err
