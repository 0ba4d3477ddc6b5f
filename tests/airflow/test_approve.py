"""Asking a person: what is shown, who is told, what becomes of each answer and of none."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped, TaskAwaitingInput

from retrainer.airflow import ApproveModelOperator
from retrainer.airflow.assets import DECISIONS, decisions_asset
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRef
from retrainer.chain.accounts import answer_to
from retrainer.chain.model_store import model_of
from retrainer.cli.decisions_command import decisions
from retrainer.spec import Pipeline, load_pipeline
from tests.airflow.harness import small_project
from tests.airflow.test_asked_runs import told

USER = {"id": "7", "name": "ada"}


class Asked:
    """A decision that was taken, and a task that asks about it."""

    def __init__(self, folder: Path, base: Path, artifacts: Path, approval: dict[str, Any]) -> None:
        self.heard = folder / "heard.txt"
        project = small_project(folder, base, "made-once")
        people = {"on_refused": [told(self.heard)]}
        project.write(publish__approval={"notify": [told(self.heard)], **approval}, notify=people)
        self.pipeline: Pipeline = load_pipeline(project.pipeline_file)
        (decided,) = (artifacts / "decide").iterdir()
        manifest = Artifacts(artifacts).get("decide", decided.name)
        self.decision = StepRef(
            step="decide",
            digest=decided.name,
            root=str(artifacts),
            reused=False,
            output=manifest.output,
            pipeline=self.pipeline,
        )
        # The store in which that decision was taken, with its ledger.
        shutil.copytree(artifacts.parent / "store", project.store)
        self.events: list[tuple[Any, dict[str, Any]]] = []
        downstream = BaseOperator(task_id="publish")
        self.task = ApproveModelOperator(
            task_id="approval",
            decision=self.decision.model_dump(mode="json"),
            **ApproveModelOperator.in_dag(self.pipeline),
        )
        self.context: Any = {
            "dag_run": SimpleNamespace(run_id="manual__1+1", dag_id="d", triggering_user_name="starter"),
            "task": SimpleNamespace(upstream_task_ids={"gate"}, get_direct_relatives=lambda upstream: [downstream]),
            "task_instance": SimpleNamespace(id="0"),
            "ti": SimpleNamespace(map_index=-1, xcom_push=lambda **_: None),
            "dag": None,
            "outlet_events": {DECISIONS: SimpleNamespace(add=lambda asset, extra: self.events.append((asset, extra)))},
        }
        self.task.downstream_task_ids.add("publish")

    def answer(self, **event: Any) -> Any:
        return self.task.execute_complete(
            self.context,
            {"params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": USER, "timedout": False}
            | event,
        )

    def last(self) -> tuple[str, str, str] | None:
        said = answer_to(model_of(self.pipeline).ledger.entries(), self.decision.digest)
        return (said.event.answer, said.actor, said.event.reason) if said else None  # type: ignore[union-attr]


@pytest.fixture
def ask(tmp_path: Path, tiny_bert: Path, small_artifacts: Path) -> Any:
    return lambda **approval: Asked(tmp_path, tiny_bert, small_artifacts, approval)


def test_who_is_asked_sees_the_decision_and_is_told(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(assignees=["ada"], timeout="2h")
    shown: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **said: shown.update(said)
    )

    with pytest.raises(TaskAwaitingInput) as waiting:
        asked.task.execute(asked.context)

    assert waiting.value.timeout.total_seconds() == 7200
    assert shown["subject"] == "Publish made-once to production?"
    assert "The gate promotes the challenger" in shown["body"]
    assert "| accuracy |" in shown["body"]
    assert "/dags/d/runs/manual__1%2B1/tasks/gate)" in shown["body"]
    assert shown["assigned_users"] == [{"id": "ada", "name": "ada"}]
    assert shown["defaults"] == ["Reject"]
    assert list(shown["params"]) == ["reason"]
    (line,) = asked.heard.read_text().splitlines()
    assert line.startswith("question: Publish made-once to production? Answer at ")
    assert line.endswith("/dags/d/runs/manual__1%2B1/tasks/approval/required_actions")


def test_a_no_with_its_reason_stands_in_the_history(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ask()
    with pytest.raises(DownstreamTasksSkipped):
        asked.answer(chosen_options=["Reject"], params_input={"reason": " too eager "})
    assert asked.last() == ("reject", "ada", "too eager")
    ((asset, extra),) = asked.events
    assert asset == decisions_asset(asked.pipeline)
    assert (extra["verdict"], extra["by"]) == ("reject", "ada")
    assert extra["reasons"] == [{"code": "reject", "detail": "too eager"}]
    assert asked.heard.read_text() == "rejected: made-once: ada rejects it: too eager\n"
    decisions(asked.pipeline.publish.store, "made-once", None, None, as_json=True)
    assert '"reason": "too eager"' in capsys.readouterr().out

    # A later yes takes its place.
    asked.answer(chosen_options=["Approve"])
    assert asked.last() == ("approve", "ada", "")
    assert len(asked.heard.read_text().splitlines()) == 1


def test_silence_publishes_nothing_and_is_no_answer(ask: Any) -> None:
    asked = ask(timeout="1d")
    with pytest.raises(DownstreamTasksSkipped):
        asked.answer(chosen_options=["Reject"], responded_by_user=None, timedout=True)
    assert (asked.last(), asked.events) == (None, [])


def test_silence_may_fail_the_run_for_good(ask: Any) -> None:
    asked = ask(timeout="1d", on_timeout="fail", ask_reason=False)
    assert asked.task.defaults is None
    assert not asked.task.serialized_params
    with pytest.raises(AirflowFailException, match="nobody answered within 1d"):
        asked.task.execute_complete(asked.context, {"error": "timed out", "error_type": "timeout"})
    assert asked.last() is None
