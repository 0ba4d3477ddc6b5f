"""torchrun around the step's own process: a rank that is killed, two hosts of one training, what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.chain.messages import Done, Failed, Log, Message, parse_message
from retrainer.errors import ResourceError, StepKilled
from retrainer.run.processes import StepProcess, run_step
from retrainer.work.distributed import Hosts
from retrainer.work.train.checkpoints import Marker
from tests.chain.made import CONTEXT, planned
from tests.moto_server import free_port
from tests.training.conftest import MakePipeline, train_here
from tests.training.ranks import Training
from tests.training.test_ranks import ATOL, RTOL

# Saved often, and long enough to be killed between two saves.
SAVED = {
    "optim": "sgd", "learning_rate": 0.2, "max_steps": 60, "eval_strategy": "steps", "eval_steps": 10,
    "save_strategy": "steps", "save_steps": 10,
}  # fmt: skip


def rank_of(request: StepRequest, rank: int) -> int:
    """The process id of a rank of a training."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            said = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in said and b"retrainer.work" in command and b"RETRAINER_PARENT" in b"".join(said):
            return int(entry.name)
    raise AssertionError(f"no rank {rank}")


def alive(pid: int) -> bool:
    """Whether it is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def same(trained: Training, expected: Training) -> None:
    for name, values in expected.weights.items():
        np.testing.assert_allclose(trained.weights[name], values, atol=ATOL, rtol=RTOL, err_msg=name)


@pytest.mark.long
def test_a_rank_that_is_killed_ends_the_others_and_a_retry_resumes(
    make_pipeline: MakePipeline, snapshot: StepRef, still_bert: Path, tmp_path: Path
) -> None:
    model = {"base": str(still_bert), "max_length": 32}
    arguments = {**SAVED, "per_device_train_batch_size": 8}
    pipeline = make_pipeline(arguments, model=model, resources={"processes": 2})
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
    artifacts = Artifacts(request.root)
    work = artifacts.work_folder("train", request.digest)
    ended: list[int] = []

    def kill(process: StepProcess) -> None:
        until = time.monotonic() + 300
        while not list(work.glob(f"checkpoint-*/{Marker.file}")):
            assert time.monotonic() < until, "no checkpoint was saved"
            time.sleep(0.01)
        ended.extend((rank_of(request, 0), rank_of(request, 1)))
        os.kill(ended[1], signal.SIGKILL)

    messages: list[Message] = []
    with pytest.raises(StepKilled, match="rank 1 of 2 was ended by SIGKILL, and the others with it"):
        run_step(request, on_message=messages.append, started=kill)
    assert sum(isinstance(message, Failed) for message in messages) == 1
    assert not any(map(alive, ended))
    assert artifacts.find("train", request.digest) is None

    ref = run_step(request, on_message=messages.append)
    resumed = Training(artifacts.fetch("train", ref.digest))
    assert (resumed.record.resumed_from or "").startswith("checkpoint-")
    arguments["per_device_train_batch_size"] = 16
    alone, _ = train_here(make_pipeline(arguments, model=model), snapshot, tmp_path / "alone")
    same(resumed, Training(alone.parent))


Launch = Callable[[int, Path], "subprocess.Popen[bytes]"]


def launcher(request: StepRequest, folder: Path, hosts: int) -> Launch:
    """Starts what a host of a training runs, whose cache is its own."""
    file, port = folder / "request.json", free_port()
    file.write_bytes(request.to_json())

    def launch(host: int, messages: Path) -> subprocess.Popen[bytes]:
        rendezvous = {"PET_NNODES": str(hosts), "PET_NODE_RANK": str(host), "PET_MASTER_PORT": str(port)}
        own = {"RETRAINER_MESSAGES": str(messages), "RETRAINER_CACHE": str(folder / f"cache-{host}")}
        environment = {**os.environ, **rendezvous, **own, "PET_MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
        with messages.with_suffix(".log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "retrainer.work", "train", str(file)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    return launch


def said_in(file: Path) -> list[Message]:
    return [parse_message(line) for line in file.read_bytes().splitlines()] if file.exists() else []


@pytest.mark.long
def test_two_hosts_make_one_training(
    make_pipeline: MakePipeline, snapshot: StepRef, still_bert: Path, s3_bucket: str, tmp_path: Path
) -> None:
    """First one host loses the other, then both go on from the bucket's checkpoint; the cache of each is its own."""
    model = {"base": str(still_bert), "max_length": 32}
    arguments = {**SAVED, "per_device_train_batch_size": 8}
    pipeline = make_pipeline(arguments, model=model, resources={"processes": 2})
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).model_copy(update={"root": f"s3://{s3_bucket}"})
    copy_to(Artifacts(request.root), snapshot, tmp_path)
    launch = launcher(request, tmp_path, hosts=2)
    artifacts = Artifacts(request.root)

    first = [launch(host, tmp_path / f"first-{host}.jsonl") for host in range(2)]
    until = time.monotonic() + 300
    while not artifacts.remote_work("train", request.digest):
        assert time.monotonic() < until, logs(tmp_path)
        assert all(process.poll() is None for process in first), logs(tmp_path)
        time.sleep(0.05)
    first[1].kill()  # its rank does not outlive it
    assert first[0].wait(120) == 1
    assert artifacts.find("train", request.digest) is None
    said = said_in(tmp_path / "first-0.jsonl")
    assert not any(isinstance(message, Failed) for message in said), "what happened there is not known here"
    assert any("ended on another host" in message.text for message in said if isinstance(message, Log))

    launch = launcher(request, tmp_path, hosts=2)
    second = [launch(host, tmp_path / f"second-{host}.jsonl") for host in range(2)]
    assert [process.wait(400) for process in second] == [0, 0], logs(tmp_path)
    said = said_in(tmp_path / "second-0.jsonl")
    assert isinstance(said[-1], Done)
    assert any("resuming from checkpoint-" in message.text for message in said if isinstance(message, Log))
    assert said_in(tmp_path / "second-1.jsonl") == [], "the first host speaks for all"
    together = Training(artifacts.fetch("train", request.digest))
    arguments["per_device_train_batch_size"] = 16
    alone, _ = train_here(make_pipeline(arguments, model=model), snapshot, tmp_path / "alone")
    same(together, Training(alone.parent))


def copy_to(artifacts: Artifacts, snapshot: StepRef, folder: Path) -> None:
    """The same snapshot under another root."""
    there = Artifacts(snapshot.root)
    manifest = there.get("ingest", snapshot.digest)
    files = there.fetch("ingest", snapshot.digest)
    with artifacts.staging("ingest", snapshot.digest) as staging:
        for name in manifest.files:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes((files / name).read_bytes())
        artifacts.commit(
            staging,
            step="ingest",
            digest=snapshot.digest,
            identity=manifest.identity,
            inputs=manifest.inputs,
            output=manifest.output,
            created_at=manifest.created_at,
        )


def logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.log")))


PLACE = {"PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        ({}, Hosts(1, 0)),
        ({"PET_NNODES": "1"}, Hosts(1, 0)),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "1", **PLACE}, Hosts(2, 1)),
        ({"PET_NNODES": "2:2", "PET_NODE_RANK": "0", **PLACE}, Hosts(2, 0)),
    ],
)
def test_hosts_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], hosts: Hosts
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Hosts.from_environment() == hosts


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PET_NNODES": "1:4"}, "PET_NNODES=1:4"),
        ({"PET_NNODES": "two"}, "PET_NNODES=two"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "2", **PLACE}, "PET_NODE_RANK=2"),
        ({"PET_NNODES": "2", **PLACE}, "PET_NNODES=2 without PET_NODE_RANK"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "0"}, "without PET_MASTER_ADDR and PET_MASTER_PORT"),
    ],
)
def test_hosts_that_do_not_fit_together(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ResourceError, match=said):
        Hosts.from_environment()
