"""Whole steps as Jobs, their pods killed, evicted and deleted: each goes on elsewhere, and leaves one artifact."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.chain.jobs import JOBS
from retrainer.chain.messages import Log, Message
from retrainer.errors import StepKilled
from retrainer.run.engines.kubernetes import KubernetesEngine
from retrainer.run.remote import Following, finished, follow, run_elsewhere, start, stop
from retrainer.storage import open_storage
from retrainer.work.train.checkpoints import Marker
from tests.chain.made import CONTEXT, planned
from tests.engines.cluster import FakeCluster
from tests.training.conftest import MakePipeline

SAVE_STEPS = 5
GONE_SECONDS = 30.0


@pytest.fixture
def training(make_pipeline: MakePipeline, snapshot: StepRef) -> Callable[[int], StepRequest]:
    """A training of so many steps, which saves often, as a Job."""

    def make(steps: int) -> StepRequest:
        saves = {"save_strategy": "steps", "save_steps": SAVE_STEPS, "eval_strategy": "steps", "eval_steps": SAVE_STEPS}
        section = {"image": "trainer:1", "python": sys.executable}
        pipeline = make_pipeline(
            {"max_steps": steps, **saves}, resources={"engine": "kubernetes", "kubernetes": section}
        )
        return planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))

    return make


def saved(request: StepRequest) -> int:
    """The step of the newest complete checkpoint."""
    found = Artifacts(request.root).work_folder("train", request.digest).glob(f"checkpoint-*/{Marker.file}")
    return max((int(marker.parent.name.rpartition("-")[2]) for marker in found), default=0)


def look_until(following: Following, reached: Callable[[], bool], seconds: float = 200.0) -> None:
    ends = time.monotonic() + seconds
    while not reached():
        assert not following.look(), "it ended before"
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


def resumed_from(said: list[Message]) -> list[int]:
    lines = [message.text for message in said if isinstance(message, Log)]
    return [int(line.rpartition("-")[2]) for line in lines if line.startswith("resuming from ")]


@pytest.mark.long
def test_evicted_then_killed_it_goes_on_each_time(
    cluster: FakeCluster, engine: KubernetesEngine, training: Callable[[int], StepRequest]
) -> None:
    request, said = training(300), list[Message]()
    first = start(engine, request, environment={})
    following = Following(engine, first, said.append)
    look_until(following, lambda: saved(request) >= SAVE_STEPS)
    cluster.disrupt(first.name)
    look_until(following, lambda: len(resumed_from(said)) == 1 and saved(request) > resumed_from(said)[0])
    assert cluster.made == {"jobs": 1, "pods": 2}, "the cluster has replaced the pod by itself"
    # Somebody else wants the same meanwhile, such as the retry of a task whose worker died.
    assert start(engine, request, environment={}) == first
    cluster.kill(first.name)
    with pytest.raises(StepKilled, match="exit code 137, SIGKILL"):
        follow(engine, first, said.append)
    second = start(engine, request, environment={})
    assert second.attempt == 2
    before = saved(request)
    said.clear()
    follow(engine, second, said.append)
    assert resumed_from(said) == [before]
    assert cluster.made == {"jobs": 2, "pods": 3}
    ref = finished(request)
    assert TRAIN.output_of(ref).resumed_from is not None
    assert TRAIN.output_of(ref).steps == 300
    assert list(open_storage(request.root).list(f"{JOBS}/")) == []


def test_a_job_that_is_deleted_is_followed_by_another(
    cluster: FakeCluster, engine: KubernetesEngine, training: Callable[[int], StepRequest]
) -> None:
    request = training(10)
    job = start(engine, request, environment={})
    cluster.delete(job.name)
    with pytest.raises(StepKilled, match="gone"):
        follow(engine, job, lambda message: None)
    assert not run_elsewhere(engine, request, lambda message: None).reused
    assert cluster.made["jobs"] == 2


def test_a_training_that_is_stopped_leaves_nothing_that_runs(
    cluster: FakeCluster, engine: KubernetesEngine, training: Callable[[int], StepRequest], tmp_path: Path
) -> None:
    request, said = training(100_000), list[Message]()
    job = start(engine, request, environment={})
    look_until(Following(engine, job, said.append), lambda: saved(request) > 0)
    assert len(cluster.processes(job.name)) >= 2, "the agent, and the step's process"
    started = time.monotonic()
    stop(engine, job, why="a person ended the task")
    assert cluster.processes(job.name) == []
    assert time.monotonic() - started < GONE_SECONDS
    with pytest.raises(StepKilled, match="a person ended the task"):
        follow(engine, job, lambda message: None)
