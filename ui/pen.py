"""Runs the model for the page: what it writes is seen as it comes, and can be stopped. No gradio."""

import queue
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from storyrl.agent import Agent, Suggestion
from storyrl.decoding import Sampling
from storyrl.story import Story

_EVERY = 0.25  # seconds between two looks at what is being written


@dataclass(frozen=True)
class Order:
    """What to write: the next turn of a story, so many times."""

    story: Story
    count: int
    sampling: Sampling
    opening: str = ""


class Pen:
    """The model at work for several writers, told apart by a key."""

    def __init__(self, agent: Agent):
        self._agent = agent
        self._stops: dict[str, threading.Event] = {}

    def write(self, writer: str, order: Order) -> Iterator[list[str] | list[Suggestion]]:
        """What the candidates say so far, again and again, and at last the suggestions (none: stopped too early).

        Closing the iterator stops the model and waits for it.

        Raises:
            InputError: from the agent.
        """
        stop, seen = threading.Event(), queue.SimpleQueue[list[str] | list[Suggestion] | Exception]()
        self._stops[writer] = stop
        latest: list[str] = []

        def watch(texts: list[str]) -> bool:
            latest[:] = texts
            return not stop.is_set()

        def work() -> None:
            try:
                args = (order.story, order.count, secrets.randbits(31), order.sampling, order.opening, watch)
                seen.put(self._agent.suggest(*args))
            except Exception as error:  # handed over to whoever reads
                seen.put(error)

        thread = threading.Thread(target=work, name="pen", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    result = seen.get(timeout=_EVERY)
                except queue.Empty:
                    yield list(latest)
                    continue
                if isinstance(result, Exception):
                    raise result
                yield result
                return
        finally:
            stop.set()
            thread.join()
            if self._stops.get(writer) is stop:
                del self._stops[writer]

    def stop(self, writer: str) -> None:
        """Let what is being written for a writer end here; what there is, is kept."""
        if event := self._stops.get(writer):
            event.set()
