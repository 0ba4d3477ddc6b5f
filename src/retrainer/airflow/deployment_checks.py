"""What Airflow adds to the checks of a deployment: its settings and connections, its processes, its pools.

Not here: the checks that know nothing of Airflow (``retrainer.doctor``), and the DAG that makes them (``doctor.py``).
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import conf

from retrainer.airflow.connections import s3_access, signer
from retrainer.airflow.console_place import PREFIX
from retrainer.airflow.operators.fine_tune import NO_POOL, FineTuneOperator
from retrainer.airflow.settings import Settings, SettingsLike, as_mapping, pipelines_folder
from retrainer.doctor.checks import CHECKS
from retrainer.doctor.deployment import Deployment, files_of
from retrainer.doctor.findings import Check, Finding
from retrainer.errors import ResourceError, RetrainerError, first_line
from retrainer.run.devices import list_devices
from retrainer.spec import Pipeline
from retrainer.storage import S3Access

SECONDS = 10.0
# Larger answers are none of these.
MOST_BYTES = 1 << 20
COMPONENTS = {"metadatabase": "", "scheduler": "scheduler", "dag_processor": "dag-processor", "triggerer": "triggerer"}


def deployment_of(settings: SettingsLike = None, places: Sequence[Path] | None = None) -> Deployment:
    """The deployment as tasks of this Airflow see it.

    :param settings: see ``Settings``.
    :param places: pipeline files, and folders of them; by default the deployment's folder.
    """
    resolved = Settings.from_content(as_mapping(settings), where="settings").resolved()
    files, problem = files_of(list(places or [pipelines_folder()]))
    access: S3Access | RetrainerError | None
    try:
        access = s3_access(resolved.aws_conn_id)
    except RetrainerError as error:
        access = error
    by = f"connection '{resolved.aws_conn_id}'" if resolved.aws_conn_id else "aws_conn_id is not set: what boto3 finds"
    return Deployment(
        files=files,
        problem=problem,
        artifact_root=resolved.artifact_root,
        python=resolved.trainer_python or sys.executable,
        access=access,
        reached_by=by,
        signer=signer,
    )


def beside_the_database(settings: SettingsLike, places: Sequence[Path] | None) -> tuple[Deployment, tuple[Check, ...]]:
    """The same on a command line, with all checks: where Airflow's database can be read, as its servers read it.

    Airflow looks for connections in it where a process says that it is one of theirs, and nowhere else.
    """
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    return deployment_of(settings, places), (*IN_TASKS, Check("Pools", look_at_pools))


def pool_of(pipeline: Pipeline) -> tuple[str, int] | None:
    """The pool in which a pipeline trains, and how many slots it takes there; ``None`` for Airflow's default."""
    given = FineTuneOperator.in_dag(pipeline)
    return None if given["pool"] == NO_POOL else (given["pool"], given["pool_slots"])


def look_at_processes(deployment: Deployment) -> Iterator[Finding]:
    """Heartbeats, as the API server tells them to anybody."""
    status, answer = _ask("/api/v2/monitor/health")
    try:
        health = json.loads(answer) if status == HTTPStatus.OK else None
    except ValueError:
        health = None
    if not isinstance(health, dict):
        said = f"answers with status {status}" if status else f"does not answer: {answer}"
        hint = "set [api] base_url to where this machine reaches it; without it, links and these checks do not work"
        yield Finding("warning", "API server", f"{_base_url()} {said}", hint)
        return
    yield Finding("ok", "API server", f"{_base_url()} answers")
    for name, program in COMPONENTS.items():
        yield _component(name, program, health.get(name) or {}, _needs_triggerer(deployment))


def _component(name: str, program: str, said: Mapping[str, Any], deferred: Sequence[str]) -> Finding:
    what = name.replace("_", " ")
    beat = said.get(f"latest_{name}_heartbeat")
    if said.get("status") == "healthy":
        return Finding("ok", what, f"healthy{f', last heard of at {beat}' if beat else ''}")
    text = f"is not running{f'; last heard of at {beat}' if beat else ''}"
    if name == "triggerer" and not deferred:
        return Finding("ok", what, f"{text}, and no pipeline here needs it")
    if name == "triggerer":
        text += f", and {', '.join(deferred)} need{'s' * (len(deferred) == 1)} it"
    return Finding("broken", what, text, f"start it: airflow {program}" if program else "check Airflow's database")


def _needs_triggerer(deployment: Deployment) -> list[str]:
    """Those that wait for new data, for people, or until a deadline."""
    return [
        pipeline.name
        for pipeline in deployment.pipelines
        if pipeline.schedule.on_new_data or pipeline.publish.approval.required or pipeline.dag.deadline
    ]


def look_at_console(deployment: Deployment) -> Iterator[Finding]:
    """Whether the API server has the plugin: the console then refuses whoever is not logged in."""
    status, answer = _ask(f"{PREFIX}/")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        yield Finding("ok", "plugin", "the API server has the console")
    elif status:
        hint = "'retrainer init --airflow \"$AIRFLOW_HOME\"' writes plugins/retrainer_plugin.py; restart the API server"
        yield Finding("warning", "plugin", f"the API server has no console (status {status})", hint)
    else:
        yield Finding("warning", "plugin", f"the API server does not answer: {answer}", "see its own finding")


def look_at_pools(deployment: Deployment) -> Iterator[Finding]:
    """The pools in which pipelines train, from Airflow's database, which tasks may not ask."""
    wanted: dict[str, int] = {}
    for pipeline in deployment.pipelines:
        if found := pool_of(pipeline):
            wanted[found[0]] = max(found[1], wanted.get(found[0], 0))
    if not wanted:
        yield Finding("ok", "pools", "no pipeline trains in a pool of its own")
        return
    from sqlalchemy.exc import SQLAlchemyError

    try:
        slots = _slots()
    except (SQLAlchemyError, RuntimeError) as error:
        hint = "run this where Airflow's scheduler or API server runs"
        yield Finding("warning", "pools", f"Airflow's database cannot be read here: {first_line(error)}", hint)
        return
    try:
        devices = len(list_devices())
    except ResourceError:  # said of the host
        devices = 0
    for pool, most in wanted.items():
        yield _pool(pool, slots.get(pool), most, devices)


def _slots() -> dict[str, int]:
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return {name: int(slots) for name, slots in session.execute(select(Pool.pool, Pool.slots))}


def _pool(pool: str, slots: int | None, most: int, devices: int) -> Finding:
    mend = f"airflow pools set {pool} {devices or most} GPUs, with as many slots as all workers have GPUs"
    if slots is None:
        return Finding("broken", pool, "there is no such pool, so that training never starts", mend)
    has = f"{slots} slot{'s' * (slots != 1)}"
    if 0 <= slots < most:
        return Finding("broken", pool, f"has {has}, and a training takes {most}, so that it never starts", mend)
    if devices and slots != devices:
        text = f"has {has}, and this host has {devices} GPUs"
        return Finding("warning", pool, text, f"fine where there are other workers; else: {mend}")
    return Finding("ok", pool, f"has {has}; a training takes {most}")


def _base_url() -> str:
    port = conf.get("api", "port", fallback="8080")
    return str(conf.get("api", "base_url", fallback="") or f"http://localhost:{port}").rstrip("/")


def _ask(path: str) -> tuple[int, str]:
    """Status and text of an answer of the API server; 0 and what went wrong where it gives none.

    No redirect is followed: whoever sends one is not the API server.
    """
    base = urlsplit(_base_url())
    kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(base.hostname or "", base.port, timeout=SECONDS)
        try:
            connection.request("GET", f"{base.path}{path}", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES).decode(errors="replace")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, first_line(error)


OF_AIRFLOW = (Check("Airflow", look_at_processes), Check("Console", look_at_console))
IN_TASKS = (*CHECKS, *OF_AIRFLOW)
"""Those that a task can make."""
