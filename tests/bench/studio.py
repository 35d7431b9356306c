"""How long a writer waits: `make bench-studio`. The real server, model and browser, a story of 1,500 words.

20 times: ask for three suggestions of at most 40 tokens, see the first words, see all ranked, pick one. Prints medians
and the slowest. Run it on a machine that does nothing else.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from importlib import resources
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from storyrl.store import OWNER, Store
from storyrl.story import Prompt, Story, Turn
from tests.test_studio import FLAGS, Server, room
from ui.control import SETTING, Manner

_WORDS, _ROUNDS, _TOKENS = 1500, 20, 40
_TITLE = "A long story"
_FIRST_WORDS = "() => [...document.querySelectorAll('.draft .words')].some(e => /[a-z]/i.test(e.textContent))"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(Path(scratch))
        try:
            store = Store(str(server.db)).for_owner(OWNER)
            store.save_story(long_story(), title=_TITLE)
            store.set_setting(SETTING, Manner(max_tokens=_TOKENS).model_dump())
            found = os.environ.get("STORYRL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            expect.set_options(timeout=120_000)
            page.goto(server.url)
            room(page, "Library")
            page.locator(".stories .title", has_text=_TITLE).click()
            page.locator("#manuscript .turn").first.wait_for()
            rounds = [measure(page) for _ in range(_ROUNDS + 1)]
        finally:
            server.stop()
    print(
        f"the first round, which reads the whole story: first words {rounds[0][0]:.2f} s, ranked {rounds[0][1]:.2f} s"
    )
    for name, column in zip(("first words", "all ranked", "picked"), zip(*rounds[1:], strict=True), strict=True):
        print(f"{name}: median {statistics.median(column):.2f} s, slowest {max(column):.2f} s of {len(column)}")


def measure(page: Page) -> tuple[float, float, float]:
    """Seconds from asking to the first words and to all suggestions ranked, and from picking to the picked turn."""
    start = time.perf_counter()
    page.get_by_role("button", name="Suggest", exact=True).click()
    page.wait_for_function(_FIRST_WORDS)
    first = time.perf_counter() - start
    page.locator("#pick-0").wait_for()
    ranked = time.perf_counter() - start
    turns = page.locator("#manuscript .turn")
    count = turns.count()
    start = time.perf_counter()
    page.locator("#pick-0").click()
    expect(turns).to_have_count(count + 1)
    return first, ranked, time.perf_counter() - start


def long_story() -> Story:
    """Turns of written stories, one after the other, of 1,500 words in all."""
    rows = resources.files("prompts").joinpath("stories", "authored.jsonl").read_text("utf-8").splitlines()
    turns: list[Turn] = []
    for row in map(json.loads, rows):
        for turn in row["turns"]:
            turns.append(Turn.model_validate(turn))
            if sum(len(each.text.split()) for each in turns) >= _WORDS:
                prompt = Prompt(id="long", premise="Strangers meet.", goal="They become friends.")
                return Story(id="long", prompt=prompt, turns=tuple(turns))
    raise RuntimeError("the written stories are too short")


if __name__ == "__main__":
    main()
