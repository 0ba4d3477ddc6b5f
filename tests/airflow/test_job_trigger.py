"""The trigger of a deferred task: what its event says when the job ends, is lost, or is ended by a person."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from retrainer.airflow import engines
from retrainer.airflow.engines import JobTrigger
from retrainer.airflow.settings import Settings
from retrainer.chain import INGEST
from retrainer.chain.jobs import Job
from retrainer.chain.messages import Failed
from retrainer.errors import EngineUnavailable, IntegrityError, RetrainerError, StepKilled
from retrainer.run.engines import JobState
from retrainer.run.remote import finished, job_environment, start
from retrainer.storage import S3Access, use_access
from retrainer.storage.access import current_access
from tests.run.background import Background
from tests.run.test_remote import request_of, until


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LOOK_SECONDS", 0.05)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Background:
    """What the trigger connects to, whatever the pipeline says."""
    engine = Background(tmp_path / "engine")
    monkeypatch.setattr(engines, "connect", lambda resources, connection: engine)
    return engine


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """In place of an interpreter: it does nothing until it is ended."""
    program = tmp_path / "sleep.sh"
    program.write_text("#!/bin/sh\nsleep 300\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def waiting_job(tmp_path: Path, engine: Background, sleeper: Path) -> Job:
    """A job that runs until it is ended."""
    engine._python = str(sleeper)
    return start(engine, request_of(tmp_path, str(tmp_path / "artifacts")), environment={})


def trigger(job: Job, *, ends_at: float | None = None, **settings: str) -> JobTrigger:
    """As the triggerer makes it, from what the task's process left in the database."""
    made = JobTrigger(job=job.model_dump(mode="json"), settings=Settings(**settings).model_dump(), ends_at=ends_at)
    path, arguments = made.serialize()
    assert path == f"{JobTrigger.__module__}.JobTrigger"
    return JobTrigger(**json.loads(json.dumps(arguments)))


async def events_of(following: JobTrigger) -> list[TriggerEvent]:
    return [event async for event in following.run()]


def told_by(following: JobTrigger) -> dict[str, Any]:
    (event,) = asyncio.run(events_of(following))
    assert event.payload["job"] == following.job
    return dict(event.payload)


def error_told_by(following: JobTrigger) -> RetrainerError:
    return Failed.model_validate(told_by(following)["failure"]).as_error()


def test_it_follows_a_job_to_its_end(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    assert "failure" not in told_by(trigger(job))
    assert INGEST.output_of(finished(request)).rows


def test_a_job_that_died_is_an_error_of_the_task(engine: Background, waiting_job: Job) -> None:
    engine.kill(waiting_job)
    assert isinstance(error_told_by(trigger(waiting_job)), StepKilled)


def test_a_job_that_takes_too_long_is_ended(engine: Background, waiting_job: Job) -> None:
    assert "failure" not in told_by(trigger(waiting_job, ends_at=time.time() - 1))
    end = waiting_job.end()
    assert end is not None
    assert (end.stopped, "execution_timeout" in end.why) == (True, True)
    assert engine.state(waiting_job).phase == "failed"


def test_a_person_ends_it(engine: Background, waiting_job: Job) -> None:
    asyncio.run(trigger(waiting_job).on_kill())
    assert engine.state(waiting_job).phase == "failed"
    error = error_told_by(trigger(waiting_job))
    assert isinstance(error, StepKilled)
    assert "a person ended the task" in str(error)


def test_a_person_ends_it_while_looks_at_others_wait(
    engine: Background, waiting_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at a job of a cluster that gives no answer takes half a minute, after which Airflow gives up."""
    over = threading.Event()
    with ThreadPoolExecutor(2) as looks:
        monkeypatch.setattr(engines, "_LOOKS", looks)
        for _ in range(20):
            looks.submit(over.wait)

        async def end() -> None:
            asyncio.get_running_loop().set_default_executor(looks)
            await asyncio.wait_for(trigger(waiting_job).on_kill(), 10.0)

        try:
            # Not asyncio.run, which would wait for the default pool.
            loop = asyncio.new_event_loop()
            loop.run_until_complete(end())
        finally:
            over.set()
    assert engine.state(waiting_job).phase == "failed"


def test_a_person_ends_it_though_its_connection_cannot_be_read(engine: Background, waiting_job: Job) -> None:
    asyncio.run(trigger(waiting_job, aws_conn_id="nowhere").on_kill())
    assert engine.state(waiting_job).phase == "failed"


def test_without_its_connection_it_says_so_and_the_job_goes_on(engine: Background, waiting_job: Job) -> None:
    error = error_told_by(trigger(waiting_job, aws_conn_id="nowhere"))
    assert "nowhere" in str(error)
    assert engine.state(waiting_job).phase == "running"
    engine.stop(waiting_job)


def test_what_airflow_raises_is_an_engine_that_cannot_be_asked(
    engine: Background, waiting_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("Fernet key must be 32 url-safe base64-encoded bytes.\nand more")

    monkeypatch.setattr(engines, "s3_access", refuse)
    error = error_told_by(trigger(waiting_job))
    assert isinstance(error, EngineUnavailable)
    assert "the job cannot be followed: Fernet key must be" in str(error)
    assert "and more" not in str(error)
    assert engine.state(waiting_job).phase == "running"
    engine.stop(waiting_job)


def test_a_task_that_another_version_deferred_is_tried_again(engine: Background, waiting_job: Job) -> None:
    following = trigger(waiting_job)
    following.settings["a_setting_of_tomorrow"] = "x"
    assert isinstance(error_told_by(following), IntegrityError)
    engine.stop(waiting_job)


def test_credentials_are_read_again(
    tmp_path: Path,
    s3_bucket: str,
    engine: Background,
    sleeper: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of a role end before a long training does. Where the connection cannot be read, the last ones stay."""
    monkeypatch.setattr(engines, "_ACCESS_SECONDS", 0.0)
    used: list[str | None] = []
    state = engine.state

    def noted(job: Job) -> JobState:
        used.append(current_access().access_key_id)
        return state(job)

    monkeypatch.setattr(engine, "state", noted)
    connect_as(monkeypatch, "first")
    engine._python = str(sleeper)
    with use_access(S3Access(access_key_id="first", secret_access_key="x")):
        job = start(engine, request_of(tmp_path, f"s3://{s3_bucket}/artifacts"), environment={})

    async def follow() -> list[TriggerEvent]:
        following = asyncio.create_task(events_of(trigger(job, aws_conn_id="bucket")))
        await asyncio.to_thread(until, lambda: "first" in used)
        connect_as(monkeypatch, "second")
        await asyncio.to_thread(until, lambda: "second" in used)
        monkeypatch.delenv("AIRFLOW_CONN_BUCKET")
        seen = len(used)
        await asyncio.to_thread(until, lambda: len(used) > seen + 3)
        engine.kill(job)
        return await following

    (event,) = asyncio.run(follow())
    assert isinstance(Failed.model_validate(event.payload["failure"]).as_error(), StepKilled)
    assert used[-1] == "second"
    assert "the connection to the buckets cannot be read now" in caplog.text


def connect_as(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    content = {"conn_type": "retrainer_store", "login": login, "password": "x"}
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps(content))


@pytest.mark.parametrize("given", [{}, {"AWS_ENDPOINT_URL": "http://own:9000", "HF_ENDPOINT": "https://hub.corp"}])
def test_a_job_is_told_where_buckets_and_hub_are_and_no_secret(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-told")
    told = job_environment()
    assert {name: told[name] for name in given} == given
    assert "HF_ENDPOINT" in given or "HF_ENDPOINT" not in told
    access = S3Access(endpoint_url="http://of-the-connection:9000", access_key_id="key", secret_access_key="hidden")
    with use_access(access):
        told = job_environment()
    assert "http://of-the-connection:9000" in told.values()
    assert not {"not-to-be-told", "hidden", "key"} & set(told.values())
