"""The models of a server: each loaded in the background, tried again if that fails, asked through its batcher.

What a loaded model does when its channel moves is the client's (``retrainer.serve.Classifier.watch``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum

from retrainer.errors import NotFoundError, RetrainerError, StorageError, StoragePermissionError
from retrainer.serve.classifier import Classifier
from retrainer.server.batcher import Batcher, Bounds, Ended
from retrainer.server.log_lines import event
from retrainer.server.settings import ModelAddress

log = logging.getLogger(__name__)

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0

Load = Callable[[ModelAddress], Classifier]


class State(StrEnum):
    """Of a model, as readiness tells it."""

    LOADING = "loading"
    RETRYING = "retrying"
    READY = "ready"


class ServedModel:
    """One model. Its golden rows passed when it is ready: it does not load otherwise.

    :ivar batcher: what answers; ``None`` until the model is ready.
    :ivar error: why the last try to load it failed; ``None`` while none did, and when it is ready.
    """

    def __init__(self, address: ModelAddress, load: Load, bounds: Bounds, *, watch_interval: float) -> None:
        self.address = address
        self.classifier: Classifier | None = None
        self.batcher: Batcher | None = None
        self.error: RetrainerError | None = None
        self._load = load
        self._bounds = bounds
        self._watch_interval = watch_interval
        self._failures = 0
        self._closed = False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Under which it is served."""
        return self.address.name

    @property
    def state(self) -> State:
        """Whether it answers, and if not, why."""
        if self.batcher is not None:
            return State.READY
        return State.RETRYING if self.error is not None else State.LOADING

    def start(
        self, *, ended: Callable[[Ended], None] | None = None, failed: Callable[[RetrainerError], None] | None = None
    ) -> None:
        """Begin to load, in a thread. Returns at once.

        :param ended: told of each run.
        :param failed: told of each try that failed.
        """
        self._ended, self._failed = ended, failed
        self._loop = asyncio.get_running_loop()
        # A daemon: a store that does not answer must not hold up the end of the process.
        threading.Thread(target=self._attempt, name=f"retrainer-load-{self.name}", daemon=True).start()

    async def close(self) -> None:
        """Answer what is being worked on, then stop following the channel."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self.batcher is not None:
            await self.batcher.close()
        if self.classifier is not None:
            await asyncio.to_thread(self.classifier.close)

    def _attempt(self) -> None:
        classifier: Classifier | None = None
        error: RetrainerError | None = RetrainerError(
            "loading it failed unexpectedly", hint="the server's log says why"
        )
        try:
            classifier = self._load(self.address)
            error = None
        except RetrainerError as expected:
            error = expected
        finally:
            # Also after an error that nobody expected, which goes on to the interpreter's hook and into the log.
            self._hand_over(classifier, error)

    def _hand_over(self, classifier: Classifier | None, error: RetrainerError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, classifier, error)
        except RuntimeError:  # the loop is closed: the server ended meanwhile
            log.debug("%s was loaded too late", self.name)

    def _settle(self, classifier: Classifier | None, error: RetrainerError | None) -> None:
        if classifier is None:
            self._wait_for_next(error)
            return
        if self._closed:
            classifier.close()
            return
        manifest = classifier.manifest
        bounds = self._bounds if manifest is None else replace(self._bounds, max_tokens=manifest.max_length)
        self.classifier, self.error = classifier, None
        self.batcher = Batcher(classifier, bounds, ended=self._ended)
        classifier.watch(self._watch_interval)
        event(log, "model_ready", model=self.name, version=classifier.version, precision=classifier.precision)

    def _wait_for_next(self, error: RetrainerError | None) -> None:
        self.error = error
        if self._closed or error is None:
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures) * random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 32)
        event(
            log,
            "model_not_loaded",
            level=logging.WARNING,
            model=self.name,
            problem=str(error),
            next_try_in_seconds=wait,
        )
        if self._failed is not None:
            self._failed(error)
        self._retry = self._loop.call_later(wait, self._again)

    def _again(self) -> None:
        if not self._closed:
            self.start(ended=self._ended, failed=self._failed)


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

    @property
    def ready(self) -> bool:
        """Whether all models answer, and the server is to go on."""
        return not self.stopping and all(model.state is State.READY for model in self)


def is_definite(error: RetrainerError) -> bool:
    """Whether waiting alone will not help: all but a store that cannot be reached."""
    return isinstance(error, NotFoundError | StoragePermissionError) or not isinstance(error, StorageError)
