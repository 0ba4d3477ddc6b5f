"""A cluster for each test, an engine that asks it, and jobs that are done in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from retrainer.chain.jobs import Job
from retrainer.run import remote
from retrainer.run.engines import kubernetes, kubernetes_api
from retrainer.run.engines.kubernetes import KubernetesEngine
from retrainer.run.engines.kubernetes_api import KubernetesApi
from retrainer.spec.resources import Resources
from tests.engines.cluster import FakeCluster
from tests.training.conftest import make_pipeline, rows_file, snapshot

__all__ = ["make_pipeline", "rows_file", "snapshot"]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a real cluster, as short as those of a small one."""
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(kubernetes, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(kubernetes, "BESIDE_SECONDS", 0.0)
    monkeypatch.setattr(kubernetes_api, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(kubernetes_api, "FIRST_PAUSE_SECONDS", 0.02)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def engine(cluster: FakeCluster, brisk: None) -> KubernetesEngine:
    return KubernetesEngine(KubernetesApi(cluster.reached))


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A job whose pods run a shell script."""

    numbers = count()

    def make(script: str = "exit 0", *, environment: dict[str, str] | None = None, **resources: Any) -> Job:
        program = tmp_path / f"program-{next(numbers)}.sh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        section = {"image": "trainer:1", "python": str(program), **resources.pop("kubernetes", {})}
        return Job(
            root=str(tmp_path / "artifacts"),
            step="train",
            digest="0" * 64,
            pipeline="trail-status",
            attempt=1,
            resources=Resources.model_validate({"engine": "kubernetes", "kubernetes": section, **resources}),
            environment=environment or {},
        )

    return make
