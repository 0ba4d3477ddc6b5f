"""GPUs are leased to one process at a time; hosts without any train on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest

from retrainer.artifacts import locks
from retrainer.errors import ResourceError
from retrainer.run import devices
from retrainer.run.devices import lease, list_devices

DEVICES = ("GPU-aaaa", "GPU-bbbb")
FOUR = ("GPU-aaaa", "GPU-bbbb", "GPU-cccc", "GPU-dddd")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose ``nvidia-smi`` lists two devices."""
    return host_with(DEVICES, tmp_path, monkeypatch)


def host_with(listed: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the locks of its devices go."""
    binary = tmp_path / "bin" / "nvidia-smi"
    binary.parent.mkdir()
    lines = "\\n".join(f"{index}, {device}" for index, device in enumerate(listed))
    binary.write_text(f'#!/bin/sh\nprintf "{lines}\\n"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "locks"


def test_devices_are_not_shared(two_gpus: Path) -> None:
    with lease(1, folder=two_gpus) as first, lease(1, folder=two_gpus) as second:
        assert {*first.devices, *second.devices} == set(DEVICES)
        assert first.environment == {"CUDA_VISIBLE_DEVICES": first.devices[0]}
        with pytest.raises(ResourceError, match="stayed busy"), lease(1, folder=two_gpus, wait=0):
            pass
    with lease(2, folder=two_gpus) as both:
        assert set(both.devices) == set(DEVICES)


def test_a_lease_lasts_as_long_as_the_process_that_inherited_it(two_gpus: Path) -> None:
    with lease(2, folder=two_gpus) as held:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held.descriptors)
    with pytest.raises(ResourceError), lease(1, folder=two_gpus, wait=0):
        pass
    child.communicate(b"\n")
    with lease(2, folder=two_gpus, wait=0) as again:
        assert len(again.devices) == 2


def use_one(folder: Path, log: Path, holds: float) -> None:
    """Take a device, hold it, give it back; and note when, on the clock that all processes of a host share."""
    with lease(1, folder=folder, wait=300) as held, log.open("a") as lines:
        lines.write(f"took {held.devices[0]} {os.getpid()} {time.monotonic()}\n")
        lines.flush()
        time.sleep(holds)
        lines.write(f"gave {held.devices[0]} {os.getpid()} {time.monotonic()}\n")


def test_fifty_processes_race_for_four_devices_and_some_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "RETRY_SECONDS", 0.05)
    folder, log = host_with(FOUR, tmp_path, monkeypatch), tmp_path / "log"
    log.touch()
    start = get_context("fork").Process
    racing = [start(target=use_one, args=(folder, log, 60.0 if number < 8 else 0.05)) for number in range(50)]
    for process in racing:
        process.start()
    killed: dict[int, float] = {}
    for process in racing[:8]:
        while f" {process.pid} " not in log.read_text():
            # Those that hold for a minute hold all devices by and by: the next of them waits until one is killed.
            holding = [one for one in racing[:8] if f" {one.pid} " in log.read_text() and one.pid not in killed]
            if len(holding) == len(FOUR):
                killed[int(holding[0].pid or 0)] = time.monotonic()
                holding[0].kill()
            time.sleep(0.01)
    for process in racing[:8]:
        killed.setdefault(int(process.pid or 0), time.monotonic())
        process.kill()
    for process in racing:
        process.join()
    assert [process.exitcode for process in racing] == [-signal.SIGKILL] * 8 + [0] * 42
    took, gave = defaultdict(list), dict(killed)
    for event, device, pid, moment in (line.split() for line in log.read_text().splitlines()):
        if event == "took":
            took[device].append((float(moment), int(pid)))
        else:
            gave[int(pid)] = float(moment)
    assert set(took) == set(FOUR)
    assert sum(map(len, took.values())) == 50
    for users in took.values():
        for (_, user), (after, _) in pairwise(sorted(users)):
            assert gave[user] <= after


def test_more_than_the_host_has(two_gpus: Path) -> None:
    with pytest.raises(ResourceError, match="3 GPUs wanted, this host has 2"), lease(3, folder=two_gpus):
        pass


def test_visible_devices_are_respected(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert list_devices() == ("GPU-bbbb",)


def test_none_wanted_hides_all(two_gpus: Path) -> None:
    with lease(0, folder=two_gpus) as nothing:
        assert nothing.environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_a_host_without_gpus_trains_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with lease(1) as nothing:
        assert nothing.devices == ()
    assert "no GPU" in caplog.text


def test_whoever_waits_is_told_at_once_for_whom(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(locks, "SAY_SECONDS", 0.1)
    said: list[str] = []
    with (
        lease(2, folder=two_gpus, holder="run one of news"),
        pytest.raises(ResourceError, match="stayed busy for 0 s: run one of news"),
        lease(1, folder=two_gpus, wait=0.4, say=said.append),
    ):
        pass
    assert said[0] == "waiting for 1 of this host's 2 GPUs, held by run one of news"
    assert said[1] == "still waiting for 1 of this host's 2 GPUs, held by run one of news, after 0 min"
    assert 2 <= len(said) <= 5
