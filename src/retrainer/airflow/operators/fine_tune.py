"""The operator that fine-tunes the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrainer.airflow.step_operator import PipelineLike, StepOperator, Text, Upstream
from retrainer.chain import TRAIN
from retrainer.spec import Pipeline

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

    :param snapshot: what ``IngestDatasetOperator`` returned. (templated)
    :param base: which base model, where the pipeline lists several; its first unless given. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = TRAIN
    upstream = "snapshot"
    task_name = "train"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "snapshot", "base")

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
