"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")

_FAULTS = """
import resource
import torch
from storyrl.memory import keep_freed

kept = keep_freed()
x = torch.ones(1024, 1536)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    for _ in range(50):
        y = torch.relu(x + 1) * 2
print(kept, faults() - before)
"""


def faults(**variables: str) -> tuple[bool, int]:
    """Whether freed memory is kept, and the page faults of 50 rounds of three results of 6 MB each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    call = [sys.executable, "-c", _FAULTS]
    out = subprocess.run(call, env=environment | variables, capture_output=True, text=True, check=True).stdout.split()
    return out[0] == "True", int(out[1])


def test_results_of_the_same_size_take_the_same_pages_again() -> None:
    kept, few = faults()
    assert kept
    assert few < 2000


def test_whoever_set_it_is_not_overruled() -> None:
    kept, many = faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept
    assert many > 20_000
