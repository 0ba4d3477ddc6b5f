"""The operator that turns a checkpoint into the files that are served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from retrainer.airflow.operators.ingest import CHECKPOINTS_KEY, IngestDatasetOperator
from retrainer.airflow.step_operator import PipelineLike, StepOperator, Text, Upstream
from retrainer.chain import EXPORT, StepRef
from retrainer.spec import Pipeline


class ExportOnnxOperator(StepOperator):
    """Export a checkpoint to ONNX, and check the graphs against it on real rows.

    Returns the reference of the bundle, with an ``Exported`` as its output.

    Retries: nothing is kept of a try that was cut short, and a finished bundle is found by its digest. A graph that
    does not compute what the checkpoint computes fails the task without a retry.

    Several base models: map the task over the checkpoints, ``ExportOnnxOperator.partial(...).expand(checkpoint=...)``;
    each checkpoint's reference says which base model it came from.

    :param checkpoint: what ``FineTuneOperator`` returned; of several base models it may be what the mapped task
        returned, of which ``base`` says which one. (templated)
    :param finished: JSON of what ``IngestDatasetOperator`` left of trainings that were skipped. (templated)
    :param base: the base model of the checkpoint; that which its reference names unless given. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = EXPORT
    upstream = "checkpoint"
    task_name = "export"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "checkpoint", "finished", "base")

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        checkpoint: Sequence[Upstream] | Upstream,
        finished: Text | None = None,
        base: Text | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.checkpoint = checkpoint
        self.finished = finished
        self.base = base

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """It also runs after a training that was skipped: as it was done, or as the run is for one base model alone."""
        waits, several = IngestDatasetOperator.in_dag(pipeline), pipeline.model.candidates
        if not waits:
            return {"trigger_rule": "none_failed"} if several else {}
        pulled = f"ti.xcom_pull(task_ids='{IngestDatasetOperator.task_name}', key='{CHECKPOINTS_KEY}')"
        return {"trigger_rule": "none_failed", "finished": f"{{{{ {pulled} | tojson }}}}"}

    def _references(self) -> list[StepRef]:
        """The checkpoint of this base model."""
        # A DAG may render templates as what they say.
        given = json.loads(self.finished) if isinstance(self.finished, str) and self.finished else self.finished
        finished = [StepRef.from_content(ref, where="finished") for ref in given or ()]
        checkpoints = finished or super()._references()
        return [one for one in checkpoints if self._base() in {None, one.base}] or checkpoints[:1]
