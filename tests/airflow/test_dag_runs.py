"""The operators, run by Airflow itself with ``dag.test()``."""

from __future__ import annotations

import json
from collections.abc import Callable

from retrainer.chain import DECIDE, PUBLISH, StepRef
from retrainer.store import Store
from tests.airflow.harness import DagRunResult, Project

RunDag = Callable[..., DagRunResult]
DONE = {"ingest": "success", "train": "success", "export": "success", "evaluate": "success", "gate": "success"}


def test_a_first_model_is_published_and_a_second_run_changes_nothing(project: Project, run_dag: RunDag) -> None:
    first = run_dag(project)

    assert first.states() == {**DONE, "publish": "success"}, first.output
    published = StepRef.model_validate(first.xcoms["publish"]["return_value"])
    model = Store.open(str(project.store)).model(project.content["name"])
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == PUBLISH.output_of(published).version
    assert model.history("production")[0].actor == "dag_test"

    (event,) = first.events
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

    links = {task: {key for key in keys if key.startswith("retrainer_")} for task, keys in first.xcoms.items()}
    assert links["train"] == {"retrainer_run_folder"}
    assert links["gate"] == {"retrainer_run_folder", "retrainer_receipt"}
    assert links["publish"] == {"retrainer_run_folder", "retrainer_published_version"}
    assert first.xcoms["gate"]["retrainer_receipt"].endswith("/receipt.json")

    second = run_dag(project)

    assert second.states() == {**DONE, "publish": "skipped"}, second.output
    assert f"unchanged: production already serves this model, version {newest.to_version}" in second.output
    assert second.xcoms["gate"]["return_value"]["unchanged"]["version"] == newest.to_version
    assert second.xcoms["train"]["return_value"]["reused"] is True
    assert second.events == []
    assert model.newest_move("production") == newest


def test_a_refused_challenger_skips_publish_and_the_run_is_green(project: Project, run_dag: RunDag) -> None:
    project.write(
        gate={"floors": {"accuracy": 1.0}, "baseline": "report"}, training__learning_rate=1e-7
    )  # it learns nothing

    result = run_dag(project)

    assert result.state == "success", result.output
    assert result.states() == {**DONE, "publish": "skipped"}
    decision = StepRef.model_validate(result.xcoms["gate"]["return_value"])
    decided = DECIDE.output_of(decision)
    assert (decided.verdict, decided.codes) == ("refuse", "floor_missed")
    assert "(floor_missed)" in result.output
    assert "The gate refuses the challenger" in result.xcoms["gate"]["report"]
    assert result.events == []
    assert Store.open(str(project.store)).models() == []


def test_a_missing_column_fails_at_once_and_says_what_and_where(project: Project, run_dag: RunDag) -> None:
    project.write(dataset__text="statuss")

    result = run_dag(project)

    assert result.state == "failed"
    assert result.tasks["ingest"] == {"state": "failed", "tries": 1}, result.output
    assert result.states()["publish"] == "upstream_failed"
    said = [line for line in result.output.splitlines() if "statuss" in line]
    assert any("train.csv" in line for line in said), result.output
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
