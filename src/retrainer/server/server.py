"""The process: opens its port at once, loads its models, and stops without losing what it was asked.

Stopping, on SIGTERM or SIGINT:

1. Readiness is false at once, and each answer carries ``Connection: close``, so clients and balancers go elsewhere.
   All requests are answered as before, for ``drain_seconds``.
2. The port is closed, and each connection once the request that is under way on it is answered.

A second signal ends the process at once. HTTP is uvicorn's, with its own settings.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import TypeVar

import uvicorn

from retrainer.errors import ResourceError, RetrainerError, WrongTask
from retrainer.serve import heap
from retrainer.serve.classifier import Classifier
from retrainer.serve.generator import Generator
from retrainer.serve.model_client import ModelClient
from retrainer.server.application import Application
from retrainer.server.log_lines import event
from retrainer.server.metrics import Metrics
from retrainer.server.models import Client, Models, ServedModel, is_definite
from retrainer.server.settings import ModelAddress, Settings
from retrainer.server.tokens import Tokens

log = logging.getLogger(__name__)

C = TypeVar("C", bound=ModelClient)

BACKLOG = 2048
# Beyond the drain: how long requests that are under way can hold up the end.
LAST_SECONDS = 30
# For a model's watcher to notice; a store that does not answer must not hold up the end.
CLOSE_SECONDS = 5


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    :param port: 0 for any that is free.
    :raises ResourceError: the port is taken, or not allowed, or the host is not one of this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=socket.AddressFamily(family), backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host's name"
        raise ResourceError(
            f"cannot listen: {reason}", where=f"{host}:{port}", hint="choose another --host or --port (0: any port)"
        ) from None


def url_of(listener: socket.socket) -> str:
    """Where clients on this machine reach it."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Models behind HTTP, from the start of the process to its end.

    :param listener: a socket that listens.
    :param tokens: read before the port was opened, so that a wrong file ends the start.
    :param ready: told the name and the task of each model that is loaded, in the loop's thread.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        tokens: Tokens,
        *,
        ready: Callable[[str, str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._model_ready = ready
        self._listener = listener
        self._failure: RetrainerError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        load = functools.partial(_load, settings)
        served = [
            ServedModel(a, load, settings.bounds, watch_interval=settings.watch_interval) for a in settings.models
        ]
        self._models = Models(served)
        self._metrics = Metrics(self._models)
        super().__init__(
            uvicorn.Config(
                Application(self._models, self._metrics, tokens, settings.limits, self._lifespan),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=settings.keep_alive,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )

    def serve_until_told(self) -> None:
        """Serve until a signal. Takes over the signals and the memory of the process.

        :raises RetrainerError: with ``strict``, a model cannot be loaded.
        """
        heap.keep_flat()
        with self.capture_signals():  # before uvicorn does, which takes a while to get ready
            self.run(sockets=[self._listener])
        if self._failure is not None:
            raise self._failure

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop: the first drains, the second ends."""
        name = signal.Signals(sig).name
        if self._models.stopping:
            event(log, "ended_at_once", signal=name)
            logging.shutdown()
            os._exit(128 + sig)
        self._models.stopping = True
        if self._loop is None:
            self.should_exit = True  # nothing was accepted yet
        else:
            self._loop.call_soon_threadsafe(self._begin_to_drain, name)

    def _begin_to_drain(self, reason: str) -> None:
        event(log, "draining", signal=reason, seconds=self._settings.drain_seconds)
        asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._close)

    def _close(self) -> None:
        event(log, "closing")
        self.should_exit = True

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        """What lasts as long as the HTTP server: the models."""
        self._loop = asyncio.get_running_loop()
        for model in self._models:
            ended = functools.partial(self._metrics.ran, model.name)
            model.start(ended=ended, failed=self._not_loaded, ready=self._model_ready)
        yield
        await asyncio.wait([asyncio.create_task(model.close()) for model in self._models], timeout=CLOSE_SECONDS)
        event(log, "stopped")

    def _not_loaded(self, error: RetrainerError) -> None:
        if self._settings.strict and is_definite(error) and self._failure is None:
            self._failure = error
            self.should_exit = True


def _load(settings: Settings, address: ModelAddress) -> Client:
    """The client of a model, of the kind that it asks for: which that is, its bundle says, before a graph is loaded."""
    try:
        return _loaded(Classifier, settings, address)
    except WrongTask:
        return _loaded(Generator, settings, address)


def _loaded(kind: type[C], settings: Settings, address: ModelAddress) -> C:
    return kind.from_store(
        settings.store,
        address.model,
        channel=address.channel,
        precision=settings.precision,
        cache_dir=settings.cache_dir,
        threads=settings.threads,
        public_keys=settings.public_keys or None,
    )
