"""The few calls of Airflow's REST API that a program needs to run a DAG and to watch it.

Not here: starting Airflow (``airflow_server.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import httpx

TIMEOUT = 30.0


class ApiError(Exception):
    """Airflow refused a request. The message says which, and its answer."""


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task of a run.

    :param state: ``None`` until it is scheduled.
    :param seconds: how long its last try has run, or ran.
    """

    task_id: str
    state: str | None
    try_number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a task's log.

    :param logger: who wrote it, such as ``airflow.task.operators.retrainer...``; empty for Airflow's own marks.
    """

    logger: str
    level: str
    text: str


class RestClient:
    """Airflow's REST API, logged in.

    :param url: of the API server.
    :param token: a JWT.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self._http = httpx.Client(
            base_url=f"{url}/api/v2",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=TIMEOUT,
        )

    @classmethod
    def log_in(cls, url: str, user: str, password: str) -> Self:
        """A client for a user.

        :raises ApiError: wrong user or password.
        """
        answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, timeout=TIMEOUT)
        return cls(url, str(_checked(answer)["access_token"]))

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET.

        :param path: of the API; or the whole address of a page that the server shows as JSON, too.
        :raises ApiError: Airflow refused.
        """
        return _checked(self._http.get(path, params=query))

    def post(self, path: str, content: dict[str, Any]) -> Any:
        """The JSON that a POST answers.

        :raises ApiError: Airflow refused.
        """
        return _checked(self._http.post(path, json=content))

    def patch(self, path: str, content: dict[str, Any]) -> Any:
        """The JSON that a PATCH answers.

        :raises ApiError: Airflow refused.
        """
        return _checked(self._http.patch(path, json=content))

    def has_dag(self, dag_id: str) -> bool:
        """Whether the DAG was parsed already."""
        return self._http.get(f"/dags/{dag_id}").status_code == httpx.codes.OK

    def import_errors(self) -> list[str]:
        """What is wrong with DAG files."""
        return [str(entry["stack_trace"]) for entry in self.get("/importErrors")["import_errors"]]

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create a pool, or set its slots."""
        content = {"slots": slots, "include_deferred": False}
        answer = self._http.patch(f"/pools/{name}", json={"pool": name, **content})
        if answer.status_code == httpx.codes.NOT_FOUND:
            answer = self._http.post("/pools", json={"name": name, **content})
        _checked(answer)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self.patch(f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run; its id."""
        return str(self.post(f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})["dag_run_id"])

    def runs(self, dag_id: str) -> dict[str, str]:
        """The state of every run of a DAG, the oldest first."""
        found = self.get(f"/dags/{dag_id}/dagRuns", order_by="run_after")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """The tasks of a run, in no particular order."""
        entries = self.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [
            TaskInstance(
                task_id=entry["task_id"],
                state=entry["state"],
                try_number=entry["try_number"],
                seconds=entry["duration"] or 0.0,
            )
            for entry in entries
        ]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[LogLine]:
        """What a try wrote to its log so far; empty when there is nothing yet."""
        answer = self._http.get(
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}",
            params={"full_content": True},
            headers={"Accept": "application/x-ndjson"},
        )
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        if answer.is_error:
            _checked(answer)
        entries = [json.loads(line) for line in answer.text.splitlines() if line]
        return [
            LogLine(logger=entry.get("logger") or "", level=entry.get("level") or "", text=_text(entry))
            for entry in entries
        ]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A value that a task left.

        :raises ApiError: it left none.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, deserialize=False)["value"]

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """The links that the UI shows beside a task, by name."""
        answer = self.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links")
        return dict(answer["extra_links"])


def _text(entry: dict[str, Any]) -> str:
    """What an entry of a log says, with the errors that it is about."""
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return "\n".join([str(entry.get("event")), *errors])


def _checked(answer: httpx.Response) -> Any:
    if answer.is_error:
        request = answer.request
        raise ApiError(f"{request.method} {request.url.path}: {answer.status_code} {answer.text[:500]}")
    return answer.json() if answer.content else None
