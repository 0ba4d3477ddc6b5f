"""The checks that Airflow's layer adds: in its task, on the command line, of what its API server tells everybody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from retrainer.airflow import deployment_checks, doctor_dag
from retrainer.airflow.deployment_checks import deployment_of, look_at_console, look_at_processes
from retrainer.doctor.deployment import Deployment
from retrainer.doctor.examination import Examination, examine
from retrainer.doctor.findings import Check
from retrainer.doctor.stores import look_at_buckets, look_at_stores
from retrainer.store.signing_keys import make_key_pair
from tests.airflow.harness import DagRunResult, Project, airflow_environment

RunDag = Callable[..., DagRunResult]
CONNECTED = "connection 'doctors_bucket'"
NOW = "2026-01-01T00:00:00+00:00"


@pytest.mark.long
def test_the_dag_in_order(run_dag: RunDag, project: Project) -> None:
    project.write(resources={"gpus": 1})
    project.artifacts.mkdir()
    result = run_dag(project, dag_id="doctor")
    assert result.states() == {"default": "success", "pool_gpu_pool": "success"}, result.output
    counts = result.xcoms["default"]["return_value"]
    assert counts["broken"] == 0
    report = str(result.xcoms["pool_gpu_pool"]["report"])
    assert "| ✓ ok | Stores | store of " in report
    assert "| Pool | gpu_pool | exists" in report
    assert f"{counts['ok']} ok, " in result.output
    assert not list(project.artifacts.iterdir())
    assert not project.store.exists()


def test_the_dag_is_red_where_something_is_broken(run_dag: RunDag, project: Project) -> None:
    project.write(resources={"gpus": 1})
    project.store.write_text("a file")
    result = run_dag(project, dag_id="doctor", params={"where": "default"})
    assert result.states() == {"default": "failed", "pool_gpu_pool": "skipped"}, result.output
    assert result.tasks["default"]["tries"] == 1
    assert "✗ broken" in str(result.xcoms["default"]["report"])
    assert "is a file, not a folder" in result.output
    assert "mend it: name another publish.store" in result.output


def test_a_bucket_that_its_connection_does_not_open(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "not-the-secret-of-anybody"
    connection = {"conn_type": "retrainer_store", "login": "AKIA", "extra": {"aws_session_token": secret}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELS", json.dumps(connection))
    project.write(publish={"store": "s3://models"})
    checks = (Check("Buckets", look_at_buckets), Check("Stores", look_at_stores))
    deployment = deployment_of({"aws_conn_id": "models"}, [project.pipeline_file])
    report = Examination.of(examine(checks, deployment)).markdown()
    assert report.count("has one of login and password alone") == 3  # of the access, the store and the channel
    assert secret not in report


def test_the_dag_has_a_task_for_each_queue(project: Project) -> None:
    dag = doctor_dag(project.pipeline_file.parent, queues=["gpu"])
    assert {task.task_id: task.queue for task in dag.tasks} == {"default": "default", "queue_gpu": "gpu"}
    assert dag.params.get_param("where").schema["enum"] == ["everywhere", "default", "queue gpu"]


def test_the_command_knows_airflows_settings_connections_and_pools(airflow_home: Path, project: Project) -> None:
    """In its database, too. What Airflow logs meanwhile is not between the findings."""
    pair = make_key_pair(project.folder / "release")
    publish = {**project.content["publish"], "sign_with": "airflow:doctors_key"}
    project.write(resources={"gpus": 1, "pool": "doctors_pool"}, publish=publish)
    connections = {
        "doctors_bucket": {"conn_type": "retrainer_store"},
        "doctors_key": {"conn_type": "retrainer_signing_key", "password": pair.private.read_text()},
    }
    (project.folder / "connections.json").write_text(json.dumps(connections))
    environment = airflow_environment(airflow_home, **project.environment, RETRAINER_AWS_CONN_ID="doctors_bucket")

    def found() -> dict[tuple[str, str], dict[str, Any]]:
        answer = subprocess.run(
            [sys.executable, "-m", "retrainer.cli", "doctor", "--json"],
            env=environment,
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        findings = json.loads(answer.stdout)["findings"]
        return {(finding["check"], finding["what"]): finding for finding in findings}

    before = found()
    assert before["Pipeline files", project.pipeline_file.name]["state"] == "ok"
    assert before["Buckets", "access"]["text"].endswith(
        "Airflow has no connection 'doctors_bucket', or could not read it"
    )
    assert before["Artifact root", "artifact root"]["text"].startswith(str(project.artifacts))
    assert before["Airflow", "API server"]["state"] == "warning"
    pool = before["Pools", "doctors_pool"]
    assert (pool["state"], pool["hint"].startswith("airflow pools set doctors_pool 1 ")) == ("broken", True)
    for command in (
        ("pools", "set", "doctors_pool", "1", "GPUs"),
        ("connections", "import", "connections.json"),
    ):
        program = [sys.executable, "-m", "airflow", *command]
        subprocess.run(program, env=environment, cwd=project.folder, check=True, capture_output=True)
    after = found()
    assert after["Pools", "doctors_pool"]["state"] == "ok"
    assert pair.key.key_id in after["Signing keys", f"key of {project.content['name']}"]["text"]
    assert after["Buckets", "access"] == {**before["Buckets", "access"], "state": "ok", "text": CONNECTED, "hint": None}


@pytest.mark.parametrize(
    ("slots", "most", "devices", "state"),
    [(None, 1, 0, "broken"), (1, 2, 2, "broken"), (1, 1, 4, "warning"), (2, 1, 2, "ok"), (-1, 4, 0, "ok")],
)
def test_slots_against_devices(slots: int | None, most: int, devices: int, state: str) -> None:
    assert deployment_checks._pool("gpu_pool", slots, most, devices).state == state


class ApiServer(ThreadingHTTPServer):
    """Answers paths as they are given."""

    answers: dict[str, tuple[int, str]]


class Answer(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        status, text = self.server.answers.get(self.path, (200, "<!doctype html>"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, str]]]:
    """What an API server below a path answers; the test fills it."""
    server = ApiServer(("127.0.0.1", 0), Answer)
    server.answers = {}
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/airflow")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.answers
    server.shutdown()
    thread.join()
    server.server_close()


def health(**status: str | None) -> tuple[int, str]:
    """As Airflow 3.3.2 tells it; ``test_connection_forms.py`` holds this against its API server."""
    said: dict[str, dict[str, str | None]] = {"metadatabase": {"status": "healthy"}}
    for name in ("scheduler", "triggerer", "dag_processor"):
        said[name] = {"status": status.get(name, "healthy"), f"latest_{name}_heartbeat": NOW}
    return 200, json.dumps(said)


def test_processes_that_run(api: dict[str, tuple[int, str]], project: Project) -> None:
    api["/airflow/api/v2/monitor/health"] = health()
    api["/airflow/retrainer/"] = (401, "")
    found = [*look_at_processes(Deployment()), *look_at_console(Deployment())]
    assert [finding.state for finding in found] == ["ok"] * 6
    assert NOW in found[2].text


@pytest.mark.parametrize(("on_new_data", "state"), [(True, "broken"), (False, "ok")])
def test_processes_that_do_not(
    api: dict[str, tuple[int, str]], project: Project, on_new_data: bool, state: str
) -> None:
    project.write(schedule={"on_new_data": on_new_data})
    api["/airflow/api/v2/monitor/health"] = health(scheduler="unhealthy", triggerer=None)
    found = {finding.what: finding for finding in look_at_processes(deployment_of(places=[project.pipeline_file]))}
    assert (found["scheduler"].state, found["scheduler"].hint) == ("broken", "start it: airflow scheduler")
    assert (found["triggerer"].state, "new data" in found["triggerer"].text) == (state, False)
    (console,) = look_at_console(Deployment())  # the UI answers every path that nothing else does
    assert console.state == "warning"


def test_an_api_server_that_is_not_there_or_is_something_else(
    api: dict[str, tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (other,) = look_at_processes(Deployment())
    assert other.state == "warning"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://127.0.0.1:9")
    for look in (look_at_processes, look_at_console):
        (nobody,) = look(Deployment())
        assert (nobody.state, "does not answer" in nobody.text) == ("warning", True)
