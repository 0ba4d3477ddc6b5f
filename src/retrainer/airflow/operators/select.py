"""The operator that chooses one of several fine-tuned base models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrainer.airflow.settings import Settings
from retrainer.airflow.step_operator import REPORT_KEY, PipelineLike, StepOperator, Upstream
from retrainer.chain import SELECT, StepRef, StepRequest
from retrainer.report.selection_table import selection_part
from retrainer.spec import Pipeline
from retrainer.spec.changes import BASE

if TYPE_CHECKING:
    from airflow.sdk import Context


class SelectModelOperator(StepOperator):
    """Compare the bundles of several base models on the validation rows, and choose the one that goes on.

    The best by the pipeline's metric is chosen, unless a smaller or faster one cannot be told apart from it. Test rows
    are not read: they judge the chosen bundle afterwards, and must not have chosen it.

    Returns the reference of the selection, with a ``Selected`` as its output.
    ``EvaluateModelOperator`` takes it in the place of a bundle. The tables are in the log, and in XCom as Markdown
    under the key ``report``.

    A run that was asked for one base model alone has nothing to choose from: its bundle is handed on.

    Retries: as with the other steps. The same bundles in any order find the finished selection.

    :param bundles: what ``ExportOnnxOperator`` returned, for each base model: the output of a mapped task, or a list.
        (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = SELECT
    upstream = "bundles"
    task_name = "select"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "bundles")
    ui_color = "#efe4f7"

    def __init__(self, *, pipeline: PipelineLike, bundles: Sequence[Upstream] | Upstream, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.bundles = bundles

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """It also runs where the run is for one base model alone."""
        return {"trigger_rule": "none_failed"}

    def planned(self, context: Context, settings: Settings) -> tuple[StepRequest | StepRef, Mapping[str, str]]:
        """As of any step; of a run for one base model alone, its bundle."""
        references = self._references()
        if any(ref.changes.was(BASE) for ref in references):
            self.log.info("nothing to choose: this run was asked for one base model alone")
            self._pipeline = self._of_run(references, context)
            return references[0], {}
        return super().planned(context, settings)

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Show the table."""
        if ref.step != SELECT.name:
            return
        part = selection_part(SELECT.output_of(ref).selection)
        for line in part.lines():
            self.log.info("%s", line)
        context["ti"].xcom_push(REPORT_KEY, part.markdown())
