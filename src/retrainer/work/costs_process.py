"""One model in a process of its own, answering on request how long it took: ``python -m retrainer.work.costs_process``.

Imports what a service imports, the client, so that its memory is what a service would need. It lies here and not
beside ``evaluate/costs.py``, its only caller, because importing that package loads pyarrow, scipy and more.
It ends when its standard input does, and that is as soon as its parent is gone.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from retrainer.chain.messages import Failed
from retrainer.errors import RetrainerError
from retrainer.records import Record
from retrainer.serve.loading import open_predictor
from retrainer.tasks import known_task

STATUS = Path("/proc/self/status")
THREADS = Path("/proc/self/task")


class Work(Record):
    """The file this process is started with: which graph, and the texts that requests name by their position.

    :ivar threads: of one call.
    """

    bundle: str
    precision: str
    threads: int
    texts: tuple[str | tuple[str, str], ...]


class Ask(Record):
    """One line on standard input: answer these texts in one call."""

    positions: tuple[int, ...]


class Reply(Record):
    """One line on standard output; the first says that the model is loaded.

    :ivar seconds: that the call took, or loading; without what its threads waited for a processor.
    :ivar peak_bytes: largest resident memory of this process so far.
    """

    kind: Literal["reply"] = "reply"
    seconds: float
    peak_bytes: int


_ADAPTER: TypeAdapter[Reply | Failed] = TypeAdapter(Annotated[Reply | Failed, Field(discriminator="kind")])


def parse_reply(line: bytes) -> Reply | Failed:
    """What one line says.

    :raises pydantic.ValidationError: nothing that this process would say.
    """
    return _ADAPTER.validate_json(line)


def peak_bytes(status: Path = STATUS) -> int:
    """Largest resident memory of this process so far, in bytes.

    ``VmHWM`` and not ``getrusage``, whose figure survives ``exec``: it would be that of the parent where the parent
    was larger. It stands in only where the kernel does not tell the other.
    """
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Stopwatch:
    """Seconds since it was made, without those that the threads of this process waited for a processor.

    A model does not cost what other processes take: on a busy machine the same call takes twice as long, or ten
    times. The kernel says how long each thread stood in a run queue (``schedstat``, in ns, the second number; see
    *Scheduler Statistics* in the kernel's documentation); where it does not, nothing is taken off.

    Threads that share the work wait for the one that waits longest, so its time is taken off.

    :param threads: that share the work.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._cpu = time.process_time()
        before = time.perf_counter()
        self._waited = waited()
        self._started = time.perf_counter()
        # Waits while the kernel is asked are not part of what is timed, and must not be taken off it.
        self._asking = self._started - before

    def seconds(self) -> float:
        """Time since it was made, in seconds; at least what was computed, divided among the threads."""
        now = time.perf_counter()
        computed = time.process_time() - self._cpu
        in_queue = max((total - self._waited.get(thread, 0.0) for thread, total in waited().items()), default=0.0)
        asking = self._asking + time.perf_counter() - now
        return max(now - self._started - max(0.0, in_queue - asking), computed / self._threads)


def waited(threads: Path = THREADS) -> dict[str, float]:
    """Seconds that each thread of this process waited for a processor so far, where the kernel tells."""
    seconds = {}
    for thread in threads.iterdir():
        try:
            seconds[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # no such file on this kernel, or the thread ended
            continue
    return seconds


def main(work_file: Path) -> None:
    """Load the graph, then answer one line after the other."""
    replies = os.dup(1)
    # What a library prints must not stand between the replies.
    os.dup2(2, 1)
    try:
        _serve(work_file, replies)
    except RetrainerError as error:
        os.write(replies, Failed.of(error).to_json() + b"\n")
        sys.exit(1)


def _serve(work_file: Path, replies: int) -> None:
    work = Work.from_json(work_file.read_bytes(), where=str(work_file))
    stopwatch = Stopwatch(work.threads)
    predictor: Any = open_predictor(Path(work.bundle), precision=work.precision, threads=work.threads)
    task = known_task(predictor.info.task, where=work.bundle)
    answer = predictor.generate if task.writes == "text" else predictor.probabilities
    seconds = stopwatch.seconds()
    while True:
        os.write(replies, Reply(seconds=seconds, peak_bytes=peak_bytes()).to_json() + b"\n")
        line = sys.stdin.buffer.readline()
        if not line:
            return
        texts = [work.texts[position] for position in Ask.from_json(line, where="standard input").positions]
        stopwatch = Stopwatch(work.threads)
        answer(texts)
        seconds = stopwatch.seconds()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
