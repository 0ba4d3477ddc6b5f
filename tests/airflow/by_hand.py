"""The DAG of the documentation, whose operators chain by hand and get the path of the pipeline file."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG

from retrainer.airflow import (
    EvaluateModelOperator,
    EvaluationGateOperator,
    ExportOnnxOperator,
    FineTuneOperator,
    IngestDatasetOperator,
    PublishModelOperator,
    run_params,
)
from retrainer.spec import load_pipeline

FILE = next(Path(os.environ["RETRAINER_PIPELINES"]).glob("*.yaml"), None)
PARAMS = run_params(load_pipeline(FILE)) if FILE else {}

with DAG("by_hand", schedule=None, params=PARAMS) as dag:
    pipeline = str(FILE)
    snapshot = IngestDatasetOperator(task_id="ingest", pipeline=pipeline)
    checkpoint = FineTuneOperator(task_id="train", pipeline=pipeline, snapshot=snapshot.output, pool="default_pool")
    bundle = ExportOnnxOperator(task_id="export", pipeline=pipeline, checkpoint=checkpoint.output)
    evaluation = EvaluateModelOperator(task_id="evaluate", pipeline=pipeline, bundle=bundle.output)
    decision = EvaluationGateOperator(task_id="gate", pipeline=pipeline, evaluation=evaluation.output)
    PublishModelOperator(task_id="publish", pipeline=pipeline, decision=decision.output)
