"""The check of a champion in Airflow: its DAG, its events, whom it tells, and the one retraining that it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.sdk import Asset
from typer.testing import CliRunner

from retrainer.airflow import CheckDecayOperator, build_dags, decay_asset, decay_dag
from retrainer.airflow.decay_builder import RETRAIN
from retrainer.cli import app
from retrainer.errors import PipelineError
from retrainer.spec import parse_pipeline
from tests.airflow.conftest import migrated_home
from tests.airflow.harness import DagRunResult, Project, write_rows
from tests.airflow.test_asked_runs import told
from tests.decay.champion import copy_of, live_project
from tests.spec.test_spec_people import CONTENT

RunDag = Callable[..., DagRunResult]
CHECK = CheckDecayOperator.task_name
DAG_ID = "decay__watched"


@pytest.fixture
def watched(tmp_path: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_of(
        live_project(tmp_path_factory, tiny_bert),
        tmp_path / "project",
        decay={"min_rows": 100, "max_drop": 0.1, "retrain": True},
        notify={"on_decay": [told(tmp_path / "heard.txt")]},
    )


@pytest.fixture
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow that knows no model of the same name in another store: of two such assets it takes one."""
    return migrated_home(tmp_path_factory.mktemp("own_home"))


@pytest.mark.long
def test_decay_is_told_once_and_starts_one_retraining(watched: Project, run_dag: RunDag, tmp_path: Path) -> None:
    heard = tmp_path / "heard.txt"

    few = run_dag(watched, dag_id=DAG_ID)

    assert few.states() == {CHECK: "success", RETRAIN: "skipped"}, few.output
    (event,) = few.events
    assert event["name"] == "retrainer/watched/decay"
    assert (event["extra"]["verdict"], event["extra"]["reasons"][0]["code"]) == ("insufficient", "too_few_rows")
    assert "INSUFFICIENT watched" in few.xcoms[CHECK]["report"]
    assert not heard.exists()

    write_rows(watched.folder / "data" / "train_later.csv", 200, start=5000, swapped=True)
    result = run_dag(watched, dag_id=DAG_ID)

    assert result.states() == {CHECK: "success", RETRAIN: "success"}, result.output
    (event,) = result.events
    said = event["extra"]
    assert said["verdict"] == "decayed"
    assert said["drop"]["low"] > 0.1
    assert said["version"] == few.events[0]["extra"]["version"]
    assert said["text"].startswith("watched: decayed, accuracy ")
    assert heard.read_text() == f"decayed: {said['text']}\n"
    started = result.xcoms[RETRAIN]["trigger_run_id"]
    assert started == f"decay__{said['check'][:16]}"

    # The same champion on the same rows: it is shown, and nobody hears of it again.
    again = run_dag(watched, dag_id=DAG_ID)

    assert again.states() == {CHECK: "success", RETRAIN: "skipped"}, again.output
    assert again.events == []
    assert "DECAYED watched" in again.output
    assert heard.read_text().count("\n") == 1

    # More rows say the same: that is told, and the run that is queued already will learn from them.
    write_rows(watched.folder / "data" / "train_more.csv", 40, start=9000, swapped=True)
    more = run_dag(watched, dag_id=DAG_ID)

    assert more.states() == {CHECK: "success", RETRAIN: "skipped"}, more.output
    assert more.events[0]["extra"]["verdict"] == "decayed"
    assert "a run of retrain__watched is under way" in more.output
    assert heard.read_text().count("\n") == 2


@pytest.mark.long
def test_a_check_that_the_command_line_made_is_told_all_the_same(
    watched: Project, own_home: Path, run_dag: RunDag, tmp_path: Path
) -> None:
    write_rows(watched.folder / "data" / "train_later.csv", 200, start=5000, swapped=True)
    said = CliRunner().invoke(app, ["decay", str(watched.pipeline_file), "--artifacts", str(watched.artifacts)])
    assert said.exit_code == 4, said.output

    result = run_dag(watched, dag_id=DAG_ID, environment={"AIRFLOW_HOME": str(own_home)})

    assert [event["extra"]["verdict"] for event in result.events] == ["decayed"], result.output
    assert (tmp_path / "heard.txt").read_text().count("\n") == 1
    assert result.kept["retrainer/watched/decay:told"]["check"] == result.events[0]["extra"]["check"]


def test_a_pipeline_has_a_dag_for_its_check_where_it_asks_for_one(watched: Project) -> None:
    folder = watched.folder / "pipelines"
    assert set(build_dags(folder)) == {"retrain__watched", DAG_ID}
    dag = build_dags(folder, schedule="@hourly", tags=["ours"])[DAG_ID]
    assert dag.schedule is None, "when it is retrained says nothing of when it is checked"
    assert dag.tags == {"ours"}
    watched.write(decay={"cron": "0 6 * * *"}, schedule={"timezone": "Europe/Berlin"}, dag={"owner": "news team"})
    dag = build_dags(folder)[DAG_ID]
    assert str(dag.schedule.timezone) == "Europe/Berlin"
    assert dag.task_ids == [CHECK]
    assert dag.get_task(CHECK).owner == "news team"
    watched.write(decay=None)
    assert set(build_dags(folder)) == {"retrain__watched"}


def test_only_the_dag_of_a_task_is_built_for_it(watched: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", DAG_ID)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", CHECK)
    assert set(build_dags(watched.folder / "pipelines")) == {DAG_ID}


def test_the_asset_is_one_of_its_own() -> None:
    pipeline = parse_pipeline(CONTENT)
    assert decay_asset(pipeline) == Asset(name="retrainer/news/decay", uri="s3://models/news/decay", group="model")
    assert [task.task_id for task in decay_dag(pipeline).tasks] == [CHECK]


def test_what_a_file_cannot_ask_for() -> None:
    with pytest.raises(PipelineError, match=r"notify.on_decay: says nothing without a section decay"):
        parse_pipeline({**CONTENT, "notify": {"on_decay": [told(Path("x"))]}})
    with pytest.raises(PipelineError, match=r"decay.metric: 'mcc' is not measured.*or add it to metrics"):
        parse_pipeline({**CONTENT, "decay": {"metric": "mcc"}})
    with pytest.raises(PipelineError, match=r"decay.data: a check has no date for a template"):
        parse_pipeline({**CONTENT, "decay": {"data": "/data/{{ ds }}.csv"}})
    with pytest.raises(PipelineError, match=r"decay.cron"):
        parse_pipeline({**CONTENT, "decay": {"cron": "every day"}})
