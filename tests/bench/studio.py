"""How long a writer waits: `make bench-studio`. The real server, model and browser, a story of 1,500 words.

20 times: ask for three suggestions of at most 40 tokens, see the first words, see all ranked, pick one. Once the next
click follows at once, while the page still draws what was picked and the model has not read it yet, and once 2 seconds
later, as of a writer who looks at it first. Prints medians and the slowest. Run it on a machine that does nothing else.
"""

import argparse
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
from tests.studio_page import FLAGS, Server, room
from ui.control import SETTING, Manner

_WORDS, _ROUNDS, _TOKENS = 1500, 20, 40
_PAUSES = (0.0, 2.0)  # seconds before each click
_TITLE = "A long story"
_ASK = """() => new Promise(done => {
  const start = performance.now(), seen = [];
  const suggest = [...document.querySelectorAll("button")].find(each => each.textContent.trim() === "Suggest");
  const has_words = each => /[a-z]/i.test(each.textContent);
  const watcher = new MutationObserver(() => {
    const first = [...document.querySelectorAll(".draft .words")].some(has_words);
    if (!(seen.length ? document.querySelector("#pick-0") : first)) return;
    seen.push(0);
    if (seen.length === 2) watcher.disconnect();
    const at = seen.length - 1;
    requestAnimationFrame(now => { seen[at] = (now - start) / 1000; if (at) done(seen); });
  });
  watcher.observe(document.body, {subtree: true, childList: true, characterData: true});
  suggest.click();
})"""  # the page tells when it changed: to ask it again and again would take time from the model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rest", type=float, default=0, help="seconds from opening the story to the first click")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
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
            page.wait_for_timeout(1000 * options.rest)
            opened = measure(page, 0)
            rounds = {pause: [measure(page, pause) for _ in range(options.rounds)] for pause in _PAUSES}
        finally:
            server.stop()
    print(f"the story opened {options.rest:g} s before: first words {opened[0]:.2f} s, ranked {opened[1]:.2f} s")
    for pause, rows in rounds.items():
        print(f"each click {pause:g} s after what came before:")
        for name, column in zip(("first words", "all ranked", "picked"), zip(*rows, strict=True), strict=True):
            print(f"  {name}: median {statistics.median(column):.2f} s, slowest {max(column):.2f} s of {len(column)}")


def measure(page: Page, pause: float) -> tuple[float, float, float]:
    """Seconds from asking to the first words and to all suggestions ranked, and from picking to the picked turn."""
    page.wait_for_timeout(1000 * pause)
    first, ranked = page.evaluate(_ASK)
    page.wait_for_timeout(1000 * pause)
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
