"""A real scheduler and triggerer with a training that a cluster runs: what a person, or a kill, does to its job."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_server import AirflowServer
from demo.rest_client import RestClient
from retrainer.artifacts.repository import Artifacts
from retrainer.chain.jobs import JOBS, REQUEST
from retrainer.store import Store
from retrainer.work.train.checkpoints import Marker
from tests.airflow.harness import REPOSITORY, Project, small_project
from tests.airflow.running import Running
from tests.airflow.test_airflow_kubernetes import connection
from tests.engines.cluster import FakeCluster

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

STEPS = 600
# What a person's kill may take until nothing runs: a second until the triggerer hears of it, and the pod's farewell.
GONE_SECONDS = 30.0
DAG_FILE = """
import os
from retrainer.airflow import build_dags
globals().update(build_dags(os.environ["RETRAINER_PIPELINES"], default_args={"retries": 1, "retry_delay": 1}))
"""


class Elsewhere(Running):
    """A server whose pipelines train on a cluster."""

    def __init__(self, server: AirflowServer, client: RestClient, cluster: FakeCluster, root: Path) -> None:
        super().__init__(server, client)
        self.cluster = cluster
        self.root = root

    def processes(self) -> list[int]:
        return [process for job in self.cluster.objects("jobs") for process in self.cluster.processes(job)]

    def saved(self, job: str) -> list[int]:
        """The steps of which a complete checkpoint of a job's training lies in the work folder."""
        request = json.loads((self.root / "artifacts" / JOBS / job / REQUEST).read_text())
        markers = Artifacts(request["root"]).work_folder("train", request["digest"]).glob(f"checkpoint-*/{Marker.file}")
        return sorted(int(marker.parent.name.rpartition("-")[2]) for marker in markers)

    def until_training(self, project: Project) -> tuple[str, str]:
        """Trigger a run, and wait until its task is deferred and its job has saved; the run, and the job."""
        before = set(self.cluster.objects("jobs"))
        run_id = self.client.trigger(project.dag_id)
        (job,) = self.until(lambda: set(self.cluster.objects("jobs")) - before, "the job")
        self.until(lambda: self.saved(job), "the first checkpoint")
        self.until(lambda: self.state(project.dag_id, run_id, "train") == "deferred", "the task to be deferred")
        return run_id, job


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> dict[str, Project]:
    root = tmp_path_factory.mktemp("engines")
    made = {}
    for rate, name in enumerate(("marked", "cleared", "unwatched"), 1):
        made[name] = small_project(root, tiny_bert, name)
        made[name].write(
            training={
                "max_steps": STEPS,
                "learning_rate": 0.001 * rate,  # trainings that differ, so that none shares a job
                "per_device_train_batch_size": 4,
                "save_strategy": "steps",
                "save_steps": 50,
                "eval_strategy": "steps",
                "eval_steps": 50,
            },
            resources={"engine": "kubernetes", "kubernetes": {"image": "trainer:1", "python": sys.executable}},
        )
    return made


@pytest.fixture(scope="module")
def running(projects: dict[str, Project]) -> Iterator[Elsewhere]:
    root = projects["marked"].folder
    dags = root / "dags"
    dags.mkdir()
    (dags / "retrain_test.py").write_text(DAG_FILE)
    with FakeCluster(root / "cluster") as cluster:
        environment = {
            **projects["marked"].environment,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
            "AIRFLOW_CONN_CLUSTER": connection(cluster),
            "RETRAINER_KUBERNETES_CONN_ID": "cluster",
        }
        server = AirflowServer(
            root / "home", dags, plugins=REPOSITORY / "plugins", environment=environment, triggerer=True
        )
        with server:
            client = server.client()
            for project in projects.values():
                server.wait_for(lambda dag_id=project.dag_id: client.has_dag(dag_id), project.dag_id, seconds=60)  # type: ignore[misc]
                client.unpause(project.dag_id)
            yield Elsewhere(server, client, cluster, root)


def test_marked_as_failed_nothing_runs(running: Elsewhere, projects: dict[str, Project]) -> None:
    project = projects["marked"]
    run_id, job = running.until_training(project)
    path = f"/dags/{project.dag_id}/dagRuns/{run_id}/taskInstances/train"
    running.client.patch(path, {"new_state": "failed"})
    told = time.monotonic()
    running.until(lambda: not running.processes(), "the job to end", GONE_SECONDS)
    sys.stderr.write(f"\nmarked as failed: nothing runs after {time.monotonic() - told:.1f} s\n")
    assert running.until_ended(project.dag_id, run_id)["train"] == "failed"
    assert job not in running.cluster.objects("jobs")
    assert running.cluster.processes(job) == []
    assert Store.open(str(project.store)).models() == []


def test_cleared_another_job_goes_on(running: Elsewhere, projects: dict[str, Project]) -> None:
    project = projects["cleared"]
    run_id, job = running.until_training(project)
    saved = max(running.saved(job))
    asked = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["train"], "only_failed": False}
    running.client.post(f"/dags/{project.dag_id}/clearTaskInstances", asked)
    told = time.monotonic()
    running.until(lambda: not running.cluster.processes(job), "the job to end", GONE_SECONDS)
    sys.stderr.write(f"\ncleared: nothing of it runs after {time.monotonic() - told:.1f} s\n")
    states = running.until_ended(project.dag_id, run_id, 400.0)
    assert states["publish"] == "success", running.server.log_tail("triggerer")
    output = running.client.xcom(project.dag_id, run_id, "train")["output"]
    assert int(output["resumed_from"].rpartition("-")[2]) >= saved
    assert output["steps"] == STEPS


def test_a_triggerer_that_is_killed_leaves_the_job_alone(running: Elsewhere, projects: dict[str, Project]) -> None:
    project = projects["unwatched"]
    run_id, job = running.until_training(project)
    made = running.cluster.made["jobs"]
    running.server.kill_and_restart("triggerer")
    assert running.cluster.processes(job)
    states = running.until_ended(project.dag_id, run_id, 400.0)
    assert states["publish"] == "success", running.server.log_tail("triggerer")
    assert running.cluster.made["jobs"] == made
    assert running.client.xcom(project.dag_id, run_id, "train")["output"]["resumed_from"] is None
