"""Steps that an engine runs elsewhere, in Airflow: the engine by its connection, and the trigger that follows a job.

The task is deferred meanwhile and takes no slot of a worker. The death of a worker or of a triggerer leaves the job
alone; whoever goes on follows the same one. What a person does to the task, clearing it or marking it, ends the job.
Not here: engines and jobs themselves (``retrainer.run``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError
from airflow.triggers.base import BaseTrigger, TriggerEvent

from retrainer.airflow.connections import s3_access
from retrainer.airflow.progress import ProgressLog
from retrainer.airflow.settings import Settings
from retrainer.chain.jobs import Job
from retrainer.chain.messages import Failed
from retrainer.errors import EngineUnavailable, RetrainerError, first_line
from retrainer.run.engines import Engine, connect
from retrainer.run.remote import LOOK_SECONDS, Following, stop
from retrainer.spec.resources import Resources
from retrainer.storage import S3Access, use_access

if TYPE_CHECKING:
    from retrainer.run.engines.ray import RayAccess

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

# A role's credentials last for an hour at least.
_ACCESS_SECONDS = 900.0
# Looks wait for engines and stores, the longest of them a minute. Many jobs share these threads, and nothing else does.
_LOOKS = ThreadPoolExecutor(32, thread_name_prefix="retrainer-look")
# What Airflow raises where it cannot say what a connection holds, beside our own errors.
_UNREADABLE = (AirflowException, AirflowRuntimeError, OSError, ValueError)


def engine_of(resources: Resources, settings: Settings) -> Engine | None:
    """The engine that a pipeline names, as this deployment reaches it; ``None`` for the worker itself.

    :raises EngineError: it cannot be reached like that.
    :raises ResourceError: its library is not installed.
    """
    find = _CONNECTIONS.get(resources.engine)
    return connect(resources, find(settings) if find is not None else None)


def _to_kubernetes(settings: Settings) -> Callable[[], Any] | None:
    from retrainer.airflow.kubernetes_connection import cluster_of

    return partial(cluster_of, settings.kubernetes_conn_id) if settings.kubernetes_conn_id else None


def _to_ray(settings: Settings) -> RayAccess | None:
    from retrainer.airflow.ray_connection import ray_access

    return ray_access(settings.ray_conn_id)


# Of the engines that are reached through a connection, what their ``connect`` takes.
_CONNECTIONS: Mapping[str, Callable[[Settings], Any]] = {"kubernetes": _to_kubernetes, "ray": _to_ray}


class JobTrigger(BaseTrigger):  # type: ignore[misc]
    """Follows a job until it has ended, well or not; what it says stands in the task's log.

    :param job: a ``Job`` as a mapping.
    :param settings: ``Settings`` as a mapping, as they were resolved where the task ran.
    :param ends_at: seconds since the epoch after which the job is stopped; ``None`` for no such time.
    """

    def __init__(self, *, job: Mapping[str, Any], settings: Mapping[str, Any], ends_at: float | None = None) -> None:
        super().__init__()
        self.job = dict(job)
        self.settings = dict(settings)
        self.ends_at = ends_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments."""
        arguments = {"job": self.job, "settings": self.settings, "ends_at": self.ends_at}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the job has ended."""
        # With the job: where a DAG is tested, the event is all that its task is given.
        yield TriggerEvent({"job": self.job, **await self._followed()})

    async def _followed(self) -> dict[str, Any]:
        try:
            await self._follow(*self._given())
        except RetrainerError as error:
            # The task raises it again. If the job has not ended, another try follows it again.
            return {"failure": Failed.of(error).model_dump(mode="json")}
        except _UNREADABLE as error:
            lost = EngineUnavailable(f"the job cannot be followed: {first_line(error)}")
            return {"failure": Failed.of(lost).model_dump(mode="json")}
        return {}

    def _given(self) -> tuple[Job, Settings]:
        """The records of the arguments.

        :raises IntegrityError: a task of another version of this package was deferred.
        """
        return Job.from_content(self.job, where="trigger"), Settings.from_content(self.settings, where="trigger")

    async def _follow(self, job: Job, settings: Settings) -> None:
        access = await _in(_LOOKS, s3_access, settings.aws_conn_id)
        with use_access(access):
            following = Following(await _in(_LOOKS, _engine, job, settings), job, ProgressLog(logger))
        opened = time.monotonic()
        while True:
            if time.monotonic() - opened > _ACCESS_SECONDS:
                access, opened = await _in(_LOOKS, _readable, settings, access), time.monotonic()
                with use_access(access):
                    following.reopen()
            with use_access(access):
                if await _in(_LOOKS, following.look):
                    return
                if self.ends_at is not None and time.time() > self.ends_at:
                    await _in(_LOOKS, _stop, job, settings, "it took longer than execution_timeout allows")
                    return
            await asyncio.sleep(LOOK_SECONDS)

    async def on_kill(self) -> None:
        """End the job: a person cleared the deferred task, or marked it."""
        job, settings = self._given()
        # Airflow waits half a minute. No other job may be waited for, and what has begun goes on after that.
        own = ThreadPoolExecutor(1, thread_name_prefix="retrainer-end")
        try:
            await _in(own, _end, job, settings)
        finally:
            own.shutdown(wait=False)


async def _in(pool: Executor, call: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a call that waits, as ``asyncio.to_thread`` gives it, in the threads of a pool."""
    context = copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, partial(context.run, call, *arguments))


def _readable(settings: Settings, before: S3Access | None) -> S3Access | None:
    """How buckets are reached by now; as before where the connection cannot be read now."""
    try:
        return s3_access(settings.aws_conn_id)
    except (RetrainerError, *_UNREADABLE) as error:
        logger.warning("the connection to the buckets cannot be read now: %s", first_line(error))
        return before


def _end(job: Job, settings: Settings) -> None:
    # Without its connection the engine is asked all the same.
    with use_access(_readable(settings, None)):
        _stop(job, settings, "a person ended the task")


def _engine(job: Job, settings: Settings) -> Engine:
    engine = engine_of(job.resources, settings)
    assert engine is not None, "a job has an engine"
    return engine


def _stop(job: Job, settings: Settings, why: str) -> None:
    stop(_engine(job, settings), job, why=why)
