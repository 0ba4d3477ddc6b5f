"""The operator that decides whether the challenger may replace the champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import SkipMixin
from airflow.sdk.bases.xcom import BaseXCom

from retrainer.airflow.assets import DECISIONS, decisions_asset, tell
from retrainer.airflow.links import ReceiptLink, StepLink
from retrainer.airflow.notifying import tell_people
from retrainer.airflow.step_operator import REPORT_KEY, PipelineLike, StepOperator, Upstream, result_of
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECIDE, StepRef
from retrainer.chain.accounts import answer_to
from retrainer.chain.model_store import model_of
from retrainer.gate.receipt import Receipt
from retrainer.report.decision import decision_markdown, explain, in_a_sentence
from retrainer.store.entry import Answer

if TYPE_CHECKING:
    from airflow.sdk import Context

ASK_AGAIN = "ask_again"
"""The param of a run in which a person wants to be asked about what was rejected before."""
DECISION_KEY = "decision"
"""XCom key of the verdict and why, as in the event of ``decisions_asset``."""


class EvaluationGateOperator(StepOperator, SkipMixin):  # type: ignore[misc]
    """Judge an evaluation by the pipeline's gate, and let only a promoted challenger through.

    Returns the reference of the decision, with a ``Decided`` as its output. It is in XCom
    in every case, and the same for people, as Markdown, under the key ``report``.

    Each decision that was taken makes an event of ``decisions_asset``, whose ``extra`` has the verdict and the reasons;
    a refusal is told to those whom ``notify.on_refused`` names. A decision that was found, because nothing changed,
    makes neither, unless this is another try of the task that took it.

    A refused challenger, one that is live already, one that a person rejected and a dry run skip the tasks directly
    downstream; this task is green and its log says why. Tasks further down follow their own trigger rules. A decision
    that could not be taken fails.

    Retries: the decision is a pure function of the evaluation and the gate; a retry gives the same.

    :param evaluation: what ``EvaluateModelOperator`` returned. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = DECIDE
    upstream = "evaluation"
    task_name = "gate"
    # Airflow's scheduler then also skips downstream tasks that are cleared later, or added to the DAG.
    inherits_from_skipmixin = True

    template_fields: Sequence[str] = (*StepOperator.template_fields, "evaluation")
    links: ClassVar[Sequence[StepLink]] = (*StepOperator.links, ReceiptLink())
    ui_color = "#fdf3d0"

    def __init__(self, *, pipeline: PipelineLike, evaluation: Upstream, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **{"outlets": [DECISIONS], **kwargs})
        self.evaluation = evaluation

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Show the decision; skip what is downstream unless the challenger is promoted."""
        self._links = {**self._links, ReceiptLink.xcom_key_of_link: ReceiptLink.target(ref)}
        receipt = read_receipt(ref)
        if ref.reused and receipt is not None:  # else it has been said
            for line in explain(receipt):
                self.log.info("%s", line)
        unchanged = ref.unchanged.line() if ref.unchanged else ""
        context["ti"].xcom_push(REPORT_KEY, decision_markdown(receipt) if receipt else unchanged)
        if receipt is not None:
            self._tell(ref, receipt, context)
        if receipt is not None and receipt.promoted and not self._held_back(ref, context):
            return
        # Skipping leaves the task by an exception, which drops its result.
        context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, result_of(ref))
        downstream = context["task"].get_direct_relatives(upstream=False)
        self.skip(ti=context["ti"], tasks=[task for task in downstream if not task.is_teardown])

    def _tell(self, ref: StepRef, receipt: Receipt, context: Context) -> None:
        """Leave the decision where people and other DAGs see it."""
        happened = {
            "verdict": receipt.verdict,
            "by": "gate",
            "reasons": [reason.model_dump(mode="json") for reason in receipt.reasons],
            "text": in_a_sentence(receipt),
            "model": receipt.model,
            "channel": self._pipeline.publish.channel,
            "champion": receipt.champion_version,
            "metrics": {name: score.value for name, score in DECIDE.output_of(ref).metrics.items()},
            "decision": ref.digest,
            "dry_run": self._changes.dry_run,
            "run_id": context["dag_run"].run_id,
        }
        context["ti"].xcom_push(DECISION_KEY, happened)
        if ref.reused and context["ti"].try_number == 1:
            return
        tell(self, context, decisions_asset(self._pipeline), happened)
        if not receipt.promoted:
            tell_people(self._pipeline.notify.on_refused, context, {**happened, "event": "refused"}, self.log)

    def _held_back(self, decision: StepRef, context: Context) -> bool:
        """Whether what the gate promotes goes no further."""
        if self._changes.dry_run:
            self.log.info("the gate promotes it, and nothing is published: this is a dry run")
            return True
        return self._rejected(decision, context)

    def _rejected(self, decision: StepRef, context: Context) -> bool:
        """Whether a person has said no to this very decision, and nobody wants to be asked again."""
        if not self._pipeline.publish.approval.required or context["params"].get(ASK_AGAIN):
            return False
        said = answer_to(model_of(self._pipeline).ledger.entries(), decision.digest)
        if said is None or not isinstance(said.event, Answer) or said.event.answer == "approve":
            return False
        self.log.info(
            "%s rejected this very decision at %s, in run %s%s, so that nobody is asked again until something "
            'changes; to be asked, start a run with {"%s": true}',
            *(said.actor, said.at, said.run, f" ({said.event.reason})" if said.event.reason else "", ASK_AGAIN),
        )
        return True


def read_receipt(decision: StepRef) -> Receipt | None:
    """The receipt of a decision; ``None`` where there was nothing to decide."""
    if not decision.digest:
        return None
    path = Artifacts(decision.root).fetch(DECIDE.name, decision.digest) / "receipt.json"
    return Receipt.from_json(path.read_bytes(), where=str(path))
