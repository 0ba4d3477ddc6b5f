"""Work that may never come to an end, done in a daemon thread: whoever waits for it can give up.

A store or a network share does not answer, a graph computes for ever, and a thread cannot be killed. One that was given
up is left to itself, what it finds is dropped, and the end of the process does not wait for it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# How often it is looked whether anything moves.
_POLL_SECONDS = 0.1
# For all together, at the end of the process.
STOP_SECONDS = 5.0


class GivenUp(Exception):
    """Some work took too long."""


class NotBegun(GivenUp):
    """As many of its kind as are borne were given up before, and none of them ended while this one waited."""


class Endable(Protocol):
    """What the end of the process waits for, a little."""

    def tell_to_stop(self) -> None:
        """Returns at once."""

    def wait(self, seconds: float) -> None:
        """Wait for it to have stopped, no longer than that."""


_endable: weakref.WeakSet[Endable] = weakref.WeakSet()
_running: set[_Errand] = set()
os.register_at_fork(after_in_child=_running.clear)  # their threads are not in the child


class Patience:
    """How long somebody waits for work: so many seconds in all in which nothing moves.

    :ivar seconds: as given.
    :param most: works of one name that may have been given up and still run; another of it begins when one of them has
        ended. What hangs keeps its thread and its memory.
    """

    def __init__(self, seconds: float, *, most: int = 8) -> None:
        self.seconds = self._left = seconds
        self._most = most

    def wait_for(self, name: str, work: Callable[[], T], moved: Callable[[], object] = lambda: None) -> T:
        """What the work returns, or raises.

        :param moved: anything that is another while the work gets on; it then has all of the seconds again.
        :raises GivenUp: it took too long.
        :raises NotBegun: earlier ones of its name did.
        """
        while len(stuck := [errand.result for errand in list(_running) if errand.is_stuck(name)]) >= self._most:
            if not wait(stuck, self._left, return_when=FIRST_COMPLETED).done:
                raise NotBegun
            self._left = self.seconds  # something moved
        errand = _Errand(name, work)
        before, since = moved(), time.monotonic()
        while not wait([errand.result], min(_POLL_SECONDS, self._left)).done:
            now, after = time.monotonic(), moved()
            self._left = self._left - (now - since) if after == before else self.seconds
            before, since = after, now
            if self._left <= 0:
                errand.given_up = True
                raise GivenUp
        self._left = max(0.0, self._left - (time.monotonic() - since))
        try:
            result: T = errand.result.result()
            return result
        finally:
            del errand  # an error keeps this frame, and would be kept by it


class _Errand:
    """One work in a thread of its own, with the context of whoever sends it."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name = name
        self.given_up = False
        self.result: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(copy_context().run, work), name=f"retrainer-{name}", daemon=True
        )
        _running.add(self)
        self._thread.start()

    def is_stuck(self, name: str) -> bool:
        """Whether it has that name, was given up, and still runs."""
        return self.name == name and self.given_up and not self.result.done()

    def wait(self, seconds: float) -> None:
        """For its end."""
        self._thread.join(seconds)

    def _run(self, run: Callable[[Callable[[], Any]], Any], work: Callable[[], Any]) -> None:
        try:
            self.result.set_result(run(work))
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it, also a panic of Rust
            self.result.set_exception(error)
        finally:
            _running.discard(self)
            del self, run, work  # as above


def ending() -> bool:
    """Whether the process ends: a look that is under way then fails in its own way, and nobody need hear of it.

    No thread can be begun any more when the main one has ended, before anything of ``atexit``.
    """
    return not threading.main_thread().is_alive()


def wait_at_exit(endable: Endable) -> None:
    """Have something told to stop, and waited for a little, when the process ends."""
    _endable.add(endable)


def forget(endable: Endable) -> None:
    """In a forked child, where its thread is not."""
    _endable.discard(endable)


@atexit.register
def _stop_all() -> None:
    """A process does not end in the middle of loading a model: onnxruntime would be torn down under its feet.

    Nor does it wait for what comes to no end.
    """
    endable = list(_endable)
    for one in endable:
        one.tell_to_stop()
    last = time.monotonic() + STOP_SECONDS
    for one in endable:
        one.wait(max(0.0, last - time.monotonic()))
    for errand in list(_running):
        errand.wait(max(0.0, last - time.monotonic()))
