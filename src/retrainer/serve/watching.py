"""When to look at the store again, and the thread that does.

Not here: what a look does (``following.py``).
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable

from retrainer.serve.errands import STOP_SECONDS, forget, wait_at_exit

JITTER = 0.1
# Longest wait while looks fail, unless the interval is longer.
LONGEST_WAIT = 300.0


def first_wait(interval: float, source: random.Random) -> float:
    """Seconds until the first look after the watching began, or its interval changed.

    Any part of the interval is as likely, so that the processes of a fleet that started together do not ask together:
    not then, and not at a swap, which each sees at its own look. Waits of one length and a little jitter would take
    dozens of looks to come apart.

    :param interval: seconds.
    """
    return interval * source.random()


def next_wait(interval: float, failures: int, source: random.Random) -> float:
    """Seconds until the look after another.

    While all is well the interval, give or take a tenth: looks that are spread stay so, and those that something
    brought together come apart. While looks fail, the interval doubles with each up to five minutes, and the wait is
    drawn evenly from the interval to that ("full jitter": M. Brooker, *Exponential Backoff And Jitter*, AWS
    Architecture Blog, 2015), but never less than the interval.

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
        # Without this the thread would notice only at its next look that its subject is gone.
        self._finalizer = weakref.finalize(look.__self__, self._state.stop)  # type: ignore[attr-defined]
        self._finalizer.atexit = False
        wait_at_exit(self)
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
        forget(self)

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
        self.wait(STOP_SECONDS)

    def tell_to_stop(self) -> None:
        """Let the thread end when its look, if one is under way, has come to its end."""
        self._finalizer.detach()
        self._state.stop()

    def wait(self, seconds: float) -> None:
        """Wait for the thread to end, unless this is it."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        failures: int | None = None
        while self._waited(failures):
            look = self._look()
            if look is None:
                return
            failures = look()
            del look  # or this frame would keep the subject alive while it waits

    def _waited(self, failures: int | None) -> bool:
        """Wait until it is time to look; ``False`` when it never will be.

        :param failures: in a row; ``None`` before the first look.
        """
        state = self._state
        while True:
            state.woken.clear()
            if state.stopped:
                return False
            if not state.woken.wait(self._wait_after(failures)):
                return True
            # Stopped, or the interval is another now, perhaps in the whole fleet: the wait begins anew.
            failures = failures or None

    def _wait_after(self, failures: int | None) -> float:
        if failures is None:
            return first_wait(self._interval, self._random)
        return next_wait(self._interval, failures, self._random)


class _State:
    """What a watching thread is told. Apart, so that what tells it when the subject is gone holds nothing else."""

    def __init__(self) -> None:
        self.stopped = False
        self.woken = threading.Event()

    def stop(self) -> None:
        self.stopped = True
        self.woken.set()
