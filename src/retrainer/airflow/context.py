"""Who runs a DAG run, as what, since when: Airflow's context as a ``RunContext``.

Nothing here reads a logical date: runs started by hand or by an asset have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from retrainer.chain import RunContext
from retrainer.errors import PipelineError
from retrainer.spec.changes import Changes
from retrainer.spec.problems import listed, suggestion

APPROVE = "Approve"
"""The option of Airflow's ``ApprovalOperator`` that says yes."""
REASON = "reason"
"""The field of its form in which a person says why."""


def run_context(
    context: Any, *, root: str, approval: Mapping[str, Any] | None = None, changes: Changes | None = None
) -> RunContext:
    """The run that a task belongs to.

    :param context: the context that Airflow gives ``execute``.
    :param root: the artifact root.
    :param approval: what Airflow's ``ApprovalOperator`` returned; who approved then answers for the run, instead of
        its starter.
    :param changes: what the run was asked to do otherwise than its pipeline file says.
    """
    dag_run = context["dag_run"]
    started = dag_run.start_date or dag_run.run_after
    answer = (approval or {}).get("params_input") or {}
    approved = APPROVE in ((approval or {}).get("chosen_options") or ())
    user = ((approval or {}).get("responded_by_user") or {}) if approved else {}
    return RunContext(
        run_id=dag_run.run_id,
        actor=user.get("name") or user.get("id") or actor_of(dag_run),
        started_at=started.astimezone(UTC).isoformat(timespec="seconds"),
        origin="airflow",
        root=root,
        approved=approved,
        answer=str(answer.get(REASON) or "") if approved else "",
        changes=changes or Changes(),
    )


def require_known_conf(context: Any) -> None:
    """A run that was started with a ``conf`` that its DAG has no param for would ignore it in silence.

    :raises PipelineError: it has such a key.
    """
    known = {*context["dag"].params, *context["task"].params}
    # Those with a slash are Airflow's own.
    unknown = [key for key in context["dag_run"].conf or {} if key not in known and "/" not in key]
    if unknown:
        near = suggestion(unknown[0], known).removeprefix("; ")
        there = f"this DAG knows {listed(sorted(known))}" if known else "this DAG takes none"
        raise PipelineError(
            f"the run was started with {listed(map(repr, unknown))}, which this DAG has no param for",
            where="conf",
            hint=f"{near} {there}".strip(),
        )


def actor_of(dag_run: Any) -> str:
    """The user who started the run, or ``airflow:<dag id>`` when nobody did."""
    return getattr(dag_run, "triggering_user_name", None) or f"airflow:{dag_run.dag_id}"
