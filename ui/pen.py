"""One line for the model, shared by all writers: first come, first served. No gradio, and no model either.

Whatever runs a model for the page (suggestions, rewriting, pairs to rate, the goal classifier) is a job in this line:

    def job(tell: Watch) -> list[Suggestion]:
        return agent.suggest(story, 3, seed, sampling, opening, tell)

    for event in pen.run(key, job):
        match event:
            case Waiting():
                ...  # str(event) is "2nd in line, about 6 s"
            case Seen(texts):
                ...  # what the job told last; None before it told anything
            case Done(suggestions):
                ...  # once, at the end; never, if it was stopped before its turn came
"""

import bisect
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

from storyrl.errors import InputError
from ui.users import writer

_EVERY = 0.5  # seconds between two looks at a job; more often takes time from the model on a small machine
_MOST = 20  # jobs of one writer that wait at once
_NEWEST = 0.3  # weight of the newest job in the mean duration of its kind

P = TypeVar("P")
T = TypeVar("T")


class Rank(IntEnum):
    """Who goes first; those of one rank in the order in which they came."""

    SHORT = 0
    """A fraction of a second, such as reading one turn with the goal classifier: others hardly notice it."""
    USUAL = 1
    IDLE = 2
    """What nobody waits for. Once begun it holds the others up like any job, so cut such work into short jobs."""


@dataclass(frozen=True)
class Waiting:
    """A job in line."""

    place: int
    """1: next. Short jobs that slip in before are not counted."""
    seconds: float | None
    """About how long until it begins; None: no job of some kind before it has ended yet, so nobody knows."""

    def __str__(self) -> str:
        where = "Next in line" if self.place == 1 else f"{ordinal(self.place)} in line"
        return where if self.seconds is None else f"{where}, about {max(round(self.seconds), 1)} s"


@dataclass(frozen=True)
class Seen(Generic[P]):
    """A running job, and what it told last."""

    told: P | None


@dataclass(frozen=True)
class Done(Generic[T]):
    """A job that has ended."""

    result: T


@dataclass(eq=False)
class _Ticket:
    """A job with its place in line (rank, number) and its state."""

    key: str
    who: str
    kind: str
    order: tuple[int, int]
    job: Callable[[Callable[[Any], bool]], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    news: threading.Event = field(default_factory=threading.Event)
    """Set when there is something to see for the first time, and at the end: look at it at once."""
    started: float | None = None
    told: Any = None
    outcome: Done[Any] | BaseException | None = None

    def tell(self, what: Any) -> bool:
        if what and not self.told:
            self.news.set()
        self.told = what
        return not self.stopped.is_set()

    def end(self) -> None:
        self.ended.set()
        self.news.set()

    def work(self) -> None:
        try:
            self.outcome = Done(self.job(self.tell))
        except BaseException as error:  # handed over to whoever reads; the line goes on
            self.outcome = error


class Pen:
    """The line and the one thread that works it off. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._line: list[_Ticket] = []
        self._running: _Ticket | None = None
        self._count = 0
        self._means: dict[str, float] = {}
        threading.Thread(target=self._work, name="pen", daemon=True).start()

    def run(
        self, key: str, job: Callable[[Callable[[P], bool]], T], kind: str = "writing", rank: Rank = Rank.USUAL
    ) -> Iterator[Waiting | Seen[P] | Done[T]]:
        """Wait in line, then run a job; yields how it stands twice a second and as soon as there is something to
        see, and at last `Done`.

        The first `next` joins the line. Closing the iterator leaves it, or tells the running job to stop, without
        waiting for that. gradio closes it when the page is closed, but not always: see `leave`.

        Args:
            key: what `stop` knows the job by, such as `ui.wiring.window(request)`.
            job: runs on the pen's thread, in a copy of the caller's context (so `ui.users.writer` is the same), and
                must not wait for another job. It gets `tell(what) -> bool`, to be called now and then with what shall
                be seen; once that answers False, the job ends early with what it has. `tell` is a `policy.Watch`.
            kind: jobs that take about as long as each other have the same; the times in line are estimated by it.
            rank: see Rank.

        Raises:
            InputError: the writer has too many jobs in line.
            Exception: whatever the job raises.
        """
        ticket = self._join(key, job, kind, rank)
        try:
            while not ticket.ended.is_set():
                ticket.news.wait(_EVERY)
                ticket.news.clear()
                if not ticket.ended.is_set():
                    yield self._state(ticket)
            if isinstance(ticket.outcome, BaseException):
                raise ticket.outcome
            if ticket.outcome is not None:
                yield ticket.outcome
        finally:
            self._stop([ticket])

    def stop(self, key: str) -> None:
        """Take the jobs of a key out of the line, and let the running one end here; what it has, is kept."""
        self._stop_where(lambda each: each == key)

    def leave(self, start: str) -> None:
        """The same for all keys that begin so: the jobs of a window that was closed."""
        self._stop_where(lambda each: each.startswith(start))

    @property
    def busy(self) -> int:
        """How many jobs run or wait."""
        with self._lock:
            return len(self._line) + (self._running is not None)

    def _join(self, key: str, job: Callable[..., Any], kind: str, rank: Rank) -> _Ticket:
        with self._lock:
            who = writer.get()
            if sum(ticket.who == who for ticket in self._line) >= _MOST:
                raise InputError(
                    f"You have {_MOST} requests in line for the model already; wait for some, or stop them."
                )
            self._count += 1
            ticket = _Ticket(key, who, kind, (rank, self._count), job)
            bisect.insort(self._line, ticket, key=lambda each: each.order)
            self._lock.notify()
            return ticket

    def _stop_where(self, is_meant: Callable[[str], bool]) -> None:
        with self._lock:
            running = [self._running] if self._running else []
            self._stop([ticket for ticket in (*self._line, *running) if is_meant(ticket.key)])

    def _stop(self, tickets: list[_Ticket]) -> None:
        with self._lock:
            for ticket in tickets:
                ticket.stopped.set()
                if ticket in self._line:
                    self._line.remove(ticket)
                    ticket.end()

    def _state(self, ticket: _Ticket) -> Waiting | Seen[Any]:
        with self._lock:
            if ticket not in self._line:
                return Seen(ticket.told)
            before = self._line[: self._line.index(ticket)]
            return Waiting(sum(each.order[0] != Rank.SHORT for each in before) + 1, self._seconds(before))

    def _seconds(self, before: list[_Ticket]) -> float | None:
        """How long the running job and those in line before one will take together."""
        jobs = [*before, *([self._running] if self._running else [])]
        if any(each.kind not in self._means for each in jobs):
            return None
        now = time.monotonic()
        return sum(max(self._means[each.kind] - (now - each.started if each.started else 0), 0) for each in jobs)

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._line:
                    self._lock.wait()
                ticket = self._running = self._line.pop(0)
                ticket.started = time.monotonic()
            ticket.context.run(ticket.work)
            with self._lock:
                self._running = None
                if not ticket.stopped.is_set():
                    took = time.monotonic() - ticket.started
                    mean = self._means.get(ticket.kind, took)
                    self._means[ticket.kind] = mean + _NEWEST * (took - mean)
            ticket.end()


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
