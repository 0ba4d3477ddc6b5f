"""How a step talks to its parent: progress, scores, lines for people."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from retrainer.chain.messages import Done, Failed, Log, Message, Metrics, Progress, describe
from retrainer.errors import RetrainerError
from retrainer.work.distributed import is_first_rank

# Between two progress messages of one stage; the last of a stage is always sent.
INTERVAL_SECONDS = 1.0
# The same in the log, which is kept.
LOG_SECONDS = 10.0


class Reporter:
    """Appends messages to the file the parent follows, and prints them, which puts them into the step's log.

    :param path: the message file.
    :param speaks: else it only says what it failed of: one of several processes speaks for all.
    """

    def __init__(self, path: Path | None = None, *, speaks: bool = True) -> None:
        self._path = path
        self._speaks = speaks
        self._stage = ""
        self._stage_started = 0.0
        self._first_done = 0.0
        self._last = 0.0
        self._logged = 0.0

    @classmethod
    def from_environment(cls) -> Reporter:
        """The reporter of a process that ``run/processes.py`` started."""
        path = os.environ.get("RETRAINER_MESSAGES")
        return cls(Path(path) if path else None, speaks=is_first_rank())

    def send(self, message: Message) -> None:
        """Send one message."""
        if not self._speaks and not isinstance(message, Failed):
            return
        self._print(message)
        if self._path is None:
            return
        # One write of one line in append mode: lines of several processes do not mix.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, message.to_json() + b"\n")
        finally:
            os.close(descriptor)

    def _print(self, message: Message) -> None:
        if isinstance(message, Failed | Done):
            return  # the stack trace says more; that all is well needs no line
        if isinstance(message, Progress):
            now = time.monotonic()
            if now - self._logged < LOG_SECONDS and message.done != message.total:
                return
            self._logged = now
        warning = "warning: " if isinstance(message, Log) and message.level == "warning" else ""
        with suppress(OSError):  # a full disk is told of by the step, which needs this line less than its result
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {warning}{describe(message)}\n")
            sys.stderr.flush()

    def log(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """Say a line."""
        self.send(Log(level=level, text=text))

    def progress(
        self, stage: str, *, done: float, total: float | None = None, unit: str = "", **figures: float
    ) -> None:
        """Say how far a stage is; at most one message a second, and the last."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_started, self._first_done, self._last = stage, now, done, 0.0
        if now - self._last < INTERVAL_SECONDS and (total is None or done < total):
            return
        self._last = now
        left = None
        if total is not None and self._first_done < done < total:
            left = (now - self._stage_started) / (done - self._first_done) * (total - done)
        self.send(Progress(stage=stage, done=done, total=total, unit=unit, seconds_left=left, figures=figures))

    def metrics(self, epoch: float, values: dict[str, float]) -> None:
        """Say the scores of an epoch."""
        self.send(Metrics(epoch=epoch, values=values))

    def done(self) -> None:
        """Say that the artifact is committed."""
        self.send(Done())

    def failed(self, error: RetrainerError) -> None:
        """Say what went wrong, so that the parent raises the same error."""
        self.send(Failed.of(error))
