"""Starting a run of a DAG for a visitor of the console, through Airflow's own public API.

The request is made within the API server, with the credentials that the visitor came with. So it is Airflow that says
who may, checks the params, writes the audit log and names the user, as for anybody else who calls the API. Not here:
who sees a button, and whether the visitor's own page sent the form (``retrainer.console``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from airflow.configuration import conf

from retrainer.console.host import Credentials
from retrainer.errors import NotAllowed, NotFoundError, ResourceError, UserError

# Who asks; and from where, by which Airflow tells its UI from other callers.
_PASSED_ON = ("authorization", "cookie", "referer", "user-agent")
_SECONDS = 30.0


def origin() -> list[str]:
    """Where Airflow's pages come from, as far as its settings say."""
    parts = urlsplit(str(conf.get("api", "base_url", fallback="") or ""))
    return [f"{parts.scheme}://{parts.netloc}"] if parts.netloc else []


async def start(credentials: Credentials, dag_id: str, given: Mapping[str, Any], note: str) -> str:
    """Start a run.

    :raises NotAllowed: the visitor may not.
    :raises NotFoundError: there is no such DAG.
    :raises UserError: the DAG does not take that.
    """
    # The application that serves: loaded already, since this is called in it.
    from airflow.api_fastapi.main import app

    headers = {name: credentials.headers[name] for name in _PASSED_ON if name in credentials.headers}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=credentials.address)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow", timeout=_SECONDS) as client:
        answer = await client.post(
            f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns",
            headers=headers,
            json={"logical_date": None, "conf": dict(given), "note": note},
        )
    if answer.is_success:
        return str(answer.json()["dag_run_id"])
    raise _error(answer, dag_id)


def _error(answer: httpx.Response, dag_id: str) -> UserError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    if answer.status_code in (401, 403):
        return NotAllowed(f"Airflow does not let you start {dag_id}: {detail}")
    if answer.status_code == 404:
        return NotFoundError(detail)
    if answer.status_code < 500:
        return UserError(f"{dag_id} was not started: {detail}")
    return ResourceError(f"Airflow could not start {dag_id}: {detail}", hint="the log of the API server says why")
