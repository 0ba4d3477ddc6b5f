"""A small project whose model is live, made once: a copy of it has a champion, its store and its artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.spec import load_pipeline
from tests.airflow.harness import Project, small_project
from tests.made_once import made_once

NAME = "watched"


def live_project(factory: pytest.TempPathFactory, base: Path) -> Path:
    """The folder; to read only."""

    def make(folder: Path) -> None:
        project = small_project(folder, base, NAME)
        project.write(dataset__train=str(folder / "data" / "train*.csv"))
        result = run_pipeline(load_pipeline(project.pipeline_file), context=new_context(str(project.artifacts)))
        assert result.outcome == "promoted"
        shutil.rmtree(project.artifacts / "runs")

    return made_once(factory, "live_project", make)


def copy_of(made: Path, folder: Path, **changes: object) -> Project:
    """A copy, to change; as if it had always been there.

    :param changes: see ``Project.write``.
    """
    shutil.copytree(made, folder, symlinks=True)
    file = folder / "pipelines" / f"{NAME}.yaml"
    text = file.read_text()
    old = str(Path(yaml.safe_load(text)["publish"]["store"]).parent)
    project = Project(folder, yaml.safe_load(text.replace(old, str(folder))))
    project.write(**changes)
    return project
