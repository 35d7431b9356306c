"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")

_FAULTS = """
import ctypes
import resource
import torch
from storyrl.memory import keep_freed

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a page is 4 KiB also where the system prefers huge ones
kept = keep_freed()
x = torch.ones(1024, 1536)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = []
for _ in range(150):
    before = faults()
    y = torch.relu(x + 1) * 2
    counts.append(faults() - before)
print(kept, sorted(counts)[134])
"""


def faults(**variables: str) -> tuple[bool, int]:
    """Whether freed memory is kept, and the page faults of three results of 6 MB each, at most, in nine of ten rounds.

    Not in all, since the heap may grow by a block in any round (a small object lies where the block was), and the
    first touch of its 1,536 pages says nothing about what becomes of freed ones.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    call = [sys.executable, "-c", _FAULTS]
    out = subprocess.run(call, env=environment | variables, capture_output=True, text=True, check=True).stdout.split()
    return out[0] == "True", int(out[1])


def test_results_of_the_same_size_take_the_same_pages_again() -> None:
    kept, few = faults()
    assert kept
    assert few < 20


def test_whoever_set_it_is_not_overruled() -> None:
    kept, many = faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept
    assert many > 400
