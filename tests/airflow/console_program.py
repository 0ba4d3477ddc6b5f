"""Asks the console that Airflow's own API server mounts: as nobody, as a viewer, and as those who may act.

Run in a process of its own: ``python console_program.py ANSWER MODEL DECISION VERSION``. The DAGs of the pipelines are
in Airflow's database; the pipelines of two models ask for approvals.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.main import app
from airflow.models.dag import DagModel
from airflow.models.hitl import HITLDetail
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.plugins_manager import get_fastapi_plugins
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import event, func, select, update

from airflow import settings
from retrainer.airflow.console import AirflowHost

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
RUN = "asset_triggered__2026-11-27T02:00:00+00:00_aB"
FORM = {"action": "rollback", "cause": "regression", "reason": "sports go to business"}
OWN = {"Origin": "http://testserver"}
JSON = {"Accept": "application/json"}


def main(answer: Path, model: str, decision: str, version: str) -> None:
    (mounted,) = (one["app"] for one in get_fastapi_plugins()[0] if one["name"] == "retrainer")
    routes = [route for route in mounted.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(mounted.routes)  # nothing is mounted past the dependencies
    dag_id = f"retrain__{model.replace('-', '_')}"
    query = {"name": model, "decision": decision, "dag_id": dag_id, "run_id": RUN}
    form = {**FORM, "version": version}
    begin(dag_id)
    unpause("operate_models", paused=False)
    token, viewer = token_of("vera", "viewer"), signed("vera", "viewer")
    forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
    found: dict[str, Any] = {"routes": [], "dag_id": dag_id}
    with TestClient(app, follow_redirects=False) as client:
        for route in routes:
            address = f"/retrainer{route.path}"
            # Also without a token: with the cookie of a browser, and from the site's own page.
            visitors = {
                "nobody": OWN,
                "forged": forged,
                "viewer": viewer,
                "cookie": {**OWN, "Cookie": f"_token={token}"},
            }
            statuses = {
                who: {
                    method: client.request(method, address, params=query, headers=headers, data=form).status_code
                    for method in METHODS
                }
                for who, headers in visitors.items()
            }
            found["routes"].append({"path": route.path, "methods": sorted(route.methods), "statuses": statuses})
        found["runs after a viewer"] = runs_of("operate_models")
        found["overview"] = client.get("/retrainer/", headers=viewer).text
        found["json"] = client.get("/retrainer/", headers={**viewer, **JSON}).json()
        found["viewer's model"] = client.get("/retrainer/model", params=query, headers=viewer).text
        found["cookie"] = client.get("/retrainer/", headers={"Cookie": f"_token={token}"}).status_code
        found["views"] = client.get("/api/v2/plugins", headers=signed("ada", "admin")).json()
        found |= moves(client, query, form)
        found |= waiting(client, dag_id, query)
        ask = {**signed("olga", "op"), **JSON}
        found["try"] = client.post("/retrainer/try", params=query, headers=ask, data={"text": "secret"}).json()
    answer.write_text(json.dumps(found))


def moves(client: TestClient, query: dict[str, str], form: dict[str, str]) -> dict[str, Any]:
    """A browser's form: from another site, and from this one; then with the DAG paused, and gone."""
    browser = {"Cookie": f"_token={token_of('olga', 'op')}"}

    def send(headers: dict[str, str], **more: str) -> Any:
        return client.post("/retrainer/move", params=query, headers={**browser, **headers}, data={**form, **more})

    elsewhere = [
        {},
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ]
    refused = [send(headers).status_code for headers in elsewhere]
    before = runs_of("operate_models")
    wrong = {name: send(OWN, **{name: ""}) for name in ("version", "cause", "reason")}
    page = client.get("/retrainer/model", params=query, headers=browser).text
    done = send({**OWN, "Referer": "http://testserver/retrainer/model"})
    unpause("operate_models", paused=True)
    paused = send(OWN)
    unpause("operate_models", paused=False)
    with create_session() as session:
        entries = session.execute(
            select(Log.event, Log.owner, Log.dag_id, Log.extra).where(Log.dag_id == "operate_models")
        ).all()
    return {
        "from elsewhere": refused,
        "runs before": before,
        "incomplete": {name: [one.status_code, one.text] for name, one in wrong.items()},
        "form": page,
        "done": [done.status_code, done.headers.get("location"), runs_of("operate_models")],
        "run page": client.get(f"/retrainer/{done.headers['location']}", headers=browser).text,
        "run": client.get(f"/retrainer/{done.headers['location']}", headers={**browser, **JSON}).json(),
        "paused": [paused.status_code, paused.text],
        "log": [[*entry] for entry in entries],
    }


def waiting(client: TestClient, dag_id: str, query: dict[str, str]) -> dict[str, Any]:
    """Questions of a run: those that may see and answer it; and what asking costs the database."""
    ask(dag_id, "approval", assignees=[{"id": "olga", "name": "Olga"}])
    other = "retrain__paraphrases"
    ask(other, "approval")
    pages = {
        name: client.get("/retrainer/approvals", headers={**signed(name, role), **JSON}).json()["waiting"]
        for name, role in (("vera", "viewer"), ("olga", "op"), ("ulla", "user"))
    }
    host = AirflowHost()
    with counted() as one:
        host.questions([dag_id])
    with counted() as many:
        host.questions([dag_id, other, *(f"retrain__{number}" for number in range(200))])
    with counted() as none:
        host.questions([])
    return {
        "waiting": pages,
        "queries": [len(one), len(many), len(none)],
        "approvals": client.get("/retrainer/approvals", headers=signed("olga", "op")).text,
        "waiting run": client.get("/retrainer/run", params=query, headers={**signed("olga", "op"), **JSON}).json(),
        "waiting overview": client.get("/retrainer/", headers=signed("olga", "op")).text,
        "waiting model": client.get("/retrainer/model", params=query, headers=signed("olga", "op")).text,
    }


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that the block sends to the database."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    engine = settings.get_engine()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def begin(dag_id: str) -> None:
    """A run of a DAG, none of whose tasks is done."""
    moment = datetime(2026, 11, 27, 2, tzinfo=UTC)
    dag = SerializedDagModel.get_dag(dag_id)
    dag.create_dagrun(
        run_id=RUN,
        run_after=moment,
        run_type=DagRunType.ASSET_TRIGGERED,
        triggered_by=DagRunTriggeredByType.ASSET,
        state=DagRunState.RUNNING,
        start_date=moment,
    )


def ask(dag_id: str, task_id: str, assignees: list[dict[str, str]] | None = None) -> None:
    """As Airflow leaves a task that waits for a person."""
    with create_session() as session:
        if not session.scalar(select(func.count()).where(TaskInstance.dag_id == dag_id)):
            session.commit()
            begin(dag_id)
        found = session.scalar(select(TaskInstance).filter_by(dag_id=dag_id, run_id=RUN, task_id=task_id))
        assert found is not None
        found.state = "awaiting_input"
        subject = f"Publish {dag_id}?"
        session.add(HITLDetail(ti_id=found.id, options=["Approve", "Reject"], subject=subject, assignees=assignees))


def unpause(dag_id: str, *, paused: bool) -> None:
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(is_paused=paused))


def runs_of(dag_id: str) -> int:
    from airflow.models.dagrun import DagRun

    with create_session() as session:
        return int(session.scalar(select(func.count()).select_from(DagRun).where(DagRun.dag_id == dag_id)) or 0)


def token_of(name: str, role: str) -> str:
    return str(get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role)))


def signed(name: str, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(name, role)}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:5])
