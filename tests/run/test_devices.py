"""GPUs are leased to one process at a time; hosts without any train on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrainer.artifacts import locks
from retrainer.errors import ResourceError
from retrainer.run import devices
from retrainer.run.devices import lease, list_devices

DEVICES = ("GPU-aaaa", "GPU-bbbb")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose ``nvidia-smi`` lists two devices."""
    binary = tmp_path / "bin" / "nvidia-smi"
    binary.parent.mkdir()
    lines = "\\n".join(f"{index}, {device}" for index, device in enumerate(DEVICES))
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
