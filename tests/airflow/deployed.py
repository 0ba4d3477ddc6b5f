"""A deployment as a new engineer finds it, with its Airflow: models with a past, one that waits for a person, one that
trains, one that new rows arrive for.

``ag-news``, ``support-tickets`` and others have months of decisions, made without training (``benchmarks.deployment``).
The rest are real: ``trail-status`` serves versions that can be loaded, moved and asked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from benchmarks.deployment import Deployment, small_deployment
from demo.airflow_server import AirflowServer
from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.spec import load_pipeline
from retrainer.store import Store
from tests.airflow.harness import REPOSITORY, Project, small_project, write_rows
from tests.airflow.running import Running

DAG_FILE = """
import os
from retrainer.airflow import build_dags, doctor_dag, operate_dag
folder = os.environ["RETRAINER_PIPELINES"]
globals().update(build_dags(folder))
operate = operate_dag(folder)
doctor = doctor_dag(folder)
"""
# Those of the made deployment that are shown; a real one takes the place of the others.
SHOWN = ("ag-news", "film-reviews", "paraphrases", "support-tickets")
QUIET_SECONDS = 2


@dataclass(frozen=True)
class Deployed:
    """Where everything is.

    :param moved: a model with three versions, the first of which ``staging`` serves; its champion is checked for decay.
    :param asks: publishes with an approval.
    :param long: trains for minutes.
    :param watched: retrains on rows that arrive in its folder.
    """

    folder: Path
    moved: Project
    asks: Project
    long: Project
    watched: Project

    @property
    def real(self) -> tuple[Project, ...]:
        """Those that Airflow runs."""
        return self.moved, self.asks, self.long, self.watched

    @property
    def pipelines(self) -> Path:
        return self.folder / "pipelines"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def variables(self) -> dict[str, str]:
        """What Airflow and the command line need to know of it."""
        return {
            "RETRAINER_PIPELINES": str(self.pipelines),
            "RETRAINER_ARTIFACT_ROOT": str(self.artifacts),
            "RETRAINER_CONSOLE_TRY": "true",
            "RETRAINER_CACHE": str(self.folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        }


def deploy(folder: Path, base: Path) -> Deployed:
    """Make it, which takes two trainings of a tiny model.

    :param base: a tiny random one.
    """
    made = small_deployment(folder, 14, now=datetime.now(UTC))
    _only_shown(made, base)
    moved = small_project(folder, base, "trail-status")
    rows = folder / "data" / "trail-status"
    write_rows(rows / "train.csv", 120)
    moved.write(dataset__train=str(rows / "*.csv"), decay={"min_rows": 100, "max_drop": 0.1})
    model = Store.open(folder / "store").model("trail-status")
    for number in range(2):
        if number:
            write_rows(rows / f"later-{number}.csv", 40, start=2000 * number)
        context = new_context(str(folder / "artifacts")).model_copy(update={"actor": "grace"})
        result = run_pipeline(load_pipeline(moved.pipeline_file), context=context)
        assert result.outcome == "promoted", result
        if not number:
            model.promote("staging", from_channel="production", actor="grace", reason="a trial with the new front end")
    asks = small_project(folder, base, "bridge-reports")
    asks.write(publish__approval="required")
    long = small_project(folder, base, "road-reports")
    long.write(training={"max_steps": 20000, "per_device_train_batch_size": 4, "logging_steps": 20})
    watched = small_project(folder, base, "lake-levels")
    incoming = folder / "incoming"
    write_rows(incoming / "monday.csv", 120)
    watched.write(
        dataset__train=str(incoming / "*.csv"), schedule={"on_new_data": True, "quiet_seconds": QUIET_SECONDS}
    )
    return Deployed(folder, moved, asks, long, watched)


def _only_shown(made: Deployment, base: Path) -> None:
    """Their DAGs would have nothing to read, and are not scheduled."""
    for file in made.pipelines.glob("*.yaml"):
        if file.stem not in SHOWN:
            file.unlink()
            continue
        content = yaml.safe_load(file.read_text())
        changed = {**content, "schedule": {}, "model": {"base": str(base)}}
        file.write_text(yaml.safe_dump(changed, sort_keys=False))
    shutil.rmtree(made.store / "trail-status")


@contextmanager
def served(deployed: Deployed) -> Iterator[Running]:
    """Its Airflow, with every DAG known."""
    dags = deployed.folder / "dags"
    dags.mkdir()
    (dags / "retrain_all.py").write_text(DAG_FILE)
    server = AirflowServer(
        deployed.folder / "home",
        dags,
        plugins=REPOSITORY / "plugins",
        environment=deployed.variables,
        triggerer=True,
    )
    with server:
        client = server.client()
        running = Running(server, client)
        names = [file.stem for file in deployed.pipelines.glob("*.yaml")]
        for dag_id in (*(f"retrain__{name.replace('-', '_')}" for name in names), "operate_models", "doctor"):
            running.until(lambda dag_id=dag_id: client.has_dag(dag_id), dag_id, 90)  # type: ignore[misc]
        assert client.import_errors() == []
        yield running
    assert server.processes() == []
