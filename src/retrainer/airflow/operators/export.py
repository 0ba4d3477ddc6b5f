"""The operator that turns a checkpoint into the files that are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrainer.airflow.step_operator import PipelineLike, StepOperator, Text, Upstream
from retrainer.chain import EXPORT


class ExportOnnxOperator(StepOperator):
    """Export a checkpoint to ONNX, and check the graphs against it on real rows.

    Returns the reference of the bundle, with an ``Exported`` as its output.

    Retries: nothing is kept of a try that was cut short, and a finished bundle is found by its digest. A graph that
    does not compute what the checkpoint computes fails the task without a retry.

    Several base models: map the task over the checkpoints, ``ExportOnnxOperator.partial(...).expand(checkpoint=...)``;
    each checkpoint's reference says which base model it came from.

    :param checkpoint: what ``FineTuneOperator`` returned. (templated)
    :param base: the base model of the checkpoint; that which its reference names unless given. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = EXPORT
    upstream = "checkpoint"
    task_name = "export"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "checkpoint", "base")

    def __init__(
        self, *, pipeline: PipelineLike, checkpoint: Upstream, base: Text | None = None, **kwargs: Any
    ) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.checkpoint = checkpoint
        self.base = base
