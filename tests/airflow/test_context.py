"""Who a DAG run is of, where somebody approved it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from retrainer.airflow.context import run_context

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
