"""Fixtures for the Airflow layer: a home with a database, small pipelines, DAG runs in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.spec import load_pipeline
from tests.airflow.harness import HERE, REPOSITORY, DagRunResult, Project, airflow_environment, small_project
from tests.made_once import made_once

# Importing Airflow, which the tests do below this line, makes its home; never that of whoever runs them.
_HOME = tempfile.TemporaryDirectory(prefix="retrainer-airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "false")

DAG_FILE = f"""
import os, runpy
from retrainer.airflow import build_dags, doctor_dag, operate_dag
globals().update(build_dags(os.environ["RETRAINER_PIPELINES"], default_args={{"retries": 1, "retry_delay": 0.1}}))
operate = operate_dag(os.environ["RETRAINER_PIPELINES"])
doctor = doctor_dag(os.environ["RETRAINER_PIPELINES"])
compare = runpy.run_path({str(REPOSITORY / "dags" / "compare_base_models.py")!r})["dag"]
by_hand = runpy.run_path({str(HERE / "by_hand.py")!r})["dag"]
"""


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated database, which no scheduler runs on."""
    return migrated_home(tmp_path_factory.mktemp("airflow_home"))


def migrated_home(home: Path) -> Path:
    (home / "dags").mkdir()
    (home / "dags" / "retrain_test.py").write_text(DAG_FILE)
    (home / "pipelines").mkdir()
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env=airflow_environment(home, RETRAINER_PIPELINES=str(home / "pipelines")),
        cwd=home,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return home


@pytest.fixture
def project(tmp_path: Path, tiny_bert: Path) -> Project:
    """A pipeline over a hundred short lines and a tiny random model."""
    return small_project(tmp_path, tiny_bert, f"tiny-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="session")
def small_artifacts(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """What the steps of a small project leave, for tests that are not about them: a copy of it makes them "unchanged"
    in every project of the same rows and training, whatever its name, its gate and its store."""

    def make(folder: Path) -> None:
        project = small_project(folder, tiny_bert, "made-once")
        result = run_pipeline(load_pipeline(project.pipeline_file), context=new_context(str(project.artifacts)))
        assert result.outcome == "promoted"
        shutil.rmtree(project.artifacts / "runs")

    return made_once(tmp_path_factory, "small_project", make) / "artifacts"


@pytest.fixture
def run_dag(airflow_home: Path) -> Callable[..., DagRunResult]:
    """Run a project's DAG, or one of ``dags/``, with ``dag.test()``, in a process of its own."""

    def run(
        project: Project,
        *,
        dag_id: str | None = None,
        params: Mapping[str, object] | None = None,
        date: str = "",
        environment: Mapping[str, str] | None = None,
        seconds: float = 300.0,
    ) -> DagRunResult:
        answer = project.folder / "answer.json"
        arguments = [dag_id or project.dag_id, str(answer), json.dumps(params or {}), date]
        finished = subprocess.run(
            [sys.executable, str(HERE / "dag_program.py"), *arguments],
            env=airflow_environment(airflow_home, **project.environment, **(environment or {})),
            cwd=project.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        output = finished.stdout + finished.stderr
        assert answer.exists(), output
        result = DagRunResult(output=output, **json.loads(answer.read_text()))
        answer.unlink()
        return result

    return run
