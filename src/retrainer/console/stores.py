"""Asking stores so that a sick one costs a page little: at most so long, beside each other, and not twice at once.

What arrives late is kept for the next look. Not here: what is asked (``overview.py`` and the other pages).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from retrainer.errors import IntegrityError, RetrainerError
from retrainer.storage import deadline, open_storage
from retrainer.store.summary import Summary, make_summary, parse_summary, summary_bytes

# A page answers within three seconds, whatever its stores do.
SECONDS = 2.5
# How long an answer is taken for the present state; the summaries that were made here, for as long as they cost.
FRESH_SECONDS = 3.0
MADE_SECONDS = 60.0
# Requests at once to one store. A page asks for one object of each model.
_AT_ONCE = 8
# A task that a store never ended is waited for no longer than that before another one is tried.
_GIVEN_UP_SECONDS = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no answer, in words."""

    text: str


@dataclass(slots=True)
class _Asked(Generic[Result]):
    future: Future[Result]
    begun: float


class Stores:
    """The stores of a deployment, asked by several pages at once.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[Hashable, _Asked[Any]] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = {}
        self._answers: dict[Hashable, tuple[float, Any]] = {}
        self._parsed: dict[tuple[str, str], tuple[str, Summary]] = {}

    def ask(
        self, store: str, key: Hashable, question: Callable[[], Result], *, fresh: float = FRESH_SECONDS
    ) -> Result | Problem:
        """One answer, or why there is none.

        :param key: of the question: who asks it meanwhile waits for the same answer.
        :param fresh: seconds for which an answer is kept.
        """
        return self.ask_all(store, {key: question}, fresh=fresh)[key]

    def ask_all(
        self, store: str, questions: Mapping[Any, Callable[[], Result]], *, fresh: float = FRESH_SECONDS
    ) -> dict[Any, Result | Problem]:
        """The answers to several questions to one store."""
        return self.ask_several([(store, questions)], fresh=fresh)

    def ask_several(
        self, several: Sequence[tuple[str, Mapping[Any, Callable[[], Result]]]], *, fresh: float = FRESH_SECONDS
    ) -> dict[Any, Result | Problem]:
        """The answers to questions to several stores, which are asked at the same time."""
        ends = self._clock() + SECONDS
        answers: dict[Any, Result | Problem] = {}
        waiting: dict[Any, Future[Result]] = {}
        for store, questions in several:
            for key, question in questions.items():
                kept = self._answers.get(key)
                if kept is not None and kept[0] > self._clock():
                    answers[key] = kept[1]
                else:
                    waiting[key] = self._begin(store, key, question, fresh)
        wait(waiting.values(), timeout=max(0.0, ends - self._clock()))
        for key, future in waiting.items():
            answers[key] = _answer(future)
        return answers

    def _begin(self, store: str, key: Hashable, question: Callable[[], Result], fresh: float) -> Future[Result]:
        with self._lock:
            asked = self._asked.get(key)
            if asked is not None and self._clock() - asked.begun < _GIVEN_UP_SECONDS:
                return asked.future
            future: Future[Result] = Future()
            self._asked[key] = _Asked(future, self._clock())
            slots = self._slots.setdefault(store, threading.BoundedSemaphore(_AT_ONCE))
        context = copy_context()
        # Not a pool: its threads would be those that a dead mount holds for ever.
        threading.Thread(
            target=context.run,
            args=(self._work, slots, key, question, future, fresh),
            name="retrainer-console",
            daemon=True,
        ).start()
        return future

    def _work(
        self,
        slots: threading.BoundedSemaphore,
        key: Hashable,
        question: Callable[[], Result],
        future: Future[Result],
        fresh: float,
    ) -> None:
        try:
            with slots, deadline(SECONDS if fresh < MADE_SECONDS else MADE_SECONDS):
                result = question()
            self._answers[key] = (self._clock() + fresh, result)
            future.set_result(result)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        finally:
            with self._lock:
                if self._asked.get(key) is not None and self._asked[key].future is future:
                    del self._asked[key]

    def summary(self, store: str, model: str) -> Summary:
        """The summary of a model as it is now; made anew, without writing it, where there is none that can be read.

        To be called within a question.
        """
        storage = open_storage(store)
        data = summary_bytes(storage, model)
        if data is not None:
            digest = hashlib.sha256(data).hexdigest()
            parsed = self._parsed.get((store, model))
            if parsed is not None and parsed[0] == digest:
                return parsed[1]
            with suppress(IntegrityError):
                self._parsed[store, model] = (digest, parse_summary(storage, model, data))
                return self._parsed[store, model][1]
        key = ("made", store, model)
        kept = self._answers.get(key)
        if kept is None or kept[0] <= self._clock():
            kept = (self._clock() + MADE_SECONDS, make_summary(storage, model))
            self._answers[key] = kept
        made: Summary = kept[1]
        return made


def _or_problem(question: Callable[[], Result]) -> Result | Problem:
    try:
        return question()
    except RetrainerError as error:
        return Problem(str(error))


def _answer(future: Future[Result]) -> Result | Problem:
    if not future.done():
        return Problem(f"did not answer within {SECONDS:g} s")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, RetrainerError):
        return Problem(str(error))
    raise error
