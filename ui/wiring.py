"""What the tabs share of gradio: panels whose HTML sends steps, queues, who asks, and messages for bad input."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from storyrl.errors import InputError
from storyrl.store import OWNER
from ui.pen import Waiting
from ui.users import writer

MODEL_QUEUE = "model"
STEP_QUEUE = "step"  # steps run one after the other, so each sees what the one before left
FREE_QUEUE = "free"  # any number at once: what only reads, and what waits in the Pen's line
_WRITERS_KEPT = 8  # in a browser's memory
_ACTIONS = Path(__file__).with_name("actions.js")


def panel(elem_id: str, **options: Any) -> gr.HTML:
    """HTML whose buttons and forms send events: `click`, or what their data-on says (`input`, `submit`)."""
    return gr.HTML(elem_id=elem_id, js_on_load=_ACTIONS.read_text("utf-8"), **options)


def wire(event: Any, step: Any, inputs: Any, outputs: Any, queue: str | None = STEP_QUEUE, mode: str = "once") -> Any:
    """Let an event take a step, in the name of who is signed in.

    Args:
        step: a function or a generator function, as gradio takes it; `ui.users.writer` is set while it runs.
        queue: STEP_QUEUE, FREE_QUEUE, or None (for what must come through even when the server is full).
    """
    return event(
        as_writer(_with_memory(step, inputs, outputs)),
        inputs,
        outputs,
        concurrency_id=queue,
        concurrency_limit=1 if queue == STEP_QUEUE else None,
        queue=queue is not None,
        trigger_mode=mode,
        show_progress="hidden",
        api_visibility="private",
    )


def as_writer(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step with `ui.users.writer` set to who is signed in, at each of its steps if it is a generator.

    Each `next` of a generator may run on another thread and in another context, and so may its end.
    """

    @functools.wraps(step)
    def plain(*args: Any) -> Any:
        with _signed_in(_who()):
            return step(*args)

    @functools.wraps(step)
    def generator(*args: Any) -> Iterator[Any]:
        who, steps = _who(), step(*args)
        try:
            while True:
                with _signed_in(who):
                    try:
                        values = next(steps)
                    except StopIteration:
                        return
                yield values
        finally:
            with _signed_in(who):
                steps.close()

    return generator if inspect.isgeneratorfunction(step) else plain


def _who() -> str:
    request = LocalContext.request.get()
    return (request.username if request else None) or OWNER


@contextlib.contextmanager
def _signed_in(who: str) -> Iterator[None]:
    token = writer.set(who)
    try:
        yield
    finally:
        writer.reset(token)


def _with_memory(step: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
    """The step with a writer's own part of what the browser remembers: several may write on one computer."""
    given, returned = _memories(inputs), _memories(outputs)

    def mine(args: list[Any]) -> dict[int, Any]:
        whole = {at: args[at] for at in given}
        for at in given:
            args[at] = _parts(args[at]).get(writer.get())
        return whole

    def whole(values: Any, before: Mapping[int, Any]) -> Any:
        for at in returned:
            if not _is_update(values[at]):
                others = {who: part for who, part in _parts(*before.values()).items() if who != writer.get()}
                kept = dict(list(others.items())[1 - _WRITERS_KEPT :])
                values[at] = {"writers": {**kept, writer.get(): values[at]}}
        return values

    @functools.wraps(step)
    def plain(*args: Any) -> Any:
        own = list(args)
        before = mine(own)
        return whole(step(*own), before)

    @functools.wraps(step)
    def generator(*args: Any) -> Iterator[Any]:
        own = list(args)
        before = mine(own)
        for values in step(*own):
            yield whole(values, before)

    if not given and not returned:
        return step
    return generator if inspect.isgeneratorfunction(step) else plain


def _memories(components: Any) -> list[int]:
    """Where browser memories stand in a list of components."""
    return [at for at, each in enumerate(components or []) if isinstance(each, gr.BrowserState)]


def _parts(memory: object = None) -> dict[str, Any]:
    parts = memory.get("writers") if isinstance(memory, dict) else None
    return parts if isinstance(parts, dict) else {}


def _is_update(value: object) -> bool:
    return isinstance(value, dict) and "__type__" in value


def window(request: gr.Request, what: str = "") -> str:
    """A key for `Pen.run` and `Pen.stop`: this window of this writer, and which of its jobs is meant.

    Without `what` it begins the keys of all its jobs, as `Pen.leave` wants it.
    """
    return f"{writer.get()}/{request.session_hash}/{what}"


def waiting_line(waiting: Waiting) -> str:
    """A status line for who waits for the model; screen readers read the place only, not each second."""
    place, _, seconds = str(waiting).partition(",")
    rest = f'<span aria-hidden="true">,{seconds}</span>' if seconds else ""
    return f'<p class="status busy" role="status">{place}{rest}</p>'


def fields_of(event: gr.EventData) -> Mapping[str, Any]:
    """What a panel sent along."""
    fields = event._data.get("fields") if isinstance(event._data, dict) else None
    return fields if isinstance(fields, dict) else {}


@contextlib.contextmanager
def friendly() -> Iterator[None]:
    """Shows an InputError as a message on the page."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error
