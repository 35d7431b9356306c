"""The line for the model: who goes when, what is seen of it, how jobs are stopped, and that a closed page leaves it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from rewards.base import StoryText
from rewards.composite import Composite, Term
from rewards.guards import Repetition
from storyrl.agent import Agent, Suggestion
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import Policy, Watch
from storyrl.store import OWNER, Store
from storyrl.story import Kind, Prompt, Story, Turn
from ui import pen as pen_module
from ui.goal import GoalMeter
from ui.pen import Done, Pen, Rank, Seen, Waiting, ordinal
from ui.users import writer
from ui.wiring import waiting_line

from .conftest import tiny_model, word_tokenizer
from .studio_page import FakeGoal, add, press, start, suggest, turns

STORY = Story(id="s", prompt=Prompt(premise="A boat.")).with_turns(Turn(kind=Kind.NARRATE, text="Rain."))


class Held:
    """A job that tells numbers until it is stopped or let go."""

    def __init__(self) -> None:
        self.begun, self.let_go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, tell: Callable[[int], bool]) -> str:
        self.begun.set()
        number = 0
        while tell(number) and not self.let_go.wait(0.01):
            number += 1
        self.ended.set()
        return "let go" if self.let_go.is_set() else "stopped"


class Reader(threading.Thread):
    """Reads all that a job yields, as the page of a writer does."""

    def __init__(self, events: Iterator[Any]):
        super().__init__(daemon=True)
        self.events: list[Any] = []
        self._source = events
        self.start()

    def run(self) -> None:
        self.events.extend(self._source)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited five seconds in vain")


@pytest.fixture
def held() -> Iterator[tuple[Pen, Held, Reader]]:
    """A pen with a job that runs until it is let go."""
    pen, job = Pen(), Held()
    reader = Reader(pen.run("first", job))
    assert job.begun.wait(5)
    yield pen, job, reader
    job.let_go.set()


def test_first_come_first_served_but_short_ones_before_and_idle_ones_last(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    order: list[str] = []
    readers = []
    jobs = {"idle": Rank.IDLE, "one": Rank.USUAL, "two": Rank.USUAL, "short": Rank.SHORT, "three": Rank.USUAL}
    for number, (name, rank) in enumerate(jobs.items(), start=2):
        readers.append(Reader(pen.run(name, lambda _, name=name: order.append(name), rank=rank)))  # type: ignore[misc]
        until(lambda number=number: pen.busy == number)  # type: ignore[misc]
    until(lambda: [reader.events[-1].place for reader in readers if reader.events] == [4, 1, 2, 1, 3])
    job.let_go.set()
    for reader in readers:
        reader.join(5)
    assert order == ["short", "one", "two", "three", "idle"]
    assert pen.busy == 0


def test_the_time_in_line_is_what_is_left_of_those_before(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    job.let_go.set()
    assert list(pen.run("me", lambda _: time.sleep(1.0), kind="second"))[-1] == Done(None)
    readers = [Reader(pen.run(str(n), lambda _: time.sleep(1.0), kind="second")) for n in range(3)]
    for reader in readers:
        reader.join(10)
    waits = [[event.seconds for event in reader.events if isinstance(event, Waiting)] for reader in readers]
    assert waits[0] == []
    assert waits[1][0] == pytest.approx(1 - pen_module._EVERY, abs=0.2)  # a second each; looked at after _EVERY
    assert waits[2][0] == pytest.approx(2 - pen_module._EVERY, abs=0.2)
    assert all(later < earlier for row in waits for earlier, later in pairwise(row) if later)


def test_unknown_times_are_not_told(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    reader = Reader(pen.run("me", lambda _: None, kind="other"))
    until(lambda: bool(reader.events))
    assert str(reader.events[0]) == "Next in line"
    job.let_go.set()


def test_places_in_words() -> None:
    words = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 112: "112th"}
    assert {number: ordinal(number) for number in words} == words
    assert str(Waiting(2, 6.4)) == "2nd in line, about 6 s"
    assert str(Waiting(3, 0.0)) == "3rd in line, about 1 s"
    assert waiting_line(Waiting(1, 4)).endswith('>Next in line<span aria-hidden="true">, about 4 s</span></p>')


def test_a_job_that_is_stopped_in_line_never_runs(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    ran: list[int] = []
    reader = Reader(pen.run("second", lambda _: ran.append(1)))
    until(lambda: pen.busy == 2)
    pen.stop("second")
    reader.join(2)
    job.let_go.set()
    until(lambda: pen.busy == 0)
    assert ran == []
    assert not any(isinstance(event, Done) for event in reader.events)


def test_a_closed_window_takes_all_its_jobs_along(held: tuple[Pen, Held, Reader]) -> None:
    pen, _, reader = held
    ran: list[str] = []
    others = [Reader(pen.run(key, lambda _, key=key: ran.append(key))) for key in ("first/pairs", "other")]  # type: ignore[misc]
    until(lambda: pen.busy == 3)
    pen.leave("first")
    for each in (reader, *others):
        each.join(5)
    assert (reader.events[-1], ran) == (Done("stopped"), ["other"])


def test_a_running_job_is_stopped_for_its_own_key_only_and_keeps_what_it_has(held: tuple[Pen, Held, Reader]) -> None:
    pen, _, reader = held
    pen.stop("somebody else")
    until(lambda: len({event.told for event in reader.events}) > 1)
    numbers = [event.told for event in reader.events]
    assert numbers == sorted(numbers)
    pen.stop("first")
    reader.join(2)
    assert reader.events[-1] == Done("stopped")
    assert isinstance(reader.events[-2], Seen)


def test_a_reader_who_leaves_is_not_waited_for_and_frees_the_line() -> None:
    pen, unheard = Pen(), threading.Event()

    def job(tell: Callable[[str], bool]) -> None:
        while tell("on"):
            unheard.wait(0.3)  # a token takes long here

    going = pen.run("me", job)
    assert next(going) == Seen("on")
    before = time.monotonic()
    cast(Any, going).close()
    assert time.monotonic() - before < 0.1  # gradio closes it on the thread that serves everybody
    until(lambda: pen.busy == 0)
    assert list(pen.run("you", lambda _: 7))[-1] == Done(7)


def test_a_reader_who_leaves_the_line_is_out_of_it(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    ran: list[int] = []
    going = pen.run("second", lambda _: ran.append(1))
    assert next(going) == Waiting(1, None)
    cast(Any, going).close()
    assert pen.busy == 1
    job.let_go.set()
    until(lambda: pen.busy == 0)
    assert ran == []


def test_errors_are_handed_on_and_the_line_goes_on() -> None:
    def broken(_: Callable[[Any], bool]) -> None:
        raise InputError("out of words")

    pen = Pen()
    with pytest.raises(InputError, match="out of words"):
        list(pen.run("me", broken))
    assert list(pen.run("me", lambda _: 1)) == [Done(1)]


def test_a_job_runs_as_the_writer_who_asked(held: tuple[Pen, Held, Reader]) -> None:
    pen, job, _ = held
    token = writer.set("Ann")
    ann = pen.run("ann", lambda _: writer.get())
    next(ann)
    writer.reset(token)
    bob = pen.run("bob", lambda _: writer.get())
    next(bob)
    job.let_go.set()
    assert (list(ann)[-1], list(bob)[-1]) == (Done("Ann"), Done(OWNER))


def test_one_writer_does_not_fill_the_line(held: tuple[Pen, Held, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pen_module, "_EVERY", 0.02)
    pen, job, _ = held
    waiting = [pen.run("many", lambda _: None) for _ in range(20)]
    for each in waiting:
        next(each)
    with pytest.raises(InputError, match="20 requests in line"):
        next(pen.run("many", lambda _: None))
    token = writer.set("Bob")
    assert next(pen.run("bob", lambda _: None)) == Waiting(21, None)
    writer.reset(token)
    pen.stop("many")
    job.let_go.set()


def test_the_agent_writes_in_line() -> None:
    agent = Agent(
        Policy(tiny_model("llama"), word_tokenizer(), "tiny"), Composite([Term(Repetition(), -1.0, 0.0, 1.0)])
    )

    def job(watch: Watch) -> Sequence[Suggestion]:
        return agent.suggest(STORY, 3, 5, Sampling(max_tokens=12), "[say Mira] So", watch)

    *seen, last = Pen().run("me", job)
    assert isinstance(last, Done)
    assert 1 <= len(last.result) <= 3
    assert {s.turn.actor for s in last.result} == {"Mira"}
    assert all(isinstance(event, Seen) for event in seen)


def test_the_goal_meter_reads_a_little_at_a_time() -> None:
    asked: list[list[str]] = []

    class Counting(FakeGoal):
        def score(self, stories: Sequence[StoryText]) -> list[float]:
            asked.append([story.text for story in stories])
            return super().score(stories)

    agent = cast(Agent, SimpleNamespace(reward=Composite([Term(Counting(), 1.0, 0.0, 1.0)])))
    prompt = Prompt(premise="A boat.", goal="The boat is found.\nMira forgives Tom.")
    turns = (Turn(kind=Kind.NARRATE, text=text) for text in ("Rain.", "A boat.", "They forgive."))
    meter, story = GoalMeter(agent), Story(id="s", prompt=prompt).with_turns(*turns)
    assert len(meter.unread(story)) == 6  # two steps of the goal, three turns each
    assert meter.read(story, 4) == {"The boat is found.": [0.0, 0.5, 0.9]}
    assert meter.read(story, 4)["Mira forgives Tom."] == [0.0, 0.5, 0.9]
    assert (meter.unread(story), meter.read(story)) == ([], meter.known(story))
    assert [len(texts) for texts in asked] == [4, 2]


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(browser: Browser, fake: tuple[str, Store]) -> Iterator[Callable[[], Page]]:
    """Opens the studio in a browser of its own each time."""
    contexts: list[BrowserContext] = []
    expect.set_options(timeout=30_000)

    def opened() -> Page:
        contexts.append(browser.new_context(viewport={"width": 390 if contexts else 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.goto(fake[0])
        return page

    yield opened
    for each in contexts:
        each.close()


def slow(page: Page) -> None:
    start(page, "The model writes slowly")
    press(page, "Suggest")


@pytest.mark.slow
def test_closing_the_page_leaves_the_line_or_stops_the_model(pages: Callable[[], Page]) -> None:
    first, second, third = pages(), pages(), pages()
    slow(first)
    expect(first.locator(".card.draft .words").first).to_have_text("Half a suggestion 0")
    slow(second)
    expect(second.locator("#write-status")).to_contain_text("Next in line")
    slow(third)
    status = third.locator("#write-status")
    expect(status).to_contain_text("2nd in line")
    add(third, "Meanwhile the writer goes on.")  # nothing but the model is waited for
    expect(turns(third)).to_have_count(1)
    expect(status).to_contain_text("2nd in line")
    for leaving, then in ((second, "Next in line"), (first, "Writing 3 suggestions")):
        leaving.close()
        expect(status).to_contain_text(then, timeout=15_000)  # the model would write for a minute
    press(third, "Stop")
    expect(status).to_contain_text("ready")
    press(third, "Undo")  # back to the place that they were written for
    expect(third.locator("#pick-0")).to_be_visible()


@pytest.mark.slow
def test_stopping_in_line_gives_the_place_up(pages: Callable[[], Page]) -> None:
    first, second = pages(), pages()
    slow(first)
    first.locator(".card.draft").first.wait_for()
    slow(second)
    expect(second.locator("#write-status")).to_contain_text("Next in line")
    press(second, "Stop")
    expect(second.get_by_role("button", name="Suggest", exact=True)).to_be_enabled()
    expect(second.locator("#write-status")).to_have_text("")
    first.reload()
    suggest_again = first.get_by_role("button", name="Suggest", exact=True)
    expect(suggest_again).to_be_enabled()
    second.get_by_role("button", name="New story").click()
    start(second, "A quick one")
    suggest(second)  # the reload freed the model


# --- on a real server with the real model -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--users", "3", "--minutes", "0.33"], ["--users", "2", "--kills", "2"]])
def test_several_writers_lose_nothing(given: list[str], chromium: str) -> None:
    environment = {**os.environ, "STORYRL_CHROMIUM": chromium}
    command = [sys.executable, "-m", "tests.load", *given]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 problems" in result.stdout
