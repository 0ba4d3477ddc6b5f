"""The operator that fine-tunes the base model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

from retrainer.airflow.engines import JobTrigger, engine_of
from retrainer.airflow.progress import ProgressState
from retrainer.airflow.settings import Settings, in_task
from retrainer.airflow.step_operator import PipelineLike, StepOperator, Text, Upstream
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.chain.jobs import Job
from retrainer.chain.messages import Failed
from retrainer.run.remote import finished, is_made, job_environment, raise_for, release, start, stop
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import Context

GPU_POOL = "gpu_pool"
# Airflow's own, in which every other task is.
NO_POOL = "default_pool"


class FineTuneOperator(StepOperator):
    """Fine-tune a base model on a snapshot, in a process that holds the GPUs it needs.

    Returns the reference of the checkpoint, with a ``Trained`` as its output.

    Retries: training saves checkpoints that are complete or absent. A retry after a kill, here or on another host
    with the same artifact root, resumes from the newest complete one; it never starts a second training beside the
    first, because the process ends with its task. Changed data, base model or arguments never resume. A finished
    training is found by its digest and not repeated.

    Pool: the task takes as many slots of the pool as it leases GPUs. Given a ``Pipeline``, pool and slots are those of
    its ``resources``; ``gpu_pool`` is left alone where it leases none. A path or a mapping is read only when the task
    runs, after Airflow has handed out the slots, so give ``pool`` and ``pool_slots`` with it (``retrain_dag`` does).

    Several base models: map the task over them, ``FineTuneOperator.partial(...).expand(base=[...])``, with ``pool`` and
    ``pool_slots`` given, for a mapped task does not ask the pipeline. One that fails, fails its own mapped task, and
    what is downstream of all of them does not run: the best of the others might not be the best.

    Elsewhere: with ``resources.engine`` the training is a job of that engine, and the task is deferred while it runs. A
    retry goes on with a job that is still there, and starts another one only where that has ended without a result.
    Clearing the task, or marking it, ends the job; so does ``execution_timeout``.

    :param snapshot: what ``IngestDatasetOperator`` returned. (templated)
    :param base: which base model, where the pipeline lists several; its first unless given. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = TRAIN
    upstream = "snapshot"
    task_name = "train"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "snapshot", "base")

    # Ends the job that this try has started, until it is deferred.
    _stop_job: Callable[[], None] | None = None

    def __init__(self, *, pipeline: PipelineLike, snapshot: Upstream, base: Text | None = None, **kwargs: Any) -> None:
        of_pipeline = self.in_dag(pipeline) if isinstance(pipeline, Pipeline) else {"pool": GPU_POOL}
        super().__init__(pipeline=pipeline, **{**of_pipeline, **kwargs})
        self.snapshot = snapshot
        self.base = base

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """The pool, and a slot of it for each GPU; without GPUs only a pool that somebody chose for it."""
        gpus, pool = pipeline.resources.gpus, pipeline.resources.pool
        return {"pool": pool if gpus or pool != GPU_POOL else NO_POOL, "pool_slots": max(1, gpus)}

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Say where the pool is asked for less than is leased."""
        if pipeline.resources.gpus > self.pool_slots:
            self.log.warning(
                "the pipeline leases %d GPUs, but the task takes %d slots of %s; set pool_slots to match",
                pipeline.resources.gpus,
                self.pool_slots,
                self.pool,
            )
        return {}

    def take(
        self, request: StepRequest | StepRef, context: Context, settings: Settings, environment: Mapping[str, str]
    ) -> StepRef:
        """As of any step; or hand it to the engine of the pipeline, and defer."""
        engine = None if isinstance(request, StepRef) else engine_of(request.pipeline.resources, settings)
        if isinstance(request, StepRef) or engine is None:
            if isinstance(request, StepRequest):
                release(request)
            return super().take(request, context, settings, environment)
        if is_made(request):
            return finished(request, reused=True)

        def claimed(job: Job) -> None:
            self._stop_job = partial(stop, engine, job, why="the task was told to end")

        job = start(engine, request, environment=job_environment(), claimed=claimed)
        self.log.info("the training runs as job %s on %s", job.name, job.resources.engine)
        ProgressState(context.get("task_state_store"), self.log).keep("job", job.name)
        trigger = JobTrigger(
            job=job.model_dump(mode="json"),
            settings=settings.model_dump(exclude_none=True),
            ends_at=None if self.execution_timeout is None else time.time() + self.execution_timeout.total_seconds(),
        )
        raise TaskDeferred(trigger=trigger, method_name="resume")

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Go on once the job has ended.

        :param event: what the trigger said: the ``job``, and a ``failure`` where it could not be followed to its end.
        :raises AirflowException: it left no artifact.
        """
        with in_task(self.settings, self.log, context) as (settings, _):
            request, _ = self.planned(context, settings)
            if isinstance(request, StepRef):
                return self.concluded(request, context)
            job = Job.from_content(event["job"], where="event")
            # What was handed over counts, also where this version would ask for it under another digest.
            request = request.model_copy(update={"digest": job.digest})
            if not is_made(request):
                raise_for(job, Failed.from_content(event["failure"], where="event") if "failure" in event else None)
            return self.concluded(finished(request), context)

    def on_kill(self) -> None:
        """End the step's process, or its job."""
        super().on_kill()
        if self._stop_job is not None:
            self._stop_job()
