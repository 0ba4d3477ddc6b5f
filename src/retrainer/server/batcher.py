"""Concurrent requests of one model, merged into runs of its graph, each request answered from its own texts only.

Runs go side by side in lanes, each a task that takes one run after the other from the queue (``turns.py``) and has it
computed in a thread. An idle model is asked at once. While some lanes work, an idle one waits a moment for as much as
they have. What arrives while all of them work goes together with the next run, up to a cost. A request is answered by
the version that answered at its first turn, also when another takes over before its last.

What waits longer than the bound is refused then, and no earlier: how long something will wait is never known for
certain. So a request that gives all its texts at its first turn takes at most the bound for waiting and one run, and
runs are cut so that they take at most ``RUN_SHARE`` of that bound.

All methods belong to one event loop's thread. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from retrainer.errors import Busy, RetrainerError
from retrainer.serve.predictions import Response, TopK, cut
from retrainer.server.turns import Run, Slice, Turns, Version, Waiting, cost_of

# A run aims at this share of the longest wait, so that what waits for the next one gets its turn in time.
RUN_SHARE = 0.5
# Below that a run is not cut further, however slow the model is: a single text of the longest kind has to fit. It is
# also what a run has while nobody knows yet how fast the model is.
SMALLEST_RUN = 64
# While other lanes work, an idle one waits for as much as one of them has: for this share of what a run takes, at most
# so many seconds. Clients that were just answered often ask again, and two runs of half the texts cost more than one.
GATHER_SHARE = 0.2
GATHER_SECONDS = 0.01
# What the runs before count for the speed, each time one more ended.
SPEED_MEMORY = 0.9


class Model(Protocol):
    """What answers: ``retrainer.serve.Classifier``."""

    def pinned(self) -> Version:
        """The version that answers now. It goes on answering when another has taken over."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long requests wait, and how much goes together.

    :ivar max_wait: seconds that a request may wait for its first run.
    :ivar run_tokens: cost of one run (``cost_of``), at most.
    :ivar queue_rows: texts that may wait, at most.
    :ivar max_tokens: beyond which the tokenizer cuts a text.
    :ivar lanes: runs at the same time.
    """

    max_wait: float = 0.5
    run_tokens: int = 2048
    queue_rows: int = 8192
    max_tokens: int = 512
    lanes: int = 1

    def busy(self, reason: str) -> Busy:
        """The error for a request that gets no run. After ``max_wait`` all that waits now was begun or refused."""
        busy = Busy(f"the model is busy: {reason}", hint="try again after the time in Retry-After")
        busy.retry_after = math.ceil(self.max_wait)
        return busy


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that ended, for whoever counts."""

    rows: int
    requests: int
    seconds: float


class Batcher:
    """The queue of one model. Made and used within a running event loop.

    :param model: asked from several threads when there are several lanes.
    :param ended: told of each run, in the loop's thread.
    :param clock: what runs are timed with; a loop's own clock is coarse.
    """

    def __init__(
        self,
        model: Model,
        bounds: Bounds,
        *,
        ended: Callable[[Ended], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._model = model
        self._bounds = bounds
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(bounds.lanes, thread_name_prefix="retrainer-run")
        self._turns = Turns()
        self._arrived = asyncio.Event()
        self._closing = False
        self._working = 0  # lanes
        self._working_cost = 0
        self._full_cost = 0.0
        self._full_seconds = 0.0
        self._last_seconds = 0.0  # of a run
        self._lanes = [self._loop.create_task(self._lane()) for _ in range(bounds.lanes)]

    @property
    def queued_rows(self) -> int:
        """Texts that wait now."""
        return self._turns.rows

    def ask(self, texts: Sequence[Any], *, top_k: TopK = None) -> asyncio.Future[Response]:
        """The answer to these texts, by one version. Cancelled while it waits, it costs nothing more.

        It fails with ``DataError`` where a text is not what the model reads. Other requests of the same run are not
        concerned.

        :raises Busy: the queue is full, or closed. Where it would wait too long, the future fails with it.
        """
        if not texts:
            return self._loop.run_in_executor(self._threads, self._model.pinned().respond, [], top_k)
        if self._closing:
            raise Busy("the server is stopping")
        if self._turns.rows and self._turns.rows + len(texts) > self._bounds.queue_rows:
            raise self._bounds.busy(f"{self._turns.rows} texts wait already")
        costs = [cost_of(text, self._bounds.max_tokens) for text in texts]
        request = Waiting(texts, costs, top_k, self._loop.create_future())
        self._turns.push(request, self._largest_run())
        self._arrived.set()
        overdue = self._loop.call_later(self._bounds.max_wait, self._expire, request)

        def settled(_: asyncio.Future[Response]) -> None:
            overdue.cancel()
            if request.taken < len(texts):
                self._turns.drop(request)

        request.future.add_done_callback(settled)
        return request.future

    async def close(self) -> None:
        """Wait for the runs that were started, and end the threads. What still waits is refused."""
        self._closing = True
        self._turns.clear(Busy("the server is stopping"))
        self._arrived.set()
        await asyncio.gather(*self._lanes)
        self._threads.shutdown(wait=False)

    def _expire(self, request: Waiting) -> None:
        if not request.taken:
            request.refuse(
                self._bounds.busy(f"it waited {self._bounds.max_wait * 1000:.0f} ms, and more is not allowed")
            )

    async def _lane(self) -> None:
        """One run after the other, until the batcher is closed and all that was begun is answered."""
        while True:
            await self._gather()
            if self._closing:
                return
            run = self._next_run()
            if run is None:
                continue
            self._working += 1
            self._working_cost += run.cost
            began = self._clock()
            answering = self._loop.run_in_executor(self._threads, _answer, run)
            await asyncio.wait([answering])
            self._working -= 1
            self._working_cost -= run.cost
            failure = answering.exception()
            if failure is None:
                self._deliver(run, answering.result(), self._clock() - began)
            else:
                for piece in run.slices:
                    piece.request.refuse(failure)

    async def _gather(self) -> None:
        """Wait until a run is worth while: while other lanes work, for as much as one of them has, or a moment.

        Something waits then, or the batcher is closing.
        """
        while not self._turns and not self._closing:
            await self._arrival()
        moment = min(GATHER_SECONDS, GATHER_SHARE * self._last_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(moment):
                while self._turns.cost * self._working < self._working_cost and not self._closing:
                    await self._arrival()

    async def _arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _next_run(self) -> Run | None:
        largest = self._largest_run()
        # Lanes share what there is, with what is being computed: one that took most would leave only scraps for the
        # others, and small runs cost more for each token.
        share = -(-(self._turns.cost + self._working_cost) // self._bounds.lanes)
        return self._turns.take(max(SMALLEST_RUN, min(largest, share)), largest, self._model.pinned())

    def _largest_run(self) -> int:
        """The cost that a run may have now, so that it ends in time."""
        in_time = 0.0
        if self._full_seconds:
            in_time = self._bounds.max_wait * RUN_SHARE * self._full_cost / self._full_seconds
        return min(self._bounds.run_tokens, max(SMALLEST_RUN, int(in_time)))

    def _deliver(self, run: Run, answers: list[Response | RetrainerError], seconds: float) -> None:
        """Hand each request its part of a run that ended."""
        self._last_seconds = seconds
        if 2 * run.cost >= self._largest_run():
            # Small runs cost more for each token, and say nothing of how fast a queue is worked off.
            self._full_cost = SPEED_MEMORY * self._full_cost + run.cost
            self._full_seconds = SPEED_MEMORY * self._full_seconds + seconds
        for piece, answer in zip(run.slices, answers, strict=True):
            _hand_over(piece, answer)
        if self._ended is not None:
            rows = sum(piece.stop - piece.start for piece in run.slices)
            self._ended(Ended(rows, len({id(piece.request) for piece in run.slices}), seconds))


def _answer(run: Run) -> list[Response | RetrainerError]:
    """Ask the model, in a thread. For each slice its answer, or the error that it has by itself."""
    wanted = {piece.request.top_k for piece in run.slices}
    numbers = [k for k in wanted if isinstance(k, int)]
    # Of all labels each request can be given its own.
    top_k = wanted.pop() if len(wanted) == 1 else max(numbers) if len(numbers) == len(wanted) else None
    try:
        together = run.version.respond([text for piece in run.slices for text in piece.texts], top_k)
    except RetrainerError as error:
        return [error] if len(run.slices) == 1 else [_alone(piece, run.version) for piece in run.slices]
    answers: list[Response | RetrainerError] = []
    first = 0
    for piece in run.slices:
        after = first + piece.stop - piece.start
        answers.append(Response(together.version, together.precision, together.predictions[first:after]))
        first = after
    return answers


def _alone(piece: Slice, version: Version) -> Response | RetrainerError:
    try:
        return version.respond(piece.texts, piece.request.top_k)
    except RetrainerError as error:
        return error


def _hand_over(piece: Slice, answer: Response | RetrainerError) -> None:
    request = piece.request
    if isinstance(answer, RetrainerError):
        request.refuse(answer)
        return
    request.answers[piece.start : piece.stop] = [cut(labels, request.top_k) for labels in answer.predictions]
    request.open -= piece.stop - piece.start
    if not request.open and not request.future.done():
        request.future.set_result(Response(answer.version, answer.precision, tuple(request.answers)))
