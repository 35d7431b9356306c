"""What the tests of the studio share: a stand-in for the agent, the real server, and what a writer does on the page."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from playwright.sync_api import Locator, Page, expect

from prompts.context import Context, context_parts
from prompts.template import parse_turn
from rewards.base import StoryText
from rewards.composite import Composite, Term
from rewards.goal import GoalReached
from rewards.guards import Repetition, TooShort
from storyrl.agent import Suggestion
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import WRITING, Watch
from storyrl.story import Kind, Story, Turn

WAIT = 120_000  # milliseconds; the model may be slow on a busy machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TRICKY = "<b>bold</b> ${1+1} {{value}}"  # neither HTML nor a template


class FakeGoal(GoalReached):
    """Half likely from the word "boat" on, and surely reached with "forgive"; no network."""

    def __init__(self) -> None:
        pass

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        return [0.9 if "forgive" in s.text else 0.5 * ("boat" in s.text) for s in stories]


class FakeAgent:
    """Writes numbered sentences without a model; fails, or writes until it is stopped, when the premise says so."""

    policy_name = "secret-policy-name"
    ahead: ClassVar[list[tuple[str, int]]] = []
    """Premise and number of turns of what was read ahead, a piece each."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        terms = [(FakeGoal(), 1.0, 0.3), (Repetition(), -20.0, 0.0), (TooShort(), -4.0, 0.0)]
        self.reward = Composite([Term(scorer, weight, mean, 1.0) for scorer, weight, mean in terms])
        self.rounds = 0

    def suggest(
        self, story: Story, candidates: int, seed: int, sampling: Sampling, opening: str, watch: Watch
    ) -> list[Suggestion]:
        self.rounds += 1
        for _ in range(3 if "slowly" not in story.prompt.premise else 4000):
            if not watch([f"[say Tom] Half a suggestion {n}" for n in range(candidates)]):
                break
            time.sleep(0.15)
        if "fail" in story.prompt.premise:
            raise InputError("the model is out of words")
        texts = [f"Suggestion {n} of round {self.rounds} {TRICKY}" for n in range(candidates)]
        turns = [parse_turn(f"{opening} {text}." if opening else f"[say Tom] {text}.") for text in texts]
        rows = []
        for number, turn in enumerate(turn for turn in turns if turn):
            scores = {"goal": 0.9 if number == 1 else 0.25, "repetition": 0.1 * (number == 1), "short": 0.0}
            rows.append(Suggestion(turn, turn.text, scores, {}, self.reward.reward(scores), 9, True))
        return rows

    def read_ahead(self, story: Story, sampling: Sampling = WRITING) -> bool:
        self.ahead.append((story.prompt.premise, len(story.turns)))
        return self.ahead.count(self.ahead[-1]) < 3

    def write_all(self, stories: Sequence[Story], turns: int, candidates: int, seed: int) -> list[Story]:
        time.sleep(0.3)
        return [s.with_turns(Turn(kind=Kind.NARRATE, text=f"{s.id} goes on, {seed}.")) for s in stories]

    def context(self, story: Story, sampling: Sampling) -> Context:
        return context_parts(story, self.tokenizer, 1000)


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

    def restart(self, page: Page) -> None:
        """Kill the server, start it again and open it in `page`.

        The page leaves in between: as soon as it finds its server again it loads itself anew, and a `goto` at the same
        moment is cut off by that, or never told that the page has loaded.
        """
        self.stop()
        page.goto("about:blank")
        self.start()
        page.goto(self.url)


def turns(page: Page) -> Locator:
    return page.locator("#manuscript .turn")


def start(page: Page, premise: str = "Mira's brother Tom sank her boat.") -> None:
    page.locator("#premise textarea").fill(premise)
    page.locator("#goal textarea").fill("Mira forgives her brother.")
    page.locator("#characters").get_by_label("Characters").fill("Mira, Tom")
    page.get_by_role("button", name="Start story").click()
    expect(page.locator(".manuscript .premise")).to_have_text(premise)


def add(page: Page, text: str) -> None:
    page.get_by_label("Narrate", exact=True).check()
    page.locator("#own-text textarea").fill(text)
    page.get_by_role("button", name="Add my turn").click()
    expect(page.locator("#own-text textarea")).to_have_value("")


def suggest(page: Page) -> None:
    page.get_by_role("button", name="Suggest", exact=True).click()
    expect(page.locator("#write-status")).to_contain_text("ready")
    page.locator("#pick-0").wait_for()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def side(page: Page, name: str) -> None:
    page.locator("#side").get_by_role("tab", name=name, exact=True).click()


def room(page: Page, name: str) -> None:
    page.locator("#rooms").get_by_role("tab", name=name, exact=True).click()


def too_wide(page: Page) -> int:
    return int(page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth"))
