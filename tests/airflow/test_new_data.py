"""The trigger of new data, and what a run notes of the data that it has read; without a triggerer."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from retrainer.airflow import new_data
from retrainer.airflow.new_data import NewDataTrigger, started_by
from retrainer.airflow.watch import News
from retrainer.sources.arrivals import data_files, listing
from tests.airflow.harness import DagRunResult, Project
from tests.airflow.test_watch import Kept

NAME = "retrainer/news/new-data"


def first_event(monkeypatch: pytest.MonkeyPatch, runs: list[int], **arguments: Any) -> dict[str, Any]:
    """What a trigger tells first.

    :param runs: for each time that it asks, how many runs there are that have yet to read the data.
    """
    trigger = NewDataTrigger(
        asset=NAME, dag_id="retrain__news", task_id="ingest", quiet_seconds=0, poll_seconds=0.01, **arguments
    )
    stores: Any = {Asset(NAME): Kept()}
    trigger.asset_state_store = stores
    monkeypatch.setattr(trigger, "_count_runs_to_come", lambda: runs.pop(0))

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("it looks until it is cancelled")

    return asyncio.run(asyncio.wait_for(first(), 20))


def test_an_event_says_what_is_new_once_no_run_is_to_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("text;label\none;yes\ntwo;no\n")
    runs = [2, 1, 0]
    payload = first_event(monkeypatch, runs, paths=[str(tmp_path / "*.txt")], csv={"delimiter": ";"})
    assert payload == {"files": 1, "rows": 2, "names": [str(tmp_path / "a.txt")], "uncounted": []}
    assert runs == []


def test_data_that_cannot_be_looked_at_starts_a_run_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text("[]")
    monkeypatch.setattr(new_data, "_PATIENCE_SECONDS", 0.1)
    payload = first_event(monkeypatch, [], paths=[str(tmp_path / "a.json")])
    assert "not a known format" in payload["problem"]
    assert caplog.text.count("is tried again") == 1, "the same thing is said once"


def test_a_run_knows_what_started_it() -> None:
    def event(name: str, payload: dict[str, Any] | None) -> Any:
        extra = {"payload": payload} if payload else {}
        return SimpleNamespace(asset=SimpleNamespace(name=name), extra=extra)

    news = News(files=2, rows=1200, names=("/a.csv", "/b.csv")).model_dump(mode="json")
    told = [event(NAME, news), event(NAME, {"problem": "no permission"}), event("s3://other", None)]
    events = {"one": told[:2], "other": told[2:]}
    assert started_by({"triggering_asset_events": events}) == [
        "1,200 rows in 2 files: /a.csv, /b.csv",
        "no permission",
    ]
    assert started_by({}) == []


@pytest.mark.slow
def test_a_run_notes_what_it_has_read(
    project: Project, run_dag: Callable[..., DagRunResult], small_artifacts: Path
) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    project.write(schedule={"on_new_data": True})
    result = run_dag(project)
    assert result.state == "success", result.output
    taken = result.kept[f"retrainer/{project.content['name']}/new-data:taken"]
    assert taken["files"] == listing(data_files([project.content["dataset"]["train"]]))
    assert taken["run_id"]


def test_what_became_of_a_run_is_asked_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(answer: str | AirflowRuntimeError) -> bool:
        def state(dag_id: str, run_id: str) -> str:
            if isinstance(answer, AirflowRuntimeError):
                raise answer
            return answer

        monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(state))
        return new_data.run_has_failed("retrain__news", "a run")

    def error(status: int) -> AirflowRuntimeError:
        return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status}))

    assert answers("failed")
    assert not answers("success")
    assert not answers("running")
    assert not answers(error(404)), "it was deleted"
    with pytest.raises(AirflowRuntimeError):
        answers(error(500))
