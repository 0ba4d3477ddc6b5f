"""The DAG that checks a pipeline's champion: ``check_decay``, and behind it a retraining if the file wants one.

Not here: the check (``work/decay.py``), what it tells whom (``operators/decay.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from retrainer.airflow.assets import decay_asset
from retrainer.airflow.dag_builder import START_DATE, dag_id_of, default_args_of, schedule_of
from retrainer.airflow.notifying import failure_callbacks
from retrainer.airflow.operators.decay import CheckDecayOperator
from retrainer.airflow.settings import SettingsLike
from retrainer.airflow.step_operator import PipelineLike, load
from retrainer.spec import Pipeline
from retrainer.spec.model import Schedule

RETRAIN = "retrain"
# One check starts one run: Airflow refuses a second of the same id, whichever run of this DAG asks for it.
_RUN_ID = f"decay__{{{{ ti.xcom_pull(task_ids='{CheckDecayOperator.task_name}')['digest'][:16] }}}}"
_WHY = f"{{{{ ti.xcom_pull(task_ids='{CheckDecayOperator.task_name}', key='decay')['text'][:500] }}}}"


def decay_dag(pipeline: PipelineLike, *, settings: SettingsLike = None, **dag_kwargs: Any) -> DAG:
    """The DAG that holds a pipeline's champion against newly labelled rows, as section ``decay`` says.

    :param pipeline: path of the pipeline file, its content as a mapping, or a ``Pipeline``.
    :param settings: see ``Settings``; for every task.
    :param dag_kwargs: arguments of ``airflow.sdk.DAG`` that replace what is derived from the pipeline.
    :raises PipelineError: the pipeline is wrong.
    """
    given = str(pipeline) if isinstance(pipeline, Path) else pipeline
    return decay_dag_of(load(pipeline), given, settings=settings, **dag_kwargs)


def decay_dag_of(record: Pipeline, given: PipelineLike, *, settings: SettingsLike = None, **dag_kwargs: Any) -> DAG:
    """The same of a pipeline that is loaded already.

    :param given: what the operator gets; see ``dag_of``.
    """
    check = record.decay_check
    times = Schedule(cron=check.cron, timezone=record.schedule.timezone)
    arguments: dict[str, Any] = {
        "dag_id": decay_id_of(record.name),
        "dag_display_name": f"decay {record.name}",
        "schedule": schedule_of(times, []),
        "start_date": START_DATE,
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": _description(record),
        "tags": ["retrainer", "decay", record.task, *record.dag.tags],
        "on_failure_callback": failure_callbacks(record, "the check of") or None,
        **dag_kwargs,
        "default_args": default_args_of(record, dag_kwargs.get("default_args", {})),
    }
    with DAG(**arguments) as dag:
        checked = CheckDecayOperator(
            task_id=CheckDecayOperator.task_name,
            pipeline=given,
            settings=settings,
            inlets=[decay_asset(record)],  # whose state store says what was told
        )
        if check.retrain:
            # Loads half of Airflow; only where it is needed.
            from retrainer.airflow.operators.retrain import StartRetrainOperator

            checked >> StartRetrainOperator(
                task_id=RETRAIN,
                trigger_dag_id=dag_id_of(record.name),
                trigger_run_id=_RUN_ID,
                conf={"note": _WHY},
                logical_date=None,
                skip_when_already_exists=True,
            )
    return dag


def decay_id_of(name: str) -> str:
    """``decay__<name>``, as ``dag_id_of``."""
    return re.sub("^retrain__", "decay__", dag_id_of(name))


def _description(record: Pipeline) -> str:
    check = record.decay_check
    once = "once for the same model and rows, and not while a run of it is under way"
    then = f"Then `{dag_id_of(record.name)}` is started, {once}." if check.retrain else ""
    return (
        f"Scores the model that `{record.publish.channel}` serves on rows that it has not seen, and compares its "
        f"{check.metric} with that on the test rows of its decision. It has decayed when the drop is shown to be more "
        f"than {check.max_drop:g}; with fewer than {check.min_rows:,} new rows nothing is said. {then}"
    )
