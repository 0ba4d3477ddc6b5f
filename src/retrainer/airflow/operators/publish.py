"""The operator that puts a promoted model live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.assets import model_asset
from retrainer.airflow.context import run_context
from retrainer.airflow.links import PublishedVersionLink
from retrainer.airflow.operators.base import PipelineLike, StepOperator, load, reference
from retrainer.spec import Pipeline
from retrainer.steps import RunContext, StepRef, StepRequest, plan_publish

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context, XComArg


class PublishModelOperator(StepOperator):
    """Put the promoted bundle into the store and move the channel to it.

    Returns the reference of the publication; its summary has ``version``, ``channel``, ``moved``, ``previous`` and
    ``store``. The model's asset is its outlet (``retrainer.airflow.model_asset``): given a ``Pipeline`` it is
    declared here; with a path or a mapping, pass ``outlets=[model_asset(pipeline)]`` (``retrain_dag`` does). The
    event's ``extra`` carries version, previous version, metrics and the decision.

    Retries: publishing is idempotent. A try that was cut short leaves readers on the old version, and the next one
    converges. When the channel moved since the decision was taken, the task fails without a retry: the decision
    compared the challenger with a model that is not live any more. Clear the evaluation with all downstream.

    :param decision: what ``EvaluationGateOperator`` returned. (templated)
    :param approval: what Airflow's ``ApprovalOperator`` returned. The history then names the person who approved,
        instead of who started the run. (templated)
    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "decision", "approval")
    operator_extra_links: Sequence[BaseOperatorLink] = (
        *StepOperator.operator_extra_links,
        PublishedVersionLink(),
    )
    ui_color = "#dff2e1"

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        decision: StepRef | Mapping[str, Any] | XComArg,
        approval: Mapping[str, Any] | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pipeline=pipeline, **{**_outlets(pipeline), **kwargs})
        self.decision = decision
        self.approval = approval

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
        """Publish what the decision promoted."""
        return plan_publish(pipeline, reference(self.decision), context=context)

    def _context(self, context: Context) -> RunContext:
        return run_context(context, actor=self._approver())

    def _approver(self) -> str | None:
        user = (self.approval or {}).get("responded_by_user") or {}
        return user.get("name") or user.get("id")

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and describe the new version in the asset's event."""
        ref = self.run(context)
        summary = ref.summary
        self._links = {**self._links, PublishedVersionLink.xcom_key_of_link: PublishedVersionLink.target(ref)}
        if summary["moved"]:
            before = f"; before: {summary['previous']}" if summary["previous"] else "; the first one"
            self.log.info("%s now serves version %s%s", summary["channel"], summary["version"], before)
        else:
            self.log.info("%s already serves version %s", summary["channel"], summary["version"])
        asset = model_asset(load(self.pipeline))
        if asset in self.outlets:
            context["outlet_events"][asset].extra = self._event(ref)
        return ref.model_dump(mode="json")

    def _event(self, ref: StepRef) -> dict[str, Any]:
        summary = ref.summary
        return {
            "model": summary["model"],
            "version": summary["version"],
            "previous": summary["previous"],
            "moved": summary["moved"],
            "channel": summary["channel"],
            "store": summary["store"],
            "metrics": summary["metrics"],
            "decision": {"verdict": "promote", "digest": summary["decision"]},
        }


def _outlets(pipeline: PipelineLike) -> dict[str, Any]:
    return {"outlets": [model_asset(pipeline)]} if isinstance(pipeline, Pipeline) else {}
