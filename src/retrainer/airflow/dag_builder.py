"""The DAG of a pipeline: ``ingest >> train >> export >> evaluate >> gate >> [approval] >> publish``.

It follows the order of the chain (``chain/order.py``): where the pipeline lists several base models, the steps that a
run takes for each are mapped tasks, and ``select`` comes before ``evaluate``. How many there are is read
when Airflow parses the DAG.

The gate comes after the export because what is judged is the very file that will be served. Not here: which files
of a folder become DAGs (``dag_folder.py``).
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable, Param

from retrainer.airflow.assets import data_assets
from retrainer.airflow.description import describe_pipeline
from retrainer.airflow.failures import RETRY_POLICY
from retrainer.airflow.form import run_params
from retrainer.airflow.new_data import new_data_asset
from retrainer.airflow.notifying import deadlines_of, failure_callbacks
from retrainer.airflow.operators.approve import ApproveModelOperator
from retrainer.airflow.operators.gate import ASK_AGAIN
from retrainer.airflow.operators.ingest import IngestDatasetOperator
from retrainer.airflow.settings import SettingsLike, as_mapping
from retrainer.airflow.step_operator import PipelineLike, StepOperator, load
from retrainer.chain import Step, chain_of, step_before
from retrainer.spec import Pipeline
from retrainer.spec.model import Schedule

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

DEFAULT_ARGS: Mapping[str, Any] = {"retries": 2, "retry_delay": timedelta(minutes=1)}
# A schedule needs a first day; no run is made for the past (``catchup`` is off).
START_DATE = datetime(2025, 1, 1, tzinfo=UTC)
APPROVAL = "approval"
"""The id of the task that asks a person."""
# How the mapped tasks are called in the UI.
BASE_NAME = "{{ task.base_name }}"


def retrain_dag(pipeline: PipelineLike, *, settings: SettingsLike = None, **dag_kwargs: Any) -> DAG:
    """The DAG that retrains, judges and publishes one pipeline.

    Retries: two, a minute apart or as the kind of error says (``failures.py``), unless the pipeline's ``dag`` or
    ``default_args`` says otherwise; of the two the pipeline. One run at a time, and none for the past. The form that
    starts a run is drawn from the pipeline (``form.py``).

    :param pipeline: path of the pipeline file, its content as a mapping, or a ``Pipeline``.
    :param settings: see ``Settings``; for every task.
    :param dag_kwargs: arguments of ``airflow.sdk.DAG`` that replace what is derived from the pipeline.
    :raises PipelineError: the pipeline is wrong, or asks for a schedule that this version cannot keep.
    """
    given = str(pipeline) if isinstance(pipeline, Path) else pipeline
    return dag_of(load(pipeline), given, settings=settings, **dag_kwargs)


def dag_of(record: Pipeline, given: PipelineLike, *, settings: SettingsLike = None, **dag_kwargs: Any) -> DAG:
    """The DAG of a pipeline that is loaded already.

    :param given: what the operators get. A path stays a path: it is short in the UI, and each task reads the file as
        it is then.
    """
    dag_id = dag_kwargs.get("dag_id", dag_id_of(record.name))
    watched = _watched(record, dag_id, as_mapping(settings))
    arguments: dict[str, Any] = {
        "dag_id": dag_id,
        "dag_display_name": f"retrain {record.name}",
        "schedule": _schedule(record, watched),
        "start_date": START_DATE,
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": describe_pipeline(record),
        "tags": ["retrainer", record.task, *record.dag.tags],
        "dagrun_timeout": record.dag.run_timeout,
        "on_failure_callback": failure_callbacks(record) or None,
        "deadline": deadlines_of(record) or None,
        **dag_kwargs,
        "default_args": default_args_of(record, dag_kwargs.get("default_args", {})),
    }
    with DAG(**arguments) as dag:
        _tasks(record, {"pipeline": given, "settings": as_mapping(settings)}, watched)
    # Not before: each task would copy them several times, which takes longer than all the rest. A run merges them.
    for name, param in _params(record).items():
        if name not in dag.params:
            dag.params[name] = param
    return dag


def _tasks(pipeline: Pipeline, common: Mapping[str, Any], watched: Asset | None) -> None:
    """A task for each step of the chain, each planned from the task before it."""
    chain = chain_of(pipeline)
    tasks: dict[str, BaseOperator] = {}
    for step in chain:
        before = step_before(step, chain)
        upstream = tasks[before.name] if before else None
        approval = _approval(pipeline, upstream, common["settings"]) if step.when_promoted else None
        kind: type[StepOperator] = pkgutil.resolve_name(step.operator)
        arguments = {"task_id": kind.task_name, **kind.in_dag(pipeline), **common}
        if approval is not None:
            arguments["approval"] = approval.output
        if before is None and watched is not None:
            arguments["inlets"] = [watched]
        tasks[step.name] = task = _task(step, kind, upstream, arguments, pipeline.model.candidates)
        if approval is not None:
            # Not the output alone: a refused gate skips what is directly downstream.
            upstream >> approval >> task


def _task(
    step: Step[Any],
    kind: type[StepOperator],
    upstream: BaseOperator | None,
    arguments: Mapping[str, Any],
    bases: Sequence[str],
) -> BaseOperator:
    """The task of a step; of several base models a mapped one."""
    given = {kind.upstream: upstream.output} if upstream is not None else {}
    if step.about != "candidate" or not bases:
        return kind(**given, **arguments)
    return kind.partial(map_index_template=BASE_NAME, **given, **arguments).expand(base=list(bases))


def dag_id_of(name: str) -> str:
    """``retrain__<name>``, with underscores for what a DAG id reads badly with."""
    return "retrain__" + re.sub(r"[-.]", "_", name)


def _params(pipeline: Pipeline) -> dict[str, Param]:
    params = run_params(pipeline)
    if pipeline.publish.approval.required:
        about = "Ask also where somebody rejected the very same model before."
        params[ASK_AGAIN] = Param(False, type="boolean", title="Ask again", description=about)
    return params


def default_args_of(pipeline: Pipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of each task: what the file says goes before what a deployment says of all.

    Whoever says how long is waited before another try means it, whatever the error; else the kind of error decides.

    :param given: by the deployment.
    """
    said = {**given, **_of_tasks(pipeline)}
    by_kind = {} if "retry_delay" in said else {"retry_policy": RETRY_POLICY}
    return {**DEFAULT_ARGS, **by_kind, **said}


def _of_tasks(pipeline: Pipeline) -> dict[str, Any]:
    """What the file says of each task."""
    said = pipeline.dag
    arguments = {
        "owner": said.owner,
        "retries": said.retries,
        "retry_delay": said.retry_delay,
        "execution_timeout": said.task_timeout,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _approval(pipeline: Pipeline, gate: BaseOperator, settings: SettingsLike) -> BaseOperator | None:
    """A person's approval of what the gate promotes, where the pipeline asks for it."""
    if not pipeline.publish.approval.required:
        return None
    return ApproveModelOperator(
        task_id=APPROVAL,
        decision=gate.output,
        settings=settings,
        **ApproveModelOperator.in_dag(pipeline),
    )


def _watched(pipeline: Pipeline, dag_id: str, settings: Mapping[str, Any]) -> Asset | None:
    """What stands for new rows, where they are to start a run."""
    paths = pipeline.dataset.train
    if not pipeline.schedule.on_new_data or not isinstance(paths, tuple):
        return None
    return new_data_asset(
        pipeline.name,
        paths,
        pipeline.dataset.csv,
        pipeline.schedule,
        dag_id=dag_id,
        task_id=IngestDatasetOperator.task_name,
        aws_conn_id=settings.get("aws_conn_id"),
    )


def _schedule(pipeline: Pipeline, watched: Asset | None) -> Any:
    data = [watched, *data_assets(pipeline)] if watched is not None else []
    return schedule_of(pipeline.schedule, data)


def schedule_of(schedule: Schedule, data: Sequence[Asset]) -> Any:
    """The schedule of a DAG: by time, by the assets of new data, or both.

    :param data: any of these starts a run.
    """
    if schedule.cron is None:
        return AssetAny(*data) if data else None
    if schedule.timezone == "UTC" and not data:
        return schedule.cron
    times = CronTriggerTimetable(schedule.cron, timezone=schedule.timezone)
    return AssetOrTimeSchedule(timetable=times, assets=AssetAny(*data)) if data else times
