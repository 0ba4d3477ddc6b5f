"""The models of a server: each loaded in the background, tried again if that fails, asked through its queue.

What a loaded model does when its channel moves is the client's (``watch`` of ``retrainer.serve``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from retrainer.errors import NotFoundError, RetrainerError, StorageError, StoragePermissionError
from retrainer.serve.classifier import Classifier
from retrainer.serve.generator import Generator
from retrainer.server.batcher import Batcher, Bounds, Ended
from retrainer.server.lanes import Lanes
from retrainer.server.log_lines import event
from retrainer.server.problems import Problem
from retrainer.server.settings import ModelAddress

log = logging.getLogger(__name__)

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0

Client = Classifier | Generator
Load = Callable[[ModelAddress], Client]
Q = TypeVar("Q", Batcher, Lanes)


class State(StrEnum):
    """Of a model, as readiness tells it."""

    LOADING = "loading"
    RETRYING = "retrying"
    READY = "ready"


class ServedModel:
    """One model. Its golden rows passed when it is ready: it does not load otherwise.

    :ivar client: ``None`` until the model is ready.
    :ivar queue: what answers, as the client does: with labels or with text; ``None`` until the model is ready.
    :ivar error: why the last try to load it failed; ``None`` while none did, and when it is ready.
    """

    def __init__(self, address: ModelAddress, load: Load, bounds: Bounds, *, watch_interval: float) -> None:
        self.address = address
        self.client: Client | None = None
        self.queue: Batcher | Lanes | None = None
        self.error: RetrainerError | None = None
        self._load = load
        self._bounds = bounds
        self._watch_interval = watch_interval
        # Its own: the end of the process does not wait for it, nor for a store that does not answer.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"retrainer-load-{self.name}")
        self._loading: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Under which it is served."""
        return self.address.name

    @property
    def state(self) -> State:
        """Whether it answers, and if not, why."""
        if self.queue is not None:
            return State.READY
        return State.RETRYING if self.error is not None else State.LOADING

    def ready_with(self, kind: type[Q]) -> tuple[Client, Q]:
        """The client of a model that is ready, and its queue, which is of that kind."""
        if self.client is None or not isinstance(self.queue, kind):
            raise TypeError(f"{self.name} is not answered by {kind.__name__}")
        return self.client, self.queue

    def start(
        self,
        *,
        ended: Callable[[Ended], None] | None = None,
        failed: Callable[[RetrainerError], None] | None = None,
        ready: Callable[[str, str], None] | None = None,
    ) -> None:
        """Begin to load, and to try again while that fails. Returns at once.

        :param ended: told of each run.
        :param failed: told of each try that failed.
        :param ready: told the name and the task once it is loaded.
        """
        self._loading = asyncio.get_running_loop().create_task(self._until_loaded(ended, failed, ready))

    async def close(self) -> None:
        """Answer what is being worked on, then stop following the channel."""
        if self._loading is not None:
            self._loading.cancel()
        if self.queue is not None:
            await self.queue.close()
        if self.client is not None:
            await asyncio.to_thread(self.client.close)

    async def _until_loaded(
        self,
        ended: Callable[[Ended], None] | None,
        failed: Callable[[RetrainerError], None] | None,
        ready: Callable[[str, str], None] | None,
    ) -> None:
        for failures in itertools.count():
            loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load, self.address)
            await asyncio.wait([loading])
            error = loading.exception()
            if error is None:
                client = loading.result()
                self._ready(client, ended)
                if ready is not None:
                    ready(self.name, client.task)
                return
            if not isinstance(error, RetrainerError):
                log.error("loading %s failed unexpectedly", self.name, exc_info=error)
                error = RetrainerError("loading it failed unexpectedly", hint="the server's log says why")
            self.error = error
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 32)) * random.uniform(0.5, 1.0)
            values = {"model": self.name, "problem": str(error), "next_try_in_seconds": wait}
            event(log, "model_not_loaded", level=logging.WARNING, **values)
            if failed is not None:
                failed(error)
            await asyncio.sleep(wait)

    def _ready(self, client: Client, ended: Callable[[Ended], None] | None) -> None:
        manifest = client.manifest
        bounds = self._bounds if manifest is None else replace(self._bounds, max_tokens=manifest.max_length)
        self.client, self.error = client, None
        if isinstance(client, Generator):
            self.queue = Lanes(client, bounds, ended=ended)
        else:
            self.queue = Batcher(client, bounds, ended=ended)
        client.watch(self._watch_interval)
        event(log, "model_ready", model=self.name, version=client.version, precision=client.precision)


class Models:
    """All models of a server.

    :ivar stopping: set when the server was told to stop; nothing is ready from then on.
    """

    def __init__(self, models: list[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self.stopping = False

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel | None:
        """The model of that name."""
        return self._models.get(name)

    def known(self, name: str) -> ServedModel:
        """The model of that name.

        :raises Problem: there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise Problem("not-found", f"no model {name[:100]!r} here", hint="GET /v1/models lists them")
        return model

    @property
    def ready(self) -> bool:
        """Whether all models answer, and the server is to go on."""
        return not self.stopping and all(model.state is State.READY for model in self)


def is_definite(error: RetrainerError) -> bool:
    """Whether waiting alone will not help: all but a store that cannot be reached."""
    return isinstance(error, NotFoundError | StoragePermissionError) or not isinstance(error, StorageError)
