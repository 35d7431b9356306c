"""Several writers at once, each with an account and a browser page, on a real server with the real model.

    python -m tests.load --users 8 --minutes 5     # afterwards the database must hold what the pages show
    python -m tests.load --users 3 --kills 20      # the same with kill -9 of the server at random moments

A writer starts stories, adds turns, asks for suggestions and picks or stops them, edits, undoes and reloads, at random.
It prints a summary; the exit code is 1 when anything was lost, mixed up, or shown as an error.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, Error, Page, TimeoutError, async_playwright

from storyrl.store import Store
from ui.users import set_password

Blocks = tuple[str, ...]
"""The paragraphs of a story, as the page shows them."""

_WAIT = 240_000  # milliseconds; eight writers share one model
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_FLAGS += ["--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"]  # all pages are in use
_SHOWN = """[...document.querySelectorAll('#manuscript .turn')].map((turn) => {
  const paragraph = turn.querySelector('p').cloneNode(true);
  for (const by of paragraph.querySelectorAll('.by')) by.remove();
  return paragraph.textContent.trim().split(/\\s+/).join(' ');
})"""
_SUGGEST_IS = "(on) => { const b = document.querySelector('#suggest'); return b && b.disabled !== on; }"


@dataclass
class Studio:
    """`storyrl studio` as a process with accounts, which can be killed and started again."""

    folder: Path
    names: list[str]
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        for name in self.names:
            set_password(self.users, name, self.password(name))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def users(self) -> Path:
        """The file of accounts."""
        return self.folder / "users.txt"

    @property
    def db(self) -> Path:
        """The database."""
        return self.folder / "studio.db"

    def password(self, name: str) -> str:
        """The password of a writer."""
        return f"password of {name}"

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["--port", str(self.port), "--db", str(self.db), "--auth-file", str(self.users)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "storyrl", "studio", *options, "--no-browser", "--quiet"]
        )
        for _ in range(600):
            try:
                await asyncio.to_thread(lambda: urllib.request.urlopen(self.url, timeout=5).close())
                return
            except OSError:
                assert self.process.poll() is None, "the studio stopped"
                await asyncio.sleep(0.5)
        raise AssertionError("the studio did not come up")

    def kill(self) -> None:
        """kill -9."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stories(self, name: str) -> dict[str, Blocks]:
        """A writer's stories in the database, by their premises."""
        store = Store(str(self.db))
        mine = store.for_owner(name)
        trees = [mine.tree(info.id) for info in mine.list_stories()]
        store.close()
        return {tree.prompt.premise: tuple(_plain(node.turn.prose()) for node in tree.path) for tree in trees}


@dataclass
class Log:
    """What happened."""

    done: Counter[str] = field(default_factory=Counter)
    steps: list[float] = field(default_factory=list)  # seconds from a click until the page shows it
    waits: list[float] = field(default_factory=list)  # seconds from asking until suggestions can be picked
    problems: list[str] = field(default_factory=list)
    ahead: int = 0  # kills after which the database held a step that was not on the screen yet


class Writer:
    """One person at a page; `stories` is what the pages have shown so far."""

    def __init__(self, name: str, studio: Studio, page: Page, log: Log, seed: str):
        self.name, self.studio, self.page, self.log, self.random = name, studio, page, log, random.Random(seed)
        self.stories: dict[str, Blocks] = {}
        self.premise = ""
        self.history: list[Blocks] = []
        self.next: Callable[[Blocks], bool] = lambda _: False  # whether blocks are what the step in hand leads to
        self.number = 0
        page.set_default_timeout(_WAIT)
        page.on("pageerror", lambda error: self.problem(f"error on the page: {error}"))
        page.on("response", lambda r: self.problem(f"{r.status} {r.url}") if r.status >= 500 else None)
        page.on("dialog", lambda dialog: dialog.accept())

    def problem(self, what: str) -> None:
        """Something that must not happen."""
        self.log.problems.append(f"{self.name}: {what}")

    @property
    def blocks(self) -> Blocks:
        """The open story."""
        return self.stories.get(self.premise, ())

    async def sign_in(self) -> None:
        """Open the page, or open it again."""
        form = {"username": self.name, "password": self.studio.password(self.name)}
        answer = await self.page.request.post(f"{self.studio.url}/login", form=form, timeout=_WAIT)
        assert answer.ok, answer.status
        await self.page.goto(self.studio.url)
        await self.page.locator("#signed-in").get_by_text(self.name, exact=True).wait_for()
        if self.premise:
            await self._shows(self.blocks)

    async def write(self, until: float) -> None:
        """Take steps until a time comes."""
        steps: dict[Callable[[], Awaitable[None]], int] = {
            self.add: 4, self.pick: 3, self.edit: 2, self.undo: 1, self.reload: 1, self.stop: 1, self.leave: 1,
            self.begin: 1,
        }  # fmt: skip
        if not self.premise:
            await self.begin()
        while time.monotonic() < until:
            [step] = self.random.choices(list(steps), list(steps.values()))
            try:
                await step()
            except Exception as error:
                self.problem(f"{step.__name__}: {str(error)[:300]}")
                return
            self.log.done[step.__name__] += 1
            for message in await self.page.locator(".toast-body").all_inner_texts():
                self.problem(f"{step.__name__}: message '{_plain(message)}'")
            await asyncio.sleep(self.random.uniform(0.2, 1.0))

    # --- steps --------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start a story, if the open one is long enough."""
        if self.premise and len(self.blocks) < 8:
            await self.add()
            return
        if self.premise:
            await self.page.locator("#new-story").click()
        premise = f"{self.name} begins story {self._mark()}: a boat sank in the spring."
        await self.page.locator("#premise textarea").fill(premise)
        await self.page.locator("#goal textarea").fill("The boat is raised.")
        await self.page.locator("#start").click()
        await self.page.locator(".manuscript .premise").get_by_text(premise).wait_for()
        self.premise, self.history = premise, []
        self.stories[premise] = ()

    async def add(self) -> None:
        """The writer's own turn."""
        text = f"{self.name} writes {self._mark()} and the rain goes on."
        await self.page.locator("#own-text textarea").fill(text)
        await self._step(lambda: self.page.locator("#add-turn").click(), (*self.blocks, text))

    async def edit(self) -> None:
        """Other words in one of the writer's own turns."""
        own = [at for at, text in enumerate(self.blocks) if text.startswith(self.name)]
        if not own:
            await self.add()
            return
        at, text = self.random.choice(own), f"{self.name} changes {self._mark()} and the rain stops."
        await self.page.locator("#manuscript .turn").nth(at).locator("p").first.click()
        field = self.page.get_by_label("Text (Ctrl+Enter saves it)")
        await field.fill(text)
        changed = (*self.blocks[:at], text, *self.blocks[at + 1 :])
        await self._step(lambda: field.press("Control+Enter"), changed)

    async def undo(self) -> None:
        """Take the last change back."""
        if self.history:
            before = self.history[-1]
            await self._step(lambda: self.page.locator("#undo").click(), before)
            self.history = self.history[:-2]  # without the undone change, and without this step

    async def reload(self) -> None:
        """Load the page anew."""
        await self.page.reload()
        await self._shows(self.blocks)

    async def pick(self) -> None:
        """Ask for suggestions and take the first."""
        asked = time.monotonic()
        await self._ask()
        await self.page.locator("#pick-0").wait_for()
        self.log.waits.append(time.monotonic() - asked)
        words, before = _letters(await self.page.locator(".card .words").first.inner_text()), self.blocks
        self.next = lambda after: after[:-1] == before and len(after) > len(before) and words in _letters(after[-1])
        started = time.monotonic()
        await self.page.locator("#pick-0").click()
        await self.page.wait_for_function(f"(n) => ({_SHOWN}).length === n", arg=len(before) + 1)
        self._took(started, tuple(await self.page.evaluate(_SHOWN)))

    async def stop(self) -> None:
        """Ask, and stop the model (or leave the line) soon after."""
        await self._ask(wait=False)
        await asyncio.sleep(self.random.uniform(0.3, 3))
        with contextlib.suppress(TimeoutError):  # it has ended by itself
            await self.page.locator("#stop").click(timeout=5000)
        await self.page.wait_for_function(_SUGGEST_IS, arg=True)

    async def leave(self) -> None:
        """Ask, and load the page anew soon after: the model must stop, and nothing else be lost."""
        await self._ask(wait=False)
        await asyncio.sleep(self.random.uniform(0.3, 3))
        await self.reload()

    async def _ask(self, wait: bool = True) -> None:
        await self.page.locator("#suggest").click()
        await self.page.wait_for_function(_SUGGEST_IS, arg=False)
        if wait:
            await self.page.wait_for_function(_SUGGEST_IS, arg=True)

    async def _step(self, act: Callable[[], Awaitable[None]], after: Blocks) -> None:
        """Do what leads to these blocks, and wait until the page shows them."""
        self.next = lambda blocks: blocks == after
        started = time.monotonic()
        await act()
        await self._shows(after)
        self._took(started, after)

    def _took(self, started: float, after: Blocks) -> None:
        self.log.steps.append(time.monotonic() - started)
        if not self.next(after):
            self.problem(f"a step led to {after[-1:]}")
        self.commit(after)

    def commit(self, after: Blocks) -> None:
        """A step was taken."""
        self.history = [*self.history, self.blocks]
        self.stories[self.premise] = after
        self.next = lambda _: False

    async def _shows(self, blocks: Blocks) -> None:
        wanted = f"(wanted) => JSON.stringify({_SHOWN}) === JSON.stringify(wanted)"
        await self.page.wait_for_function(wanted, arg=list(blocks))

    def _mark(self) -> str:
        """A word that nobody else writes."""
        self.number += 1
        return f"{self.name}-{self.number}-{self.random.randrange(10**6)}"

    # --- what must be in the database ---------------------------------------------------------------------------------

    def check(self, found: dict[str, Blocks]) -> None:
        """All stories are there as the pages showed them, and no others."""
        if found.keys() != self.stories.keys():
            self.problem(f"has the stories {sorted(found)}, not {sorted(self.stories)}")
        for premise in found.keys() & self.stories.keys():
            if found[premise] != self.stories[premise]:
                self.problem(f"'{premise}' is {found[premise]}, not {self.stories[premise]}")

    async def check_after_kill(self, found: dict[str, Blocks]) -> None:
        """What the page shows is in the database; the step in hand may be there, too."""
        shown: Blocks = ()
        with contextlib.suppress(Error):  # the page was just being loaded
            shown = tuple(await self.page.evaluate(_SHOWN))
        there = found.get(self.premise)
        if there is not None and there != self.blocks and self.next(there):
            self.log.ahead += shown != there
            self.commit(there)
            self.history = []  # the step may have been an undo
        elif shown and shown != self.blocks:
            self.problem(f"the page shows {shown}, the database has {there}")
        for premise in found.keys() - self.stories.keys():  # begun, but the page did not show it yet
            self.premise, self.history, self.stories[premise] = premise, [], ()
        self.check(found)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _letters(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))


async def _writers(browser: Browser, studio: Studio, log: Log, seed: int) -> list[Writer]:
    writers = []
    for name in studio.names:
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        writers.append(Writer(name, studio, await context.new_page(), log, f"{seed} {name}"))
    await asyncio.gather(*(writer.sign_in() for writer in writers))
    return writers


async def run(folder: Path, users: int, seconds: float, kills: int, seed: int) -> Log:
    """The whole exercise: one stretch of `seconds`, or as many stretches as kills, of 2 seconds to `seconds` each."""
    log, names = Log(), [f"Writer{number}" for number in range(1, users + 1)]
    studio, chance = Studio(folder, names), random.Random(seed)
    found = os.environ.get("STORYRL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=_FLAGS)
        try:
            await studio.start()
            writers = await _writers(browser, studio, log, seed)
            if not kills:
                until = time.monotonic() + seconds
                await asyncio.gather(*(writer.write(until) for writer in writers))
            for _ in range(kills):
                await _until_killed(studio, writers, log, chance.uniform(2, seconds))
            for writer in writers:
                writer.check(studio.stories(writer.name))
        finally:
            studio.kill()
            await browser.close()
    return log


async def _until_killed(studio: Studio, writers: list[Writer], log: Log, seconds: float) -> None:
    tasks = [asyncio.create_task(writer.write(time.monotonic() + 3600)) for writer in writers]
    await asyncio.sleep(seconds)
    before = len(log.problems)
    studio.kill()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.5)
    del log.problems[before:]  # that the server is gone
    with sqlite3.connect(studio.db) as database:
        [[state]] = database.execute("PRAGMA integrity_check").fetchall()
    if state != "ok":
        log.problems.append(f"the database is damaged: {state}")
    for writer in writers:
        await writer.check_after_kill(studio.stories(writer.name))
    log.done["kill"] += 1
    print(f"kill {log.done['kill']}: {len(log.steps)} steps so far, {len(log.problems)} problems", file=sys.stderr)
    # A page that finds its server again loads itself anew, which would come between `goto` and its end.
    await asyncio.gather(*(writer.page.goto("about:blank") for writer in writers))
    await studio.start()
    before = len(log.problems)
    await asyncio.gather(*(writer.sign_in() for writer in writers))
    del log.problems[before:]  # what the pages found while they came back


def summary(log: Log) -> str:
    """What happened, in a few lines."""
    lines = [", ".join(f"{name} {count}" for name, count in sorted(log.done.items()))]
    for what, times in (("steps", log.steps), ("suggestions", log.waits)):
        if len(times) > 1:
            middle, late = statistics.median(times), statistics.quantiles(times, n=20)[-1]
            line = f"{len(times)}, median {middle:.2f} s, 95 % within {late:.2f} s, longest {max(times):.2f} s"
            lines.append(f"{what}: {line}")
    if log.done["kill"]:
        lines.append(f"steps that were in the database before they were on the screen: {log.ahead}")
    return "\n".join([*lines, *log.problems, f"{len(log.problems)} problems"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=0, help="each after 2 to 10 seconds of writing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    seconds = 10.0 if given.kills else 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        log = asyncio.run(run(Path(folder), given.users, seconds, given.kills, given.seed))
    print(summary(log))
    return 1 if log.problems else 0


if __name__ == "__main__":
    sys.exit(main())
