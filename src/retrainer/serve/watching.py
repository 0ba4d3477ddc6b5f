"""When to look at the store again, and the thread that does.

Not here: what a look does (``following.py``).
"""

from __future__ import annotations

import atexit
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache

JITTER = 0.1
# Longest wait while looks fail, unless the interval is longer.
LONGEST_WAIT = 300.0
_STOP_SECONDS = 5.0

_running: weakref.WeakSet[Watcher] = weakref.WeakSet()
_ending = False


def next_wait(interval: float, failures: int, source: random.Random) -> float:
    """Seconds until the next look.

    While all is well the interval, give or take a tenth, so that the processes of a fleet that started together do not
    ask together. While looks fail, the interval doubles with each up to five minutes, and the wait is drawn evenly
    from the interval to that ("full jitter": M. Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog,
    2015), but never less than the interval.

    :param interval: seconds.
    :param failures: looks that failed in a row.
    """
    if failures == 0:
        return interval * source.uniform(1 - JITTER, 1 + JITTER)
    ceiling = max(interval, LONGEST_WAIT)
    # The exponent is bounded: a float overflows after a thousand doublings.
    return source.uniform(interval, min(ceiling, interval * 2.0 ** min(failures, 32)))


class Watcher:
    """A daemon thread that looks again and again until it is stopped, or nobody holds its subject any more.

    :param look: method of an object, called without arguments; returns the failures in a row so far. The thread holds
        that object only while it looks.
    """

    def __init__(self, look: Callable[[], int], interval: float, *, name: str) -> None:
        self._look = weakref.WeakMethod(look)
        self._interval = interval
        self._random = random.Random()
        self._state = _State()
        # While a look is under way, the threads of pools that there were before it.
        self._pools: set[threading.Thread] | None = None
        # Without this the thread would notice only at its next look that its subject is gone.
        self._finalizer = weakref.finalize(look.__self__, self._state.stop)  # type: ignore[attr-defined]
        self._finalizer.atexit = False
        _stop_at_exit()
        _running.add(self)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def interval(self) -> float:
        """Seconds."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._interval = seconds
        self._state.woken.set()

    def abandon(self) -> None:
        """In a forked child: the thread is not here, and whether it held the event's lock nobody knows."""
        self._finalizer.detach()
        _running.discard(self)

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop, or nobody held its subject any more."""
        return self._state.stopped

    @property
    def alive(self) -> bool:
        """Whether the thread runs and was not told to stop."""
        return self._thread.is_alive() and not self._state.stopped

    def stop(self) -> None:
        """End the thread, waiting a little for a look that is under way."""
        self.tell_to_stop()
        self.wait(_STOP_SECONDS)

    def tell_to_stop(self) -> None:
        """Let the thread end when its look, if one is under way, has come to its end."""
        self._finalizer.detach()
        self._state.stop()

    def wait(self, seconds: float) -> None:
        """Wait for the thread to end, unless this is it."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def leave_behind(self) -> None:
        """At the end of the process: do not have it wait for the requests of a look that comes to no end.

        The interpreter joins the threads of all pools of ``concurrent.futures``, daemons too, and those of a download
        that the store does not answer last as long as its time limits, with all repetitions. Daemons they are where
        this thread, which is one, made the pool.
        """
        before = self._pools
        if before is not None:
            for thread in _pool_threads() - before:
                if thread.daemon:
                    _pools().pop(thread, None)

    def _run(self) -> None:
        failures = 0
        while self._waited(failures):
            look = self._look()
            if look is None:
                return
            self._pools = _pool_threads()
            failures = look()
            self._pools = None
            del look  # or this frame would keep the subject alive while it waits

    def _waited(self, failures: int) -> bool:
        """Wait until it is time to look; ``False`` when it never will be."""
        state = self._state
        while True:
            state.woken.clear()
            if state.stopped:
                return False
            if not state.woken.wait(next_wait(self._interval, failures, self._random)):
                return True
            # Stopped, or the interval is another now: the wait begins anew.


class _State:
    """What a watching thread is told. Apart, so that what tells it when the subject is gone holds nothing else."""

    def __init__(self) -> None:
        self.stopped = False
        self.woken = threading.Event()

    def stop(self) -> None:
        self.stopped = True
        self.woken.set()


def ending() -> bool:
    """Whether the process ends: a look that is under way then fails in its own way, and nobody need hear of it."""
    return _ending


def _stop_all() -> None:
    """A process does not end in the middle of loading a model: onnxruntime would be torn down under its feet.

    The time that this may take is shared by all watchers.
    """
    global _ending  # noqa: PLW0603
    _ending = True
    running = list(_running)
    for watcher in running:
        watcher.tell_to_stop()
    last = time.monotonic() + _STOP_SECONDS
    for watcher in running:
        watcher.wait(max(0.0, last - time.monotonic()))
        watcher.leave_behind()


def _pools() -> weakref.WeakKeyDictionary[threading.Thread, object]:
    """Each thread of a pool of ``concurrent.futures``, with its queue; empty where they are kept in another way."""
    found = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", None)
    return found if isinstance(found, weakref.WeakKeyDictionary) else weakref.WeakKeyDictionary()


def _pool_threads() -> set[threading.Thread]:
    # By references: a dictionary that another thread adds to cannot be gone through.
    return {thread for reference in _pools().keyrefs() if (thread := reference()) is not None}


@cache
def _stop_at_exit() -> None:
    """Have the watchers stopped before the pools of ``concurrent.futures`` are, which a look that downloads needs.

    These end when the main thread does, before anything of ``atexit``; what was registered last is called first.
    """
    import concurrent.futures.thread  # noqa: F401

    with suppress(RuntimeError):  # the main thread has ended already: nothing is fetched any more
        getattr(threading, "_register_atexit", atexit.register)(_stop_all)
