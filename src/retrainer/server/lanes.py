"""Requests to a model that writes text, side by side in so many lanes, each a thread that answers one of them.

What waits longer for a lane than the bound is refused then. Requests are not merged into batches: an answer takes as
long as it is, and one that joins another's batch would wait for its end. The texts of one request share batches, and
give their lane up to those that wait after each ``TURN_ROWS`` of them. Who goes away stops the model at the next token.

All methods belong to one event loop's thread. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from retrainer.errors import Busy, Stopped
from retrainer.serve.generation import Generated, GenerationSettings
from retrainer.serve.generator import GeneratedResponse, Generator
from retrainer.serve.served import Served
from retrainer.server.batcher import Bounds, Ended

# Of a request with more texts, so many are answered at once.
TURN_ROWS = 32


class Lanes:
    """The lanes of one model. Made and used within a running event loop.

    :param ended: told of each request that was answered, in the loop's thread.
    """

    def __init__(self, model: Generator, bounds: Bounds, *, ended: Callable[[Ended], None] | None = None) -> None:
        self._model = model
        self._bounds = bounds
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(bounds.lanes, thread_name_prefix="retrainer-generate")
        self._free = asyncio.Semaphore(bounds.lanes)
        self._closing = False
        self._stops: set[threading.Event] = set()
        self.queued_rows = 0

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Each of these ends an answer."""
        return _eos_token_ids(self._model.pinned())

    async def generate(self, texts: Sequence[Any], settings: GenerationSettings) -> GeneratedResponse:
        """The answers to these texts, by one version. Cancelled, it costs nothing more: the model stops.

        :raises Busy: no lane becomes free in time, or the server is stopping.
        :raises DataError: a text is not what the model reads.
        :raises UserError: the settings ask for longer answers than the model gives.
        """
        version = await self._turn(len(texts))
        stop = threading.Event()
        answers: list[Generated] = []
        try:
            for first in range(0, max(1, len(texts)), TURN_ROWS):
                if first:
                    await self._next_turn()
                some = texts[first : first + TURN_ROWS]
                work = functools.partial(version.generate, some, settings, stop=stop.is_set, first=first)
                answers += await self._in_lane(len(some), work, stop)
        except Stopped:
            raise _ended() from None
        finally:
            stop.set()
        return GeneratedResponse(version.version, version.predictor.precision, tuple(answers))

    async def stream(self, text: str, settings: GenerationSettings) -> Stream:
        """The answer to one text, once it has begun.

        Errors as of ``generate``, and:

        :raises UserError: beams are asked for.
        """
        version = await self._turn(1)
        stream = Stream(version, self._loop)
        self._in_lane(1, functools.partial(stream.fill, text, settings), stream.stopped)
        await stream.begun()
        return stream

    async def close(self) -> None:
        """Stop what is being answered, and end the threads. What comes later is refused, as what was stopped is.

        A server that ends waits for its requests before.
        """
        self._closing = True
        for stop in self._stops:
            stop.set()
        for _ in range(self._bounds.lanes):
            await self._free.acquire()
        self._threads.shutdown(wait=False)

    async def _turn(self, rows: int) -> Served:
        """Wait for a lane; the version that answers."""
        if self._closing:
            raise _ended()
        if self.queued_rows and self.queued_rows + rows > self._bounds.queue_rows:
            raise self._bounds.busy(f"{self.queued_rows} texts wait already")
        self.queued_rows += rows
        try:
            async with asyncio.timeout(self._bounds.max_wait):
                await self._free.acquire()
        except TimeoutError:
            milliseconds = self._bounds.max_wait * 1000
            raise self._bounds.busy(f"it waited {milliseconds:.0f} ms, and more is not allowed") from None
        finally:
            self.queued_rows -= rows
        return self._model.pinned()

    async def _next_turn(self) -> None:
        """Wait for a lane again: behind those that waited, and as long as it takes."""
        await self._free.acquire()
        if self._closing:
            self._free.release()
            raise _ended()

    def _in_lane(self, rows: int, work: Callable[[], Any], stop: threading.Event) -> asyncio.Future[Any]:
        """Have it computed. The lane is free again when the thread is, whoever went away meanwhile.

        :param stop: ends the work at its next token.
        """
        began = time.perf_counter()
        self._stops.add(stop)
        if self._closing:
            stop.set()
        answering = self._loop.run_in_executor(self._threads, work)

        def over(_: object) -> None:
            self._free.release()
            self._stops.discard(stop)
            if self._ended is not None:
                self._ended(Ended(rows, 1, time.perf_counter() - began))

        answering.add_done_callback(over)
        return asyncio.shield(answering)


class Stream:
    """One answer, piece by piece, then whole. Filled in a thread, read in the loop's.

    :ivar version: that answers, and ``precision``: of its graph.
    :ivar stopped: set when nobody reads it any more: the model stops at the next token.
    """

    def __init__(self, version: Served, loop: asyncio.AbstractEventLoop) -> None:
        self.version = version.version
        self.precision: str = version.predictor.precision
        self.eos_token_ids = _eos_token_ids(version)
        self._served = version
        self._loop = loop
        self._pieces: asyncio.Queue[str | Generated | BaseException] = asyncio.Queue()
        self._first: str | Generated | None = None
        self.stopped = threading.Event()

    def fill(self, text: str, settings: GenerationSettings) -> None:
        """Compute the answer, in a thread, until it ends or nobody reads it any more."""
        try:
            for piece in self._served.stream(text, settings, stop=self.stopped.is_set):
                self._put(piece)
        except Stopped:
            self._put(_ended())
        except BaseException as error:  # noqa: BLE001  raised again where it is read
            self._put(error)

    async def begun(self) -> None:
        """Wait for the first piece.

        :raises RetrainerError: there is none.
        """
        try:
            self._first = await self._next()
        except BaseException:
            self.stopped.set()
            raise

    async def __aiter__(self) -> AsyncIterator[str | Generated]:
        piece = self._first if self._first is not None else await self._next()
        while True:
            yield piece
            if isinstance(piece, Generated):
                return
            piece = await self._next()

    async def _next(self) -> str | Generated:
        piece = await self._pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def _put(self, piece: str | Generated | BaseException) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


def _ended() -> Busy:
    return Busy("the server is stopping")


def _eos_token_ids(version: Served) -> tuple[int, ...]:
    ids: tuple[int, ...] = version.predictor.info.eos_token_ids
    return ids
