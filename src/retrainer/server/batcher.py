"""Concurrent requests of one model, merged into runs of its graph, each request answered from its own rows only.

A request is dispatched at once while all lanes are idle, and after a moment's wait for more while some work. What
arrives while all of them work waits and goes together with the next run, up to a budget of tokens; how they take turns
is in ``turns.py``. Slices of one request that were answered by different versions, because the model was swapped in
between, are asked again: a request is answered by one version.

What would wait longer than the bound is refused, at once when that can be foreseen, and at the latest when the bound
has passed. So what is answered is answered in time: a request that gives all its rows at its first turn takes at most
the bound for waiting and one run, and runs are cut so that they take at most ``RUN_SHARE`` of that bound.

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
from typing import Any, Protocol, TypeAlias

from retrainer.errors import Busy, RetrainerError
from retrainer.server.turns import TURN_SHARE, Answer, Part, Slice, Turns, Waiting, cost_of

# A run aims at this share of the longest wait, so that what waits for the next one gets its turn in time.
RUN_SHARE = 0.5
# Below that a run is not cut further, however slow the model is: a single row of the longest kind has to fit.
SMALLEST_RUN = 64
# While other lanes work, an idle one waits for as much as one of them has: for this share of what a run takes, at most
# so many seconds. Clients that were just answered often ask again, and two runs of half the rows cost more than one.
GATHER_SHARE = 0.2
GATHER_SECONDS = 0.01
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
    run_tokens: int = 2048
    queue_rows: int = 8192
    max_tokens: int = 512
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended, for whoever counts."""

    rows: int
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A run under way. ``order``: by its start. ``full``: whether it has about as much as a run may have."""

    slices: list[Slice]
    cost: int
    order: int
    full: bool


_Result: TypeAlias = tuple[list[Response | RetrainerError], float]


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
        self._turns = Turns()
        # By their arrival; those who got their turn are forgotten from time to time.
        self._unstarted: deque[Waiting] = deque()
        self._flying_cost = 0
        self._idle_lanes = bounds.lanes
        self._runs = 0
        self._full_cost = 0.0
        self._full_seconds = 0.0
        self._last_seconds = 0.0  # of a run
        self._scheduled: asyncio.Handle | None = None
        self._scheduled_for = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._turns.rows

    async def respond(
        self, texts: Sequence[Any], *, top_k: int | None = None, gone: Callable[[], bool] = never
    ) -> Answer:
        """The answer to these texts, by one version.

        :param gone: whether nobody waits for the answer any more; what still waits then is dropped.
        :raises Busy: it would have waited too long, or the queue is full.
        :raises DataError: a text is not what the model reads. Other requests of the same run are not concerned.
        """
        if not texts:
            nothing = await asyncio.wrap_future(self._threads.submit(self._model.respond, [], top_k=1))
            return Answer(nothing.version, nothing.precision, [])
        costs = [cost_of(text, self._bounds.max_tokens) for text in texts]
        self._admit(len(texts))
        request = Waiting(
            texts=texts,
            costs=costs,
            top_k=top_k,
            future=self._loop.create_future(),
            gone=gone,
            deadline=self._loop.time() + self._bounds.max_wait,
            turn_cost=min(sum(costs), max(costs[0], int(self._bounds.run_tokens * TURN_SHARE))),
            todo=deque(((0, len(texts)),)),
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
        self._turns.clear(Busy("the server is stopping"))
        self._unstarted.clear()
        await self._loop.run_in_executor(None, self._threads.shutdown)

    def expected_wait(self) -> float:
        """Seconds that a request which arrived now would wait for its run, by the speed of the last runs."""
        if self._idle_lanes:
            return 0.0
        ahead = self._turns.turn_tokens + self._flying_cost / 2  # what flies is half done, on average
        return ahead * self._seconds_per_token / self._bounds.lanes

    @property
    def _seconds_per_token(self) -> float:
        """0 while it is not known. In the end the deadline refuses, so too low does less harm than too high."""
        return self._full_seconds / self._full_cost if self._full_cost else 0.0

    def _admit(self, rows: int) -> None:
        if self._turns.rows and self._turns.rows + rows > self._bounds.queue_rows:
            raise self._busy(f"{self._turns.rows} rows wait already")
        wait = self.expected_wait()
        if wait > self._bounds.max_wait:
            raise self._busy(
                f"it would wait {wait * 1000:.0f} ms, and {self._bounds.max_wait * 1000:.0f} ms are allowed"
            )

    def _busy(self, reason: str) -> Busy:
        busy = Busy(f"the model is busy: {reason}", hint="try again after the time in Retry-After")
        busy.retry_after = max(1, math.ceil(self.expected_wait()))
        return busy

    def _enqueue(self, request: Waiting) -> None:
        self._turns.push(request)
        if self._idle_lanes:
            # Not at once: what arrived with the same look at the network goes together.
            self._schedule(0.0 if self._worth_a_run else self._gather_seconds)

    @property
    def _worth_a_run(self) -> bool:
        """False while other lanes work and less waits than one of them has: a run has a cost of its own."""
        busy = self._bounds.lanes - self._idle_lanes
        return not busy or self._turns.tokens * busy >= self._flying_cost

    def _schedule(self, seconds: float) -> None:
        """Dispatch after that time, or earlier if that was said before."""
        when = self._loop.time() + seconds
        if self._scheduled is not None:
            if self._scheduled_for <= when:
                return
            self._scheduled.cancel()
        self._scheduled_for = when
        self._scheduled = self._loop.call_later(seconds, self._dispatch)

    @property
    def _gather_seconds(self) -> float:
        return min(GATHER_SECONDS, GATHER_SHARE * self._last_seconds)

    def _next(self) -> None:
        """A lane became idle."""
        if self._worth_a_run:
            self._dispatch()
        elif self._turns:
            self._schedule(self._gather_seconds)

    def _dispatch(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        while self._idle_lanes and self._turns:
            largest = self._largest_run()
            # Lanes share what there is, with what flies: one that took most would leave only scraps for the others, and
            # small runs cost more for each token.
            share = -(-(self._turns.tokens + self._flying_cost) // self._bounds.lanes)
            slices, cost = self._turns.take(max(SMALLEST_RUN, min(largest, share)), largest)
            if slices:
                self._runs += 1
                self._start(_Flight(slices, cost, order=self._runs, full=2 * cost >= largest))
        self._arm()

    def _start(self, flight: _Flight) -> None:
        def landed(done: Future[_Result]) -> None:  # in the thread
            self._loop.call_soon_threadsafe(self._landed, flight, done)

        self._idle_lanes -= 1
        self._flying_cost += flight.cost
        self._threads.submit(self._run, flight).add_done_callback(landed)

    def _largest_run(self) -> int:
        """Estimated tokens that a run may have now, so that it ends in time."""
        seconds = self._seconds_per_token
        if not seconds:
            return self._bounds.run_tokens
        return min(self._bounds.run_tokens, max(SMALLEST_RUN, int(self._bounds.max_wait * RUN_SHARE / seconds)))

    def _run(self, flight: _Flight) -> _Result:
        """Ask the model, in a thread. One response for each slice, and the seconds that it took."""
        began = time.perf_counter()
        answers = self._ask(flight.slices)
        return answers, time.perf_counter() - began

    def _ask(self, slices: list[Slice]) -> list[Response | RetrainerError]:
        """One response for each slice, or the error that this slice has by itself."""
        texts = [text for piece in slices for text in piece.texts]
        wanted = [piece.request.top_k for piece in slices]
        top_k = None if None in wanted else max(k for k in wanted if k is not None)
        try:
            response = self._model.respond(texts, top_k=top_k)
        except RetrainerError as error:
            return [error] if len(slices) == 1 else [self._alone(piece) for piece in slices]
        return [response] * len(slices)

    def _alone(self, piece: Slice) -> Response | RetrainerError:
        try:
            return self._model.respond(list(piece.texts), top_k=piece.request.top_k)
        except RetrainerError as error:
            return error

    def _landed(self, flight: _Flight, done: Future[_Result]) -> None:
        """A run ended: the next one first, then the answers of this one."""
        self._idle_lanes += 1
        self._flying_cost -= flight.cost
        failure = done.exception()
        if failure is not None:
            self._next()
            for piece in flight.slices:
                piece.request.refuse(failure)
            return
        answers, seconds = done.result()
        self._last_seconds = seconds
        if flight.full:
            # Small runs cost more for each token, and say nothing of how fast a queue is worked off.
            self._full_cost = SPEED_MEMORY * self._full_cost + flight.cost
            self._full_seconds = SPEED_MEMORY * self._full_seconds + seconds
        self._next()
        self._deliver(flight, answers)
        if self._ended is not None:
            rows = sum(piece.stop - piece.start for piece in flight.slices)
            self._ended(Run(rows, len({id(piece.request) for piece in flight.slices}), seconds))

    def _deliver(self, flight: _Flight, answers: list[Response | RetrainerError]) -> None:
        first, before = 0, None
        for piece, answer in zip(flight.slices, answers, strict=True):
            if answer is not before:
                first, before = 0, answer
            rows = piece.stop - piece.start
            request = piece.request
            request.flying -= 1
            if isinstance(answer, RetrainerError):
                request.refuse(answer)
                continue
            predictions = answer.predictions[first : first + rows]
            first += rows
            if request.top_k is not None:
                predictions = [labels[: request.top_k] for labels in predictions]
            request.parts.append(Part(piece.start, predictions, answer.version, answer.precision, flight.order))
            if not request.todo and not request.flying and not request.future.done():
                self._complete(request)

    def _complete(self, request: Waiting) -> None:
        """All rows are answered: done when one version did, else those of older ones are asked again."""
        parts = request.parts
        newest = max(parts, key=lambda part: part.order)
        stale = [part for part in parts if (part.version, part.precision) != (newest.version, newest.precision)]
        if not stale:
            parts.sort(key=lambda part: part.start)
            predictions = [row for part in parts for row in part.predictions]
            request.future.set_result(Answer(newest.version, newest.precision, predictions))
            return
        request.restarts += 1
        request.whole = request.restarts > RESTARTS
        again = parts if request.whole else stale
        request.parts = [part for part in parts if part not in again]
        ranges = [(part.start, part.start + len(part.predictions)) for part in again]
        request.todo = deque([(0, len(request.texts))] if request.whole else ranges)
        self._enqueue(request)

    def _arm(self) -> None:
        """Forget the oldest that got their turn, and wake up when the oldest that did not has waited long enough."""
        waiting = self._unstarted
        while waiting and waiting[0].settled:
            waiting.popleft()
        if waiting and self._timer is None:
            self._timer = self._loop.call_at(waiting[0].deadline, self._expire)

    def _expire(self) -> None:
        """Refuse what has waited for as long as it may."""
        self._timer = None
        now = self._loop.time()
        waiting = self._unstarted
        while waiting and (waiting[0].settled or waiting[0].deadline <= now):
            request = waiting.popleft()
            if not request.settled:
                request.refuse(self._busy(f"it waited {self._bounds.max_wait * 1000:.0f} ms, and more is not allowed"))
        self._arm()
