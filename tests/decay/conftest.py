"""A project with a champion, to check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer.artifacts.decay import DecayRecord
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECAY
from retrainer.spec import load_pipeline
from retrainer.work.__main__ import _make
from retrainer.work.reporter import Reporter
from tests.airflow.harness import Project
from tests.chain.made import in_root, planned
from tests.decay.champion import copy_of, live_project

MakeProject = Callable[..., Project]


@pytest.fixture
def make_project(tiny_bert: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeProject:
    made = live_project(tmp_path_factory, tiny_bert)

    def make(**changes: object) -> Project:
        return copy_of(made, tmp_path / "project", **changes)

    return make


def checked(project: Project, root: Path | None = None) -> DecayRecord:
    """What a check finds, taken in this process."""
    pipeline = load_pipeline(project.pipeline_file)
    request = planned(DECAY.plan(pipeline, context=in_root(root or project.artifacts)))
    artifacts = Artifacts(request.root)
    if artifacts.find(DECAY.name, request.digest) is None:
        assert _make(request, artifacts, Reporter())
    record = DecayRecord.load(artifacts.fetch(DECAY.name, request.digest))
    assert DECAY.output_of(artifacts.get(DECAY.name, request.digest)).text == record.text
    return record
