"""Concurrent requests of one model, merged into runs of its graph, each request answered from its own rows only.

A request is dispatched at once while a lane is idle. What arrives while all lanes work waits and goes together with
the next run, up to a budget of tokens. Requests take turns: a large one gives a slice to each run, so small ones pass
it. Slices of one request that were answered by different versions, because the model was swapped in between, are
asked again: a request is answered by one version.

What would wait longer than the bound is refused, at once when that can be foreseen, and at the latest when the bound
has passed. So what is answered is answered in time: a request that fits into one run takes at most the bound for
waiting and one run, and runs are cut so that they take at most ``RUN_SHARE`` of that bound.

All methods belong to one event loop's thread; the model is asked in threads of its own. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from retrainer.errors import ResourceError, RetrainerError

# A run aims at this share of the longest wait, so that what waits for the next one gets its turn in time.
RUN_SHARE = 0.5
# A request gives at most this share of a run's budget at a turn, while others wait.
TURN_SHARE = 0.25
# Below that a run is not cut further, however slow the model is: a single row of the longest kind has to fit.
SMALLEST_RUN = 64
# A run goes through the model in so many groups of rows of like length: little is computed for padding, and
# the first answers are on their way while the others are computed.
MOST_GROUPS = 4
GROUP_ROWS = 4
# Characters of a token, roughly; only the relation between texts matters, for the speed is measured in the same unit.
CHARACTERS_PER_TOKEN = 4
SPECIAL_TOKENS = 2
# What the runs before count for the speed, each time one more ended.
SPEED_MEMORY = 0.9
# After so many swaps within one request, the request is asked as a whole.
RESTARTS = 3


class Response(Protocol):
    """What a model answers: by one version, one list of labels with scores for each text."""

    @property
    def version(self) -> str:
        """The version that answered all of it."""

    @property
    def precision(self) -> str:
        """Of the graph that answered."""

    @property
    def predictions(self) -> Sequence[Any]:
        """For each text its labels, best first."""


class Model(Protocol):
    """What answers: ``retrainer.serve.Classifier``."""

    def respond(self, texts: list[Any], *, top_k: int | None = None) -> Response:
        """Answer all texts by one version."""


class Busy(ResourceError):
    """A request was not taken, because it would have waited too long.

    :param retry_after: seconds after which it is worth another try.
    """

    def __init__(self, message: str, *, retry_after: int = 1, **place: str | None) -> None:
        super().__init__(message, **place)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long requests wait, and how much goes together.

    :ivar max_wait: seconds that a request may wait for its first run.
    :ivar run_tokens: estimated tokens of one run, at most.
    :ivar queue_rows: rows that may wait, at most.
    :ivar max_tokens: beyond which a text is taken to be cut by the tokenizer.
    :ivar lanes: runs at the same time.
    """

    max_wait: float = 0.5
    run_tokens: int = 1024
    queue_rows: int = 8192
    max_tokens: int = 512
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's answer.

    :ivar predictions: for each text its labels, best first; as many as were asked for.
    """

    version: str
    precision: str
    predictions: list[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended, for whoever counts."""

    rows: int
    requests: int
    seconds: float


@dataclass(slots=True)
class _Part:
    """Rows of a request that were answered together. ``order``: of the answers, by time."""

    start: int
    predictions: Sequence[Any]
    version: str
    precision: str
    order: int


@dataclass(slots=True, eq=False)
class _Request:
    texts: Sequence[Any]
    costs: list[int]
    top_k: int | None
    future: asyncio.Future[Answer]
    gone: Callable[[], bool]
    deadline: float
    turn_cost: int
    todo: deque[tuple[int, int]]
    parts: list[_Part]
    flying: int = 0
    started: bool = False
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Slice:
    request: _Request
    start: int
    stop: int
    cost: int


@dataclass(frozen=True, slots=True)
class _Flight:
    """A run under way. ``full``: whether it has about as much as a run may have."""

    groups: list[list[_Slice]]
    cost: int
    full: bool


def never() -> bool:
    """For a client of whom nobody can tell whether it went away."""
    return False


class Batcher:
    """The queue of one model. Made and used within a running event loop.

    :param model: called from several threads when there are several lanes.
    :param ended: told of each run, in the loop's thread.
    """

    def __init__(self, model: Model, bounds: Bounds, *, ended: Callable[[Run], None] | None = None) -> None:
        self._model = model
        self._bounds = bounds
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(bounds.lanes, thread_name_prefix="retrainer-run")
        self._queue: deque[_Request] = deque()
        self._unstarted: deque[_Request] = deque()
        self._queued_rows = 0
        self._queued_cost = 0
        self._flying_cost = 0
        self._idle_lanes = bounds.lanes
        self._delivered = 0
        self._queued_tokens = 0
        self._full_cost = 0.0
        self._full_seconds = 0.0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._queued_rows

    async def respond(
        self, texts: Sequence[Any], *, top_k: int | None = None, gone: Callable[[], bool] = never
    ) -> Answer:
        """The answer to these texts, by one version.

        :param gone: whether nobody waits for the answer any more; what still waits then is dropped.
        :raises Busy: it would have waited too long, or the queue is full.
        :raises DataError: a text is not what the model reads. Other requests of the same run are not concerned.
        """
        if not texts:
            return self._nothing(await asyncio.wrap_future(self._threads.submit(self._model.respond, [], top_k=1)))
        limit = self._bounds.max_tokens
        costs = [_cost(text, limit) for text in texts]
        turn_cost = min(sum(costs), max(costs[0], int(self._bounds.run_tokens * TURN_SHARE)))
        self._admit(len(texts), turn_cost)
        request = _Request(
            texts=texts,
            costs=costs,
            top_k=top_k,
            future=self._loop.create_future(),
            gone=gone,
            deadline=self._loop.time() + self._bounds.max_wait,
            turn_cost=turn_cost,
            todo=deque(((0, len(texts)),)),
            parts=[],
        )
        self._enqueue(request)
        self._unstarted.append(request)
        if not self._idle_lanes:
            self._arm()
        return await request.future

    async def close(self) -> None:
        """Wait for the runs that were started, and end the threads. What still waits is refused."""
        if self._timer is not None:
            self._timer.cancel()
        for request in self._queue:
            if not request.future.done():
                request.future.set_exception(Busy("the server is stopping"))
        self._queue.clear()
        self._unstarted.clear()
        await self._loop.run_in_executor(None, self._threads.shutdown)

    def expected_wait(self) -> float:
        """Seconds that a request which arrived now would wait for its run, by the speed of the last runs."""
        if self._idle_lanes:
            return 0.0
        ahead = self._queued_cost + self._flying_cost / 2  # what flies is half done, on average
        return ahead * self._seconds_per_token / self._bounds.lanes

    @property
    def _seconds_per_token(self) -> float:
        """0 while it is not known. In the end the deadline refuses, so too low does less harm than too high."""
        return self._full_seconds / self._full_cost if self._full_cost else 0.0

    @staticmethod
    def _nothing(response: Response) -> Answer:
        return Answer(response.version, response.precision, [])

    def _admit(self, rows: int, turn_cost: int) -> None:
        if self._queued_rows and self._queued_rows + rows > self._bounds.queue_rows:
            raise self._busy(f"{self._queued_rows} rows wait already")
        wait = self.expected_wait()
        if wait > self._bounds.max_wait:
            raise self._busy(
                f"it would wait {wait * 1000:.0f} ms, and {self._bounds.max_wait * 1000:.0f} ms are allowed"
            )

    def _busy(self, reason: str) -> Busy:
        return Busy(
            f"the model is busy: {reason}",
            retry_after=max(1, math.ceil(self.expected_wait())),
            hint="try again after the time in Retry-After",
        )

    def _enqueue(self, request: _Request) -> None:
        self._queue.append(request)
        self._queued_cost += request.turn_cost
        self._queued_rows += sum(stop - start for start, stop in request.todo)
        self._queued_tokens += sum(sum(request.costs[start:stop]) for start, stop in request.todo)
        if self._idle_lanes and not self._scheduled:
            # Not at once: what arrived with the same look at the network goes together.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _leave(self, request: _Request) -> None:
        """A request is not in the queue any more, or not before its next turn."""
        self._queued_cost -= request.turn_cost

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._idle_lanes and self._queue:
            largest = self._largest_run()
            # Idle lanes share what there is.
            slices, cost = self._take(max(SMALLEST_RUN, min(largest, -(-self._queued_tokens // self._idle_lanes))))
            if not slices:
                continue  # what was there had been dropped
            self._idle_lanes -= 1
            self._start(_Flight(_groups(slices, cost), cost, full=2 * cost >= largest))
        self._arm()

    def _start(self, flight: _Flight) -> None:
        def landed(done: Future[float]) -> None:  # in the thread
            self._loop.call_soon_threadsafe(self._landed, flight, done)

        self._flying_cost += flight.cost
        self._threads.submit(self._run, flight).add_done_callback(landed)

    def _largest_run(self) -> int:
        """Estimated tokens that a run may have now, so that it ends in time."""
        seconds = self._seconds_per_token
        if not seconds:
            return self._bounds.run_tokens
        return min(self._bounds.run_tokens, max(SMALLEST_RUN, int(self._bounds.max_wait * RUN_SHARE / seconds)))

    def _take(self, budget: int) -> tuple[list[_Slice], int]:
        """The slices of the next run, by turns, and their cost."""
        turn = max(1, int(budget * TURN_SHARE))
        slices: list[_Slice] = []
        cost = 0
        while self._queue:
            request = self._queue[0]
            if request.future.done() or request.gone():
                self._drop(request)
                continue
            taken = self._slice(request, budget - cost if slices else budget, turn, first=not slices)
            if taken is None:
                break
            slices.append(taken[0])
            cost += taken[1]
            if cost >= budget:
                break
        return slices, cost

    def _slice(self, request: _Request, budget: int, turn: int, *, first: bool) -> tuple[_Slice, int] | None:
        """A request's next rows, within the budget and its turn. ``None`` when the budget takes no row more.

        The first row of a run, and a request that is asked as a whole, always fit.
        """
        start, end = request.todo[0]
        if request.restarts > RESTARTS:
            stop, cost = end, sum(request.costs[start:end])
        else:
            allowed = budget if len(self._queue) == 1 else min(budget, turn)
            stop, cost = start, 0
            while stop < end and cost + request.costs[stop] <= allowed:
                cost += request.costs[stop]
                stop += 1
            if stop == start:
                if not first and request.costs[start] > budget:
                    return None
                stop, cost = start + 1, request.costs[start]
        self._queue.popleft()
        self._leave(request)
        self._queued_rows -= stop - start
        self._queued_tokens -= cost
        request.todo.popleft()
        if stop < end:
            request.todo.appendleft((stop, end))
        if request.todo:
            self._queue.append(request)
            self._queued_cost += request.turn_cost
        request.started = True
        request.flying += 1
        return _Slice(request, start, stop, cost), cost

    def _drop(self, request: _Request) -> None:
        self._queue.popleft()
        self._leave(request)
        self._queued_rows -= sum(stop - start for start, stop in request.todo)
        self._queued_tokens -= sum(sum(request.costs[start:stop]) for start, stop in request.todo)
        request.todo.clear()
        request.future.cancel()

    def _run(self, flight: _Flight) -> float:
        """Ask the model, in a thread, group by group; each is answered while the next one is computed.

        :return: the seconds that it took.
        """
        began = time.perf_counter()
        for group in flight.groups:
            answers = self._ask(group)
            self._loop.call_soon_threadsafe(self._deliver, group, answers)
        return time.perf_counter() - began

    def _ask(self, slices: list[_Slice]) -> list[Response | RetrainerError]:
        """One response for each slice, or the error that this slice has by itself."""
        texts = [text for piece in slices for text in piece.request.texts[piece.start : piece.stop]]
        wanted = [piece.request.top_k for piece in slices]
        top_k = None if None in wanted else max(k for k in wanted if k is not None)
        try:
            response = self._model.respond(texts, top_k=top_k)
        except RetrainerError as error:
            return [error] if len(slices) == 1 else [self._alone(piece) for piece in slices]
        return [response] * len(slices)

    def _alone(self, piece: _Slice) -> Response | RetrainerError:
        try:
            return self._model.respond(list(piece.request.texts[piece.start : piece.stop]), top_k=piece.request.top_k)
        except RetrainerError as error:
            return error

    def _landed(self, flight: _Flight, done: Future[float]) -> None:
        """A run ended."""
        self._idle_lanes += 1
        self._flying_cost -= flight.cost
        failure = done.exception()
        if failure is None and flight.full:
            # Small runs cost more for each token, and say nothing of how fast a queue is worked off.
            self._full_cost = SPEED_MEMORY * self._full_cost + flight.cost
            self._full_seconds = SPEED_MEMORY * self._full_seconds + done.result()
        self._dispatch()
        slices = [piece for group in flight.groups for piece in group]
        if failure is not None:
            for piece in slices:
                _fail(piece.request, failure)
        elif self._ended is not None:
            rows = sum(piece.stop - piece.start for piece in slices)
            self._ended(Run(rows, len({id(piece.request) for piece in slices}), done.result()))

    def _deliver(self, slices: list[_Slice], answers: list[Response | RetrainerError]) -> None:
        self._delivered += 1
        first, before = 0, None
        for piece, answer in zip(slices, answers, strict=True):
            if answer is not before:
                first, before = 0, answer
            rows = piece.stop - piece.start
            request = piece.request
            request.flying -= 1
            if isinstance(answer, RetrainerError):
                _fail(request, answer)
                continue
            predictions = answer.predictions[first : first + rows]
            first += rows
            if request.top_k is not None:
                predictions = [labels[: request.top_k] for labels in predictions]
            request.parts.append(_Part(piece.start, predictions, answer.version, answer.precision, self._delivered))
            if not request.todo and not request.flying and not request.future.done():
                self._complete(request)

    def _complete(self, request: _Request) -> None:
        """All rows are answered: done when one version did, else those of older ones are asked again."""
        parts = request.parts
        newest = parts[0] if len(parts) == 1 else max(parts, key=lambda part: part.order)
        stale = [part for part in parts if (part.version, part.precision) != (newest.version, newest.precision)]
        if not stale:
            parts.sort(key=lambda part: part.start)
            predictions = [row for part in parts for row in part.predictions]
            request.future.set_result(Answer(newest.version, newest.precision, predictions))
            return
        request.restarts += 1
        if request.restarts > RESTARTS:
            request.parts = []
            request.todo = deque(((0, len(request.texts)),))
        else:
            request.parts = [part for part in parts if part not in stale]
            request.todo = deque((part.start, part.start + len(part.predictions)) for part in stale)
        self._enqueue(request)

    def _arm(self) -> None:
        """Forget the oldest that got their turn, and wake up when the oldest that did not has waited long enough."""
        waiting = self._unstarted
        while waiting and (waiting[0].started or waiting[0].future.done()):
            waiting.popleft()
        if waiting and self._timer is None:
            self._timer = self._loop.call_at(waiting[0].deadline, self._expire)

    def _expire(self) -> None:
        """Refuse what has waited for as long as it may."""
        self._timer = None
        now = self._loop.time()
        waiting = self._unstarted
        while waiting and (waiting[0].deadline <= now or waiting[0].started or waiting[0].future.done()):
            request = waiting.popleft()
            if not request.started and not request.future.done():
                request.future.set_exception(
                    self._busy(f"it waited {self._bounds.max_wait * 1000:.0f} ms, and more is not allowed")
                )
        self._arm()


def _fail(request: _Request, error: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _groups(slices: list[_Slice], cost: int) -> list[list[_Slice]]:
    """The slices of a run, those of like length together, short ones first."""
    count = min(MOST_GROUPS, max(1, sum(piece.stop - piece.start for piece in slices) // GROUP_ROWS))
    if count == 1:
        return [slices]
    ordered = sorted(slices, key=lambda piece: piece.cost / (piece.stop - piece.start))
    groups: list[list[_Slice]] = [[]]
    filled = 0
    for piece in ordered:
        if groups[-1] and filled >= cost * len(groups) / count:
            groups.append([])
        groups[-1].append(piece)
        filled += piece.cost
    return groups


def _cost(text: Any, limit: int) -> int:
    """Estimated tokens of a text or pair."""
    characters = len(text) if isinstance(text, str) else sum(len(part) for part in text)
    return min(limit, SPECIAL_TOKENS + characters // CHARACTERS_PER_TOKEN)
