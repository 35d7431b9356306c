"""Memory that was freed stays with the process, where the C library lets one say so."""

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3  # mallopt's names M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_KEPT = 1 << 30  # bytes of free memory beyond which it is given back
_OWN_PAGES = 32 << 20  # bytes from which a block is mapped by itself: the most that glibc takes


def keep_freed() -> bool:
    """Let glibc keep what was freed, up to 1 GiB, instead of giving it back at once; says whether it will.

    A network's intermediate results are megabytes each, freed and asked for again a thousand times a second. By
    default each time the system takes the pages away and clears new ones, and that takes up to a fifth of the time
    (scoring 64 stories: 230,000 page faults, then none). Whoever has set glibc's own variables is not overruled.
    """
    theirs = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if sys.platform != "linux" or any(name in os.environ for name in theirs):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    return mallopt is not None and bool(mallopt(_TRIM, _KEPT)) and bool(mallopt(_MMAP, _OWN_PAGES))
