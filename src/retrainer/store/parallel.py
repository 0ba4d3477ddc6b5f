"""Several requests at once: what a publication asks of the store must not cost one round trip after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

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
    with ThreadPoolExecutor(min(_AT_ONCE, len(several)), thread_name_prefix="retrainer-store") as pool:
        contexts = [copy_context() for _ in several]  # of its own each: one cannot be in two threads
        return list(pool.map(lambda context, item: context.run(function, item), contexts, several))
