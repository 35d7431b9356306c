"""Work that is done aside."""

import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from storyrl.errors import InputError
from storyrl.threads import aside

where = ContextVar("where", default="nowhere")


def test_gives_what_the_work_gives_in_the_callers_context_on_another_thread() -> None:
    where.set("here")
    assert aside(where.get) == "here"
    assert aside(threading.get_ident) != threading.get_ident()


def test_raises_what_the_work_raises() -> None:
    def work() -> None:
        raise InputError("no such policy")

    with pytest.raises(InputError, match="no such policy"):
        aside(work)


_COUNTING = """
import os
import time
import torch
import ui.app
from storyrl.threads import aside

count, work = lambda: len(os.listdir("/proc/self/task")), lambda: torch.zeros(512, 512).softmax(dim=1)
before = count()
during = aside(lambda: (work(), count())[1])
until = time.monotonic() + 20
while (after := count()) > before and time.monotonic() < until:
    time.sleep(0.05)  # helpers are on their way out
work()
print(before, during, after, count(), torch.get_num_threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of a Linux process")
def test_the_studio_leaves_the_main_thread_without_helpers_and_those_of_work_aside_end_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNTING], capture_output=True, text=True, check=True)
    before, during, after, with_own, threads = map(int, done.stdout.split())
    assert during == before + threads  # the thread and its helpers
    assert after <= before
    assert with_own >= before + threads - 1  # so there were none yet
