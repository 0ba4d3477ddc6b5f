"""The operator that scores challenger and champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.operators.base import PipelineLike, StepOperator, reference
from retrainer.chain import RunContext, StepRef, StepRequest, plan_evaluate
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class EvaluateModelOperator(StepOperator):
    """Score the bundle that was just exported, and the one that is live, on the same test rows.

    Returns the reference of the evaluation; its summary has ``metrics``, ``champion_metrics``,
    ``champion_version`` and ``unchanged``. ``unchanged`` means that the channel already serves this very bundle:
    then nothing is scored and no process is started.

    Retries: as with the other steps. The champion is looked up in each try; one that moved in between makes a new
    evaluation.

    :param bundle: what ``ExportOnnxOperator`` returned, or ``SelectModelOperator``, for the bundle that it chose.
        (templated)
    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    :param aws_conn_id: see ``StepOperator``.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "bundle")

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        bundle: StepRef | Mapping[str, Any] | XComArg,
        **kwargs: Any,
    ) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.bundle = bundle

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest | StepRef:
        """Score the bundle and the champion."""
        return plan_evaluate(pipeline, reference(self.bundle), context=context)

    def conclude(self, ref: StepRef, context: Context) -> dict[str, Any]:
        """Say it when there was nothing to score."""
        if ref.unchanged:
            self.log.info(
                "unchanged: %s already serves this model, version %s; nothing to evaluate",
                ref.summary["channel"],
                ref.summary["champion_version"],
            )
        return super().conclude(ref, context)
