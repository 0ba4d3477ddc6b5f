"""The same classifier for asyncio: a call computes in a thread, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from retrainer.errors import UserError
from retrainer.serve import forks
from retrainer.serve.cached_version import AUTO, Verify
from retrainer.serve.classifier import Classifier
from retrainer.serve.cores import usable_cores
from retrainer.serve.following import DEFAULT_INTERVAL, START_SECONDS
from retrainer.serve.predictions import GIVEN, Given, Prediction, Response, TopK, is_count
from retrainer.serve.status import Status
from retrainer.serve.texts import Text
from retrainer.storage import S3Access

T = TypeVar("T")


class AsyncClassifier:
    """A classifier whose calls are awaited. One for a process; any task of any loop may call it.

    A call that is cancelled while it waits for its turn computes nothing; one that is computing comes to its end in
    its thread, and its answer is dropped.

    :param classifier: may go on being used from threads.
    :param workers: calls that compute at the same time; the usable cores when ``None``. Others wait for their turn.
    """

    def __init__(self, classifier: Classifier, *, workers: int | None = None) -> None:
        if workers is not None and not is_count(workers):
            raise UserError(f"workers must be a whole number from 1, or None for the usable cores; got {workers!r}")
        self._classifier = classifier
        self._workers = workers or usable_cores()
        self._pool = self._new_pool()
        forks.tell_in_children(self)

    @classmethod
    async def from_store(
        cls,
        url: str | Path,
        model: str,
        *,
        channel: str = "production",
        version: str | None = None,
        precision: str = AUTO,
        cache_dir: str | Path | None = None,
        threads: int | None = None,
        public_keys: str | Path | Iterable[str | Path] | None = None,
        access: S3Access | None = None,
        verify: Verify = "all",
        store_timeout: float = START_SECONDS,
        load_timeout: float | None = None,
        workers: int | None = None,
    ) -> Self:
        """Load as ``Classifier.from_store`` does, which says what the parameters mean and what is raised.

        :param workers: calls that compute at the same time; the usable cores when ``None``.
        """
        load = partial(
            Classifier.from_store,
            url,
            model,
            channel=channel,
            version=version,
            precision=precision,
            cache_dir=cache_dir,
            threads=threads,
            public_keys=public_keys,
            access=access,
            verify=verify,
            store_timeout=store_timeout,
            load_timeout=load_timeout,
        )
        return cls(await asyncio.to_thread(load), workers=workers)

    @property
    def classifier(self) -> Classifier:
        """The one that answers."""
        return self._classifier

    @property
    def version(self) -> str:
        """The version that answers."""
        return self._classifier.version

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self._classifier.labels

    @property
    def task(self) -> str:
        """What the model does, such as ``text-classification``."""
        return self._classifier.task

    @property
    def status(self) -> Status:
        """What is served, and why nothing newer is."""
        return self._classifier.status

    @overload
    async def __call__(self, texts: Text, *, top_k: TopK = GIVEN) -> list[Prediction]: ...

    @overload
    async def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Literal[1]) -> list[Prediction]: ...

    @overload
    async def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Given = GIVEN) -> list[Any]: ...

    @overload
    async def __call__(
        self, texts: list[str] | list[tuple[str, str]], *, top_k: int | None
    ) -> list[list[Prediction]] | list[Prediction]: ...

    async def __call__(self, texts: Any, *, top_k: TopK = GIVEN) -> list[Prediction] | list[list[Prediction]]:
        """The labels of one text, or of each of many. See ``Classifier.__call__``."""
        return await self._run(partial(self._classifier, texts, top_k=top_k))

    async def respond(self, texts: Iterable[Any], *, top_k: TopK = None) -> Response:
        """The best labels of each of many texts, with the version that gave them. See ``Classifier.respond``."""
        return await self._run(partial(self._classifier.respond, texts, top_k=top_k))

    async def refresh(self) -> bool:
        """Look at the store once, now. See ``Classifier.refresh``."""
        # Not in the pool: a download must not take a place from the calls.
        return await asyncio.to_thread(self._classifier.refresh)

    def watch(self, interval: float = DEFAULT_INTERVAL) -> None:
        """Follow the channel from now on, in a daemon thread. See ``Classifier.watch``."""
        self._classifier.watch(interval)

    async def close(self) -> None:
        """Stop watching, wait for the calls that are under way, and let go of the model."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _close(self) -> None:
        self._pool.shutdown(wait=True)
        self._classifier.close()

    def after_fork(self) -> None:
        """Called in a forked child, where the threads of the parent are not."""
        self._pool = self._new_pool()

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="retrainer-answer")

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            future = self._pool.submit(work)
        except RuntimeError:
            raise UserError("this classifier was closed") from None
        return await asyncio.wrap_future(future)
