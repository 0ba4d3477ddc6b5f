"""Hand a step to an engine and follow it, from any process that can read the artifact root.

The artifact is the only proof that a step succeeded. An engine's word counts for the rest: that it waits, that it runs,
that it ended. A job outlives whoever started it; who wants the same step later finds it by its name and goes on
following. Not here: the engines (``engines/``), the far end (``agent.py``).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from retrainer.artifacts.repository import Artifacts
from retrainer.chain.jobs import JOBS, MESSAGES, REQUEST, Job, JobEnd
from retrainer.chain.messages import Failed, Log, Message, parse_message
from retrainer.chain.requests import StepRef, StepRequest
from retrainer.errors import (
    EngineError,
    EngineUnavailable,
    PreconditionFailed,
    RetrainerError,
    StepError,
    StepKilled,
    StorageError,
)
from retrainer.run.engines import Engine
from retrainer.run.processes import reference_to
from retrainer.storage import open_storage
from retrainer.storage.access import current_access

LOOK_SECONDS = 3.0
# For so long nothing may be heard of a job, neither from its engine nor of its messages, or nothing of the store.
PATIENCE_SECONDS = 900.0
# An agent says its last words and its engine notices within that time, once the artifact is there.
FAREWELL_SECONDS = 30.0
MOST_ATTEMPTS = 1000

OnMessage = Callable[[Message], None]
Source = Literal["engine", "store"]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# Of this process's environment, beside what a connection says.
_HANDED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
)


def start(
    engine: Engine,
    request: StepRequest,
    *,
    environment: Mapping[str, str],
    claimed: Callable[[Job], None] = lambda job: None,
) -> Job:
    """The job of a request: one that is there already and has not ended, else a new one.

    Two that start the same request at once come to the same job: its name depends on nothing but the request, and on
    how many jobs before it are known to have ended.

    :param environment: variables of its processes; no secrets.
    :param claimed: is given the job before the engine is asked, so that a signal handler can stop it.
    :raises EngineError: the engine refuses it, or gives no answer.
    :raises StepKilled: somebody stopped it meanwhile.
    """
    for attempt in range(1, MOST_ATTEMPTS):
        job = _job(request, attempt, environment)
        if _has_ended(engine, job) or _is_of_other_resources(engine, job, request):
            continue
        claimed(job)
        try:
            engine.submit(job)
        except EngineUnavailable:
            raise  # it may be there, and another try finds it
        except EngineError as error:
            job.note_end(JobEnd(phase="failed", why=str(error)))
            raise
        if (end := job.end()) is not None and end.stopped:
            engine.stop(job)  # what was submitted after it was stopped
            raise _error_of(job, end)
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


def _has_ended(engine: Engine, job: Job) -> bool:
    """Whether a job has ended without an artifact. If nobody followed it to its end, that is noted now.

    Without this a retry would follow it only to fail once more.
    """
    if (end := job.end()) is not None:
        if end.stopped or not engine.state(job).is_over:
            engine.stop(job)  # whoever wanted that may have been ended before it was done
        return True
    try:
        state = engine.state(job)
    except EngineUnavailable:
        return False  # whoever starts it will hear the same
    if state.is_active or state.phase == "gone" or Artifacts(job.root).find(job.step, job.digest) is not None:
        return False
    if state.lingers:
        engine.stop(job)
    job.note_end(JobEnd(phase=state.phase, why=state.why))
    return True


def _is_of_other_resources(engine: Engine, job: Job, request: StepRequest) -> bool:
    """Whether what was handed over before under this name asks for other resources, or another engine: it is stopped.

    The digest knows neither of the engine nor of what it is asked for.
    """
    try:
        job.storage.write(REQUEST, request.to_json(), if_absent=True)
    except PreconditionFailed:
        where = job.storage.where(REQUEST)
        before = StepRequest.from_json(job.storage.read(REQUEST), where=where).pipeline.resources
        if before != request.pipeline.resources:
            # One on another engine than this one reads that in its folder.
            stop(engine, job, why="its pipeline asks for other resources by now")
            return True
    return False


class Following:
    """One job, followed by looks at it.

    :param on_message: called with each message of the job, once and in order, and with what the engine says.
    """

    def __init__(self, engine: Engine, job: Job, on_message: OnMessage) -> None:
        self._engine = engine
        self._job = job
        self._on_message = on_message
        self._seen: dict[str, set[str]] = {}
        self._failures: dict[str, Failed] = {}
        self._said: dict[Source, str] = {}
        self._heard: dict[Source, float] = dict.fromkeys(("engine", "store"), time.monotonic())
        self._made: float | None = None
        self.reopen()

    def reopen(self) -> None:
        """Reach the root as ``use_access`` says by now: credentials of a role last for hours, a training for days."""
        self._artifacts = Artifacts(self._job.root)
        self._storage = self._job.storage

    def look(self) -> bool:
        """Look once; whether the artifact is there and the job has ended.

        An engine or a store that refuses or does not answer is asked again with the next look: the job goes on without
        either.

        :raises RetrainerError: the error that the job reported, of the same class.
        :raises StepKilled: the job was stopped, evicted, or vanished.
        :raises StepError: it ended without a word, or without an artifact.
        :raises EngineUnavailable: nothing was heard of it for ``PATIENCE_SECONDS``. It may still run.
        """
        # In this order: what an ended job wrote is all there.
        state = self._tried("engine", lambda: self._engine.state(self._job))
        if state is not None and state.is_active:
            what = f"the job {self._job.name} {_PHASES[state.phase]}"
            self._say("engine", f"{what}: {state.why}" if state.why else what)
        is_made = self._tried("store", self._read)
        if is_made:
            self._made = self._made or time.monotonic()
            lingers = state is None or not state.is_over
            if lingers and time.monotonic() - self._made > FAREWELL_SECONDS:
                # A host that hangs, or what runs beside the training, would hold its devices for good.
                self._tried("engine", lambda: self._engine.stop(self._job))
                return True
            return not lingers
        if is_made is None or state is None or state.is_active:
            return False
        ended = JobEnd(phase=state.phase, why=state.why, failure=self._failure)
        if (end := self._tried("store", lambda: self._job.note_end(ended))) is not None:
            if state.lingers:
                self._tried("engine", lambda: self._engine.stop(self._job))
            raise _error_of(self._job, end)
        return False

    def _tried(self, source: Source, call: Callable[[], Result]) -> Result | None:
        """What a call gives; ``None`` where there is no answer now.

        :raises EngineUnavailable: there was none for ``PATIENCE_SECONDS``.
        """
        try:
            result = call()
        except (EngineError, StorageError) as error:
            if time.monotonic() - self._heard[source] > PATIENCE_SECONDS:
                silence = f"nothing was heard of the {self._job.step} job, which may still run"
                raise EngineUnavailable(f"{silence}: {error}", where=self._job.name) from None
            self._say(source, f"nothing is known about the job for now: {error}")
            return None
        self._heard[source] = time.monotonic()
        return result

    @property
    def _failure(self) -> Failed | None:
        """What explains best why the job failed: what was said last, and by a step rather than about its process.

        Of several hosts one says what went wrong; of the others one hears that they lost it.
        """
        said = [self._failures[stream] for stream in sorted(self._failures)]
        of_steps = [one for one in said if not isinstance(one.as_error(), StepError)]
        return next(reversed(of_steps or said), None)

    def _say(self, source: Source, text: str) -> None:
        if text != self._said.get(source):
            self._said[source] = text
            self._on_message(Log(text=text))

    def _read(self) -> bool:
        """Relay what is new; whether the artifact is there."""
        for stream in self._storage.list_folders(MESSAGES):
            self._relay_stream(f"{MESSAGES}/{stream}")
        return self._artifacts.find(self._job.step, self._job.digest) is not None

    def _relay_stream(self, stream: str) -> None:
        """What is new of a stream, block by block: of days of messages only the last block is listed.

        Whoever comes late begins with the last two blocks.
        """
        blocks = sorted(self._storage.list_folders(stream))
        for block in [name for name in blocks if name >= self._block_of(stream, blocks)]:
            seen = self._seen.setdefault(f"{stream}/{block}", set())
            for entry in self._storage.list(f"{stream}/{block}/"):
                if entry.key not in seen:
                    for line in self._storage.read(entry.key).splitlines():
                        self._relay_line(line, stream)
                    seen.add(entry.key)
                    self._heard["engine"] = time.monotonic()

    def _block_of(self, stream: str, blocks: Sequence[str]) -> str:
        """The first block that may hold something new."""
        known = [block for block in blocks if f"{stream}/{block}" in self._seen]
        return known[-1] if known else next(iter(blocks[-2:]), "")

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

    That it is to end is noted first. Where the engine does not answer, the job's own agent reads it and ends; where the
    store does not, the engine is asked all the same.

    :raises EngineError: the engine did not do it.
    :raises StorageError: that it is to end could not be noted.
    """
    try:
        if Artifacts(job.root).find(job.step, job.digest) is None:
            job.note_end(JobEnd(phase="failed", why=why, stopped=True))
    finally:
        engine.stop(job)


def job_environment() -> dict[str, str]:
    """Variables under which a job reaches buckets and the model hub as this process does. No secrets."""
    own = {name: os.environ[name] for name in _HANDED_ON if os.environ.get(name)}
    found = {**own, **current_access().to_public_environment()}
    for name in sorted(name for name, value in found.items() if _names_a_user(value)):
        logger.warning("%s holds a user's name and is not handed on to the job: give it to the job's processes", name)
        del found[name]
    return found


def _names_a_user(value: str) -> bool:
    try:
        return urlsplit(value).username is not None
    except ValueError:
        return False


def run_elsewhere(engine: Engine, request: StepRequest, on_message: OnMessage) -> StepRef:
    """Run a step on an engine, wait for it, and end its job if this process is told to end.

    Its processes find their own credentials where they run.

    :raises RetrainerError: as ``Following.look``.
    """
    if is_made(request):
        return finished(request, reused=True)
    jobs: list[Job] = []
    try:
        follow(engine, start(engine, request, environment=job_environment(), claimed=jobs.append), on_message)
    except (KeyboardInterrupt, SystemExit):
        for job in jobs[-1:]:
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


def release(request: StepRequest) -> None:
    """Let the jobs of a request end, on whichever engine: it is done without one now, in this process's place.

    Their agents read it. Without this, a job of an engine that could not be reached would go on beside the work here.
    """
    for attempt in range(1, MOST_ATTEMPTS):
        job = _job(request, attempt, {})
        if not job.storage.exists(REQUEST):
            return
        job.note_end(JobEnd(phase="failed", why="its pipeline asks for no engine by now", stopped=True))


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
