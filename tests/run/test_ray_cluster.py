"""Trainings on a real Ray cluster of two nodes: done, killed, stopped, followed again, moved to another node.

Figures are printed (``pytest -s``).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.chain.messages import Message, Progress, describe
from retrainer.errors import PipelineError, ResourceError, StepKilled
from retrainer.records import sha256_file
from retrainer.run import remote
from retrainer.run.engines import connect
from retrainer.run.processes import run_step
from retrainer.run.remote import Following, follow, run_elsewhere, start, stop
from retrainer.work.train.checkpoints import Marker
from tests.chain.made import CONTEXT, planned
from tests.run.ray_cluster import FAR, RayCluster
from tests.training.conftest import MakePipeline, ignore, make_pipeline, rows_file, snapshot

# Fixtures of the training's tests.
__all__ = ["make_pipeline", "rows_file", "snapshot"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="airflow-retrainer[ray] is not installed"),
]

KILLS = 10
STEPS = 400
SAVE_STEPS = 5
STEP = "-m retrainer.work train"
OURS = (STEP, "retrainer.run.engines.ray_driver", "ray::RayTrainWorker", "ray::TrainController", "ray::Notes")
SAVES = {"save_strategy": "steps", "save_steps": SAVE_STEPS, "eval_strategy": "steps", "eval_steps": SAVE_STEPS}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = time.monotonic()
    with RayCluster() as cluster:
        say(f"\na cluster of two nodes: {time.monotonic() - started:.1f} s")
        yield cluster


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.3)


@pytest.fixture
def ask(
    cluster: RayCluster, make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> Callable[..., StepRequest]:
    """A training on that cluster, with a root of its own."""

    def make(
        steps: int,
        *,
        processes: int = 1,
        root: str = "elsewhere",
        training: dict[str, Any] | None = None,
        **section: Any,
    ) -> StepRequest:
        ray = {
            "address": cluster.address,
            "max_failures": 2 * KILLS,
            # One process less to wait for.
            "runtime_env": {"env_vars": {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}},
            **section,
        }
        pipeline = make_pipeline(
            {"max_steps": steps, **SAVES, **(training or {})},
            resources={"engine": "ray", "processes": processes, "ray": ray},
        )
        request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
        return in_root_of(request, tmp_path / root, snapshot)

    return make


def say(figure: str) -> None:
    sys.stdout.write(f"{figure.strip()}\n")
    sys.stdout.flush()


def in_root_of(request: StepRequest, folder: Path, snapshot: StepRef) -> StepRequest:
    """The same with its artifacts in a folder, where its input lies, too."""
    folder.mkdir()
    (folder / "ingest").symlink_to(Path(snapshot.root) / "ingest")
    return request.model_copy(update={"root": str(folder)})


def newest(request: StepRequest) -> int:
    """The step of the newest complete checkpoint."""
    folder = Artifacts(request.root).local / ".work" / "train" / request.digest
    return max((int(path.parent.name.rpartition("-")[2]) for path in folder.glob(f"*/{Marker.file}")), default=0)


def weights(request: StepRequest) -> str:
    return sha256_file(Artifacts(request.root).fetch("train", request.digest) / "checkpoint" / "model.safetensors")


def until(condition: Callable[[], Any], seconds: float = 600.0) -> Any:
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.02)
    return found


class Followed:
    """A training that is followed in a thread."""

    def __init__(self, request: StepRequest) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self._request = request
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            engine = connect(self._request.pipeline.resources)
            assert engine is not None
            run_elsewhere(engine, self._request, self._hear)
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.error = error

    def _hear(self, message: Message) -> None:
        self.said.append(describe(message))

    def end(self) -> None:
        self._thread.join(1800)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    @property
    def resumed(self) -> list[int]:
        return [int(line.rpartition("-")[2]) for line in self.said if line.startswith("resuming from ")]


def test_a_training(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    request = ask(20)
    started = time.monotonic()
    training = Followed(request)
    training.end()
    say(f"\na training of 20 steps: {time.monotonic() - started:.1f} s")
    assert any("asks Ray for 1 worker with 1 CPU" in line for line in training.said)
    assert training.said[-1] == "done"
    assert Artifacts(request.root).find("train", request.digest) is not None


def test_two_processes_on_two_nodes(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    """Each takes both CPUs of its node."""
    request = ask(20, processes=2, cpus_per_worker=2)
    started = time.monotonic()
    training = Followed(request)
    training.end()
    say(f"\n20 steps by two processes on two nodes: {time.monotonic() - started:.1f} s")
    assert [line for line in training.said if line == "done"] == ["done"]


def test_ten_kills_of_the_worker_change_no_weight(
    cluster: RayCluster, ask: Callable[..., StepRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the worker, or of the process that trains beside it; half of them at work, half at any moment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    request, straight = ask(STEPS), ask(STEPS, root="straight")
    assert straight.digest == request.digest
    loads = seconds_to_load(straight)
    chance = random.Random(7)
    training = Followed(request)
    started = time.monotonic()
    process: psutil.Process | None = None
    seconds: list[float] = []
    reached: list[int] = []
    for number in range(KILLS):
        process = until(partial(step_process, cluster, but=process))
        assert process is not None
        born = time.monotonic()
        if number % 2:
            await_step(request, newest(request) + SAVE_STEPS, process)
            time.sleep(chance.uniform(0.0, 0.5))
        else:
            time.sleep(chance.uniform(0.0, 1.2 * loads))
        with suppress(psutil.NoSuchProcess):
            victim = process.parent() if number % 3 else process
            assert victim is not None
            victim.kill()
        killed = time.monotonic()
        until(partial(has_ended, process), 10.0)
        seconds.append(time.monotonic() - killed)
        reached.append(newest(request))
        say(f"kill {number + 1}: {killed - born:.1f} s after its start, at checkpoint {reached[-1]}")
    training.end()
    say(f"{KILLS} kills in {time.monotonic() - started:.1f} s; a training ends {max(seconds):.2f} s after its worker")
    assert set(training.resumed) <= set(reached), "each resumes from the newest complete checkpoint"
    assert training.resumed[-1] == reached[-1]
    assert weights(request) == weights(straight)
    assert sum("asks Ray for" in line for line in training.said) == 1, "one job did it all"


def seconds_to_load(request: StepRequest) -> float:
    """Run a training here, without Ray and in one piece; how long it took to its first step."""
    began, first = time.monotonic(), []

    def hear(message: Message) -> None:
        if isinstance(message, Progress) and message.unit == "step":
            first.append(time.monotonic() - began)

    run_step(request, on_message=hear)
    return first[0]


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def await_step(request: StepRequest, step: int, process: psutil.Process) -> None:
    until(lambda: newest(request) >= step or has_ended(process))


def step_process(cluster: RayCluster, *, but: psutil.Process | None = None) -> psutil.Process | None:
    """The process that trains, and not the guard that watches it."""
    found = [process for process in cluster.processes(STEP) if process != but]
    pids = {process.pid for process in found}
    with suppress(psutil.Error):
        return next((process for process in found if process.ppid() not in pids), None)
    return None


def test_stopped_within_ten_seconds(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    request = ask(5000)
    engine = connect(request.pipeline.resources)
    assert engine is not None
    job = start(engine, request, environment={})
    following = Following(engine, job, ignore)
    until(lambda: following.look() or newest(request) >= SAVE_STEPS)
    running = cluster.processes(*OURS)
    assert len(running) >= 5
    began = time.monotonic()
    stop(engine, job, why="of a test")
    returned = time.monotonic() - began
    until(lambda: all(map(has_ended, running)), 10.0 - returned)
    say(f"\nstopped: the call took {returned:.2f} s, nothing ran after {time.monotonic() - began:.2f} s")
    assert cluster.processes(*OURS) == []
    with pytest.raises(StepKilled, match="of a test"):
        follow(engine, job, ignore)
    # Whoever wants it later gets another job, which goes on.
    again = start(engine, request, environment={})
    assert again.attempt == 2
    said: list[str] = []
    later = Following(engine, again, lambda message: said.append(describe(message)))
    until(lambda: later.look() or any(line.startswith("resuming from ") for line in said))
    stop(engine, again, why="of a test")


def _follow_for_ever(request: StepRequest) -> None:
    engine = connect(request.pipeline.resources)
    assert engine is not None
    run_elsewhere(engine, request, ignore)


def test_the_death_of_who_follows(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    request = ask(100)
    before = set(cluster.jobs())
    follower = multiprocessing.get_context("spawn").Process(target=_follow_for_ever, args=(request,))
    follower.start()
    process = until(lambda: step_process(cluster))
    follower.kill()
    follower.join()
    training = Followed(request)
    assert step_process(cluster) == process
    training.end()
    assert len(set(cluster.jobs()) - before) == 1, "the same job was followed"
    assert training.resumed == [], "nothing was started again"


def test_the_death_of_the_worker_s_node(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    request = ask(120, resources_per_worker={FAR: 0.5})
    training = Followed(request)
    until(lambda: newest(request) >= 2 * SAVE_STEPS)
    cluster.worker.kill()
    killed, reached = time.monotonic(), newest(request)
    cluster.worker = cluster.add_node()
    until(lambda: training.resumed)
    say(f"\na node was killed, and the training went on elsewhere after {time.monotonic() - killed:.1f} s")
    training.end()
    assert training.resumed == [reached]


def test_the_death_of_the_driver_s_node(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    request = ask(120, resources_per_worker={FAR: 0.2}, entrypoint_resources={FAR: 0.2})
    training = Followed(request)
    until(lambda: newest(request) >= 2 * SAVE_STEPS)
    cluster.worker.kill()
    killed, reached = time.monotonic(), newest(request)
    with pytest.raises(StepKilled):
        training.end()
    say(f"\nthe driver's node was killed, which was known after {time.monotonic() - killed:.1f} s")
    cluster.worker = cluster.add_node()
    again = Followed(request)
    again.end()
    assert again.resumed == [reached]
    assert any("-2 " in line for line in again.said), "a second job"


def test_what_a_training_says_ends_it(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    """It is the same error as here, and the workers are not started again because of it."""
    training = Followed(ask(20, training={"learning_rate": 1e30}))
    with pytest.raises(PipelineError, match="diverged"):
        training.end()
    assert sum(line.startswith("fine-tuning") for line in training.said) == 1


def test_no_interpreter_is_an_error_of_the_same_kind(cluster: RayCluster, ask: Callable[..., StepRequest]) -> None:
    training = Followed(ask(20, python="/nowhere/python"))
    with pytest.raises(ResourceError, match="cannot start the interpreter"):
        training.end()
