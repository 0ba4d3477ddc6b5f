"""The queue of one model: what requests cost, and how they take turns when a run is put together.

A request gives at most a share of a run while others wait, then goes to the end of the queue with the rest of its
texts. One that arrives with less than that passes those that have more, as long as none of them is passed by too much
before its next turn. So large requests hold up small ones by no more than the run that is under way, and small ones do
not starve large ones. Not here: running anything (``batcher.py``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from retrainer.serve.predictions import Response, TopK

# A request gives at most this share of a run at a turn, while others wait.
TURN_SHARE = 0.25
# Small requests pass a large one until their cost is that of so many turns, so that it gets its own.
PASSED_TURNS = 3
# Characters of a token, roughly. Only the relation between texts matters: speed is measured in the same unit.
CHARACTERS_PER_TOKEN = 4
# So many characters take as long to tokenise as one token takes in a small model: with MiniLM-L6 in int8 on one core
# a token takes 70 us, 1,000 characters of words 280 us, and of ideographs 900 us.
CHARACTERS_TOKENISED_PER_TOKEN = 128
SPECIAL_TOKENS = 2


class Version(Protocol):
    """One version of a model: ``retrainer.serve.served.Served``."""

    def respond(self, texts: Sequence[Any], top_k: TopK) -> Response:
        """Answer all texts."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request from its arrival to its answer.

    :ivar costs: of each text (``cost_of``).
    :ivar version: that answers all of it; ``None`` until its first turn.
    :ivar large: whether it had more than a turn when it arrived.
    :ivar passed: cost of the requests that passed it since its last turn.
    :ivar taken: texts that were given to runs. They are given in their order.
    :ivar cost_left: of those that were not.
    :ivar answers: a list of labels for each text, once it is known; ``open``: how many are not.
    """

    texts: Sequence[Any]
    costs: Sequence[int]
    top_k: TopK
    future: asyncio.Future[Response]
    version: Version | None = None
    large: bool = False
    passed: int = 0
    taken: int = 0
    cost_left: int = field(init=False)
    answers: list[Any] = field(init=False)
    open: int = field(init=False)

    def __post_init__(self) -> None:
        """It just arrived."""
        self.cost_left = sum(self.costs)
        self.answers = [None] * len(self.texts)
        self.open = len(self.texts)

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, unless it was answered or nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Slice:
    """Texts of a request that go into one run."""

    request: Waiting
    start: int
    stop: int

    @property
    def texts(self) -> Sequence[Any]:
        """Its texts."""
        return self.request.texts[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Run:
    """What goes through a model together: slices of requests that are all answered by one version.

    :ivar cost: of all texts.
    """

    version: Version
    slices: list[Slice]
    cost: int


class Turns:
    """The queue.

    :ivar rows: texts that wait; ``cost``: of them all.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.cost = 0
        self._queue: deque[Waiting] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def push(self, request: Waiting, largest: int) -> None:
        """Put a request that just arrived at the end, or before large ones that it may pass.

        :param largest: cost of a run at most.
        """
        turn, place = _turn(largest), len(self._queue)
        request.large = request.cost_left > turn and len(request.texts) > 1
        while not request.large and place:
            before = self._queue[place - 1]
            if not before.large or before.passed + request.cost_left > PASSED_TURNS * turn:
                break
            before.passed += request.cost_left
            place -= 1
        self._queue.insert(place, request)
        self.rows += len(request.texts)
        self.cost += request.cost_left

    def drop(self, request: Waiting) -> None:
        """Take out what is left of a request that nobody waits for any more: it must not count as queue for others."""
        if request in self._queue:
            self._queue.remove(request)
            self.rows -= len(request.texts) - request.taken
            self.cost -= request.cost_left

    def take(self, wanted: int, largest: int, newest: Version) -> Run | None:
        """Put a run together; ``None`` when only requests were left that nobody waits for.

        What a request gives at its turn is not cut further: it would have to wait for the rest once more.

        :param wanted: cost; no more is added once the run has it.
        :param largest: cost that is not exceeded, unless a single text does.
        :param newest: the version for requests that have their first turn.
        """
        slices: list[Slice] = []
        cost = 0
        version = newest
        while self._queue and (cost < wanted or not slices):
            request = self._queue[0]
            if request.future.done():
                self.drop(request)
                continue
            own = request.version or newest
            if slices and own is not version:
                break  # a swap came between its turns and those of the others: it is first in the next run
            # Whoever is alone gives all that is wanted.
            allowed = max(_turn(largest), wanted - cost) if len(self._queue) == 1 else _turn(largest)
            stop, spent = _reach(request, allowed)
            if slices and cost + spent > largest:
                break
            version = request.version = own
            slices.append(self._cut_off(request, stop, spent))
            cost += spent
        return Run(version, slices, cost) if slices else None

    def clear(self, error: BaseException) -> None:
        """Refuse all that wait."""
        for request in self._queue:
            request.refuse(error)
        self._queue.clear()
        self.rows = self.cost = 0

    def _cut_off(self, request: Waiting, stop: int, cost: int) -> Slice:
        """Take the first request's texts up to there; with what is left of it, it goes to the end."""
        piece = Slice(request, request.taken, stop)
        self.rows -= stop - request.taken
        self.cost -= cost
        request.taken = stop
        request.cost_left -= cost
        request.passed = 0
        self._queue.popleft()
        if stop < len(request.texts):
            self._queue.append(request)
        return piece


def _turn(largest: int) -> int:
    return max(1, int(largest * TURN_SHARE))


def _reach(request: Waiting, allowed: int) -> tuple[int, int]:
    """Up to where a request's next texts fit, and what they cost: one text at least."""
    stop, cost = request.taken + 1, request.costs[request.taken]
    while stop < len(request.texts) and cost + request.costs[stop] <= allowed:
        cost += request.costs[stop]
        stop += 1
    return stop, cost


def cost_of(text: Any, limit: int) -> int:
    """What a text or pair costs, in tokens that go through the model: its own, and the work of finding them.

    :param limit: tokens after which the tokenizer cuts it. Tokenising it takes longer all the same.
    """
    characters = len(text) if isinstance(text, str) else sum(len(part) for part in text)
    tokens = min(limit, SPECIAL_TOKENS + characters // CHARACTERS_PER_TOKEN)
    return tokens + characters // CHARACTERS_TOKENISED_PER_TOKEN
