"""A DAG run whose training is a job on Ray: deferred, followed by the trigger, taken up again by a retry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrainer.airflow.ray_connection import ray_access
from retrainer.airflow.settings import Settings
from retrainer.errors import PipelineError, ResourceError
from retrainer.run.engines.ray import RayAccess
from retrainer.storage import open_storage
from tests.airflow.harness import DagRunResult, small_project
from tests.run.ray_head import RayHead

TOKEN = "t0ken-of-the-cluster"


@pytest.fixture
def head() -> Iterator[RayHead]:
    with RayHead(runs=True, token=TOKEN) as head:
        yield head


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.long
def test_a_run_trains_on_ray(
    tmp_path: Path, tiny_bert: Path, run_dag: Callable[..., DagRunResult], head: RayHead
) -> None:
    project = small_project(tmp_path, tiny_bert, "elsewhere")
    project.write(resources={"engine": "ray", "ray": {}})
    head.faults["submit"].extend(["cut after", "503"])
    head.faults["state"].extend(["503", "cut"])
    host, port = head.address.removeprefix("http://").split(":")
    connection = {"conn_type": "http", "host": host, "port": int(port), "password": TOKEN}
    environment = {"RETRAINER_RAY_CONN_ID": "cluster", "AIRFLOW_CONN_CLUSTER": json.dumps(connection)}
    left = run_dag(project, environment=environment, seconds=900.0)
    assert left.state == "success", left.output[-3000:]
    assert head.started == 1
    (job,) = head.jobs.values()
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"]["retrainer_step"] == "train"
    assert TOKEN not in left.output
    assert not any(TOKEN in str(value) for value in (left.xcoms, left.kept, job))
    assert "fine-tuning" in left.output, "what the job says is in the task's log"
    assert list(open_storage(project.artifacts / ".jobs").list()) == []


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def make(**fields: Any) -> str:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(fields))
        return "cluster"

    return make


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"conn_type": "http", "host": "ray-head", "port": 8265}, "http://ray-head:8265"),
        ({"conn_type": "https", "host": "ray.example.com"}, "https://ray.example.com"),
        ({"conn_type": "generic", "host": "ray", "schema": "https", "port": 443}, "https://ray:443"),
        ({"conn_type": "http", "host": "https://ray.example.com/team/"}, "https://ray.example.com/team"),
    ],
)
def test_where_a_connection_leads(connect: Callable[..., str], fields: dict[str, Any], address: str) -> None:
    access = ray_access(connect(**fields, password="secret", extra='{"headers": {"X-Team": "a"}, "verify": "/ca.pem"}'))
    assert access == RayAccess(address, "secret", {"X-Team": "a"}, "/ca.pem")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conn_type": "http"}, "expected the address"),
        ({"conn_type": "http", "host": "ray", "extra": '{"verify": false}'}, "is not turned off"),
        ({"conn_type": "http", "host": "ray", "extra": '{"headers": ["a"]}'}, "headers"),
    ],
)
def test_what_cannot_be_meant(connect: Callable[..., str], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        ray_access(connect(**fields))


def test_no_connection() -> None:
    assert ray_access(None) is None
    with pytest.raises(ResourceError, match="no connection 'nowhere'"):
        ray_access("nowhere")


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAINER_RAY_CONN_ID", "from_environment")
    assert Settings().resolved().ray_conn_id == "from_environment"
