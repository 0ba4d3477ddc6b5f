"""What a fork makes of a loaded model, and what is done about it.

A forked child has the memory of its parent, but none of its threads. A session of onnxruntime whose threads are gone
waits for them for ever: when it is asked, and also when it is freed. So in a child no inherited session is freed,
whoever holds one compares ``generation`` before it is asked, and what has threads or locks of its own is told.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Protocol


class Forked(Protocol):
    """What makes itself usable again in a forked child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there; must not wait for a lock."""


_generation = 0
_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
_told: weakref.WeakSet[Forked] = weakref.WeakSet()


def generation() -> int:
    """How often this process has come out of a fork: what was loaded under another number belongs to an ancestor."""
    return _generation


def leak_in_children(session: object) -> None:
    """See to it that no forked child ever frees that object."""
    _sessions.add(session)


def tell_in_children(survivor: Forked) -> None:
    """Have an object told in each forked child, as long as somebody holds it."""
    _told.add(survivor)


def _in_child() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1
    for session in list(_sessions):
        # One reference that nobody gives back: not even the end of the interpreter frees it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _sessions.clear()
    for survivor in list(_told):
        survivor.after_fork()


os.register_at_fork(after_in_child=_in_child)
