"""A small deployment, its console, and a browser to look at it with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from benchmarks.deployment import Deployment, FolderHost, runs_of, small_deployment
from retrainer.console import app as console
from retrainer.console.host import Everybody
from tests.made_once import made_once

NIGHTS = 6


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Six models; to read only."""

    def make(folder: Path) -> None:
        small_deployment(folder, NIGHTS)

    deployment = Deployment(made_once(tmp_path_factory, "deployment", make))
    deployment.histories = dict.fromkeys(file.stem for file in deployment.pipelines.glob("*.yaml"))  # type: ignore[assignment]
    return deployment


@pytest.fixture
def copied(made: Deployment, tmp_path: Path) -> Deployment:
    """The same, to change. Its pipelines name the copy."""
    folder = tmp_path / "deployment"
    shutil.copytree(made.folder, folder)
    for file in (folder / "pipelines").glob("*.yaml"):
        file.write_text(file.read_text().replace(str(made.folder), str(folder)))
    return replace(made, folder=folder)


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """The console of a deployment, at the time of it."""

    def client(deployment: Deployment, visitor: Everybody | None = None) -> TestClient:
        monkeypatch.setattr(console, "_now", lambda: deployment.now)
        host = FolderHost(deployment, runs_of(deployment))
        return TestClient(console.console_app(host, lambda: visitor or Everybody()), follow_redirects=False)

    return client


@pytest.fixture
def client(made: Deployment, client_of: Callable[..., TestClient]) -> TestClient:
    """The console of the deployment that is made once."""
    return client_of(made)
