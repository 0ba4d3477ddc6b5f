"""The operator that holds the model that is live against newly labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import SkipMixin
from airflow.sdk.bases.xcom import BaseXCom

from retrainer.airflow.assets import DECAY_CHECKS, decay_asset, tell
from retrainer.airflow.notifying import made, tell_people
from retrainer.airflow.step_operator import REPORT_KEY, PipelineLike, StepOperator, result_of
from retrainer.artifacts.decay import DecayRecord
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECAY, StepRef
from retrainer.report.decay import decay_lines, decay_markdown
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import Context

DECAY_KEY = "decay"
"""XCom key of the verdict and why, as in the event of ``decay_asset``."""


TOLD = "told"
"""Key of the check that was told last, and of the run that did, in the state store of ``decay_asset``."""


class CheckDecayOperator(StepOperator, SkipMixin):  # type: ignore[misc]
    """Score the champion on rows that were labelled since it was published, and say whether it has decayed.

    Section ``decay`` of the pipeline says which rows, by which metric and how much worse is too much; without it the
    defaults hold. Returns the reference of the check, with a ``DecayChecked`` as its output; for people it is in XCom
    as Markdown, under the key ``report``.

    Each check makes an event of ``decay_asset``, and one that finds the champion decayed is told to those whom
    ``notify.on_decay`` names. Where that was told of the same champion on the same rows, neither happens, unless it was
    told by this very run, whose event is lost with a try that fails. What was told is in the state store of
    ``decay_asset``, as ``told``, where that is an inlet of the task, as in ``decay_dag``: a check that the command line
    made is told, too. Without that inlet only a check that was not made before, or another try, is told.

    Unless the champion has decayed, the tasks directly downstream are skipped; this task is green in each case. So
    what is to be done about it goes there, as ``decay_dag`` does with ``decay.retrain``.

    Retries: a check is named by champion and rows, so that a retry finds a finished one.

    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = DECAY
    task_name = "check_decay"
    # Airflow's scheduler then also skips downstream tasks that are cleared later, or added to the DAG.
    inherits_from_skipmixin = True
    ui_color = "#fdf3d0"

    def __init__(self, *, pipeline: PipelineLike, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **{"outlets": [DECAY_CHECKS], **kwargs})

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Try the notifiers: one that cannot be made is found before it is needed."""
        for notifier in pipeline.notify.on_decay:
            made(notifier)
        return {}

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Say what was found; skip what is downstream unless the champion has decayed."""
        record = DecayRecord.load(Artifacts(ref.root).fetch(DECAY.name, ref.digest))
        if ref.reused:  # else it has been said
            for line in decay_lines(record):
                self.log.info("%s", line)
        context["ti"].xcom_push(REPORT_KEY, decay_markdown(record))
        happened = _happened(record, ref)
        context["ti"].xcom_push(DECAY_KEY, happened)
        if self._is_news(ref, context):
            tell(self, context, decay_asset(self._pipeline), {**happened, "run_id": context["dag_run"].run_id})
            if record.verdict == "decayed":
                people = self._pipeline.notify.on_decay
                tell_people(people, context, {**happened, "event": "decayed"}, self.log)
        if record.verdict == "decayed":
            return
        # Skipping leaves the task by an exception, which drops its result.
        context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, result_of(ref))
        downstream = context["task"].get_direct_relatives(upstream=False)
        self.skip(ti=context["ti"], tasks=[task for task in downstream if not task.is_teardown])

    def _is_news(self, ref: StepRef, context: Context) -> bool:
        """Whether this check is to be told; notes that it is."""
        asset = decay_asset(self._pipeline)
        if asset not in self.inlets:
            return not ref.reused or context["ti"].try_number > 1
        memory, run_id = context["asset_state_store"][asset], context["dag_run"].run_id
        told = memory.get(TOLD)
        if isinstance(told, dict) and told["check"] == ref.digest:
            return bool(told["run_id"] == run_id)
        memory.set(TOLD, {"check": ref.digest, "run_id": run_id})
        return True


def _happened(record: DecayRecord, ref: StepRef) -> dict[str, Any]:
    """A check as other DAGs and notifiers are told of it."""
    told = record.model_dump(
        mode="json",
        include={"verdict", "model", "channel", "version", "metric", "before", "now", "drop", "max_drop", "rows"},
    )
    return {
        **told,
        "reasons": [{"code": record.code.value, "detail": record.text}],
        "text": f"{record.model}: {record.verdict}, {record.text}",
        "check": ref.digest,
    }
