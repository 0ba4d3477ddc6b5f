"""What a step's process loads before it works, at once or ahead of its request.

Not here: who starts a process ahead, and when (``run/ahead.py``).
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from retrainer.chain import step_named

# Why a step could not be loaded. A second try often fails otherwise, since parts of it are loaded.
_failed: dict[str, Exception] = {}


def load(step: str) -> Any:
    """The module that does the work of a step, with the libraries that it needs. Takes seconds the first time.

    What is loaded stays until the process ends. So nothing of it is looked through for garbage: a fifth of the time
    that loading takes, and some of that which tracing a graph takes.

    :raises Exception: what the first try of this process raised.
    """
    if step in _failed:
        raise _failed[step]
    try:
        with _kept():
            return importlib.import_module(step_named(step).work)
    except Exception as error:
        _failed[step] = error
        raise


@contextmanager
def _kept() -> Iterator[None]:
    """Let nothing that is loaded be looked through for garbage, now or later."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def load_ahead(step: str, turn: int, ready: int) -> bool:
    """Load what a step needs, and wait until it is asked for. From then on this process writes into the step's log.

    Where the module of the step has a function ``load_rest``, that is called too: it loads what its libraries would
    load only when they are used.

    :param turn: descriptor of a pipe that closes when it is this process's turn to load; -1 if it is so already.
    :param ready: descriptor of a pipe that is closed once all is loaded, for the process that loads next.
    :return: whether it is asked for; ``False`` if whoever would do so has gone.
    """
    if turn >= 0:
        os.read(turn, 1)
        os.close(turn)
    # Its error is told once it is loaded in its place.
    with suppress(Exception):
        work = load(step)
        if hasattr(work, "load_rest"):
            with _kept():
                work.load_rest()
    os.close(ready)
    log_file = sys.stdin.buffer.readline()
    if not log_file.endswith(b"\n"):
        return False
    log = os.open(log_file[:-1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    _move_output(log)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return True


def _move_output(log: int) -> None:
    """Move what this process has said so far, a file open for reading as well, into its log."""
    # On a full disk the parent finds it there still.
    with suppress(OSError), os.fdopen(os.dup(1), "rb") as early, os.fdopen(os.dup(log), "ab") as stream:
        early.seek(0)
        shutil.copyfileobj(early, stream)
        stream.flush()
        os.ftruncate(1, 0)
