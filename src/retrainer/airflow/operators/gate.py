"""The operator that decides whether the challenger may replace the champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import SkipMixin
from airflow.sdk.bases.xcom import BaseXCom

from retrainer.airflow.links import ReceiptLink, StepLink
from retrainer.airflow.step_operator import REPORT_KEY, PipelineLike, StepOperator, Upstream, result_of
from retrainer.artifacts.rejections import rejection_of
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECIDE, StepRef
from retrainer.gate.receipt import Receipt
from retrainer.report.decision import decision_markdown, explain

if TYPE_CHECKING:
    from airflow.sdk import Context

ASK_AGAIN = "ask_again"
"""The param of a run in which a person wants to be asked about what was rejected before."""


class EvaluationGateOperator(StepOperator, SkipMixin):  # type: ignore[misc]
    """Judge an evaluation by the pipeline's gate, and let only a promoted challenger through.

    Returns the reference of the decision, with a ``Decided`` as its output. It is in XCom
    in every case, and the same for people, as Markdown, under the key ``report``.

    A refused challenger, one that is live already, and one that a person rejected skip the tasks directly downstream;
    this task is green and its log says why. Tasks further down follow their own trigger rules. A decision that could
    not be taken fails.

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
        super().__init__(pipeline=pipeline, **kwargs)
        self.evaluation = evaluation

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Show the decision; skip what is downstream unless the challenger is promoted."""
        self._links = {**self._links, ReceiptLink.xcom_key_of_link: ReceiptLink.target(ref)}
        receipt = _receipt(ref)
        if ref.reused and receipt is not None:  # else it has been said
            for line in explain(receipt):
                self.log.info("%s", line)
        unchanged = ref.unchanged.line() if ref.unchanged else ""
        context["ti"].xcom_push(REPORT_KEY, decision_markdown(receipt) if receipt else unchanged)
        if receipt is not None and receipt.promoted and not self._rejected(ref, context):
            return
        # Skipping leaves the task by an exception, which drops its result.
        context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, result_of(ref))
        downstream = context["task"].get_direct_relatives(upstream=False)
        self.skip(ti=context["ti"], tasks=[task for task in downstream if not task.is_teardown])

    def _rejected(self, decision: StepRef, context: Context) -> bool:
        """Whether a person has said no to this very decision, and nobody wants to be asked again."""
        if self._pipeline.publish.approval == "none" or context["params"].get(ASK_AGAIN):
            return False
        no = rejection_of(decision.root, decision.digest)
        if no is not None:
            self.log.info(
                "%s rejected this very decision at %s, in run %s, so that nobody is asked again until something "
                'changes; to be asked, start a run with {"%s": true}',
                *(no.by, no.at, no.run_id, ASK_AGAIN),
            )
        return no is not None


def _receipt(decision: StepRef) -> Receipt | None:
    """The receipt of a decision; ``None`` where there was nothing to decide."""
    if not decision.digest:
        return None
    path = Artifacts(decision.root).fetch(DECIDE.name, decision.digest) / "receipt.json"
    return Receipt.from_json(path.read_bytes(), where=str(path))
