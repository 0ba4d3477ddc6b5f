"""A step's messages as lines of the task log: every notice at once, progress every few seconds.

A training step reports each batch; a log that held them all would be unreadable and, sent line by line to the
API server, slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from retrainer.chain.messages import Done, Failed, Log, Message, Metrics, Progress, describe

INTERVAL_SECONDS = 5.0


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
