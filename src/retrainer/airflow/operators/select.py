"""The operator that chooses one of several fine-tuned base models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.operators.base import PipelineLike, StepOperator, reference
from retrainer.airflow.report import REPORT_KEY, selection_lines, selection_markdown
from retrainer.chain import RunContext, StepRef, StepRequest, plan_select
from retrainer.report.run_report import selection_of
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class SelectModelOperator(StepOperator):
    """Compare the bundles of several base models on the validation rows, and choose the one that goes on.

    The best by the pipeline's metric is chosen, unless a smaller or faster one cannot be told apart from it. Test rows
    are not read: they judge the chosen bundle afterwards, and must not have chosen it.

    Returns the reference of the selection; its summary has ``chosen``, ``why``, ``candidates`` and ``agreement``.
    ``EvaluateModelOperator`` takes it in the place of a bundle. The tables are in the log, and in XCom as Markdown
    under the key ``report``.

    Retries: as with the other steps. The same bundles in any order find the finished selection.

    :param bundles: what ``ExportOnnxOperator`` returned, for each base model: the output of a mapped task, or a list.
        (templated)
    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    :param aws_conn_id: see ``StepOperator``.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "bundles")
    ui_color = "#efe4f7"

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        bundles: Sequence[StepRef | Mapping[str, Any] | XComArg] | XComArg,
        **kwargs: Any,
    ) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.bundles = bundles

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
        """Choose among the bundles."""
        # The output of a mapped task is a lazy sequence that asks the API server for each item.
        return plan_select(pipeline, [reference(bundle) for bundle in self.bundles], context=context)

    def conclude(self, ref: StepRef, context: Context) -> dict[str, Any]:
        """Show the table."""
        selection = selection_of(ref)
        for line in selection_lines(selection):
            self.log.info("%s", line)
        context["ti"].xcom_push(REPORT_KEY, selection_markdown(selection))
        return super().conclude(ref, context)
