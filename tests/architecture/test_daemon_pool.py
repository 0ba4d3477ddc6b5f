"""Calls at once: each has its context, an error cancels what was not begun, and a process that ends waits for none."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from contextvars import ContextVar

import pytest

from retrainer.daemon_pool import DaemonPool

VALUE: ContextVar[str] = ContextVar("VALUE", default="")

# The pool is made by a thread that is a daemon itself, as the one of a look at the store is.
ENDS = """
import threading, time
from retrainer.daemon_pool import DaemonPool

begun = threading.Event()

def hang():
    begun.set()
    time.sleep(600)

def work():
    with DaemonPool(2, "hanging") as pool:
        pool.submit(hang).result()

threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_as_many_at_once_as_are_allowed_each_in_its_context() -> None:
    together = threading.Barrier(3, timeout=60)

    def call(number: int) -> tuple[int, str]:
        if number < 3:
            together.wait()
        return number, VALUE.get()

    VALUE.set("of the caller")
    with DaemonPool(3, "three") as pool:
        results = [pool.submit(call, number) for number in range(20)]
        assert [result.result() for result in results] == [(number, "of the caller") for number in range(20)]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("three")]


def test_after_an_error_nothing_more_is_begun_and_what_is_under_way_ends() -> None:
    go_on, begun = threading.Event(), threading.Event()
    ended: list[int] = []

    def call(number: int) -> None:
        if number == 0:
            begun.wait(60)
            raise ValueError("the first")
        begun.set()
        go_on.wait(60)
        ended.append(number)

    with pytest.raises(ValueError, match="the first"), DaemonPool(2, "two") as pool:
        results = [pool.submit(call, number) for number in range(6)]
        results[5].add_done_callback(lambda _: go_on.set())
        results[0].result()
    assert ended in ([1], [1, 2], [2, 1])  # the thread that failed may have taken one more before the block was left
    with pytest.raises(CancelledError):
        results[5].result()


def test_a_process_that_ends_waits_for_none() -> None:
    subprocess.run([sys.executable, "-c", ENDS], check=True, timeout=60)
