"""Several requests at once: what a publication asks of the store must not cost one round trip after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from retrainer.daemon_pool import DaemonPool

# Below the number of connections that boto3 keeps open.
_AT_ONCE = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results, in order, of calls in this context each, whose deadline holds for them.

    After an error nothing more is begun, what is under way ends, and the error is raised.
    """
    several = list(items)
    if len(several) < 2:
        return [function(item) for item in several]
    with DaemonPool(_AT_ONCE, "retrainer-store") as pool:
        results = [pool.submit(function, item) for item in several]
        return [result.result() for result in results]
