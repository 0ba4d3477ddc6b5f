"""Who a DAG run is of, where somebody approved it, and with what it was started."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from retrainer.airflow import IngestDatasetOperator
from retrainer.airflow.context import require_known_conf, run_context
from retrainer.airflow.operate import MoveChannelOperator
from retrainer.errors import PipelineError

RUN = SimpleNamespace(
    run_id="r", start_date=datetime(2026, 1, 1, tzinfo=UTC), triggering_user_name="starter", dag_id="d"
)
USER = {"id": "7", "name": "ada"}


@pytest.mark.parametrize(
    ("approval", "approved", "actor"),
    [
        (None, False, "starter"),
        ({}, False, "starter"),
        ({"chosen_options": ["Approve"], "responded_by_user": USER}, True, "ada"),
        ({"chosen_options": ["Approve"], "responded_by_user": None}, True, "starter"),
        ({"chosen_options": ["Reject"], "responded_by_user": USER}, False, "starter"),
        ({"responded_by_user": USER}, False, "starter"),
    ],
)
def test_only_a_yes_approves(approval: dict[str, Any] | None, approved: bool, actor: str) -> None:
    context = run_context({"dag_run": RUN}, root="/artifacts", approval=approval)
    assert (context.approved, context.actor) == (approved, actor)


def test_the_word_is_airflows_own() -> None:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    from retrainer.airflow.context import APPROVE

    assert ApprovalOperator.APPROVE == APPROVE


def started_with(conf: dict[str, Any] | None, *known: str) -> dict[str, Any]:
    params = dict.fromkeys(known)
    return {
        "dag_run": SimpleNamespace(conf=conf),
        "dag": SimpleNamespace(params=params),
        "task": SimpleNamespace(params=params),
    }


@pytest.mark.parametrize("conf", [None, {}, {"version": "x"}, {"airflow/task_span_detail_level": 2}])
def test_what_a_dag_knows_may_be_given(conf: dict[str, Any] | None) -> None:
    require_known_conf(started_with(conf, "version", "reason"))


@pytest.mark.parametrize(
    ("conf", "known", "said"),
    [
        ({"verson": "x"}, ("version", "reason"), r"'verson'.*did you mean 'version'\? this DAG knows reason, version"),
        ({"floors": {}}, (), r"'floors'.*this DAG takes none"),
        ({"reason": "r", "a": 1, "b": 2}, ("reason",), r"'a', 'b'.*knows reason"),
    ],
)
def test_what_a_dag_does_not_know_is_not_ignored(conf: dict[str, Any], known: tuple[str, ...], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        require_known_conf(started_with(conf, *known))


@pytest.mark.parametrize(
    "task",
    [
        IngestDatasetOperator(task_id="first", pipeline="nowhere.yaml"),
        MoveChannelOperator(task_id="move", models={}),
    ],
)
def test_the_first_task_refuses_it_before_anything_else(task: Any) -> None:
    with pytest.raises(AirflowFailException, match="conf: the run was started with 'verson'"):
        task.execute(started_with({"verson": "x"}, "version"))
