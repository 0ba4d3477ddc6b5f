"""A pipeline whose training is a Job of Kubernetes, in Airflow: deferred meanwhile, started anew after a kill."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer.airflow.engines import engine_of
from retrainer.airflow.kubernetes_connection import cluster_of
from retrainer.airflow.settings import Settings
from retrainer.errors import EngineError, ResourceError
from retrainer.spec.resources import Resources
from tests.airflow.harness import DagRunResult, Project
from tests.engines.cluster import FakeCluster


def connection(cluster: FakeCluster, **extra: object) -> str:
    kube_config = {"kube_config": cluster.kubeconfig(), "namespace": "ml", **extra}
    return json.dumps({"conn_type": "kubernetes", "extra": kube_config})


@pytest.mark.slow
@pytest.mark.long
def test_a_run_trains_as_a_job(tmp_path: Path, project: Project, run_dag: Callable[..., DagRunResult]) -> None:
    """Its first pod is killed: the task's retry starts another, and publishes once."""
    project.write(resources={"engine": "kubernetes", "kubernetes": {"image": "trainer:1", "python": sys.executable}})
    with FakeCluster(tmp_path / "cluster") as cluster:
        killed = threading.Event()

        def kill_the_first() -> None:
            while not killed.is_set():
                for job in cluster.objects("jobs"):
                    if len(cluster.processes(job)) >= 2:
                        cluster.kill(job, reason="OOMKilled")
                        killed.set()
                time.sleep(0.05)

        watching = threading.Thread(target=kill_the_first, daemon=True)
        watching.start()
        environment = {"AIRFLOW_CONN_CLUSTER": connection(cluster), "RETRAINER_KUBERNETES_CONN_ID": "cluster"}
        try:
            result = run_dag(project, environment=environment)
            assert killed.is_set()
        finally:
            killed.set()
            watching.join()
    assert result.state == "success", result.output
    assert result.states()["publish"] == "success"
    assert result.tasks["train"]["tries"] == 2
    assert "took more memory than it may" in result.output
    assert cluster.made["jobs"] == 2
    assert [name.rpartition("-")[2] for name in cluster.objects("jobs")] == ["1", "2"]
    assert result.kept["train:job"].endswith("-2")


def test_a_connection_says_where_the_cluster_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeCluster(tmp_path / "cluster") as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", connection(cluster, namespace="ml"))
        found = cluster_of("cluster")
        assert (found.configuration.host, found.namespace) == (cluster.address, "ml")
        resources = Resources.model_validate({"engine": "kubernetes", "kubernetes": {"image": "trainer:1"}})
        assert engine_of(resources, Settings(kubernetes_conn_id="cluster")) is not None
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(cluster.kubeconfig()))
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", connection(cluster, kube_config_path=str(kubeconfig)))
        with pytest.raises(EngineError, match="mutually exclusive"):
            cluster_of("cluster")
        with pytest.raises(ResourceError, match="has no connection 'other'"):
            cluster_of("other")
