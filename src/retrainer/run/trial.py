"""Ask a version one text in a process of its own, which may take so much time, memory and one core, and leaves nothing.

Not here: who may ask (``console/try_text.py``), what the process does (``work/trial.py``).
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from retrainer.chain.trial import Trial, TrialEnd, Tried
from retrainer.errors import Busy, NoAnswer, ResourceError, StepError
from retrainer.run.free_memory import available_bytes
from retrainer.storage.access import current_access
from retrainer.store.signing_keys import SIGNING_KEY

SECONDS = 45
# Libraries and what they read ahead; and of the version's files: as read, as the graph's weights, as they are packed.
LEAST_BYTES = 1 << 30
TIMES_THE_SIZE = 4
# Threads of numerical libraries that are counted before anybody can ask.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

_one_at_a_time = threading.Lock()


def ask_version(trial: Trial, *, python: str | None = None, environment: Mapping[str, str] | None = None) -> Tried:
    """The answer of a version to one text. One at a time in this process; buckets are reached as this thread does.

    :param python: interpreter that has ``airflow-retrainer[serve]``; this one by default.
    :param environment: variables of the process beside this one's own.
    :raises Busy: another text is being answered, or there is no memory for it at present.
    :raises NoAnswer: it took too long.
    :raises RetrainerError: what the process says of the version or the text; never with the text.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise Busy("another text is being answered", hint="one at a time is; try again in a moment")
    try:
        wanted = LEAST_BYTES + TIMES_THE_SIZE * trial.size
        if available_bytes() < wanted:
            raise Busy(f"there is no memory for it: it may take {wanted >> 20} MiB, and less is free")
        return _ended(trial, wanted, python or sys.executable, environment or {})
    finally:
        _one_at_a_time.release()


def _ended(trial: Trial, memory: int, python: str, environment: Mapping[str, str]) -> Tried:
    access = current_access().to_environment()
    try:
        process = subprocess.Popen(
            [python, "-m", "retrainer.work.trial", str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_inherited(), **access, **environment, **_ONE_THREAD},
            start_new_session=True,
        )
    except OSError as error:
        raise ResourceError(f"cannot be started: {error.strerror}", where=python) from None
    with process:
        try:
            _limit(process.pid, memory)
            said, complained = process.communicate(trial.to_json(), timeout=SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so that its number is still its own
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise NoAnswer(
                f"no answer within {SECONDS} s",
                hint="a version that takes longer to fetch, check and load can be asked by 'retrainer predict'",
            ) from None
    if process.returncode != 0:
        raise StepError(f"the process ended without an answer: {_how(process.returncode, complained)}")
    end = TrialEnd.from_json(said, where="the answer")
    if end.failed is not None:
        raise end.failed.as_error()
    assert end.tried is not None
    return end.tried


def _inherited() -> dict[str, str]:
    """This process's variables, but for what a version's files must not see: keys, Airflow's settings and secrets."""
    private = (SIGNING_KEY, "AIRFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(private)}


def _limit(pid: int, memory: int) -> None:
    """Of a process that waits to be asked. Past one of these it ends."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
        resource.prlimit(pid, resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        os.sched_setaffinity(pid, {max(os.sched_getaffinity(pid))})


def _how(code: int, complained: bytes) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    # The last line of a trace names the error. What it says may hold anything.
    *_, last = complained.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return last.partition(":")[0]
