"""The process: opens its port at once, loads its models, and stops without losing a request.

Stopping, on SIGTERM or SIGINT:

1. Readiness is false at once, and each answer carries ``Connection: close``, so clients and balancers go elsewhere.
   All requests are answered as before, for ``drain_seconds``.
2. No new connection begins; those that had begun are accepted, then the socket is closed.
3. Connections that are left are closed once they are quiet; what was asked is answered first.

A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
from types import FrameType
from typing import Any, cast

import uvicorn

from retrainer.errors import RetrainerError
from retrainer.serve.classifier import Classifier
from retrainer.server.application import Application
from retrainer.server.batcher import Run
from retrainer.server.connections import Connection, with_limits
from retrainer.server.listener import BACKLOG, refuse_new
from retrainer.server.log_lines import event
from retrainer.server.metrics import NO_MODEL, NO_ROUTE, Metrics
from retrainer.server.models import Models, ServedModel, is_definite
from retrainer.server.settings import ModelAddress, Settings
from retrainer.server.tokens import Tokens

log = logging.getLogger(__name__)

CLOSE = ("connection", "close")
# Handshakes that had begun may finish in this time; a round trip around the world takes about 0.3 s.
HANDSHAKE_SECONDS = 0.4
# A connection is closed when nothing was heard on it for so long.
QUIET_SECONDS = 0.5
# Beyond the drain: what clients that never stop asking can hold up the end. What is being computed is waited for.
LAST_SECONDS = 30
# For a model's watcher to notice; a store that does not answer must not hold up the end.
CLOSE_SECONDS = 5
_TICKS_A_SECOND = 10


class Server(uvicorn.Server):
    """uvicorn's server with models, sweeps over the connections, and another way to stop.

    :param listener: an open socket.
    :param tokens: read before the port was opened, so that a wrong file ends the start.
    """

    def __init__(self, settings: Settings, listener: socket.socket, tokens: Tokens) -> None:
        self.settings = settings
        self.failure: RetrainerError | None = None
        self._listener = listener
        self._tokens = tokens
        load = functools.partial(_load, settings)
        self.models = Models(
            [
                ServedModel(address, load, settings.bounds, watch_interval=settings.watch_interval)
                for address in settings.models
            ]
        )
        self._metrics = Metrics(self.models)
        application = Application(self.models, self._metrics, tokens, settings.limits)
        super().__init__(
            uvicorn.Config(
                cast(Any, application),
                loop="uvloop",
                http=with_limits(settings.limits, refused=self._refused),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=cast(int, settings.limits.keep_alive_seconds),
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._signals = 0

    def listen_to_signals(self) -> None:
        """Stop in an orderly way also on a signal that comes before the server is up."""
        for known in (signal.SIGTERM, signal.SIGINT):
            signal.signal(known, self.handle_exit)

    def serve_until_stopped(self) -> None:
        """Serve until a signal.

        :raises RetrainerError: with ``strict``, a model cannot be loaded.
        """
        self.run(sockets=[self._listener])
        if self.failure is not None:
            raise self.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and begin to load."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for model in self.models:
            model.start(ended=functools.partial(self._ran, model.name), failed=self._not_loaded)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: what has to be looked at from time to time."""
        if counter % _TICKS_A_SECOND == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast(Connection, connection).sweep(now)
            self._tokens.refresh()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is left, and free the models."""
        await super().shutdown(sockets)
        closing = [asyncio.create_task(model.close()) for model in self.models]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_SECONDS)
        event(log, "stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop: the first drains, the second ends."""
        self._signals += 1
        if self._signals > 1:
            event(log, "ended_at_once", signal=signal.Signals(sig).name)
            logging.shutdown()
            os._exit(128 + sig)
        if self._loop is None:
            self.should_exit = True  # nothing was accepted yet
            return
        self._loop.call_soon_threadsafe(self._begin_to_stop, signal.Signals(sig).name)

    def _begin_to_stop(self, reason: str) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(reason))

    async def _stop(self, reason: str) -> None:
        event(log, "draining", signal=reason, seconds=self.settings.drain_seconds)
        self.models.stopping = True
        # In the list that answers under way refer to, and in what the next tick makes the list from.
        close = (CLOSE[0].encode(), CLOSE[1].encode())
        self.server_state.default_headers.append(close)
        self.config.encoded_headers.append(close)
        await asyncio.sleep(self.settings.drain_seconds)
        if refuse_new(self._listener):
            await asyncio.sleep(HANDSHAKE_SECONDS)
        for server in self.servers:
            server.close()
        event(log, "closed", connections=len(self.server_state.connections))
        await self._until_quiet()
        self.should_exit = True

    async def _until_quiet(self) -> None:
        """Wait until each connection is closed, is about to be, or has been quiet for a while.

        What is computed is waited for as long as it takes: whoever lost patience sends a second signal.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_SECONDS
        while loop.time() < deadline or self.server_state.tasks:
            open_ones = [cast(Connection, connection) for connection in self.server_state.connections]
            if all(connection.quiet(QUIET_SECONDS) for connection in open_ones):
                return
            await asyncio.sleep(0.05)

    def _refused(self, status: int) -> None:
        self._metrics.answered(NO_MODEL, NO_ROUTE, status)

    def _ran(self, name: str, run: Run) -> None:
        self._metrics.ran(name, run)

    def _not_loaded(self, error: RetrainerError) -> None:
        if self.settings.strict and is_definite(error) and self.failure is None:
            self.failure = error
            self.should_exit = True


def _load(settings: Settings, address: ModelAddress) -> Classifier:
    return Classifier.from_store(
        settings.store,
        address.model,
        channel=address.channel,
        precision=settings.precision,
        cache_dir=settings.cache_dir,
        threads=settings.threads,
        public_keys=settings.public_keys or None,
    )
