"""``python -m retrainer.run.agent FOLDER``: what an engine starts on each host of a job.

Runs the request that lies in the job's folder in a process of its own, as any host does, with the same leases and the
same care for what is left behind, and copies what that process says into the folder, in numbered objects. Whoever
follows the job needs no connection to this host, and none of its log.
Not here: following it (``remote.py``), starting it (``engines/``).

Exit codes: 0 the artifact is there, 1 the step failed and said why, 143 it was asked to end.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Self

from retrainer.artifacts.repository import Artifacts
from retrainer.chain.jobs import ENDED, MESSAGES, REQUEST
from retrainer.chain.messages import Failed, Log, Message, Progress, describe, parse_message
from retrainer.chain.requests import StepRequest
from retrainer.errors import RetrainerError, StorageError
from retrainer.run.folders import RunFolder
from retrainer.run.processes import OnMessage, StepProcess, run_step
from retrainer.storage import Storage, open_storage

SHIP_SECONDS = 2.0
# Progress alone is no reason for an object: a training of days would leave a hundred thousand.
PROGRESS_SECONDS = 15.0
# Messages of a stream lie in blocks of so many objects, so that whoever follows lists few.
BLOCK = 200
# Between two looks whether the job is to end.
END_SECONDS = 10.0
# A store that is away for longer than that at the end costs the last messages, not the artifact.
LAST_TRIES = 5

logger = logging.getLogger("retrainer.agent")


class Shipper:
    """Copies messages into a job's folder. A context manager: leaving it sends what is left.

    Each start of an agent is a stream of its own, whose name sorts by time: an engine may start one job several times.
    A store that does not answer never harms the work; what was to be sent is kept until it does.
    """

    def __init__(
        self, storage: Storage, *, interval: float = SHIP_SECONDS, progress_interval: float = PROGRESS_SECONDS
    ) -> None:
        self._storage = storage
        self._interval = interval
        self._progress_interval = progress_interval
        self._sent_at = -math.inf
        self._stream = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        self._sent = 0
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ship_until_the_end, name="shipper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()
        for _ in range(LAST_TRIES):
            if self._ship():
                return
        logger.error("the last messages of this job could not be written to %s", self._storage.where(MESSAGES))

    def __call__(self, message: Message) -> None:
        """Take a message; it is sent with the next batch."""
        with self._lock:
            if isinstance(message, Progress) and self._lines and _supersedes(message, self._lines[-1]):
                self._lines.pop()
            self._lines.append(message.to_json())

    def _ship_until_the_end(self) -> None:
        while not self._ending.wait(self._interval):
            if self._is_due():
                self._ship()

    def _is_due(self) -> bool:
        with self._lock:
            is_news = any(not isinstance(parse_message(line), Progress) for line in self._lines)
        return is_news or time.monotonic() - self._sent_at >= self._progress_interval

    def _ship(self) -> bool:
        """Send what there is; ``False`` where the store did not take it."""
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return True
        try:
            # Not conditional: no other process writes into this stream, and a repeated write has the same content.
            key = f"{self._stream}/{self._sent // BLOCK:06d}/{self._sent % BLOCK:03d}.jsonl"
            self._storage.write(f"{MESSAGES}/{key}", b"\n".join(lines) + b"\n")
        except StorageError as error:
            logger.warning("messages are kept until the store takes them: %s", error)
            with self._lock:
                self._lines = lines + self._lines
            return False
        self._sent += 1
        self._sent_at = time.monotonic()
        return True


def _supersedes(message: Progress, line: bytes) -> bool:
    """Whether progress that was not sent yet is old news."""
    before = parse_message(line)
    return isinstance(before, Progress) and before.stage == message.stage


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what runs in the block in an orderly way, also in the first process of a container.

    There the system ignores it unless there is a handler.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class EndWatch:
    """Ends this process where the job's folder says that the job is to end; a context manager.

    Whoever wants that asks the engine, too, which may not answer.
    """

    def __init__(self, storage: Storage, *, interval: float = END_SECONDS) -> None:
        self._storage = storage
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="end-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        # At once, too: what was handed in before its end was wanted may come to run after it.
        while not self._is_to_end():
            if self._over.wait(self._interval):
                return
        logger.warning("this job is to end: %s", self._storage.where(ENDED))
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_to_end(self) -> bool:
        try:
            return self._storage.exists(ENDED)
        except StorageError:
            return False  # asked again


def run_job(folder: str) -> int:
    """Run the job of a folder; the exit code.

    :raises StorageError: its request cannot be read.
    """
    storage = open_storage(folder)
    request = StepRequest.from_json(storage.read(REQUEST), where=storage.where(REQUEST))
    failed = False
    with Shipper(storage) as ship, EndWatch(storage):

        def say(message: Message) -> None:
            nonlocal failed
            failed = failed or isinstance(message, Failed)
            logger.info("%s", describe(message))
            ship(message)

        try:
            if os.environ.get("PET_NODE_RANK", "0") == "0":
                run_step(request, on_message=say)
            else:
                _help(request, say)
        except RetrainerError as error:
            _tell(error)
            if not failed:  # the process did not say it itself
                ship(Failed.of(error))
            return 1
    return 0


def _help(request: StepRequest, say: OnMessage) -> None:
    """Run the part of a training that is this host's; the first host makes the artifact.

    :raises RetrainerError: its processes failed.
    """
    artifacts = Artifacts(request.root)
    if artifacts.find(request.step, request.digest) is not None:
        return
    log_file = RunFolder(artifacts, request).log_file
    with StepProcess(request, log_file=log_file, say=lambda line: say(Log(text=line)), helps=True) as process:
        for message in process.follow():
            say(message)


def _tell(error: RetrainerError) -> None:
    """An error in the log of the engine, without the frames of this program."""
    logger.log(logging.ERROR, "%s", error)


def main(arguments: list[str]) -> int:
    """Run the job whose folder is given."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    (folder,) = arguments
    with _ended_by_sigterm():
        try:
            return run_job(folder)
        except RetrainerError as error:
            _tell(error)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
