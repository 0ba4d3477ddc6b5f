"""A step's messages as lines of the task log: every notice at once, progress every few seconds. And what Airflow shows
of a task beside its log: how far it is, and what a retry goes on from.

A training step reports each batch; a log that held them all would be unreadable and, sent line by line to the
API server, slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from airflow.sdk.exceptions import AirflowRuntimeError

from retrainer.chain.messages import Done, Failed, Log, Message, Metrics, Progress, Saved, describe

INTERVAL_SECONDS = 5.0
STATE_SECONDS = 15.0
# Of a problem; an error may quote a whole log.
MOST_CHARACTERS = 4000


class StateStore(Protocol):
    """What of Airflow's state store is used here."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""


class ProgressLog:
    """Writes messages to a logger. Call it with each message.

    :param interval: least seconds between two lines of progress in the same stage.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._clock = clock
        self._stage: str | None = None
        self._written = 0.0
        self._held_back: Progress | None = None

    def __call__(self, message: Message) -> None:
        """Write the message, or hold it back when it is progress and the last line is fresh."""
        match message:
            case Progress():
                self._progress(message)
            case Log(level="warning"):
                self._last_progress()
                self._logger.warning("%s", describe(message))
            case Log() | Metrics():
                self._last_progress()
                self._logger.info("%s", describe(message))
            case Saved():
                pass  # what a retry resumes from is said by the retry
            case Done() | Failed():
                # What was done, or went wrong, is said by the operator.
                self._last_progress()

    def _progress(self, message: Progress) -> None:
        if message.stage != self._stage:
            self._last_progress()
            self._stage = message.stage
            self._write(message)
        elif self._clock() - self._written >= self._interval:
            self._write(message)
        else:
            self._held_back = message

    def _last_progress(self) -> None:
        """How far a stage came is always said, however soon after the line before."""
        if self._held_back is not None:
            self._write(self._held_back)

    def _write(self, message: Progress) -> None:
        self._logger.info("%s", describe(message))
        self._written = self._clock()
        self._held_back = None


class ProgressState:
    """Keeps in the task's state store how far its step is, where Airflow's UI and API show it: ``progress`` with stage,
    step, loss and the seconds left, and ``checkpoint``, the last complete one. Call it with each message.

    :param store: ``context["task_state_store"]``; ``None`` where there is none.
    :param interval: least seconds between two writes of progress; each is a request to the API server.
    """

    def __init__(
        self,
        store: StateStore | None,
        logger: logging.Logger,
        *,
        interval: float = STATE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._logger = logger
        self._interval = interval
        self._clock = clock
        self._written: float | None = None
        self._held_back: Progress | None = None

    def __call__(self, message: Message) -> None:
        """Keep what the message says, or hold it back when the last was written just now."""
        match message:
            case Progress():
                self._held_back = message
                if self._written is None or self._clock() - self._written >= self._interval:
                    self._flush()
            case Saved():
                self.keep("checkpoint", message.checkpoint)
            case Done() | Failed():
                self._flush()

    def keep(self, key: str, value: Any) -> None:
        """Write a value. No step fails because it cannot be shown how far it is."""
        if self._store is None:
            return
        try:
            self._store.set(key, value)
        except AirflowRuntimeError as error:
            self._logger.warning("how far the step is will not be shown beside its log: %s", error)
            self._store = None

    def _flush(self) -> None:
        if self._held_back is not None:
            content = self._held_back.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
            self.keep("progress", {**content, "text": describe(self._held_back)})
            self._written, self._held_back = self._clock(), None


def keep_problem(context: Any, text: str, logger: logging.Logger) -> None:
    """Keep in the task's state store why it fails, with the try that it is of: no page of Airflow but the log says it.

    :param context: of the task.
    """
    state = ProgressState(context.get("task_state_store"), logger)
    state.keep("problem", {"text": text[:MOST_CHARACTERS], "try": getattr(context.get("ti"), "try_number", 0)})
