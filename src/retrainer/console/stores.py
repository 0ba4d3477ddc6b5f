"""Asking stores so that a sick one costs a page little: at most so long, beside each other, and not twice at once.

What arrives late is kept for the next look. Not here: what is asked (``overview.py`` and the other pages).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from retrainer.errors import IntegrityError, NotFoundError, ResourceError, RetrainerError
from retrainer.storage import deadline, open_storage
from retrainer.store.summary import Summary, make_summary, parse_summary, summary_bytes

# A page answers within three seconds, whatever its stores do.
SECONDS = 2.5
# How long an answer is taken for the present state; and a summary that had to be made here.
FRESH_SECONDS = 3.0
MADE_SECONDS = 60.0
# And of what was read from files that never change.
LASTING_SECONDS = 3600.0
# What arrives late may help the next page: so long a question goes on.
LATE_SECONDS = 30.0
# Questions at once to one store. What a dead mount holds for ever takes its own places only.
AT_ONCE = 8
# Questions that wait at once, each in a thread of its own.
MOST_ASKED = 1000
# Answers that are kept at all; beyond that the oldest go.
MOST_KEPT = 2000

Result = TypeVar("Result")
Questions = Mapping[Any, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no answer, in words.

    :ivar late: only the time was too short: the answer may come.
    :ivar missing: what was asked for is not there.
    """

    text: str
    late: bool = False
    missing: bool = False


class Stores:
    """The stores of a deployment, asked by several pages at once.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[Hashable, Future[Any]] = {}
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
        answer: Result | Problem = self.ask_several([(store, {key: question})], fresh=fresh)[key]
        return answer

    def ask_several(self, several: Sequence[tuple[str, Questions]], *, fresh: float = FRESH_SECONDS) -> dict[Any, Any]:
        """The answers to questions to several stores, which are asked at the same time; a ``Problem`` where there is
        none in time.
        """
        ends = self._clock() + SECONDS
        answers: dict[Any, Any] = {}
        waiting: dict[Any, Future[Any]] = {}
        for store, questions in several:
            answers |= self.kept(questions)
            asked = {key: question for key, question in questions.items() if key not in answers}
            waiting |= {key: self._begin(store, key, question, fresh) for key, question in asked.items()}
        wait(waiting.values(), timeout=max(0.0, ends - self._clock()))
        return answers | {key: _answer(future) for key, future in waiting.items()}

    def kept(self, keys: Iterable[Hashable]) -> dict[Any, Any]:
        """The answers that are at hand, without asking anybody."""
        now = self._clock()
        found = {key: self._answers.get(key) for key in keys}
        return {key: kept[1] for key, kept in found.items() if kept is not None and kept[0] > now}

    def look_later(self, store: str, questions: Questions, fresh: float) -> None:
        """Ask without waiting: the next page has the answers. What goes wrong is an answer too."""
        for key, question in questions.items():
            self._begin(store, key, partial(or_problem, question), fresh)

    def _begin(self, store: str, key: Hashable, question: Callable[[], Any], fresh: float) -> Future[Any]:
        with self._lock:
            if key in self._asked:
                return self._asked[key]
            future: Future[Any] = Future()
            if len(self._asked) >= MOST_ASKED:
                future.set_exception(ResourceError("too many questions wait for answers", hint="try again in a minute"))
                return future
            self._asked[key] = future
            slots = self._slots.setdefault(store, threading.BoundedSemaphore(AT_ONCE))
        context = copy_context()
        work = partial(context.run, self._work, slots, key, question, future, fresh)
        # Not a pool, whose threads a dead mount would hold for ever, for all stores.
        threading.Thread(target=work, name="retrainer-console", daemon=True).start()
        return future

    def _work(
        self,
        slots: threading.BoundedSemaphore,
        key: Hashable,
        question: Callable[[], Any],
        future: Future[Any],
        fresh: float,
    ) -> None:
        try:
            with slots, deadline(LATE_SECONDS):
                result = question()
            self._keep(key, result, fresh)
            future.set_result(result)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        finally:
            with self._lock:
                self._asked.pop(key, None)

    def _keep(self, key: Hashable, result: Any, fresh: float) -> None:
        with self._lock:
            self._answers.pop(key, None)  # so that the oldest are the first
            self._answers[key] = (self._clock() + fresh, result)
            while len(self._answers) > MOST_KEPT:
                del self._answers[next(iter(self._answers))]

    def lasting(self, key: Hashable, question: Callable[[], Result]) -> Result:
        """An answer that never changes: asked once, and kept whatever becomes of the rest.

        To be called within a question.
        """
        if (kept := self.kept([key])) == {}:
            found = question()
            self._keep(key, found, LASTING_SECONDS)
            return found
        known: Result = kept[key]
        return known

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
                summary = parse_summary(storage, model, data)
                self._parsed[store, model] = (digest, summary)
                return summary
        key = ("made", store, model)
        if (kept := self.kept([key])) == {}:
            self._keep(key, make_summary(storage, model), MADE_SECONDS)
            kept = self.kept([key])
        made: Summary = kept[key]
        return made


def or_problem(question: Callable[[], Result]) -> Result | Problem:
    """An answer, also where there is none: what goes wrong while nobody waits is known to who asks next."""
    try:
        return question()
    except RetrainerError as error:
        return _problem(error)


def _problem(error: RetrainerError) -> Problem:
    return Problem(str(error), missing=isinstance(error, NotFoundError))


def _answer(future: Future[Any]) -> Any:
    if not future.done():
        return Problem(f"did not answer within {SECONDS:g} s", late=True)
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, RetrainerError):
        return _problem(error)
    raise error
