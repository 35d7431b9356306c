"""Messages and progress on standard error; results never come this way."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from storyrl import memory

_quiet = False
console = Console(stderr=True, highlight=False, soft_wrap=True)


def set_up(quiet: bool, threads: int | None) -> None:
    """Apply --quiet and --threads, keep freed memory, and the libraries' own chatter and bars off the screen."""
    global _quiet
    _quiet = quiet
    memory.keep_freed()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    if threads is not None:
        torch.set_num_threads(threads)


def say(message: str) -> None:
    """A line for the person at the terminal; nothing with --quiet."""
    if not _quiet:
        console.print(message, markup=False)


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A bar with the time left; yields `update(done, note="", total=None)`.

    No bar with --quiet or without a terminal.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = _quiet or not console.is_terminal
    if hidden:
        say(f"{what} ...")
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task(what, total=total, note="")

        def update(done: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, completed=done, note=note, total=total)

        yield update
