"""Which errors are tried again, and after how long: in a run of Airflow's, in the DAG of a pipeline, by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ExceptionRetryPolicy
from airflow.serialization.serialized_objects import DagSerialization

from retrainer.airflow import FineTuneOperator, IngestDatasetOperator, decay_dag, retrain_dag
from retrainer.airflow.dag_builder import START_DATE
from retrainer.airflow.failures import KINDS, RETRY_POLICY, as_airflow, is_permanent
from retrainer.errors import IntegrityError, OutOfGpuMemory, StepKilled, Throttled
from retrainer.spec.durations import written
from retrainer.storage.s3_errors import s3_errors
from retrainer.work.resources import resource_error
from tests.airflow.harness import HERE, REPOSITORY, airflow_environment
from tests.spec.test_spec_people import CONTENT


def test_each_kind_of_error_waits_as_the_table_says(airflow_home: Path, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "fails.py").write_text("from tests.airflow.retry_program import failing_dag\ndag = failing_dag()\n")
    finished = subprocess.run(
        [sys.executable, str(HERE / "retry_program.py"), str(answer)],
        env=airflow_environment(airflow_home, AIRFLOW__CORE__DAGS_FOLDER=str(dags)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.exists(), finished.stdout + finished.stderr
    found = json.loads(answer.read_text())

    def said(task: str) -> list[Any]:
        return [found[task][name] for name in ("state", "tries", "waited", "why")]

    assert said("killed") == ["success", 2, 0.0, "it goes on from what the killed process has completed"]
    assert said("throttled") == ["success", 2, 300.0, "the store asks for fewer requests"]
    assert said("gpu_full") == ["success", 2, 600.0, "others may leave more of the GPU's memory by then"]
    # As long as the task says.
    assert said("unreachable") == ["success", 2, None, None]
    assert said("own_delay") == ["success", 2, None, None]
    # Another try gives the same, however many there are.
    assert said("lost_race") == ["failed", 1, None, None]
    assert said("bad_input") == ["failed", 1, None, None]


def test_every_task_of_a_pipelines_dags_has_the_policy() -> None:
    several = {**CONTENT, "model": {"base": ["one", "another"]}, "decay": {"retrain": True}}
    for dag in (retrain_dag(several), decay_dag(several)):
        assert all(task.retry_policy is RETRY_POLICY for task in dag.tasks)
        assert all(task.has_retry_policy for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks)
    mapped = retrain_dag(several).get_task("train")
    assert mapped.unmap({"base": "one"}).retry_policy is RETRY_POLICY


def test_who_says_how_long_to_wait_means_it() -> None:
    own = ExceptionRetryPolicy([])
    of_file = retrain_dag({**CONTENT, "dag": {"retry_delay": "3 min", "retries": 7}}).tasks
    assert {(task.retry_policy, task.retry_delay) for task in of_file} == {(None, timedelta(minutes=3))}
    assert {task.retries for task in of_file} == {7}
    of_deployment = retrain_dag(CONTENT, default_args={"retry_delay": timedelta(minutes=4)}).tasks
    assert {(task.retry_policy, task.retry_delay) for task in of_deployment} == {(None, timedelta(minutes=4))}
    assert {task.retry_policy for task in retrain_dag(CONTENT, default_args={"retry_policy": own}).tasks} == {own}
    # How often is another question.
    assert {task.retry_policy for task in retrain_dag(CONTENT, default_args={"retries": 9}).tasks} == {RETRY_POLICY}


def test_by_hand() -> None:
    own = ExceptionRetryPolicy([])
    assert IngestDatasetOperator(task_id="a", pipeline=CONTENT).retry_policy is RETRY_POLICY
    assert IngestDatasetOperator(task_id="a", pipeline=CONTENT, retry_policy=None).retry_policy is None
    assert IngestDatasetOperator(task_id="a", pipeline=CONTENT, retry_policy=own).retry_policy is own
    with DAG("by_hand", start_date=START_DATE, default_args={"retry_delay": timedelta(minutes=4)}):
        assert FineTuneOperator(task_id="a", pipeline=CONTENT, snapshot={}).retry_policy is None


def test_the_errors_that_libraries_raise_are_of_these_kinds() -> None:
    from botocore.exceptions import ClientError

    for code in ("SlowDown", "503", "ServiceUnavailable", "Throttling"):
        with pytest.raises(Throttled, match="fewer requests"), s3_errors("s3://bucket/key"):
            raise ClientError({"Error": {"Code": code}}, "GetObject")
    for code in ("BadDigest", "XAmzContentSHA256Mismatch"):
        with pytest.raises(IntegrityError) as damaged, s3_errors("s3://bucket/key"):
            raise ClientError({"Error": {"Code": code}}, "PutObject")
        assert not is_permanent(damaged.value), "the next transfer may be whole"
    assert is_permanent(IntegrityError("altered where it lies"))
    full = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    assert isinstance(resource_error(full, "/nowhere"), OutOfGpuMemory)
    assert {kind.error for kind in KINDS} == {StepKilled, Throttled, OutOfGpuMemory}
    for kind in KINDS:
        assert type(as_airflow(kind.error("x"))) is kind.raised


def test_the_page_says_the_same() -> None:
    page = (REPOSITORY / "docs" / "airflow.md").read_text()
    for kind in KINDS:
        delay = written(kind.delay) if kind.delay else "at once"
        assert re.search(rf"^\| .*\| {re.escape(delay)} \| .*{re.escape(kind.reason)}.*\|$", page, re.M), kind.reason
