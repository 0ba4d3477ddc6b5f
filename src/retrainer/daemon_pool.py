"""Several calls at once in threads that no end of the process waits for. Not here: what is done if one fails.

The interpreter joins the pools of ``concurrent.futures`` before it ends, whoever made them: a request that a server
does not answer would hold a process as long as all its time limits, with all repetitions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")
Call = tuple[Future[Any], Callable[[], Any]]


class DaemonPool:
    """So many threads at most, for a ``with`` block; at its end what was not begun is cancelled, the rest awaited.

    Each call has a copy of the context of whoever submits it, so that the deadlines in it hold.

    :param most: calls at once.
    :param name: of the threads, before a number.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Call | None] = SimpleQueue()

    def submit(self, function: Callable[..., Result], /, *arguments: Any) -> Future[Result]:
        """Have a function called, in the order of submission."""
        future: Future[Result] = Future()
        context = copy_context()
        self._calls.put((future, lambda: context.run(function, *arguments)))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def __enter__(self) -> DaemonPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while call := self._calls.get_nowait():
                call[0].cancel()
        except Empty:
            pass
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while call := self._calls.get():
            _make(*call)
            del call  # neither its result nor its error is kept while the next one is waited for


def _make(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        future.set_exception(error)
    finally:
        del future  # an error keeps this frame, and would be kept by it
