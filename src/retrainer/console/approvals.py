"""The page of all that wait for a person before they go live. Not here: taking the answer, which the host does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from retrainer.console.host import Host, Question, Shown, Visitor
from retrainer.records import Record


class Waiting(Record):
    """What waits.

    :ivar people: who is asked; empty for everybody who may.
    :ivar for_you: whether the visitor may answer.
    :ivar gate: what the gate said, in a sentence.
    :ivar metrics: of the challenger.
    :ivar address: where the answer is taken.
    """

    model: str
    dag_id: str
    run_id: str
    subject: str
    since: datetime
    until: datetime | None
    people: tuple[str, ...]
    for_you: bool
    gate: str
    decision: str | None
    metrics: dict[str, float]
    address: str | None


class Approvals(Record):
    """The page: those that wait longest first.

    :ivar more: there are more, of which nothing is said here.
    """

    now: datetime
    waiting: tuple[Waiting, ...]
    more: bool = False


def waiting_in(shown: Sequence[Shown], host: Host, who: Visitor) -> tuple[Waiting, ...]:
    """What waits in the DAGs of these models: as many questions to the host for many as for one."""
    models = {one.dag_id: one.name for one in shown}
    return described(models, host.questions(models), host, who)


def described(models: dict[str, str], questions: Sequence[Question], host: Host, who: Visitor) -> tuple[Waiting, ...]:
    """The questions, as a visitor sees them.

    :param models: by the DAG.
    """
    if not questions:
        return ()
    made = []
    for one, may_answer in zip(questions, who.may_answer(questions), strict=True):
        metrics, decision = one.gate.get("metrics"), one.gate.get("decision")
        made.append(
            Waiting(
                model=models[one.dag_id],
                dag_id=one.dag_id,
                run_id=one.run_id,
                subject=one.subject,
                since=one.since,
                until=one.until,
                people=one.people,
                for_you=may_answer,
                gate=str(one.gate.get("text") or ""),
                decision=str(decision) if decision else None,
                metrics=dict(metrics) if isinstance(metrics, dict) else {},
                address=host.question_address(one),
            )
        )
    return tuple(made)
