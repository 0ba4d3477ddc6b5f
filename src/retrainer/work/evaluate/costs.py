"""What serving a model costs: time of one text, texts a second in bulk, memory. Each model in a fresh process.

Every process loads one graph through the client with a fixed number of threads (``costs_process.py``), and all of
them take turns: each text goes to each model before the next text goes to any, and none is always first. So
whatever else the machine does meanwhile meets all of them alike, and what one leaves in memory or in a cache of its
process does not count for another. What a process waited for a processor is taken off, and of several rounds the
fastest counts. Not here: what a cost may be (the gate's budgets).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from retrainer.artifacts.measures import Latency
from retrainer.chain.messages import Failed
from retrainer.errors import DataError, ResourceError, StepError
from retrainer.serve.texts import Text
from retrainer.storage.errors import filesystem_errors
from retrainer.work import costs_process
from retrainer.work.costs_process import Ask, Reply, Work, parse_reply
from retrainer.work.snapshot_texts import characters, evenly

# Texts timed one by one, and texts timed in bulk. Fewer where the models are slow, down to the second number.
SINGLE_TEXTS = (64, 12)
BULK_TEXTS = (64, 8)
# Texts of one call in bulk: of like length, so that they fill batches as the client fills them from many more; and
# few, so that a moment of noise spoils one short call and not the whole round.
CHUNK_TEXTS = 32
# Rounds over them. Fewer once the figures have settled or the seconds are used up, down to the second number.
ROUNDS = (5, 2)
# Figures have settled when one more round lowered none of any model by more than this share. Noise only ever adds to a
# time, so more rounds could only lower them. That two agree does not show that they were undisturbed: what disturbs
# all rounds alike is in the figures of all models, which take turns.
SETTLED = 0.02
SINGLE_SECONDS = 8.0
BULK_SECONDS = 4.0
WARM_UP_TEXTS = 4
# A process that takes longer hangs. A graph of some gigabytes loads in under a minute from a slow disk; a call in
# bulk is sized to seconds.
LOAD_SECONDS = 600.0
ANSWER_SECONDS = 600.0
DYING_SECONDS = 5.0
TAIL_LINES = 15

OnProgress = Callable[[int, int], None]
# Of seconds of calls, what is judged.
_Figures = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Costs:
    """What one model costs.

    :param latency: of one text, batch 1: for each text the fastest of the rounds, of these the percentiles over texts
        from the shortest to the longest. So p95 tells of long texts, and not of what else the machine did.
    :param rows_per_second: texts a second in calls of many, each call the fastest of the rounds.
    :param peak_memory_mb: largest resident memory of the process, after the same work for all models; 10^6 bytes.
    """

    latency: Latency
    rows_per_second: float
    peak_memory_mb: float


Measure = Callable[[OnProgress], dict[str, Costs]]


def measure_costs(
    models: Mapping[str, tuple[Path, str]],
    texts: Sequence[Text],
    *,
    threads: int,
    on_progress: OnProgress,
) -> dict[str, Costs]:
    """Measure the models against each other, each in its own process: see :func:`starting`.

    :param on_progress: is told how many of how many calls are done.
    """
    with starting(models, texts, threads=threads) as measure:
        return measure(on_progress)


@contextmanager
def starting(models: Mapping[str, tuple[Path, str]], texts: Sequence[Text], *, threads: int) -> Iterator[Measure]:
    """Start the processes, and give what measures in them: other work can be done while they load, none while they are
    measured.

    :param models: name to bundle folder and precision.
    :param texts: what they are asked; of many, some from the shortest to the longest.
    :param threads: of each model.
    :return: called with what is told how many of how many calls are done, it gives the costs of the same names. Errors
        of the models and their processes are raised there.
    :raises DataError: there is no text.
    :raises IntegrityError: a bundle cannot be loaded.
    :raises StepError: a process died, or does not answer.
    :raises ResourceError: a process cannot be started.
    """
    if not len(texts):
        raise DataError("there is no text to measure the costs of a model with")
    chosen = spread(texts, BULK_TEXTS[0])
    with ExitStack() as stack:
        # All are started before the first is waited for.
        processes = {
            name: stack.enter_context(_ModelProcess(name, bundle, precision, chosen, threads))
            for name, (bundle, precision) in models.items()
        }

        def measure(on_progress: OnProgress) -> dict[str, Costs]:
            for process in processes.values():
                process.wait_until_loaded()
            return _Turns(processes, on_progress).measure(len(chosen)) if processes else {}

        yield measure


def spread(texts: Sequence[Text], count: int) -> list[Text]:
    """``count`` texts from the shortest to the longest, so that every length is measured; all where there are fewer."""
    ordered = sorted(texts, key=characters)
    return [ordered[position] for position in evenly(len(ordered), count)]


class _Turns:
    """The models by turns, and the clock that bounds how much is asked."""

    def __init__(self, processes: Mapping[str, _ModelProcess], on_progress: OnProgress) -> None:
        self._processes = processes
        self._on_progress = on_progress
        self._done = 0
        self._total = 0

    def measure(self, size: int) -> dict[str, Costs]:
        """Ask all there is to ask of ``size`` texts."""
        seconds = self._warm_up(evenly(size, WARM_UP_TEXTS))
        singles = [(position,) for position in evenly(size, _affordable(SINGLE_TEXTS, SINGLE_SECONDS, seconds))]
        bulk = evenly(size, _affordable(BULK_TEXTS, BULK_SECONDS, seconds))
        chunks = [tuple(bulk[start : start + CHUNK_TEXTS]) for start in range(0, len(bulk), CHUNK_TEXTS)]
        self._done, self._total = 0, len(self._processes) * (ROUNDS[0] * (len(singles) + len(chunks)))
        one_by_one = self._rounds(singles, SINGLE_SECONDS, _percentiles)
        at_once = self._rounds(chunks, BULK_SECONDS, _total)
        self._on_progress(self._total, self._total)
        return {
            name: Costs(
                latency=_latency(one_by_one[name]),
                rows_per_second=float(len(bulk) / _total(_fastest(at_once[name]))[0]),
                peak_memory_mb=process.peak_bytes / 1e6,
            )
            for name, process in self._processes.items()
        }

    def _warm_up(self, positions: Sequence[int]) -> float:
        """Seconds that pass until all models answered one text, the first answers aside."""
        # Longest first: what a process keeps for its tensors is sized once.
        calls = [(position,) for position in reversed(positions)]
        self._round(calls, 0)
        started = time.monotonic()
        self._round(calls, 0)
        return (time.monotonic() - started) / len(calls)

    def _rounds(
        self, calls: Sequence[tuple[int, ...]], seconds: float, figures: _Figures
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Seconds of each call, ``[rounds, calls]`` for each model.

        :param figures: what is judged of them.
        """
        started = time.monotonic()
        rounds: list[dict[str, list[float]]] = []
        while len(rounds) < ROUNDS[0]:
            spent = time.monotonic() - started
            # Stop where one more round would not fit.
            full = spent * (len(rounds) + 1) > seconds * len(rounds)
            if len(rounds) >= ROUNDS[1] and (
                full or all(_settled(times, figures) for times in self._times(rounds).values())
            ):
                break
            rounds.append(self._round(calls, len(rounds)))
        return self._times(rounds)

    def _times(self, rounds: Sequence[Mapping[str, list[float]]]) -> dict[str, npt.NDArray[np.float64]]:
        return {name: np.array([times[name] for times in rounds]) for name in self._processes}

    def _round(self, calls: Sequence[tuple[int, ...]], number: int) -> dict[str, list[float]]:
        names = list(self._processes)
        times: dict[str, list[float]] = {name: [] for name in names}
        for index, positions in enumerate(calls):
            first = (number + index) % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(self._processes[name].seconds(positions))
                self._done += 1
            if self._total:
                self._on_progress(self._done, self._total)
        return times


def _affordable(counts: tuple[int, int], budget: float, seconds: float) -> int:
    """How many texts fit into the budget with the fewest rounds, within the bounds."""
    most, least = counts
    return int(np.clip(budget / (ROUNDS[1] * seconds), least, most))


def _latency(seconds: npt.NDArray[np.float64]) -> Latency:
    p50, p95 = _percentiles(_fastest(seconds)) * 1000
    return Latency(p50=float(p50), p95=float(p95))


def _fastest(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of each call the fastest round: whatever disturbs a call makes it slower, never faster. So does ``timeit``."""
    fastest: npt.NDArray[np.float64] = seconds.min(axis=0)
    return fastest


def _percentiles(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """p50 and p95."""
    found: npt.NDArray[np.float64] = np.percentile(seconds, [50, 95])
    return found


def _total(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = seconds.sum(keepdims=True)
    return total


def _settled(seconds: npt.NDArray[np.float64], figures: _Figures) -> bool:
    """Whether the last of several rounds left the figures as the ones before it say."""
    before, now = figures(_fastest(seconds[:-1])), figures(_fastest(seconds))
    return bool((now >= (1 - SETTLED) * before).all())


class _ModelProcess:
    """The process of one model. A context manager: leaving it ends the process."""

    def __init__(self, name: str, bundle: Path, precision: str, texts: Sequence[Text], threads: int) -> None:
        self._name = name
        self._work = Work(bundle=str(bundle), precision=precision, threads=threads, texts=tuple(texts))
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with filesystem_errors(tempfile.gettempdir()):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrainer-costs-")))
                work_file = folder / "work.json"
                work_file.write_bytes(self._work.to_json())
                self._log = folder / "log.txt"
                log = stack.enter_context(self._log.open("wb"))
            self._process = self._start(work_file, log.fileno())
            stack.callback(self._end)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _start(self, work_file: Path, log: int) -> subprocess.Popen[bytes]:
        threads = str(self._work.threads)
        environment = {
            **os.environ,
            # All pools of the client: numpy's, and that of the tokenizer.
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), threads),
            "TOKENIZERS_PARALLELISM": "true" if self._work.threads > 1 else "false",
        }
        try:
            return subprocess.Popen(
                [sys.executable, "-m", costs_process.__name__, str(work_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            raise ResourceError(f"cannot start a process to measure in: {error.strerror}", where=self._name) from None

    def wait_until_loaded(self) -> None:
        """Return once the model can be asked."""
        self._receive(LOAD_SECONDS)

    def seconds(self, positions: Sequence[int]) -> float:
        """How long one call with these texts takes."""
        assert self._process.stdin is not None
        # A request is far smaller than a pipe holds, so that this never waits.
        with suppress(BrokenPipeError):  # it died; reading tells how
            self._process.stdin.write(Ask(positions=tuple(positions)).to_json() + b"\n")
        return self._receive(ANSWER_SECONDS).seconds

    def _receive(self, limit: float) -> Reply:
        line = self._line(limit)
        try:
            reply = parse_reply(line)
        except ValidationError:
            raise StepError(f"the process that measures {self._name} says {line[:200]!r}") from None
        if isinstance(reply, Failed):
            raise reply.as_error()
        self.peak_bytes = reply.peak_bytes
        return reply

    def _line(self, limit: float) -> bytes:
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(limit * 1000):
            raise StepError(
                f"the process that measures the costs of {self._name} did not answer within {limit:g} seconds",
                where=self._work.bundle,
                hint="the machine is overloaded, or the model too slow to be served",
            )
        line = self._process.stdout.readline()  # a reply is written at once
        if not line.endswith(b"\n"):
            raise self._died()
        return line

    def _died(self) -> StepError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_SECONDS)
        code = self._process.poll()
        message = f"the process that measures the costs of {self._name} "
        if code is not None and code < 0:
            return StepError(
                f"{message}was ended by {signal.Signals(-code).name}",
                where=self._work.bundle,
                hint="out of memory, if nobody stopped it" if code == -signal.SIGKILL else None,
            )
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return StepError(f"{message}ended with exit code {code}:\n{tail}", where=self._work.bundle)

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # it has nothing to put in order
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
