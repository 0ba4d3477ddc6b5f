"""Lock files of this host: held by one process until it ends, however it ends, and known to those who wait.

Not here: which file is for what (``repository.py``, ``run/devices.py``).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

SAY_SECONDS = 60.0

Say = Callable[[str], object]
"""Is told in a line what is waited for."""


def try_lock(path: Path, holder: str) -> IO[str] | None:
    """The open file that holds the lock; ``None`` while somebody else does.

    :param holder: who wants it, for whoever waits for it then.
    """
    # Appending leaves the name of the present holder in the file.
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    stream.truncate(0)
    stream.write(holder)
    stream.flush()
    return stream


def is_held(path: Path) -> bool:
    """Whether somebody holds it; the file is neither made nor changed.

    :raises OSError: it cannot be read, as that of another user.
    """
    try:
        with path.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def holder_of(path: Path) -> str:
    """Who holds it, as far as that can be read."""
    try:
        return path.read_text(errors="replace").strip() or "another process"
    except OSError:  # of another user
        return "a process of another user"


class Waiting:
    """Says what is waited for at once, and again every minute."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.monotonic()
        self._said: float | None = None

    def for_(self, what: str) -> None:
        """Call it each time that it is still waited for."""
        now = time.monotonic()
        if self._said is None:
            self._say(f"waiting for {what}")
        elif now - self._said < SAY_SECONDS:
            return
        else:
            self._say(f"still waiting for {what}, after {(now - self._began) / 60:.0f} min")
        self._said = now
