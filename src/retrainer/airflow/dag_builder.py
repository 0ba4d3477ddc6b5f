"""The DAG of a pipeline: ``ingest >> train >> export >> evaluate >> gate >> [approval] >> publish``.

Where the pipeline lists several base models, ``train`` and ``export`` are mapped over them, and ``select`` stands
before ``evaluate``. How many there are is read when Airflow parses the DAG.

The gate comes after the export because what is judged is the very file that will be served. Not here: which files
of a folder become DAGs (``dag_folder.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

from retrainer.airflow.assets import data_assets, model_asset
from retrainer.airflow.description import describe_pipeline
from retrainer.airflow.operators import (
    EvaluateModelOperator,
    EvaluationGateOperator,
    ExportOnnxOperator,
    FineTuneOperator,
    IngestDatasetOperator,
    PublishModelOperator,
    SelectModelOperator,
)
from retrainer.airflow.operators.base import PipelineLike, load
from retrainer.airflow.report import REPORT_KEY
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

DEFAULT_ARGS: Mapping[str, Any] = {"retries": 2, "retry_delay": timedelta(minutes=1)}
# A schedule needs a first day; no run is made for the past (``catchup`` is off).
START_DATE = datetime(2025, 1, 1, tzinfo=UTC)
# How the mapped tasks are called in the UI.
BASE_NAME = "{{ task.base_name }}"


def retrain_dag(
    pipeline: PipelineLike,
    *,
    artifact_root: str | Path | None = None,
    trainer_python: str | Path | None = None,
    aws_conn_id: str | None = None,
    **dag_kwargs: Any,
) -> DAG:
    """The DAG that retrains, judges and publishes one pipeline.

    Retries: two, a minute apart, unless ``default_args`` says otherwise. One run at a time, and none for the past.

    :param pipeline: path of the pipeline file, its content as a mapping, or a ``Pipeline``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    :param aws_conn_id: see ``StepOperator``.
    :param dag_kwargs: arguments of ``airflow.sdk.DAG`` that replace what is derived from the pipeline.
    :raises PipelineError: the pipeline is wrong, or asks for a schedule that this version cannot keep.
    """
    given = str(pipeline) if isinstance(pipeline, Path) else pipeline
    return dag_of(
        load(pipeline),
        given,
        artifact_root=artifact_root,
        trainer_python=trainer_python,
        aws_conn_id=aws_conn_id,
        **dag_kwargs,
    )


def dag_of(
    record: Pipeline,
    given: PipelineLike,
    *,
    artifact_root: str | Path | None = None,
    trainer_python: str | Path | None = None,
    aws_conn_id: str | None = None,
    **dag_kwargs: Any,
) -> DAG:
    """The DAG of a pipeline that is loaded already.

    :param given: what the operators get. A path stays a path: it is short in the UI, and each task reads the file as
        it is then.
    """
    arguments: dict[str, Any] = {
        "dag_id": dag_id_of(record.name),
        "dag_display_name": f"retrain {record.name}",
        "schedule": _schedule(record, given if isinstance(given, str) else record.name),
        "start_date": START_DATE,
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": describe_pipeline(record),
        "tags": ["retrainer", record.task],
        **dag_kwargs,
        "default_args": {**DEFAULT_ARGS, **dag_kwargs.get("default_args", {})},
    }
    common: dict[str, Any] = {
        "pipeline": given,
        "artifact_root": artifact_root,
        "trainer_python": trainer_python,
        "aws_conn_id": aws_conn_id,
    }
    with DAG(**arguments) as dag:
        snapshot = IngestDatasetOperator(task_id="ingest", **common)
        bundle = _build(record, snapshot, common)
        evaluation = EvaluateModelOperator(task_id="evaluate", bundle=bundle.output, **common)
        gate = EvaluationGateOperator(task_id="gate", evaluation=evaluation.output, **common)
        approval = _approval(record, gate)
        publish = PublishModelOperator(
            task_id="publish",
            decision=gate.output,
            approval=approval.output if approval else None,
            outlets=[model_asset(record)],
            **common,
        )
        if approval:
            # Not "gate >> publish" alone: a refused gate skips what is directly downstream.
            gate >> approval >> publish
    return dag


def _build(pipeline: Pipeline, snapshot: BaseOperator, common: Mapping[str, Any]) -> BaseOperator:
    """The tasks from the snapshot to the bundle that is evaluated; the last of them."""
    slots: dict[str, Any] = {"pool": pipeline.resources.pool, "pool_slots": max(1, pipeline.resources.gpus)}
    bases = pipeline.model.candidates
    if not bases:
        checkpoint = FineTuneOperator(task_id="train", snapshot=snapshot.output, **slots, **common)
        return ExportOnnxOperator(task_id="export", checkpoint=checkpoint.output, **common)
    checkpoints = FineTuneOperator.partial(
        task_id="train", snapshot=snapshot.output, map_index_template=BASE_NAME, **slots, **common
    ).expand(base=list(bases))
    bundles = ExportOnnxOperator.partial(task_id="export", map_index_template=BASE_NAME, **common).expand(
        checkpoint=checkpoints.output
    )
    return SelectModelOperator(task_id="select", bundles=bundles.output, **common)


def dag_id_of(name: str) -> str:
    """``retrain__<name>``, with underscores for what a DAG id reads badly with."""
    return "retrain__" + re.sub(r"[-.]", "_", name)


def _approval(pipeline: Pipeline, gate: BaseOperator) -> BaseOperator | None:
    if pipeline.publish.approval == "none":
        return None
    return ApprovalOperator(
        task_id="approval",
        subject=f"Publish {pipeline.name} to {pipeline.publish.channel}?",
        body=f"{{{{ ti.xcom_pull(task_ids='{gate.task_id}', key='{REPORT_KEY}') }}}}",
    )


def _schedule(pipeline: Pipeline, where: str) -> Any:
    schedule = pipeline.schedule
    if not schedule.on_new_data:
        return schedule.cron
    if schedule.min_new_rows > 1:
        # Starting for every new row instead would quietly be something else than what was asked for.
        raise PipelineError(
            "counting new rows before a run is not available in this version",
            where=f"{where}: schedule.min_new_rows",
            hint="leave min_new_rows at 1; unchanged data costs seconds, nothing is trained twice",
        )
    assets = AssetAny(*data_assets(pipeline))
    if schedule.cron is None:
        return assets
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(schedule.cron, timezone="UTC"), assets=assets)
