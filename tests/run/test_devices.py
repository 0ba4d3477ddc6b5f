"""GPUs are leased to one process at a time; hosts without any train on the CPU."""

from __future__ import annotations

import os
import re
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
from retrainer.run import devices, nvidia
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


DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9ff04bf1-1f6c-4f5e-8b44-5d3a6a2c9d10)
"""
WHOLE, HALVES = "GPU-9ff04bf1-1f6c-4f5e-8b44-5d3a6a2c9d10", re.findall(r"MIG-[0-9a-f-]+", DIVIDED)
MODES = f"0, GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, Enabled\n1, {WHOLE}, Disabled\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)


def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A host whose ``nvidia-smi`` is that shell script.

    :return: where the locks of its devices go.
    """
    locks_folder = host_with((), tmp_path, monkeypatch)
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    return locks_folder


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a GPU in two parts and one that is whole."""
    return answering(
        tmp_path, monkeypatch, f"case \"$1\" in -L) cat <<'E'\n{DIVIDED}E\n;; *) cat <<'E'\n{MODES}E\n;; esac"
    )


def test_parts_are_leased_in_place_of_their_gpu(divided: Path) -> None:
    assert list_devices() == (*HALVES, WHOLE)
    with lease(1, folder=divided) as first, lease(1, folder=divided) as second:
        assert [first.environment["CUDA_VISIBLE_DEVICES"], second.environment["CUDA_VISIBLE_DEVICES"]] == HALVES
        with lease(1, folder=divided) as third:
            assert third.devices == (WHOLE,)


def test_several_parts_are_not_several_gpus(divided: Path) -> None:
    said = r"2 GPUs wanted, this host has 1, and 2 parts \(MIG\), of which a training can use one"
    with pytest.raises(ResourceError, match=said), lease(2, folder=divided):
        pass


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (HALVES[1], [HALVES[1]]),
        (f"{HALVES[0]},{WHOLE}", [HALVES[0], WHOLE]),
        ("MIG-cba6", [HALVES[1]]),
        ("GPU-5d5ba0d6", HALVES),
        ("0", HALVES),
        ("1", [WHOLE]),
        ("7", []),
        ("", []),
    ],
)
def test_visible_parts_are_respected(
    divided: Path, monkeypatch: pytest.MonkeyPatch, visible: str, devices: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(list_devices()) == devices


def test_parts_as_old_drivers_call_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = "MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77/1/0"
    tree = f"GPU 0: NVIDIA A100 (UUID: GPU-5d5b)\n  MIG 1g.5gb Device 0: (UUID: {old})"
    script = f"case \"$1\" in -L) echo '{tree}';; *) echo '0, GPU-5d5b, Enabled';; esac"
    folder = answering(tmp_path, monkeypatch, script)
    with lease(1, folder=folder) as held:
        assert held.devices == (old,)
        with pytest.raises(ResourceError, match="stayed busy"), lease(1, folder=folder, wait=0):
            pass


def test_a_driver_from_before_there_was_mig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = "echo 'Field \"mig.mode.current\" is not a valid field to query.'; exit 2"
    answering(tmp_path, monkeypatch, f"case \"$1\" in *mig*) {refuses};; *) echo '0, GPU-aaaa';; esac")
    assert list_devices() == ("GPU-aaaa",)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f'echo "{NO_DRIVER}"; exit 9', "nvidia-smi ended with 9: NVIDIA-SMI has failed because it couldn't"),
        ("echo 'Failed to initialize NVML: Unknown Error' >&2; exit 255", "255: Failed to initialize NVML"),
        ("exec sleep 60", "nvidia-smi did not answer within 0 s"),
    ],
)
def test_a_driver_that_fails_is_not_a_host_without_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    answering(tmp_path, monkeypatch, script)
    if "sleep" in script:
        monkeypatch.setattr(nvidia, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(ResourceError, match=re.escape(said)), lease(1):
        pass
    with lease(0) as nothing:  # nobody asks where none is wanted
        assert nothing.devices == ()


def test_a_driver_that_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answering(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    said: list[str] = []
    with lease(1, say=said.append) as nothing:
        assert nothing.devices == ()
    assert said == ["resources.gpus is 1, and this host has no GPU: training runs on the CPU"]
    assert said[0] in caplog.text


def test_devices_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that was given devices, and of the driver only what computes."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(nvidia, "DEVICE_FILES", tmp_path)
    assert list_devices() == ()
    for name in ("nvidia0", "nvidiactl"):
        (tmp_path / name).touch()
    with pytest.raises(ResourceError, match="has nvidia0 and no nvidia-smi") as caught:
        list_devices()
    assert "NVIDIA_DRIVER_CAPABILITIES" in (caught.value.hint or "")


def test_a_gpu_that_is_switched_to_mig_without_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "case \"$1\" in -L) echo 'GPU 0: NVIDIA A100 (UUID: GPU-a)';; *) echo '0, GPU-a, Enabled';; esac"
    answering(tmp_path, monkeypatch, script)
    said: list[str] = []
    with lease(1, say=said.append) as nothing:
        assert nothing.devices == ()
    assert "switched to MIG without a part" in said[0]
