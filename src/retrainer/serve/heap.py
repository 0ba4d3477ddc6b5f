"""Memory that stays flat while models come and go.

glibc serves large blocks by ``mmap``, which gives them back when they are freed, but raises the limit from which it
does so, to 32 MiB, as soon as one was freed (mallopt(3), ``M_MMAP_THRESHOLD``). From then on most weights of a model
come from the heaps of whichever thread loaded it, where small blocks that outlive the model keep them from shrinking:
fifty swaps of a 23 MB model under load from eight threads left a process half as large again. With a fixed limit they
do not. Other allocators have no such limit and are left alone, and so is one that somebody set in the environment.

It is the whole process that changes, so only one that is ours does it: ``retrainer serve``. The client never does.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_M_MMAP_THRESHOLD = -3  # malloc.h
# Above what texts and tokens take, below the matrices of the smallest models that are worth serving.
_LIMIT_BYTES = 1 << 20


def keep_flat() -> None:
    """Fix the limit for this process."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LIMIT_BYTES)


def trim() -> None:
    """Give free pages back to the system; takes milliseconds."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> Any:
    """A function of the C library; ``None`` where it has none of that name, as musl."""
    return getattr(ctypes.CDLL(None), name, None)
