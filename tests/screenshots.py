"""Takes pictures of the studio on the real server and model: `python tests/screenshots.py [FOLDER]`.

Wide and narrow, light and dark; the folder is `screenshots` unless another is named.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from test_studio import FLAGS, Server, add, side, start, suggest

_SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


def take(page: Page, url: str, name: str, folder: Path) -> None:
    """One writer's session, with a picture at each stop."""
    page.goto(url)
    page.get_by_role("button", name="Start story").wait_for()
    page.screenshot(path=folder / f"{name}-1-start.png", full_page=True)
    start(page, "Mira's brother Tom sank her boat last spring. Now he stands at her door in the rain.")
    suggest(page)
    page.locator("#pick-0").click()
    page.locator("#pick-0").wait_for(state="hidden")
    add(page, "Mira did not open the door at once.")
    suggest(page)
    page.screenshot(path=folder / f"{name}-2-write.png", full_page=True)
    for tab in ("Goal", "Map", "Memory", "Model", "Context"):
        side(page, tab)
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / f"{name}-2-{tab.lower()}.png", full_page=True)
    page.get_by_role("tab", name="Library").click()
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / f"{name}-3-library.png", full_page=True)
    page.get_by_role("tab", name="Rate").click()
    page.get_by_role("button", name="New pair").click()
    page.get_by_role("button", name="A is better").wait_for()
    page.screenshot(path=folder / f"{name}-4-rate.png", full_page=True)


def main(folder: Path) -> None:
    """All pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=60_000)
    found = os.environ.get("STORYRL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(Path(scratch))
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
            for size, (width, height) in _SIZES.items():
                for scheme in ("light", "dark"):
                    context = browser.new_context(viewport={"width": width, "height": height})
                    context.set_default_timeout(120_000)
                    page = context.new_page()
                    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                    take(page, server.url, f"{size}-{scheme}", folder)
                    context.close()
            browser.close()
        finally:
            server.stop()
    print(f"{folder}: {len(list(folder.glob('*.png')))} pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("screenshots"))
