"""What the tabs share of gradio: panels whose HTML sends steps, queues, and messages for bad input."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from storyrl.errors import InputError

MODEL_QUEUE = "model"  # one thing at a time runs the model
STEP_QUEUE = "step"  # steps run one after the other, so each sees what the one before left
_ACTIONS = Path(__file__).with_name("actions.js")


def panel(elem_id: str, **options: Any) -> gr.HTML:
    """HTML whose buttons and forms send events: `click`, or what their data-on says (`input`, `submit`)."""
    return gr.HTML(elem_id=elem_id, js_on_load=_ACTIONS.read_text("utf-8"), **options)


def wire(event: Any, step: Any, inputs: Any, outputs: Any, queue: str = STEP_QUEUE, mode: str = "once") -> Any:
    """Let an event take a step; the steps of one queue run one after the other."""
    return event(
        step,
        inputs,
        outputs,
        concurrency_id=queue,
        concurrency_limit=1,
        trigger_mode=mode,
        show_progress="hidden",
        api_visibility="private",
    )


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
