"""Requests to a model that writes text, side by side in so many lanes, each a thread that answers one of them.

What waits longer for a lane than the bound is refused then. Requests are not merged into batches: an answer takes as
long as it is, and one that joins another's batch would wait for its end. The texts of one request share batches.

All methods belong to one event loop's thread. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from retrainer.errors import Busy
from retrainer.serve.generation import Generated, GenerationSettings
from retrainer.serve.generator import GeneratedResponse, Generator
from retrainer.serve.served import Served
from retrainer.server.batcher import Bounds, Ended


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
        self.queued_rows = 0

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Each of these ends an answer."""
        return _eos_token_ids(self._model.pinned())

    async def generate(self, texts: Sequence[Any], settings: GenerationSettings) -> GeneratedResponse:
        """The answers to these texts, by one version. Cancelled while it waits, it costs nothing more.

        :raises Busy: no lane becomes free in time, or the server is stopping.
        :raises DataError: a text is not what the model reads.
        :raises UserError: the settings ask for longer answers than the model gives.
        """
        version = await self._turn(len(texts))
        answers = await self._in_lane(len(texts), lambda: tuple(version.generate(texts, settings)))
        return GeneratedResponse(version.version, version.predictor.precision, answers)

    async def stream(self, text: str, settings: GenerationSettings) -> Stream:
        """The answer to one text, once it has begun.

        Errors as of ``generate``, and:

        :raises UserError: beams are asked for.
        """
        version = await self._turn(1)
        stream = Stream(version, self._loop)
        self._in_lane(1, lambda: stream.fill(text, settings))
        await stream.begun()
        return stream

    async def close(self) -> None:
        """Wait for what is being answered, and end the threads. What comes later is refused."""
        self._closing = True
        for _ in range(self._bounds.lanes):
            await self._free.acquire()
        self._threads.shutdown(wait=False)

    async def _turn(self, rows: int) -> Served:
        """Wait for a lane; the version that answers."""
        if self._closing:
            raise Busy("the server is stopping")
        if self.queued_rows and self.queued_rows + rows > self._bounds.queue_rows:
            raise self._busy(f"{self.queued_rows} texts wait already")
        self.queued_rows += rows
        try:
            async with asyncio.timeout(self._bounds.max_wait):
                await self._free.acquire()
        except TimeoutError:
            milliseconds = self._bounds.max_wait * 1000
            raise self._busy(f"it waited {milliseconds:.0f} ms, and more is not allowed") from None
        finally:
            self.queued_rows -= rows
        return self._model.pinned()

    def _in_lane(self, rows: int, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have it computed. The lane is free again when the thread is, whoever went away meanwhile."""
        began = time.perf_counter()
        answering = self._loop.run_in_executor(self._threads, work)

        def over(_: object) -> None:
            self._free.release()
            if self._ended is not None:
                self._ended(Ended(rows, 1, time.perf_counter() - began))

        answering.add_done_callback(over)
        return asyncio.shield(answering)

    def _busy(self, reason: str) -> Busy:
        busy = Busy(f"the model is busy: {reason}", hint="try again after the time in Retry-After")
        busy.retry_after = math.ceil(self._bounds.max_wait)
        return busy


class Stream:
    """One answer, piece by piece, then whole. Filled in a thread, read in the loop's.

    :ivar version: that answers, and ``precision``: of its graph.
    """

    def __init__(self, version: Served, loop: asyncio.AbstractEventLoop) -> None:
        self.version = version.version
        self.precision: str = version.predictor.precision
        self.eos_token_ids = _eos_token_ids(version)
        self._served = version
        self._loop = loop
        self._pieces: asyncio.Queue[str | Generated | BaseException] = asyncio.Queue()
        self._first: str | Generated | None = None
        self._stopped = threading.Event()

    def fill(self, text: str, settings: GenerationSettings) -> None:
        """Compute the answer, in a thread, until it ends or nobody reads it any more."""
        try:
            for piece in self._served.stream(text, settings):
                self._put(piece)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  raised again where it is read
            self._put(error)

    async def begun(self) -> None:
        """Wait for the first piece.

        :raises RetrainerError: there is none.
        """
        try:
            self._first = await self._next()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Nobody reads it any more: the model stops at the next token."""
        self._stopped.set()

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


def _eos_token_ids(version: Served) -> tuple[int, ...]:
    ids: tuple[int, ...] = version.predictor.info.eos_token_ids
    return ids
