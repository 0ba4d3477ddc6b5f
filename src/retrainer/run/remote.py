"""Hand a step to an engine and follow it, from any process that can read the artifact root.

The artifact is the only proof that a step succeeded. An engine's word counts for the rest: that it waits, that it runs,
that it ended. A job outlives whoever started it; who wants the same step later finds it by its name and goes on
following. Not here: the engines (``engines/``), the far end (``agent.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from pydantic import ValidationError

from retrainer.artifacts.repository import Artifacts
from retrainer.chain.jobs import JOBS, MESSAGES, REQUEST, Job, JobEnd
from retrainer.chain.messages import Failed, Log, Message, parse_message
from retrainer.chain.requests import StepRef, StepRequest
from retrainer.errors import EngineUnavailable, PreconditionFailed, RetrainerError, StepError, StepKilled, StorageError
from retrainer.run.engines import Engine, JobState
from retrainer.run.processes import reference_to
from retrainer.storage import open_storage
from retrainer.storage.access import current_access

LOOK_SECONDS = 3.0
# For so long nothing may be heard of a job, neither from its engine nor through the store.
PATIENCE_SECONDS = 900.0
# An agent says its last words and its engine notices within that time, once the artifact is there.
FAREWELL_SECONDS = 30.0
MOST_ATTEMPTS = 1000

OnMessage = Callable[[Message], None]


def start(engine: Engine, request: StepRequest, *, environment: Mapping[str, str]) -> Job:
    """The job of a request: one that is there already and has not ended, else a new one.

    Two that start the same request at once come to the same job: its name depends on nothing but the request, and on
    how many jobs before it are known to have ended.

    :param environment: variables of its processes; no secrets.
    :raises EngineError: the engine refuses it, or gives no answer.
    """
    for attempt in range(1, MOST_ATTEMPTS):
        job = _job(request, attempt, environment)
        if job.end() is not None or _ended_unseen(engine, job):
            continue
        with suppress(PreconditionFailed):  # somebody wanted the same before
            job.storage.write(REQUEST, request.to_json(), if_absent=True)
        engine.submit(job)
        return job
    raise StepError(f"{MOST_ATTEMPTS} jobs of this step have ended without an artifact", where=request.root)


def _job(request: StepRequest, attempt: int, environment: Mapping[str, str]) -> Job:
    return Job(
        root=request.root,
        step=request.step,
        digest=request.digest,
        pipeline=request.pipeline.name,
        attempt=attempt,
        resources=request.pipeline.resources,
        environment=dict(environment),
    )


def _ended_unseen(engine: Engine, job: Job) -> bool:
    """Whether a job has ended without an artifact while nobody followed it, which is then noted.

    Without this a retry would follow it only to fail once more.
    """
    try:
        state = engine.state(job)
    except EngineUnavailable:
        return False  # whoever starts it will hear the same
    if state.is_active or state.phase == "gone" or Artifacts(job.root).find(job.step, job.digest) is not None:
        return False
    job.note_end(JobEnd(phase=state.phase, why=state.why))
    return True


class Following:
    """One job, followed by looks at it.

    :param on_message: called with each message of the job, once and in order, and with what the engine says.
    """

    def __init__(self, engine: Engine, job: Job, on_message: OnMessage) -> None:
        self._engine = engine
        self._job = job
        self._on_message = on_message
        self._seen: set[str] = set()
        self._failures: dict[str, Failed] = {}
        self._said = ""
        self._heard = time.monotonic()
        self._made: float | None = None
        self.reopen()

    def reopen(self) -> None:
        """Reach the root as ``use_access`` says by now: credentials of a role last for hours, a training for days."""
        self._artifacts = Artifacts(self._job.root)
        self._storage = self._job.storage

    def look(self) -> bool:
        """Look once; whether the artifact is there and the job has ended.

        :raises RetrainerError: the error that the job reported, of the same class.
        :raises StepKilled: the job was stopped, evicted, or vanished.
        :raises StepError: it ended without a word, or without an artifact.
        :raises EngineUnavailable: nothing was heard of it for ``PATIENCE_SECONDS``. It may still run.
        """
        # In this order: what an ended job wrote is all there.
        state = self._state()
        self._relay()
        if self._artifacts.find(self._job.step, self._job.digest) is not None:
            self._made = self._made or time.monotonic()
            lingers = state is None or state.is_active
            return not lingers or time.monotonic() - self._made > FAREWELL_SECONDS
        if state is not None and not state.is_active:
            end = JobEnd(phase=state.phase, why=state.why, failure=self._failure)
            self._job.note_end(end)
            raise_for(self._job)
        return False

    @property
    def _failure(self) -> Failed | None:
        """What explains best why the job failed: what was said last, and by a step rather than about its process.

        Of several hosts one says what went wrong; of the others one hears that they lost it.
        """
        said = [self._failures[stream] for stream in sorted(self._failures)]
        of_steps = [one for one in said if not isinstance(one.as_error(), StepError)]
        return next(reversed(of_steps or said), None)

    def _state(self) -> JobState | None:
        try:
            state = self._engine.state(self._job)
        except EngineUnavailable as error:
            if time.monotonic() - self._heard > PATIENCE_SECONDS:
                raise
            self._say(f"nothing is known about the job for now: {error}")
            return None
        self._heard = time.monotonic()
        if state.is_active:
            self._say(f"the job {self._job.name} {_PHASES[state.phase]}{': ' + state.why if state.why else ''}")
        return state

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._on_message(Log(text=text))

    def _relay(self) -> None:
        try:
            entries = sorted(entry.key for entry in self._storage.list(f"{MESSAGES}/") if entry.key not in self._seen)
            for key in entries:
                stream = key.rsplit("/", 1)[0]
                for line in self._storage.read(key).splitlines():
                    self._relay_line(line, stream)
                self._seen.add(key)
                self._heard = time.monotonic()
        except StorageError as error:
            if time.monotonic() - self._heard > PATIENCE_SECONDS:
                raise
            self._say(f"what the job says cannot be read for now: {error}")

    def _relay_line(self, line: bytes, stream: str) -> None:
        try:
            message = parse_message(line)
        except ValidationError:
            return  # of a newer version of the agent
        if isinstance(message, Failed) and stream not in self._failures:
            self._failures[stream] = message  # what failed first explains what failed after it
        self._on_message(message)


_PHASES = {"waiting": "waits", "running": "runs"}


def follow(engine: Engine, job: Job, on_message: OnMessage, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Follow a job until its artifact is there.

    :raises RetrainerError: as ``Following.look``.
    """
    following = Following(engine, job, on_message)
    while not following.look():
        pause(LOOK_SECONDS)


def stop(engine: Engine, job: Job, *, why: str) -> None:
    """End a job for good: whoever wants its step later starts another one.

    :raises EngineError: the engine did not do it.
    """
    engine.stop(job)
    if Artifacts(job.root).find(job.step, job.digest) is None:
        job.note_end(JobEnd(phase="failed", why=why, stopped=True))


def run_elsewhere(engine: Engine, request: StepRequest, on_message: OnMessage) -> StepRef:
    """Run a step on an engine, wait for it, and end its job if this process is told to end.

    Its processes find their own credentials where they run, and reach the buckets as this process does.

    :raises RetrainerError: as ``Following.look``.
    """
    if is_made(request):
        return finished(request, reused=True)
    job = start(engine, request, environment=current_access().to_public_environment())
    try:
        follow(engine, job, on_message)
    except (KeyboardInterrupt, SystemExit):
        stop(engine, job, why="whoever followed it was told to end")
        raise
    return finished(request)


def finished(request: StepRequest, *, reused: bool = False) -> StepRef:
    """The reference to what a job left; what was noted about the jobs of the request is deleted.

    :param reused: nobody waited for it.
    """
    forget(request)
    return reference_to(request, reused=reused)


def forget(request: StepRequest) -> None:
    """Delete what lies in the root about the jobs of a request, whose artifact is there."""
    storage = open_storage(request.root)
    for attempt in range(1, MOST_ATTEMPTS):
        folder = f"{JOBS}/{_job(request, attempt, {}).name}"
        if not storage.exists(f"{folder}/{REQUEST}"):
            return
        storage.delete_tree(folder)


def is_made(request: StepRequest) -> bool:
    """Whether the artifact of a request is there."""
    return Artifacts(request.root).find(request.step, request.digest) is not None


def raise_for(job: Job, failure: Failed | None = None) -> NoReturn:
    """Raise what it means that a job has left no artifact.

    :param failure: why it could not be followed to its end, if it could not.
    :raises RetrainerError: always.
    """
    end = job.end()
    if end is None:
        raise StepKilled(f"the {job.step} job was lost", where=job.name) if failure is None else failure.as_error()
    raise _error_of(job, end)


def _error_of(job: Job, end: JobEnd) -> RetrainerError:
    if end.stopped:
        return StepKilled(f"the {job.step} job was stopped: {end.why}", where=job.name)
    if end.failure is not None:
        return end.failure.as_error()
    why = f": {end.why}" if end.why else ""
    match end.phase:
        case "gone":
            return StepKilled(f"the {job.step} job is gone from its engine{why}", where=job.name)
        case "succeeded":
            return StepError(f"the {job.step} job ended well, and left no artifact{why}", where=job.name)
        case _:
            return StepKilled(f"the {job.step} job failed without a word{why}", where=job.name)
