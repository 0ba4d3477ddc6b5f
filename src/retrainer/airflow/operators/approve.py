"""The operator that asks a person whether what the gate promotes goes live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from retrainer.airflow.assets import DECISIONS, decisions_asset, tell
from retrainer.airflow.context import REASON, actor_of
from retrainer.airflow.links import ReceiptLink, page_of
from retrainer.airflow.notifying import PipelineNotifier, tell_people
from retrainer.airflow.operators.gate import read_receipt
from retrainer.airflow.progress import keep_problem
from retrainer.airflow.settings import SettingsLike, as_mapping, in_task
from retrainer.airflow.step_operator import Upstream
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECIDE, StepRef
from retrainer.chain.accounts import write_answer
from retrainer.chain.model_store import model_of
from retrainer.errors import ArtifactError, PipelineError
from retrainer.report.approval import approval_markdown
from retrainer.report.flips import Flips
from retrainer.spec import Pipeline
from retrainer.spec.changes import MOST_CHARACTERS
from retrainer.spec.durations import written

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.notifier import BaseNotifier


class ApproveModelOperator(ApprovalOperator):  # type: ignore[misc]
    """Airflow's ``ApprovalOperator``, which shows the decision, and puts the answer into the ledger of decisions.

    Whoever is asked sees metrics, intervals, the slices that moved most and the rows that flipped, with their texts
    where ``gate.report_texts`` is on. ``EvaluationGateOperator`` does not let a decision through that was rejected, in
    whatever run, until something changes or a run is started with ``{"ask_again": true}``.

    Who is asked, how long and what happens then is in the pipeline's ``publish.approval``: ``in_dag`` gives the
    arguments that follow from it. Each answer makes an event of ``decisions_asset``.

    :param decision: what ``EvaluationGateOperator`` returned. (templated)
    :param settings: see ``Settings``. (templated)
    :param body: Markdown to show in place of the decision.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "decision", "settings")

    # Of Airflow's operator, which says nothing of their types.
    subject: str
    body: str | None
    notifiers: Sequence[BaseNotifier]

    def __init__(self, *, decision: Upstream, settings: SettingsLike = None, **kwargs: Any) -> None:
        super().__init__(**{"outlets": [DECISIONS], **kwargs})
        self.decision = decision
        self.settings = as_mapping(settings)

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """Arguments that follow from a pipeline."""
        asked = pipeline.publish.approval
        reason = Param(
            None,
            type=["string", "null"],
            maxLength=MOST_CHARACTERS,
            format="multiline",
            title="Why",
            description="Stays in the history of decisions, with your name.",
        )
        return {
            "subject": f"Publish {pipeline.name} to {pipeline.publish.channel}?",
            "response_timeout": asked.timeout,
            # Else Airflow takes the limit of a task for that of the answer.
            "execution_timeout": None,
            "defaults": cls.REJECT if asked.timeout is not None and asked.on_timeout == "skip" else None,
            "assigned_users": [one.model_dump() for one in asked.assignees] or None,
            "params": {REASON: reason} if asked.ask_reason else None,
        }

    def execute(self, context: Context) -> Any:
        """Show the decision, tell those who are to answer, and wait."""
        with in_task(self.settings, self.log, context):
            decision = self._decision()
            pipeline, receipt = _pipeline_of(decision), read_receipt(decision)
            if receipt is None:
                raise PipelineError("there is no decision to approve", where="decision")
            (before, *_) = sorted(context["task"].upstream_task_ids)
            links = {"the decision, its log and report": page_of(context, before), "this run": page_of(context)}
            receipt_at = ReceiptLink.target(decision)
            more = {**links, **({"the receipt": receipt_at} if receipt_at else {})}
            self.body = self.body or approval_markdown(receipt, _flips(decision), more)
            # The run may be for another channel than the file says.
            self.subject = self.in_dag(pipeline)["subject"] if decision.changes else self.subject
        where = page_of(context, self.task_id, "required_actions")
        happened = {"event": "question", "model": pipeline.name, "channel": pipeline.publish.channel, "link": where}
        told = PipelineNotifier(pipeline.publish.approval.notify, f"{self.subject} Answer at {where}", **happened)
        self.notifiers = [*self.notifiers, told]
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Remember the answer before acting on it: skipping what is downstream leaves the task by an exception."""
        if "error" in event:
            # Another try would ask, and wait, once more.
            why = f"nobody answered within {self._waited}: {event['error']}"
            keep_problem(context, why, self.log)
            raise AirflowFailException(why)
        if event.get("timedout"):
            self.log.info("nobody answered within %s: nothing is published, and the next run asks again", self._waited)
        else:
            with in_task(self.settings, self.log, context):
                self._remember(self._decision(), context, event)
        return super().execute_complete(context=context, event=event)

    @property
    def _waited(self) -> str:
        return written(self.response_timeout) if self.response_timeout else "the time for it"

    def _decision(self) -> StepRef:
        return StepRef.from_content(self.decision, where="decision")

    def _remember(self, decision: StepRef, context: Any, event: Mapping[str, Any]) -> None:
        run, user, pipeline = context["dag_run"], event.get("responded_by_user") or {}, _pipeline_of(decision)
        answer: Literal["approve", "reject"] = (
            "approve" if self.APPROVE in (event.get("chosen_options") or ()) else "reject"
        )
        reason = str((event.get("params_input") or {}).get(REASON) or "").strip()
        by = user.get("name") or user.get("id") or actor_of(run)
        ledger = model_of(pipeline).ledger
        write_answer(ledger, decision.digest, answer=answer, reason=reason, actor=by, run=run.run_id)
        words = f"{by} {'approves' if answer == 'approve' else 'rejects'} it" + (f": {reason}" if reason else "")
        self.log.info("%s", words)
        happened = {
            "verdict": answer,
            "by": by,
            "reasons": [{"code": answer, "detail": reason}] if reason else [],
            "text": f"{pipeline.name}: {words}",
            "model": pipeline.name,
            "channel": pipeline.publish.channel,
            "champion": DECIDE.output_of(decision).champion_version,
            "metrics": {name: score.value for name, score in DECIDE.output_of(decision).metrics.items()},
            "decision": decision.digest,
            "dry_run": False,
            "run_id": run.run_id,
        }
        tell(self, context, decisions_asset(pipeline), happened)
        if answer == "reject":
            self.log.info("nobody is asked again about the same decision")
            tell_people(pipeline.notify.on_refused, context, {**happened, "event": "rejected"}, self.log)


def _pipeline_of(decision: StepRef) -> Pipeline:
    if decision.pipeline is None:
        raise PipelineError("does not say of which pipeline it is", where="decision")
    return decision.pipeline


def _flips(decision: StepRef) -> Flips | None:
    with suppress(ArtifactError):  # nothing was compared, or an older version of retrainer decided
        return Flips.load(Artifacts(decision.root).fetch(DECIDE.name, decision.digest))
    return None
