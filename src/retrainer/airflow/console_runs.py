"""Runs, their tasks and what waits for a person, as Airflow's database has them, for the console.

Loaded by the API server only. Each question costs as many queries for one DAG as for many. Not here: what is said of
them (``retrainer.console``).
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from retrainer.airflow.context import REASON
from retrainer.airflow.dag_builder import APPROVAL
from retrainer.airflow.operate import OPERATE
from retrainer.airflow.operators.gate import DECISION_KEY
from retrainer.airflow.operators.publish import PublishModelOperator
from retrainer.chain import CHAIN
from retrainer.console.host import MOST_QUESTIONS, Answer, Mover, Question, Runs, RunSeen, TaskSeen

_ENDED = ("success", "failed")
# A task that asks, until it is answered.
_ASKING = (TaskInstanceState.AWAITING_INPUT, TaskInstanceState.DEFERRED)
_RETURNED = "return_value"


def runs(dag_ids: Sequence[str]) -> dict[str, Runs]:
    """How the runs of these DAGs stand, in three queries."""
    ended = func.max(DagRun.end_date)
    with create_session() as session:
        dags = session.scalars(select(DagModel).where(DagModel.dag_id.in_(dag_ids), DagModel.is_stale.is_(False))).all()
        last = (
            select(DagRun.dag_id, ended.label("ended"))
            .where(DagRun.dag_id.in_(dag_ids), DagRun.state.in_(_ENDED))
            .group_by(DagRun.dag_id)
            .subquery()
        )
        newest = session.execute(
            select(DagRun.dag_id, DagRun.state, DagRun.run_id, DagRun.end_date).join(
                last, (DagRun.dag_id == last.c.dag_id) & (DagRun.end_date == last.c.ended)
            )
        ).all()
        succeeded = session.execute(
            select(DagRun.dag_id, ended)
            .where(DagRun.dag_id.in_(dag_ids), DagRun.state == "success")
            .group_by(DagRun.dag_id)
        ).all()
        found = {dag_id: (str(state), run_id, when) for dag_id, state, run_id, when in newest}
        successes = dict(tuple(row) for row in succeeded)
        made = {}
        for dag in dags:
            state, run_id, when = found.get(dag.dag_id, (None, None, None))
            made[dag.dag_id] = Runs(
                state=state,
                run_id=run_id,
                ended=when,
                succeeded=successes.get(dag.dag_id),
                next_at=dag.next_dagrun_create_after,
                paused=bool(dag.is_paused),
            )
        return made


def questions(dag_ids: Collection[str]) -> list[Question]:
    """What waits for a person in these DAGs, the oldest first, with what the gate said of it: two queries."""
    with create_session() as session:
        asked = select_questions().where(
            TaskInstance.dag_id.in_(dag_ids),
            TaskInstance.state.in_(_ASKING),
            HITLDetail.responded_at.is_(None),
        )
        rows = session.execute(asked.order_by(HITLDetail.created_at).limit(MOST_QUESTIONS + 1)).all()
        found = [_question(row) for row in rows]
        if not found:
            return []
        told = session.execute(
            select(XComModel.dag_id, XComModel.run_id, XComModel.value).where(
                XComModel.key == DECISION_KEY,
                tuple_(XComModel.dag_id, XComModel.run_id).in_({(one.dag_id, one.run_id) for one in found}),
            )
        ).all()
        gates = {(dag_id, run_id): _value(value) for dag_id, run_id, value in told}
        return [replace(one, gate=_mapping(gates.get((one.dag_id, one.run_id)))) for one in found]


def select_questions() -> Any:
    """The columns of a question, without its body."""
    return select(
        TaskInstance.dag_id,
        TaskInstance.run_id,
        TaskInstance.task_id,
        TaskInstance.map_index,
        TaskInstance.trigger_timeout,
        HITLDetail.subject,
        HITLDetail.created_at,
        HITLDetail.assignees,
        HITLDetail.responded_at,
        HITLDetail.responded_by,
        HITLDetail.chosen_options,
        HITLDetail.params_input,
    ).join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)


def _question(row: Any) -> Question:
    people = row.assignees or []
    answer = None
    if row.responded_at is not None:
        by = _mapping(row.responded_by)
        answer = Answer(
            options=tuple(map(str, row.chosen_options or ())),
            at=row.responded_at,
            by=str(by.get("name") or by.get("id") or "") or None,
            reason=str(_mapping(row.params_input).get(REASON) or ""),
        )
    return Question(
        dag_id=row.dag_id,
        run_id=row.run_id,
        task_id=row.task_id,
        map_index=row.map_index,
        subject=row.subject,
        since=_aware(row.created_at),
        until=_aware(row.trigger_timeout) if row.trigger_timeout and answer is None else None,
        people=tuple(str(one.get("name") or one.get("id")) for one in people),
        ids=frozenset(str(one.get("id")) for one in people),
        answer=answer,
    )


def run(dag_id: str, run_id: str) -> RunSeen | None:
    """A run with its tasks, what they returned and kept, and what was asked: five queries."""
    with create_session() as session:
        found = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if found is None:
            return None
        asked = select_questions().where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        return RunSeen(
            dag_id=dag_id,
            run_id=run_id,
            state=str(found.state),
            kind=str(getattr(found.run_type, "value", found.run_type)),
            by=found.triggering_user_name,
            note=found.note,
            queued=found.queued_at,
            began=found.start_date,
            ended=found.end_date,
            conf=_mapping(found.conf),
            tasks=_tasks(session, dag_id, run_id),
            questions=tuple(_question(row) for row in session.execute(asked.order_by(HITLDetail.created_at))),
        )


def _tasks(session: Session, dag_id: str, run_id: str) -> tuple[TaskSeen, ...]:
    tasks = session.execute(
        select(
            TaskInstance.task_id,
            TaskInstance.map_index,
            TaskInstance.rendered_map_index,
            TaskInstance.state,
            TaskInstance.try_number,
            TaskInstance.start_date,
            TaskInstance.end_date,
            TaskInstance.pool,
        ).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    ).all()
    returned = _by_task(
        (row.task_id, row.map_index, row.key, _value(row.value))
        for row in session.execute(
            select(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value).where(
                XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == _RETURNED
            )
        )
    )
    kept = _by_task(
        (row.task_id, row.map_index, row.key, _decoded(row.value))
        for row in session.execute(
            select(
                TaskStateStoreModel.task_id,
                TaskStateStoreModel.map_index,
                TaskStateStoreModel.key,
                TaskStateStoreModel.value,
            ).where(TaskStateStoreModel.dag_id == dag_id, TaskStateStoreModel.run_id == run_id)
        )
    )
    seen = [
        TaskSeen(
            task_id=task.task_id,
            name=task.task_id + (f" {task.rendered_map_index or task.map_index}" if task.map_index >= 0 else ""),
            state=str(getattr(task.state, "value", task.state)) if task.state else None,
            map_index=task.map_index,
            tries=task.try_number or 0,
            began=task.start_date,
            ended=task.end_date,
            pool=task.pool,
            returned=returned.get((task.task_id, task.map_index), {}).get(_RETURNED),
            kept=kept.get((task.task_id, task.map_index), {}),
        )
        for task in tasks
    ]
    order = _order()
    return tuple(sorted(seen, key=lambda one: (order.get(one.task_id, len(order)), one.task_id, one.map_index)))


@cache
def _order() -> dict[str, int]:
    """Where a task stands in the chain."""
    kinds = (pkgutil.resolve_name(step.operator).task_name for step in CHAIN)
    names = [
        name for kind in kinds for name in ((APPROVAL, kind) if kind == PublishModelOperator.task_name else (kind,))
    ]
    return {name: at for at, name in enumerate(names)}


def _by_task(entries: Iterable[tuple[str, int, str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for task_id, map_index, key, value in entries:
        found.setdefault((task_id, map_index), {})[key] = value
    return found


def mover() -> Mover:
    """The DAG ``operate_models`` as Airflow parsed it last."""
    with create_session() as session:
        dag = session.get(DagModel, OPERATE)
        if dag is None or dag.is_stale:
            hint = "put operate_models.py into the folder of DAGs, as retrainer init --airflow does"
            return Mover(OPERATE, problem=f"Airflow does not know the DAG {OPERATE}: {hint}")
        if dag.is_paused:
            return Mover(OPERATE, problem=f"the DAG {OPERATE} is paused, so that no run of it would begin")
        if dag.has_import_errors:
            return Mover(OPERATE, problem=f"the file of the DAG {OPERATE} cannot be imported at present")
        serialized = SerializedDagModel.get_dag(OPERATE, session=session)
        names = serialized.params.get_param("pipeline").schema.get("enum") if serialized is not None else None
        return Mover(OPERATE, frozenset(map(str, names or ())))


@dataclass(frozen=True, slots=True)
class _Stored:
    """What ``XComModel.deserialize_value`` reads."""

    value: Any


def _value(stored: Any) -> Any:
    return XComModel.deserialize_value(_Stored(stored))


def _decoded(text: str) -> Any:
    """What a task keeps is JSON; a backend of somebody's own may have put a name in its place."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
