"""The date of a run in the paths of a pipeline's data."""

from __future__ import annotations

import runpy
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import macros
from airflow.serialization.serialized_objects import DagSerialization

from retrainer.airflow import retrain_dag
from retrainer.airflow.dates import made_no_difference, of_date
from retrainer.errors import DataError, PipelineError
from retrainer.sources import expand
from retrainer.spec import Pipeline, parse_pipeline
from tests.airflow.harness import REPOSITORY, Project


def pipeline(**dataset: Any) -> Pipeline:
    content = {"name": "dated", "dataset": dataset, "model": {"base": "b"}, "publish": {"store": "s3://models"}}
    return parse_pipeline(content)


def rendered(given: Pipeline, **context: Any) -> Pipeline:
    return of_date(given, retrain_dag(given).get_task("ingest"), context)


def test_paths_name_the_date_of_the_run() -> None:
    dated = pipeline(train=["s3://corp/{{ ds }}/*.csv", "/always.csv"], test="/test/{{ partition_key }}.csv")
    run = rendered(dated, ds="2026-01-02", partition_key="eu")
    assert run.dataset.train == ("s3://corp/2026-01-02/*.csv", "/always.csv")
    assert run.dataset.test == ("/test/eu.csv",)
    assert run.model_copy(update={"dataset": dated.dataset}) == dated
    plain = pipeline(train="/a.csv")
    assert rendered(plain) is plain


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/{{ ds }}.csv", "'ds' is undefined"),
        ("/{{ partition_key }}.csv", "part of it is None"),
        ("/{{ data_interval_start.year }}.csv", "has no attribute 'year'"),
        ("/{{ ds.csv", "unexpected end of template"),
    ],
)
def test_a_run_without_that_date_fails_and_says_what_to_do(path: str, said: str) -> None:
    with pytest.raises(PipelineError, match=r"start it by schedule\.cron, by a backfill") as failed:
        rendered(pipeline(train=path), partition_key=None, data_interval_start=None)
    assert said in str(failed.value)
    assert "dataset.train" in str(failed.value)


def test_outside_airflow_a_template_is_named_for_what_it_is() -> None:
    with pytest.raises(DataError, match="only Airflow completes"):
        expand(["/data/{{ ds }}/*.csv"])


@pytest.mark.parametrize(
    ("path", "run", "said"),
    [
        ("/a.csv", {"run_type": "backfill", "logical_date": "2026-01-02"}, "made for 2026-01-02"),
        ("/a.csv", {"run_type": "asset_triggered", "partition_key": "eu"}, "made for eu"),
        ("/{{ ds }}.csv", {"run_type": "backfill", "logical_date": "2026-01-02"}, None),
        ("/a.csv", {"run_type": "scheduled", "partition_key": None, "logical_date": "2026-01-02"}, None),
    ],
)
def test_a_run_for_a_date_that_changes_nothing_says_so(path: str, run: dict[str, Any], said: str | None) -> None:
    found = made_no_difference(pipeline(train=path), {"dag_run": SimpleNamespace(**run)})
    assert (said in (found or "")) if said else found is None


@pytest.mark.slow
def test_a_run_of_a_date_reads_the_data_of_that_date(project: Project, run_dag: Any, small_artifacts: Path) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    data = project.folder / "data"
    (data / "2026-01-02").mkdir()
    (data / "train.csv").rename(data / "2026-01-02" / "train.csv")
    project.write(dataset__train=str(data / "{{ ds }}" / "train.csv"))
    result = run_dag(project, date="2026-01-02T00:00:00+00:00")
    assert result.state == "success", result.output
    assert result.xcoms["ingest"]["return_value"]["reused"], result.output
    assert result.states()["publish"] == "success"
    assert "the pipeline has changed" not in result.output


def test_the_example_of_a_week_reads_its_seven_days_when_all_are_there() -> None:
    found = runpy.run_path(str(REPOSITORY / "examples" / "weekly" / "weekly.py"))
    dag = found["weekly"]
    timetable = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).timetable
    mapper = timetable.get_partition_mapper(name=found["daily"].name, uri=found["daily"].uri)
    days = [f"2026-01-{day:02}" for day in range(5, 12)]
    assert mapper.to_upstream("2026-01-05 (W02)") == {f"{day}T00:00:00" for day in days}
    assert {mapper.to_downstream(f"{day}T00:00:00") for day in days} == {"2026-01-05 (W02)"}

    ingest = dag.get_task("ingest")
    context: Any = {"partition_date": datetime(2026, 1, 5, tzinfo=UTC), "macros": macros}
    read = of_date(parse_pipeline(ingest.pipeline), ingest, context)
    assert read.dataset.train == tuple(f"/data/news/{day}/*.csv" for day in days)
