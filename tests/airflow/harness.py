"""What the tests of the Airflow layer share: small pipelines, and what a DAG run left."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


@dataclass(frozen=True)
class DagRunResult:
    """What a DAG run left.

    :param tasks: task to ``{"state", "tries"}``.
    :param mapped: of each mapped task in order: task, name in the UI, state.
    :param xcoms: task to key to value; of a mapped task ``task[0]``, ``task[1]``.
    :param events: the events of assets, oldest first: ``{"name", "uri", "extra"}``.
    :param kept: what the state stores of assets and of the run's tasks hold, by ``asset:key`` and ``task:key``.
    :param output: everything that was logged.
    """

    state: str
    tasks: dict[str, dict[str, Any]]
    mapped: list[list[str]]
    xcoms: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    kept: dict[str, Any]
    output: str

    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks.items()}


def airflow_environment(home: Path, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "RETRAINER"))}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
        "NO_COLOR": "1",
        **more,
    }


def write_rows(path: Path, rows: int, *, start: int = 0, swapped: bool = False) -> None:
    """Lines that a model of any size can learn, half of them of each label."""
    words = ("closed", "open") if swapped else ("open", "closed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["status", "label"])
        for number in range(start, start + rows):
            said = ("open and dry today", "closed because of mud")[number % 2]
            writer.writerow([f"Trail {number} is {said}", words[number % 2]])


@dataclass(frozen=True)
class Project:
    """A folder with data, a pipeline and a store.

    :param content: the pipeline as it was written last.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def pipeline_file(self) -> Path:
        return self.folder / "pipelines" / f"{self.content['name']}.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def dag_id(self) -> str:
        return "retrain__" + str(self.content["name"]).replace("-", "_")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RETRAINER_PIPELINES": str(self.folder / "pipelines"),
            "RETRAINER_ARTIFACT_ROOT": str(self.artifacts),
        }

    def write(self, **changes: Any) -> None:
        """Write the pipeline file with some keys replaced: ``gate={...}``, ``dataset__label="x"``."""
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = self.content
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        self.pipeline_file.parent.mkdir(parents=True, exist_ok=True)
        self.pipeline_file.write_text(yaml.safe_dump(self.content, sort_keys=False))


def small_project(folder: Path, base: Path, name: str) -> Project:
    """A pipeline over a hundred short lines, written and ready to run."""
    write_rows(folder / "data" / "train.csv", 120)
    write_rows(folder / "data" / "test.csv", 40, start=1000)
    project = Project(
        folder,
        {
            "name": name,
            "task": "text-classification",
            "dataset": {
                "train": str(folder / "data" / "train.csv"),
                "test": str(folder / "data" / "test.csv"),
                "text": "status",
                "label": "label",
                "labels": ["closed", "open"],
                "split": {"validation": 0.2},
                "checks": {"min_rows": 10},
            },
            "model": {"base": str(base), "max_length": 16},
            "training": {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 0.01},
            # It learns too little in a second to be held against word counts.
            "gate": {"floors": {"accuracy": 0.0}, "against_champion": None, "baseline": "report"},
            "export": {"precisions": ["fp32"]},
            "publish": {"store": str(folder / "store")},
        },
    )
    project.write()
    return project
