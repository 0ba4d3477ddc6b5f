"""The operators, run by Airflow itself with ``dag.test()``."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrainer.chain import DECIDE, PUBLISH, StepRef
from retrainer.sources.base_models import short_name
from retrainer.store import Store
from tests.airflow.harness import DagRunResult, Project

RunDag = Callable[..., DagRunResult]
DONE = {"ingest": "success", "train": "success", "export": "success", "evaluate": "success", "gate": "success"}


@contextmanager
def changed_when_trained(project: Project, **changes: Any) -> Iterator[None]:
    """Somebody edits the pipeline file while the run is at its training."""
    over = threading.Event()

    def edit() -> None:
        while not over.wait(0.05):
            if list(project.artifacts.glob("train/*/manifest.json")):
                project.write(**changes)
                return

    editor = threading.Thread(target=edit)
    editor.start()
    yield
    over.set()
    editor.join()


def test_a_first_model_is_published_and_a_second_run_changes_nothing(project: Project, run_dag: RunDag) -> None:
    with changed_when_trained(project, publish__channel="staging"):
        first = run_dag(project)
    project.write(publish__channel="production")

    # The run kept the pipeline that it began with, and said so.
    assert first.states() == {**DONE, "publish": "success"}, first.output
    assert "the pipeline has changed since this run began" in first.output
    assert "publish.channel was 'production', is 'staging'" in first.output
    published = StepRef.model_validate(first.xcoms["publish"]["return_value"])
    model = Store.open(str(project.store)).model(project.content["name"])
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == PUBLISH.output_of(published).version
    assert model.history("production")[0].actor == "dag_test"

    assert first.kept["train:progress"]["text"].startswith("training: step ")
    assert "loss" in first.kept["train:progress"]["figures"]
    assert first.kept["train:checkpoint"].startswith("checkpoint-")
    (folder,) = (project.artifacts / "runs").iterdir()
    assert first.kept["publish:run_folder"] == str(folder)

    decided, event = first.events
    assert decided["name"] == f"retrainer/{project.content['name']}/decisions"
    assert decided["extra"]["verdict"] == "promote"
    assert event["name"] == f"retrainer/{project.content['name']}"
    assert event["uri"].startswith("file:///")
    assert event["extra"]["version"] == newest.to_version
    assert event["extra"]["moved"] is True
    assert event["extra"]["previous"] is None
    assert "accuracy" in event["extra"]["metrics"]
    assert event["extra"]["decision"]["verdict"] == "promote"
    assert event["extra"]["decision"]["digest"] == first.xcoms["gate"]["return_value"]["digest"]

    assert any("training: step" in line and "rows/s" in line for line in first.output.splitlines())
    assert "epoch 1 on validation: accuracy" in first.output

    # No browser follows an address on the worker's disk, so there is no link to it, but to the console.
    told = {key: value for keys in first.xcoms.values() for key, value in keys.items() if key.startswith("retrainer_")}
    assert told.keys() == {"retrainer_receipt", "retrainer_published_version"}
    assert all(str(link).startswith("/plugin/models/") for link in told.values())

    second = run_dag(project)

    assert second.states() == {**DONE, "publish": "skipped"}, second.output
    assert f"unchanged: production already serves this model, version {newest.to_version}" in second.output
    assert second.xcoms["gate"]["return_value"]["unchanged"]["version"] == newest.to_version
    assert second.xcoms["train"]["return_value"]["reused"] is True
    assert second.events == []
    assert "the pipeline has changed" not in second.output
    assert model.newest_move("production") == newest
    (run, _) = sorted((project.artifacts / "runs").iterdir())
    assert run.name.endswith(f"_{project.content['name']}_{short_name(project.content['model']['base'])}")
    log = (run / "logs" / "train.log").read_text()
    assert "training: step" in log
    assert "epoch 2 on validation: " in log

    # A move by hand makes the same event, of the channel that moved.
    move = {
        "pipeline": project.content["name"],
        "action": "promote",
        "channel": "staging",
        "version": newest.to_version,
        "cause": "release",
        "reason": "to be tried",
    }
    moved = run_dag(project, dag_id="operate_models", params=move)
    assert moved.state == "success", moved.output
    published_event, (event,) = event, moved.events
    assert event["name"] == f"retrainer/{project.content['name']}/staging"
    assert event["uri"] == published_event["uri"].replace("production", "staging")
    told = event["extra"]
    assert told.keys() > published_event["extra"].keys() - {"changes"}
    assert (told["version"], told["reason"], told["actor"]) == (newest.to_version, "to be tried", "dag_test")
    assert told["decision"] == published_event["extra"]["decision"]


def test_a_refused_challenger_skips_publish_and_the_run_is_green(
    project: Project, run_dag: RunDag, small_artifacts: Path
) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    # Forty rows prove no such accuracy, whatever they say.
    project.write(gate={"floors": {"accuracy": 1.0}, "confident": True, "baseline": "report"})

    result = run_dag(project)

    assert result.state == "success", result.output
    assert result.states() == {**DONE, "publish": "skipped"}
    decision = StepRef.model_validate(result.xcoms["gate"]["return_value"])
    decided = DECIDE.output_of(decision)
    # A tiny model may have all forty right, or not quite.
    assert (decided.verdict, decided.codes) in {("refuse", "floor_missed"), ("refuse", "floor_not_confident")}
    assert f"({decided.codes})" in result.output
    assert "The gate refuses the challenger" in result.xcoms["gate"]["report"]
    assert [event["extra"]["verdict"] for event in result.events] == ["refuse"]
    assert Store.open(str(project.store)).models() == []


def test_a_missing_column_fails_at_once_and_says_what_and_where(project: Project, run_dag: RunDag) -> None:
    project.write(dataset__text="statuss")

    result = run_dag(project)

    assert result.state == "failed"
    assert result.tasks["ingest"] == {"state": "failed", "tries": 1}, result.output
    assert result.states()["publish"] == "upstream_failed"
    lines = result.output.splitlines()
    said = [number for number, line in enumerate(lines) if "statuss" in line]
    assert "train.csv" in lines[said[0]], result.output
    # The message is not to be searched for below the frames of Airflow's own code.
    assert said[0] < next(number for number, line in enumerate(lines) if "Traceback" in line)
    # Airflow prints the frames above the raise; ours must not add the process's own to them.
    assert "retrainer/run/processes.py" not in result.output


def test_a_signing_key_that_cannot_be_used_fails_the_first_task(project: Project, run_dag: RunDag) -> None:
    project.write(publish__sign_with="airflow:release_key")
    password = "not-a-private-key-at-all"

    result = run_dag(
        project,
        environment={"AIRFLOW_CONN_RELEASE_KEY": json.dumps({"conn_type": "generic", "password": password})},
    )

    assert result.tasks["ingest"] == {"state": "failed", "tries": 1}, result.output
    assert "airflow:release_key: not a private key" in result.output
    assert password not in result.output
    assert not project.artifacts.exists()
