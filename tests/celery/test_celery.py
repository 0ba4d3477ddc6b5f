"""Two Celery workers of the stack of ``docker/compose.yaml``: a normal run, and SIGKILL of the one that trains.

The settings are those of ``compose.yaml``, so each kill takes as long as it would for people: two minutes until another
worker goes on. How long it was in fact is printed. One is changed for the worse: Redis sends again what a worker took
and did not give back after 30 s, in the middle of each training, where ``compose.yaml`` has a week.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from demo.airflow_server import processes_of_session
from retrainer.artifacts.repository import Artifacts
from retrainer.storage import open_storage
from retrainer.storage.access import use_access
from retrainer.store import Store
from tests.airflow.harness import Project, small_project
from tests.airflow.running import Device, group, step_process, step_processes
from tests.celery.stack import WORKERS, Stack, install_packages, missing, stack
from tests.made_once import made_once

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ARTIFACTS, MODELS = "s3://artifacts", "s3://models"
CHANGED = {"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "30"}
SENT_AGAIN = "Task already running elsewhere, ignoring redelivered message"
# Nothing of what was killed may go on after that time.
GONE_SECONDS = 10.0
# The heartbeat's timeout of compose.yaml (60 s), how often that is looked at (10 s), the delay of the retry (60 s), and
# what scheduler, worker and interpreter need on a machine that does other things, too.
RETRY_SECONDS = 240.0
STEPS, SAVE_STEPS = 600, 50
CHECKPOINT = re.compile(r"\.work/train/\w+/checkpoint-(\d+)/(.+)")
MARKER = "retrainer_complete.json"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    packages = made_once(tmp_path_factory, "celery_packages", install_packages)
    root = tmp_path_factory.mktemp("celery")
    (root / "pipelines").mkdir()
    device = Device(tmp_path_factory.mktemp("celery_device"))
    with stack(root, packages, root / "pipelines", device, CHANGED) as started:
        yield started


@dataclass
class Run:
    """A run of a pipeline of its own that trains for a while, in the queue of GPUs; artifacts and store in buckets."""

    running: Stack
    project: Project
    run_id: str

    @classmethod
    def of(cls, running: Stack, base: Path, name: str, *, seed: int, steps: int = STEPS) -> Run:
        """Trigger it. Another seed is another training: one would find what another has left."""
        project = small_project(running.server.home.parent, base, name)
        project.write(
            publish__store=MODELS,
            resources={"gpus": 1},
            training={
                "max_steps": steps,
                "seed": seed,
                "per_device_train_batch_size": 4,
                "save_strategy": "steps",
                "save_steps": SAVE_STEPS,
                "eval_strategy": "steps",
                "eval_steps": SAVE_STEPS,
                "save_total_limit": 2,
            },
        )
        running.until(lambda: running.client.has_dag(project.dag_id), project.dag_id, 120)
        running.client.unpause(project.dag_id)
        return cls(running, project, running.client.trigger(project.dag_id))

    def train(self) -> tuple[str | None, int]:
        """State and try of the task that trains."""
        return next(
            (task.state, task.try_number)
            for task in self.running.client.tasks(self.project.dag_id, self.run_id)
            if task.task_id == "train"
        )

    def published_once(self, *, trainings: int) -> Mapping[str, Any]:
        """Wait for the end; what the training left. One model is published, and nothing is left but what is meant to.

        :param trainings: how often training was begun.
        """
        running, name = self.running, str(self.project.content["name"])
        states = running.until_ended(self.project.dag_id, self.run_id, 900)
        assert set(states.values()) == {"success"}, states
        tries = {task.task_id: task.try_number for task in running.client.tasks(self.project.dag_id, self.run_id)}
        assert (tries["train"], tries["publish"]) == (trainings, 1)

        history = Store.open(MODELS, access=running.access).model(name).history("production")
        assert [move.cause for move in history] == ["gate"]
        published = open_storage(MODELS, access=running.access)
        assert published.list_folders(f"{name}/versions") == [history[0].to_version]

        trained: dict[str, Any] = running.client.xcom(self.project.dag_id, self.run_id, "train")
        kept = open_storage(ARTIFACTS, access=running.access)
        assert list(kept.list(".work")) == [], "checkpoints outlive the training that they are for"
        with use_access(running.access):
            manifest = Artifacts(ARTIFACTS).get("train", trained["digest"])
        assert kept.list_folders(f"train/{trained['digest']}") == [manifest.upload]
        s3 = boto3.client(
            "s3",
            endpoint_url=running.access.endpoint_url,
            region_name=running.access.region,
            aws_access_key_id=running.access.access_key_id,
            aws_secret_access_key=running.access.secret_access_key,
        )
        for bucket in ("artifacts", "models"):
            assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
        assert trained["output"]["steps"] == self.project.content["training"]["max_steps"]
        return dict(trained["output"])

    def log(self, try_number: int) -> str:
        return self.running.log(self.project.dag_id, self.run_id, "train", try_number)


def checkpoints(running: Stack) -> dict[int, bool]:
    """Steps of which a checkpoint lies in the bucket, and whether it is complete."""
    found: dict[int, bool] = {}
    for entry in open_storage(ARTIFACTS, access=running.access).list(".work/train"):
        if matched := CHECKPOINT.fullmatch(entry.key):
            step = int(matched[1])
            found[step] = found.get(step, False) or matched[2] == MARKER
    return found


def newest(running: Stack) -> int:
    """The step of the newest checkpoint that is complete; 0 without any."""
    return max((step for step, whole in checkpoints(running).items() if whole), default=0)


def stop_while_it_uploads(running: Stack, step: int) -> None:
    """Stop a step's process when a part of its newest checkpoint is in the bucket, and an older one as a whole."""

    def half() -> bool:
        found = checkpoints(running)
        return bool(found) and not found[max(found)] and newest(running) > 0

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert group(step), "the training ended, and no upload was seen"
        if half():
            os.kill(step, signal.SIGSTOP)
            if half():
                return
            os.kill(step, signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("no upload was seen")


@dataclass
class Killed:
    """What was seen after a kill, in seconds from it."""

    at: float = field(default_factory=time.monotonic)
    seen: dict[str, float] = field(default_factory=dict)

    def note(self, what: str) -> None:
        self.seen[what] = time.monotonic() - self.at

    def show(self, capfd: pytest.CaptureFixture[str], head: str) -> None:
        with capfd.disabled():
            told = ", ".join(f"{what} after {seconds:.1f} s" for what, seconds in self.seen.items())
            sys.stderr.write(f"\n{head}: {told}\n")


def retried_elsewhere(run: Run, killed: Killed, worker: str, tries: int) -> int:
    """Wait until the other worker trains; the process.

    :param tries: how many there were.
    """
    running = run.running
    running.until(lambda: run.train() == ("up_for_retry", tries), "the kill to be noticed", RETRY_SECONDS)
    killed.note("noticed")
    running.until(lambda: run.train() == ("running", tries + 1), "the retry", RETRY_SECONDS)
    killed.note("retry begun")
    again: int = running.until(lambda: step_process(running.server, "train"), "its training", RETRY_SECONDS)
    killed.note("step started")
    assert running.worker_of(again) == next(name for name in WORKERS if name != worker)
    running.server.restart(worker)
    running.until_ready(worker)
    return again


@contextmanager
def watched(running: Stack) -> Iterator[list[set[int]]]:
    """The processes that train, as they were seen together while the block lasts."""
    seen: list[set[int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.3):
            seen.append(set(step_processes(running.server, "train")))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_two_workers_of_a_host_share_its_device(
    running: Stack, tiny_bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # One slot too many: only the lease keeps both workers from training at once.
    running.client.ensure_pool("gpu_pool", 2)
    with watched(running) as seen:
        runs = [Run.of(running, tiny_bert, name, seed=seed, steps=200) for seed, name in enumerate(("one", "two"))]
        for run in runs:
            assert run.published_once(trainings=1)["resumed_from"] is None
    running.client.ensure_pool("gpu_pool", 1)

    assert max(map(len, seen)) == 1
    assert len(set().union(*seen)) == 2, "each is trained once"
    assert not running.device.is_leased()
    with capfd.disabled():
        waited = [run.project.dag_id for run in runs if "waiting for 1 of this host's 1 GPUs" in run.log(1)]
        sys.stderr.write(f"\nwaited for the device: {waited}\n")


def test_a_training_outlives_its_workers(running: Stack, tiny_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run.of(running, tiny_bert, "killed", seed=2)
    step = running.until(lambda: step_process(running.server, "train"), "the training", 240)

    # The host of a worker, in the middle of the upload of a checkpoint. The step's guard alone ends the step.
    worker = running.worker_of(step)
    session = running.server.running[worker]
    stop_while_it_uploads(running, step)
    assert running.device.is_leased()
    saved = newest(running)
    killed = Killed()
    running.server.kill(worker)
    running.until(lambda: not group(step) and not processes_of_session(session), "all of it to end", GONE_SECONDS)
    assert not running.device.is_leased()
    killed.note("gone")
    halves = [number for number, whole in checkpoints(running).items() if not whole]
    step = retried_elsewhere(run, killed, worker, 1)
    running.until(lambda: newest(running) > saved, "a checkpoint more", 240)
    assert f"resuming from checkpoint-{saved}" in run.log(2)
    assert min(halves) > saved
    killed.show(capfd, f"the host died at a half checkpoint-{halves[0]}, resumed from {saved} of {STEPS}")

    # Celery's own process alone, as where memory is short. Its children ask the kernel to be killed with it.
    worker = running.worker_of(step)
    assert running.device.is_leased()
    killed = Killed()
    running.server.kill(worker, alone=True)
    running.until(lambda: not group(step), "the step to end", GONE_SECONDS)
    assert not running.device.is_leased()
    killed.note("gone")
    saved = newest(running)
    retried_elsewhere(run, killed, worker, 2)

    trained = run.published_once(trainings=3)
    assert trained["resumed_from"] == f"checkpoint-{saved}"
    assert not running.device.is_leased()
    killed.show(capfd, f"the worker's process was killed, resumed from {saved} of {STEPS}")
    # Redis had sent both trainings again, and nobody began them twice.
    logs = "".join(running.server.log_file(name).read_text() for name in WORKERS)
    assert logs.count(SENT_AGAIN) >= 2
