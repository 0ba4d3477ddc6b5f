"""The operator that puts a promoted model live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.assets import model_asset
from retrainer.airflow.connections import signing_key
from retrainer.airflow.context import run_context
from retrainer.airflow.links import PublishedVersionLink
from retrainer.airflow.operators.base import PipelineLike, StepOperator, load, reference
from retrainer.chain import RunContext, StepRef, StepRequest, plan_publish
from retrainer.chain.model_store import signer_of
from retrainer.spec import Pipeline
from retrainer.store.history import Cause
from retrainer.store.signing_keys import SIGNING_KEY

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context, XComArg


class PublishModelOperator(StepOperator):
    """Put the promoted bundle into the store and move the channel to it.

    Returns the reference of the publication; its summary has ``version``, ``channel``, ``moved``, ``previous``,
    ``store``, ``signed_by`` (the key's id), ``sent_bytes`` and ``copied_bytes``. The model's asset is its outlet
    (``retrainer.airflow.model_asset``): given a ``Pipeline`` it is declared here; with a path or a mapping, pass
    ``outlets=[model_asset(pipeline)]`` (``retrain_dag`` does). The event's ``extra`` carries version, previous version,
    metrics and the decision.

    Signing: the key that ``publish.sign_with`` names is loaded before anything else, and one that cannot be used fails
    the task without a retry. That of ``airflow:CONNECTION`` is the connection's password; it reaches the step's process
    in its environment and no other place.

    Retries: publishing is idempotent. A try that was cut short leaves readers on the old version, and the next one
    converges. When the channel moved since the decision was taken, the task fails without a retry: the decision
    compared the challenger with a model that is not live any more. Clear the evaluation with all downstream.

    :param decision: what ``EvaluationGateOperator`` returned. (templated)
    :param approval: what Airflow's ``ApprovalOperator`` returned. The history then names the person who approved,
        instead of who started the run. (templated)
    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    :param aws_conn_id: see ``StepOperator``.
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

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Load the signing key; the variable that hands it to the step's process where a connection holds it."""
        pem = signing_key(pipeline.publish)
        signer_of(pipeline.publish, pem=pem)
        return {} if pem is None else {SIGNING_KEY: pem}

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
        """Publish what the decision promoted."""
        cause: Cause = "approval" if self.approval else "gate"
        return plan_publish(pipeline, reference(self.decision), context=context, cause=cause)

    def _context(self, context: Context) -> RunContext:
        return run_context(context, actor=self._approver())

    def _approver(self) -> str | None:
        user = (self.approval or {}).get("responded_by_user") or {}
        return user.get("name") or user.get("id")

    def conclude(self, ref: StepRef, context: Context) -> dict[str, Any]:
        """Describe the new version in the asset's event."""
        summary = ref.summary
        self._links = {**self._links, PublishedVersionLink.xcom_key_of_link: PublishedVersionLink.target(ref)}
        if summary["moved"]:
            before = f"; before: {summary['previous']}" if summary["previous"] else "; the first one"
            self.log.info("%s now serves version %s%s", summary["channel"], summary["version"], before)
        else:
            self.log.info("%s already serves version %s", summary["channel"], summary["version"])
        sent, copied = (f"{summary[name] / 1e6:,.1f} MB" for name in ("sent_bytes", "copied_bytes"))
        signed = f"signed by the key {summary['signed_by']}" if summary["signed_by"] else "not signed"
        self.log.info("%s sent, %s copied within the store; %s", sent, copied, signed)
        asset = model_asset(load(self.pipeline))
        if asset in self.outlets:
            context["outlet_events"][asset].extra = self._event(ref)
        return super().conclude(ref, context)

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
