"""Ray's Jobs API failing at each call in turn: one job, never two, and what became of it is known in time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrainer.chain import INGEST
from retrainer.chain.jobs import Job
from retrainer.errors import EngineError, EngineUnavailable
from retrainer.run import remote
from retrainer.run.engines import Engine, connect
from retrainer.run.engines import ray as engine_module
from retrainer.run.engines.ray import RayAccess
from retrainer.run.remote import run_elsewhere, start
from retrainer.spec.resources import Resources
from tests.run.ray_head import CALLS, FAULTS, RayHead
from tests.run.test_remote import request_of


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(engine_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(engine_module, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(engine_module, "STOP_LOOK_SECONDS", 0.02)
    for name in (engine_module.ADDRESS_VARIABLE, engine_module.TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def head() -> Iterator[RayHead]:
    with RayHead() as head:
        yield head


def engine_of(head: RayHead, connection: RayAccess | None = None, **section: Any) -> Engine:
    address = {} if connection else {"address": head.address}
    engine = connect(Resources.model_validate({"engine": "ray", "ray": {**address, **section}}), connection)
    assert engine is not None
    return engine


def job_in(root: Path, **fields: Any) -> Job:
    resources = Resources.model_validate({"engine": "ray", "ray": {}})
    return Job(root=str(root), step="train", digest="0" * 64, attempt=1, resources=resources, **fields)


def faults() -> list[str]:
    return [fault + when for fault in FAULTS for when in ("", " after")]


@pytest.mark.parametrize("fault", faults())
@pytest.mark.parametrize("call", CALLS)
def test_each_call_fails_once_in_each_way(head: RayHead, tmp_path: Path, call: str, fault: str) -> None:
    engine, job = engine_of(head), job_in(tmp_path)
    head.faults[call].append(fault)
    began = time.monotonic()
    engine.submit(job)
    assert engine.state(job).phase == "waiting"
    head.jobs[job.name]["status"] = "RUNNING"
    assert engine.state(job).phase == "running"
    engine.stop(job)
    assert head.jobs[job.name]["status"] == "STOPPED"
    assert engine.state(job).phase == "failed"
    assert (head.started, list(head.jobs)) == (1, [job.name])
    assert not head.faults[call]
    assert time.monotonic() - began < 60.0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_a_step_over_an_api_that_fails_at_every_other_call(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    with RayHead(runs=True) as head:
        for call in CALLS:
            head.faults[call].extend(chance.choice([*faults(), *[""] * 12]) for _ in range(60))
        began = time.monotonic()
        ref = run_elsewhere(engine_of(head), request, lambda message: None)
        assert INGEST.output_of(ref).rows
        assert not ref.reused
        assert head.started == 1
        assert time.monotonic() - began < 60.0


def test_a_job_that_is_there_is_left_alone(head: RayHead, tmp_path: Path) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    first, second = (start(engine_of(head), request, environment={}) for _ in range(2))
    assert first == second
    assert head.started == 1


@pytest.mark.parametrize(
    ("status", "phase"),
    [("PENDING", "waiting"), ("RUNNING", "running"), ("SUCCEEDED", "succeeded"), ("FAILED", "failed")],
)
def test_states(head: RayHead, tmp_path: Path, status: str, phase: str) -> None:
    engine, job = engine_of(head), job_in(tmp_path)
    engine.submit(job)
    head.jobs[job.name] |= {"status": status, "message": "a log\nin which this is last"}
    state = engine.state(job)
    assert state.phase == phase
    assert state.why == {"PENDING": "a log", "FAILED": "in which this is last"}.get(status, "")


def test_a_job_that_nobody_knows_is_gone(head: RayHead, tmp_path: Path) -> None:
    engine, job = engine_of(head), job_in(tmp_path)
    assert engine.state(job).phase == "gone"
    engine.stop(job)


@pytest.mark.parametrize("fault", ["404", "lost"])
def test_a_proxy_s_404_is_not_the_end_of_a_job(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(engine_module, "REPEAT_SECONDS", 0.3)
    engine, job = engine_of(head), job_in(tmp_path)
    engine.submit(job)
    for call in ("state", "stop"):
        head.faults[call].extend([fault] * 100)
    with pytest.raises(EngineUnavailable, match="404"):
        engine.state(job)
    with pytest.raises(EngineUnavailable, match="404"):
        engine.stop(job)


def test_what_refuses_new_jobs_leaves_one_that_is_there(head: RayHead, tmp_path: Path) -> None:
    engine, job = engine_of(head), job_in(tmp_path)
    head.faults["submit"].append("403")
    with pytest.raises(EngineError, match="403"):
        engine.submit(job)
    head.faults["submit"].extend(["cut after", "403", "403"])
    engine.submit(job)
    engine.submit(job)
    assert head.started == 1


def test_what_is_handed_in(head: RayHead, tmp_path: Path) -> None:
    engine = engine_of(
        head,
        entrypoint_resources={"CPU": 1, "memory": 1e9, "far": 0.5},
        runtime_env={"env_vars": {"A": "1"}, "pip": ["x"]},
    )
    job = job_in(tmp_path, environment={"B": "2"})
    engine.submit(job)
    content = head.jobs[job.name]
    assert content["runtime_env"] == {"env_vars": {"A": "1", "B": "2"}, "pip": ["x"]}
    assert content["entrypoint"] == f"python -m retrainer.run.engines.ray_driver {job.folder}"
    assert (content["entrypoint_num_cpus"], content["entrypoint_memory"]) == (1.0, 1_000_000_000)
    assert content["entrypoint_resources"] == {"far": 0.5}
    assert all(isinstance(value, str) for value in content["metadata"].values())


def test_a_token_is_sent_and_asked_for(tmp_path: Path) -> None:
    with RayHead(token="t0ken") as head:
        engine_of(head, RayAccess(f"{head.address}/", token="t0ken", headers={"X-Team": "a"})).submit(job_in(tmp_path))
        assert head.asked[-1][1]["X-Team"] == "a"
        with pytest.raises(EngineError, match="401") as raised:
            engine_of(head).state(job_in(tmp_path))
        assert not isinstance(raised.value, EngineUnavailable)
        assert "t0ken" not in repr(RayAccess(head.address, token="t0ken"))


def test_a_token_goes_nowhere_else(head: RayHead) -> None:
    with pytest.raises(EngineError, match="the token belongs to"):
        connect(
            Resources.model_validate({"engine": "ray", "ray": {"address": head.address}}),
            RayAccess("http://ray-head:8265", token="t0ken"),
        )


def test_where_it_is_comes_from_the_environment(head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources.model_validate({"engine": "ray", "ray": {}})
    with pytest.raises(EngineError, match="nothing says where"):
        connect(resources)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    engine = connect(resources)
    assert engine is not None
    engine.submit(job_in(tmp_path))
    assert head.started == 1


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "REPEAT_SECONDS", 0.3)
    with RayHead() as head:
        engine = engine_of(head)
    with pytest.raises(EngineUnavailable, match="no answer"):
        engine.submit(job_in(tmp_path))
