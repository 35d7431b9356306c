"""Takes pictures of the studio on the real server and model.

python tests/screenshots.py [FOLDER]         every tab, wide and narrow, light and dark; FOLDER is `screenshots`
python tests/screenshots.py --tour FOLDER    the pictures of the README's tour; tunes for some minutes
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from studio_page import FLAGS, Server, press, room, side, suggest, turns, wait_for

from storyrl.store import Store
from storyrl.story import Prompt, Story, Turn
from ui.users import set_password

_SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
_LONG = 40 * 60_000  # milliseconds; for tuning on a machine that has other work
_SEEN = 700  # milliseconds until nothing moves on the page any more
_PREMISE = (
    "The ferry stopped at noon, and the harbour of Skarholm is under water. Aksel, who sank his sister's boat in "
    "spring, stands at Runa's door in the rain."
)
_GOAL = "Runa lets Aksel into the house.\nRuna forgives Aksel."


class GuardedServer(Server):
    """A studio whose users sign in."""

    def start(self) -> None:
        users = self.db.with_name("users.txt")
        set_password(users, "Runa", "a long password")
        options = ["--port", str(self.port), "--db", str(self.db), "--no-browser", "--quiet", "--auth-file", str(users)]
        self.process = subprocess.Popen([sys.executable, "-m", "storyrl", "studio", *options])
        wait_for(self.url, self.process)


# --- what a writer does -----------------------------------------------------------------------------------------------


def own(page: Page, kind: str, text: str, who: str = "") -> None:
    """Add a turn of the writer's."""
    count = turns(page).count()
    page.locator("#own-kind").get_by_label(kind, exact=True).check()
    if who:
        page.locator("#own-actor").get_by_label("Who").fill(who)
    page.locator("#own-text textarea").fill(text)
    press(page, "Add my turn")
    expect(turns(page)).to_have_count(count + 1)


def write(page: Page) -> None:
    """A story with two branches, turns of all three kinds of authors, and suggestions for its next turn."""
    page.locator("#premise textarea").fill(_PREMISE)
    page.locator("#goal textarea").fill(_GOAL)
    page.locator("#characters").get_by_label("Characters").fill("Runa, Aksel")
    press(page, "Start story")
    expect(page.locator(".manuscript .premise")).to_have_text(_PREMISE)
    own(page, "Narrate", "Runa heard the knock, and she knew whose it was before she lifted the lamp.")
    own(page, "Say", "I have no right to ask. But the last dry roof on this island is yours.", "Aksel")
    own(page, "Say", "The boathouse has a roof. There is room in it, since spring.", "Runa")
    own(page, "Do", "Aksel turned up his collar and walked back down to the water.", "Aksel")
    turns(page).nth(1).locator("p").first.click()
    turns(page).nth(1).get_by_role("button", name="Branch from here").click()
    expect(turns(page)).to_have_count(2)
    suggest(page)
    page.locator("#edit-0").click()
    expect(page.locator("#own-text textarea")).not_to_have_value("")
    own(
        page,
        "Narrate",
        "She looked at his wet hair for a long time. Then she stepped aside and let him into the house.",
    )
    suggest(page)
    page.locator("#pick-0").click()
    expect(turns(page)).to_have_count(4)
    suggest(page)
    page.wait_for_timeout(_SEEN)


def new_pair(page: Page) -> None:
    room(page, "Rate")
    press(page, "New pair")
    page.locator("#answer-A").wait_for(timeout=_LONG)
    page.wait_for_timeout(_SEEN)


def tune(page: Page) -> None:
    """A short tuning, and the pairs to compare it by."""
    room(page, "Tune")
    page.locator("#tune-advanced").get_by_role("button", name="Advanced").click()
    for name, value in {
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "max_tokens": 64,
        "heldout": 3,
        "steps": 12,
    }.items():
        field = page.locator(f"#tune-{name} input[type=number]")
        field.fill(str(value))
        field.press("Tab")
    page.locator("#tune-advanced").get_by_role("button", name="Advanced").click()
    press(page, "Tune it")
    expect(page.locator("#tune-status")).to_contain_text("Tuned for", timeout=_LONG)
    press(page, "Write 10 pairs")
    page.locator("#blind-answer-A").wait_for(timeout=_LONG)
    page.wait_for_timeout(_SEEN)


# --- all tabs ---------------------------------------------------------------------------------------------------------


def take_all(browser: Browser, folder: Path) -> None:
    """Every tab in both sizes and schemes."""
    with serving(Server) as server:
        for name, page in pages(browser, server):
            page.get_by_role("button", name="Start story").wait_for()
            shot(page, folder, f"{name}-1-start")
            write(page)
            shot(page, folder, f"{name}-2-write")
            for tab in ("Goal", "Map", "Memory", "Model", "Context"):
                side(page, tab)
                shot(page, folder, f"{name}-2-{tab.lower()}")
            room(page, "Library")
            shot(page, folder, f"{name}-3-library")
            new_pair(page)
            shot(page, folder, f"{name}-4-rate")
            press(page, "A is better")
            for number, tab in enumerate(("What the studio keeps", "My answers"), start=1):
                page.locator("#rate-rooms").get_by_role("tab", name=tab, exact=True).click()
                shot(page, folder, f"{name}-4-review-{number}")
            room(page, "Tune")
            shot(page, folder, f"{name}-5-tune")
    with serving(GuardedServer) as server:
        for name, page in pages(browser, server):
            page.get_by_label("username").wait_for()
            shot(page, folder, f"{name}-6-login")


def shot(page: Page, folder: Path, name: str) -> None:
    page.wait_for_timeout(2 * _SEEN)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def pages(browser: Browser, server: Server) -> Iterator[tuple[str, Page]]:
    """A fresh window of each size and scheme, and its name."""
    for size, (width, height) in _SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(120_000)
            page = context.new_page()
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.goto(server.url)
            yield f"{size}-{scheme}", page
            context.close()


@contextmanager
def serving(kind: type[Server]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as scratch:
        server = kind(Path(scratch))
        try:
            yield server
        finally:
            server.stop()


# --- the tour ---------------------------------------------------------------------------------------------------------


def take_tour(browser: Browser, folder: Path) -> None:
    """The README's pictures: one writer's session on a wide page, and its story on a phone."""
    with serving(Server) as server:
        fill_shelf(server)
        context = browser.new_context(viewport={"width": 1280, "height": 1180}, color_scheme="light")
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.goto(server.url)
        write(page)
        crop(page, folder / "write.webp", ".wordmark", "#paper", "#table", "#own")
        side(page, "Goal")
        page.wait_for_timeout(_SEEN)
        crop(page, folder / "goal.webp", "#side [role=tablist]", "#goal-panel")
        side(page, "Map")
        page.get_by_role("button", name="Compare the branch").first.click()
        page.locator(".sides article").first.wait_for()
        crop(page, folder / "map.webp", "#side [role=tablist]", "#map", "#beside")
        room(page, "Library")
        page.wait_for_timeout(_SEEN)
        crop(page, folder / "library.webp", ".wordmark", "#library-bar", "#library")
        new_pair(page)
        crop(page, folder / "rate.webp", "#rate-bar", "#rate-buttons", "#pair")
        tune(page)
        crop(page, folder / "tune.webp", "#tune-status", "#tune-charts", "#blind-pair")
        memory = context.storage_state()
        context.close()
        phone = browser.new_context(
            viewport={"width": 390, "height": 844}, device_scale_factor=2, storage_state=memory, color_scheme="light"
        ).new_page()
        phone.goto(server.url)
        turns(phone).nth(2).evaluate("(turn) => scrollTo(0, scrollY + turn.getBoundingClientRect().top - 12)")
        phone.wait_for_timeout(_SEEN)
        keep(phone.screenshot(), folder / "phone.webp")


def fill_shelf(server: Server) -> None:
    """Some stories that were written before."""
    authored = Path(__file__).parent.parent / "prompts" / "stories" / "authored.jsonl"
    store = Store(str(server.db))
    for line in authored.read_text("utf-8").splitlines()[:3]:
        row = json.loads(line)
        prompt = Prompt(premise=row["premise"], goal=row.get("goal", ""))
        store.save_story(Story(id=row["id"], prompt=prompt, turns=tuple(Turn(**turn) for turn in row["turns"])))
    store.close()


def crop(page: Page, path: Path, *selectors: str) -> None:
    """A picture of the parts of the page that the selectors name, from edge to edge of them all."""
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(_SEEN)
    boxes = [box for each in selectors if (box := page.locator(each).first.bounding_box())]
    left, top = (min(box[side] for box in boxes) - 16 for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + 16
    bottom = max(box["y"] + box["height"] for box in boxes) + 16
    left, top = max(left, 0), max(top, 0)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    keep(page.screenshot(full_page=True, clip=clip), path)


def keep(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=88, method=6)


def main() -> None:
    """All pictures, or the tour's."""
    parser = argparse.ArgumentParser(description="Pictures of the studio, on the real server and model.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--tour", action="store_true", help="the pictures of the README's tour")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=120_000)
    found = os.environ.get("STORYRL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        (take_tour if asked.tour else take_all)(browser, asked.folder)
        browser.close()
    print(f"{asked.folder}: {len(list(asked.folder.iterdir()))} pictures")


if __name__ == "__main__":
    main()
