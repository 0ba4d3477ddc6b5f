"""Notifiers by name: made, called, and what is said of those that cannot be; deadlines; what Airflow knows of a DAG."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.definitions.deadline import AverageRuntimeDeadline, DagRunQueuedAtDeadline
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from retrainer.airflow import IngestDatasetOperator, retrain_dag
from retrainer.airflow.notifying import all_of, deadline_missed, made
from retrainer.errors import PipelineError
from retrainer.spec import parse_pipeline
from retrainer.spec.notify import Notifier
from tests.airflow.test_asked_runs import NOTIFIER, told
from tests.spec.test_spec_people import CONTENT


@pytest.mark.parametrize(
    ("notifier", "arguments", "said"),
    [
        ("no_such_package.Notifier", {}, "cannot be imported: No module named 'no_such_package'"),
        (f"{NOTIFIER}.Absent", {}, "cannot be imported: module"),
        ("pathlib.Path", {}, "is not a subclass of airflow.sdk.BaseNotifier"),
        (f"{NOTIFIER}.FileNotifier", {"channel": "x"}, "does not take these arguments: .*channel"),
    ],
)
def test_a_wrong_notifier_is_named_before_anything_is_trained(
    notifier: str, arguments: dict[str, Any], said: str
) -> None:
    one = {"notifier": notifier, "arguments": arguments}
    with pytest.raises(PipelineError, match=f"notifier {notifier}: {said}"):
        made(Notifier.model_validate(one))
    task = IngestDatasetOperator(task_id="ingest", pipeline={**CONTENT, "notify": {"on_refused": [one]}})
    run = SimpleNamespace(conf=None, run_id="r", dag_id="d", start_date=None)
    with pytest.raises(AirflowFailException, match=said):
        task.execute({"dag_run": run, "dag": SimpleNamespace(params={}), "task": task})


def test_what_the_file_says_of_its_dag(tmp_path: Path) -> None:
    file = tmp_path / "heard.txt"
    content = {
        **CONTENT,
        "publish": {**CONTENT["publish"], "approval": {"timeout": "2d", "notify": [told(file)]}},
        "notify": {"on_failed": [told(file)]},
        "dag": {
            "owner": "news team",
            "tags": ["news"],
            "retries": 5,
            "retry_delay": "10 min",
            "task_timeout": "3h",
            "run_timeout": "1d",
            "deadline": {"after": "4h", "over_average": "30 min", "runs": 5, "least_runs": 2, "notify": [told(file)]},
        },
    }
    assert len(all_of(parse_pipeline(content))) == 3
    dag = retrain_dag(content, default_args={"retries": 1, "depends_on_past": True})

    assert dag.tags == {"retrainer", "text-classification", "news"}
    assert dag.owner == "news team"
    assert dag.dagrun_timeout == timedelta(days=1)
    assert {(task.retries, task.retry_delay, task.depends_on_past) for task in dag.tasks} == {
        (5, timedelta(minutes=10), True)
    }
    limits = {task.task_id: task.execution_timeout for task in dag.tasks}
    # Whoever is asked is not hurried by the limit of a task.
    assert (limits.pop("approval"), set(limits.values())) == (None, {timedelta(hours=3)})
    assert dag.get_task("approval").response_timeout == timedelta(days=2)

    assert dag.deadline is not None
    after, average = dag.deadline
    assert (type(after.reference), after.interval) == (DagRunQueuedAtDeadline, timedelta(hours=4))
    assert average.reference == AverageRuntimeDeadline(max_runs=5, min_runs=2)
    assert average.interval == timedelta(minutes=30)
    copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert copy.has_on_failure_callback

    # A run fails, and one takes too long: people are told.
    (failed,) = dag.on_failure_callback
    failed({"dag": dag, "run_id": "manual__1"})
    assert average.callback.path == "retrainer.airflow.notifying.deadline_missed"
    asyncio.run(deadline_missed(**average.callback.kwargs, context={"dag_run": {"run_id": "manual__2"}}))
    assert file.read_text().splitlines() == [
        "failed: retrain news failed in run manual__1",
        "late: retrain news takes 30 min longer than runs before it took on average",
    ]


def test_without_the_section_nothing_is_set() -> None:
    dag = retrain_dag(CONTENT)
    assert (dag.owner, dag.dagrun_timeout, dag.deadline, dag.on_failure_callback) == ("airflow", None, None, None)
