"""The Airflow DAG ``compare_base_models``: which base model suits the data of a pipeline best? Publishes nothing.

It shows how the operators chain by hand, with dynamic task mapping: how many base models there are is known when the
run has begun, and each is trained and exported in a mapped task of its own. What was trained here is not trained again
when the pipeline itself runs with the same base model.

A base model that cannot be trained fails its mapped task and with it the run. Which pipeline is compared is known too
late for Airflow to hand out slots, so each training takes as many as the pipeline with the most GPUs.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task

from retrainer.airflow import ExportOnnxOperator, FineTuneOperator, IngestDatasetOperator, SelectModelOperator
from retrainer.airflow.dag_folder import read_folder
from retrainer.airflow.failures import reported
from retrainer.airflow.settings import pipelines_folder
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline, pipeline_files

FOLDER = pipelines_folder(Path(__file__).parent / "pipelines")
OFFERED: list[str | None] = [file.name for file in pipeline_files(FOLDER)]
OFFERED = OFFERED or [None]  # JSON Schema has no empty enum
PIPELINES = [content for _, content in read_folder(FOLDER) if isinstance(content, Pipeline)]
GREEDIEST = max(PIPELINES, key=lambda one: one.resources.gpus, default=None)
POOL = FineTuneOperator.in_dag(GREEDIEST) if GREEDIEST else {}

PARAMS = {
    "pipeline": Param(
        OFFERED[0],
        type=["string", "null"],
        enum=OFFERED,
        title="Pipeline file",
        description="Whose data, training arguments and metric are used.",
    ),
    "base_models": Param(
        [],
        type="array",
        items={"type": "string"},
        title="Base models",
        description="Hub ids, folders, s3:// or package:NAME/FOLDER. Those that the pipeline lists, when empty.",
    ),
}

with DAG(
    dag_id="compare_base_models",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["retrainer"],
    default_args={"retries": 1, "retry_delay": timedelta(minutes=1)},
) as dag:

    @task
    def read_pipeline(params: dict[str, Any]) -> dict[str, Any]:
        """The pipeline file with the base models to compare."""
        try:
            pipeline = load_pipeline(FOLDER / params["pipeline"])
            content = pipeline.model_dump(mode="json")
            if params["base_models"]:
                content["model"] |= {"base": params["base_models"], "candidates": [], "revision": None}
            return parse_pipeline(content, where=pipeline.name).model_dump(mode="json")
        except PipelineError as error:
            raise reported(error, logging.getLogger("airflow.task")) from None

    @task
    def base_models(pipeline: dict[str, Any]) -> list[str]:
        """What the next tasks are mapped over."""
        return pipeline["model"]["candidates"] or [pipeline["model"]["base"]]

    @task
    def show(table: str) -> str:
        """The comparison, for whoever looks at this task."""
        logging.getLogger("airflow.task").info("%s", table)
        return table

    pipeline = read_pipeline()
    snapshot = IngestDatasetOperator(task_id="ingest", pipeline=pipeline)
    checkpoints = FineTuneOperator.partial(
        task_id="train",
        pipeline=pipeline,
        snapshot=snapshot.output,
        **POOL,
        map_index_template="{{ task.base_name }}",
    ).expand(base=base_models(pipeline))
    bundles = ExportOnnxOperator.partial(
        task_id="export", pipeline=pipeline, map_index_template="{{ task.base_name }}"
    ).expand(checkpoint=checkpoints.output)
    selection = SelectModelOperator(task_id="select", pipeline=pipeline, bundles=bundles.output)
    show(selection.output["report"])
