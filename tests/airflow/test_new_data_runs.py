"""Files that come start runs, in a real Airflow with its scheduler and its triggerer, which is killed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_server import AirflowServer
from demo.rest_client import RestClient
from tests.airflow.harness import REPOSITORY, Project, small_project, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

DAG_FILE = """
import os
from retrainer.airflow import build_dags
globals().update(build_dags(os.environ["RETRAINER_PIPELINES"], default_args={"retries": 1, "retry_delay": 0.1}))
"""
QUIET_SECONDS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    root = tmp_path_factory.mktemp("new_data")
    (root / "dags").mkdir()
    (root / "dags" / "retrain_test.py").write_text(DAG_FILE)
    environment = {
        "RETRAINER_PIPELINES": str(root / "pipelines"),
        "RETRAINER_ARTIFACT_ROOT": str(root / "artifacts"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        # How soon another triggerer takes over from one that is gone.
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "3",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        # And how soon a pipeline file becomes a DAG.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
    }
    with AirflowServer(root / "home", root / "dags", environment=environment, triggerer=True) as server:
        yield server
    assert server.processes() == []


@pytest.fixture(scope="module")
def client(server: AirflowServer) -> RestClient:
    return server.client()


def watched(server: AirflowServer, base: Path, name: str, **changes: object) -> tuple[Project, Path]:
    """A pipeline whose training data is a folder that is empty yet, and that folder."""
    root = server.home.parent
    project = small_project(root, base, name)
    folder = root / name / "incoming"
    folder.mkdir(parents=True)
    schedule = {"on_new_data": True, "quiet_seconds": QUIET_SECONDS}
    project.write(dataset__train=str(folder), schedule=schedule, **changes)
    return project, folder


def unpaused(server: AirflowServer, client: RestClient, project: Project) -> str:
    server.wait_for(lambda: client.has_dag(project.dag_id), project.dag_id, seconds=90)
    assert client.import_errors() == []
    client.unpause(project.dag_id)
    return project.dag_id


def rows_read(client: RestClient, dag_id: str, run_id: str) -> int:
    """Of the training data, without those of the test file."""
    return int(client.xcom(dag_id, run_id, "ingest")["output"]["source_rows"]) - 40


def until_all_ended(server: AirflowServer, client: RestClient, dag_id: str, at_least: int) -> dict[str, str]:
    """The runs of a DAG when there is none to come."""

    def ended() -> bool:
        runs = client.runs(dag_id)
        return len(runs) >= at_least and set(runs.values()) <= {"success", "failed"}

    server.wait_for(ended, f"{at_least} runs of {dag_id}", seconds=900)
    time.sleep(4 * QUIET_SECONDS)
    server.wait_for(ended, f"the runs of {dag_id}", seconds=900)
    return client.runs(dag_id)


def test_files_that_land_during_a_run_make_one_more_run_whatever_happens_to_the_triggerer(
    server: AirflowServer, client: RestClient, tiny_bert: Path
) -> None:
    project, folder = watched(server, tiny_bert, "landing", resources={"pool": "closed"})
    client.ensure_pool("closed", 0)
    dag_id = unpaused(server, client, project)
    write_rows(folder / "first.csv", 120)
    server.wait_for(lambda: len(client.runs(dag_id)) == 1, "the first run", seconds=120)
    (first,) = client.runs(dag_id)

    def states(run_id: str) -> dict[str, str | None]:
        return {task.task_id: task.state for task in client.tasks(dag_id, run_id)}

    server.wait_for(lambda: states(first).get("ingest") == "success", "the first ingest", seconds=120)

    for number in range(20):
        write_rows(folder / f"more-{number:02}.csv", 10, start=2000 + 10 * number)
        if number % 4 == 3:
            time.sleep(QUIET_SECONDS + 2)
            server.kill_and_restart("triggerer")

    def told() -> bool:
        """Whether some event since the last triggerer began speaks of all that came."""
        events = client.get("/assets/events", order_by="-timestamp")["asset_events"]
        return any(event["extra"]["payload"]["files"] == 20 for event in events)

    server.wait_for(told, "the news of all files", seconds=120)
    # It waits for its turn, as the DAG runs once at a time.
    assert list(client.runs(dag_id)) == [first]
    client.ensure_pool("closed", 1)
    runs = until_all_ended(server, client, dag_id, 2)

    assert list(runs.values()) == ["success", "success"]
    second = list(runs)[1]
    assert rows_read(client, dag_id, first) == 120
    assert rows_read(client, dag_id, second) == 320
    assert {**states(first), **states(second)}["train"] == "success"
    log = "\n".join(line.text for line in client.log(dag_id, second, "ingest", 1))
    assert "new data: " in log, log


def test_a_file_that_is_copied_slowly_is_read_once_and_whole(
    server: AirflowServer, client: RestClient, tiny_bert: Path, tmp_path: Path
) -> None:
    project, folder = watched(server, tiny_bert, "slowly")
    dag_id = unpaused(server, client, project)
    write_rows(tmp_path / "whole.csv", 300)
    content = (tmp_path / "whole.csv").read_bytes()
    part = len(content) // 30 + 1
    with (folder / "copied.csv").open("wb") as copied:
        for start in range(0, len(content), part):
            copied.write(content[start : start + part])
            copied.flush()
            assert client.runs(dag_id) == {}
            time.sleep(1)
    shutil.rmtree(tmp_path)
    runs = until_all_ended(server, client, dag_id, 1)
    assert list(runs.values()) == ["success"]
    assert rows_read(client, dag_id, next(iter(runs))) == 300
