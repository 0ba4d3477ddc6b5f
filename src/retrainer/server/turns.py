"""The queue of one model: requests that wait, and how they take turns when a run is put together.

A request gives at most a share of its rows to a run while others wait, then goes to the end of the queue with the rest.
So a large request neither holds up small ones nor is held up by them. Nothing here runs anything (``batcher.py``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# A request gives at most this share of a run's budget at a turn, while others wait.
TURN_SHARE = 0.25
# Characters of a token, roughly; only the relation between texts matters, for the speed is measured in the same unit.
CHARACTERS_PER_TOKEN = 4
SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's answer.

    :ivar predictions: for each text its labels, best first; as many as were asked for.
    """

    version: str
    precision: str
    predictions: list[Sequence[Any]]


@dataclass(slots=True, eq=False)
class Part:
    """Rows of a request that one run answered. ``order``: of the runs, by their start."""

    start: int
    predictions: Sequence[Any]
    version: str
    precision: str
    order: int


@dataclass(slots=True, eq=False)
class Waiting:
    """A request from its arrival to its answer.

    :ivar costs: estimated tokens of each text.
    :ivar gone: whether nobody waits for the answer any more.
    :ivar deadline: of the loop's clock; until then its first rows have to be taken.
    :ivar turn_cost: what it gives to a run at most, while others wait.
    :ivar todo: ranges of rows that are not taken yet; ``parts``: what is answered; ``flying``: slices under way.
    :ivar whole: give all rows to one run, whatever they cost.
    """

    texts: Sequence[Any]
    costs: list[int]
    top_k: int | None
    future: asyncio.Future[Answer]
    gone: Callable[[], bool]
    deadline: float
    turn_cost: int
    todo: deque[tuple[int, int]]
    parts: list[Part] = field(default_factory=list)
    flying: int = 0
    started: bool = False
    restarts: int = 0
    whole: bool = False

    @property
    def settled(self) -> bool:
        """Whether it got its turn, or needs none any more."""
        return self.started or self.future.done()

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, unless it is answered."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a request that go into one run."""

    request: Waiting
    start: int
    stop: int

    @property
    def texts(self) -> Sequence[Any]:
        """Its rows."""
        return self.request.texts[self.start : self.stop]


class Turns:
    """The queue.

    :ivar rows: that wait; ``tokens``: what they cost; ``turn_tokens``: what they give at their next turns at most.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = 0
        self.turn_tokens = 0
        self._queue: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, request: Waiting) -> None:
        """Put a request at the end, with all its rows that are to do."""
        self._queue.append(request)
        self.turn_tokens += request.turn_cost
        self._count(request, request.todo, 1)

    def take(self, wanted: int, most: int) -> tuple[list[Slice], int]:
        """The slices of a run, and their cost. None when only such were left whom nobody waits for.

        What a request gives at its turn is not cut further: it would have to wait for the rest once more.

        :param wanted: tokens; no more is added once the run has them.
        :param most: tokens that are not exceeded, unless a single row does.
        """
        turn = max(1, int(most * TURN_SHARE))
        slices: list[Slice] = []
        cost = 0
        while self._queue and (cost < wanted or not slices):
            request = self._queue[0]
            if request.future.done() or request.gone():
                self._drop()
                continue
            # Whoever is alone gives all that is wanted.
            stop, spent = _cut(request, max(turn, wanted - cost) if len(self._queue) == 1 else turn)
            if slices and cost + spent > most and not request.whole:
                break
            slices.append(self._cut_off(stop, spent))
            cost += spent
        return slices, cost

    def clear(self, error: BaseException) -> None:
        """Refuse all that wait."""
        while self._queue:
            self._queue[0].refuse(error)
            self._drop()

    def _cut_off(self, stop: int, cost: int) -> Slice:
        """Take the first request's rows up to there; what is left of it goes to the end."""
        request = self._queue.popleft()
        start, end = request.todo.popleft()
        self.rows -= stop - start
        self.tokens -= cost
        self.turn_tokens -= request.turn_cost
        if stop < end:
            request.todo.appendleft((stop, end))
        if request.todo:
            self._queue.append(request)
            self.turn_tokens += request.turn_cost
        request.started = True
        request.flying += 1
        return Slice(request, start, stop)

    def _drop(self) -> None:
        request = self._queue.popleft()
        self.turn_tokens -= request.turn_cost
        self._count(request, request.todo, -1)
        request.todo.clear()
        request.future.cancel()

    def _count(self, request: Waiting, ranges: Iterable[tuple[int, int]], sign: int) -> None:
        for start, stop in ranges:
            self.rows += sign * (stop - start)
            self.tokens += sign * sum(request.costs[start:stop])


def _cut(request: Waiting, allowed: int) -> tuple[int, int]:
    """Up to where a request's next rows fit, and what they cost: one row at least."""
    start, end = request.todo[0]
    if request.whole:
        return end, sum(request.costs[start:end])
    stop, cost = start + 1, request.costs[start]
    while stop < end and cost + request.costs[stop] <= allowed:
        cost += request.costs[stop]
        stop += 1
    return stop, cost


def cost_of(text: Any, limit: int) -> int:
    """Estimated tokens of a text or pair.

    :param limit: tokens after which the tokenizer cuts it.
    """
    characters = len(text) if isinstance(text, str) else sum(len(part) for part in text)
    return min(limit, SPECIAL_TOKENS + characters // CHARACTERS_PER_TOKEN)
