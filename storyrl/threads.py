"""Why models run on one thread: helpers of OpenMP.

OpenMP gives every thread that ever runs a large operation helpers of its own, and keeps them until that thread ends.
Once there are more of them than cores, GNU's OpenMP puts waiting helpers to sleep instead of letting them spin, and
waking them takes longer than a decoding step's small operations: decoding then took up to 1.8 times as long. So a
program with several threads runs its models on one of them (ui/pen.py), and does `aside` what it must do on another.
"""

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done on a thread that ends with it, in a copy of the caller's context."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed over to who waits
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
