"""The operator that turns a checkpoint into the files that are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.operators.base import PipelineLike, StepOperator, reference
from retrainer.chain import RunContext, StepRef, StepRequest, plan_export
from retrainer.sources.base_models import short_name
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import XComArg


class ExportOnnxOperator(StepOperator):
    """Export a checkpoint to ONNX, and check the graphs against it on real rows.

    Returns the reference of the bundle; its summary has ``precisions``, ``max_difference`` of each, ``size_mb``.

    Retries: nothing is kept of a try that was cut short, and a finished bundle is found by its digest. A graph that
    does not compute what the checkpoint computes fails the task without a retry.

    Several base models: map the task over the checkpoints, ``ExportOnnxOperator.partial(...).expand(checkpoint=...)``;
    each checkpoint's reference says which base model it came from.

    :param checkpoint: what ``FineTuneOperator`` returned. (templated)
    :param base: the base model of the checkpoint; that which its reference names unless given. (templated)
    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    :param aws_conn_id: see ``StepOperator``.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "checkpoint", "base")

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        checkpoint: StepRef | Mapping[str, Any] | XComArg,
        base: str | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.checkpoint = checkpoint
        self.base = base

    @property
    def base_name(self) -> str:
        """What people call the base model; for ``map_index_template``."""
        return short_name(str(self.base or reference(self.checkpoint).base or ""))

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
        """Export the checkpoint."""
        return plan_export(pipeline, reference(self.checkpoint), context=context, base=str(self.base or "") or None)
