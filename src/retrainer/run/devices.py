"""Lease GPUs of this host to one process at a time.

Airflow's pools count slots, they do not name devices, and several workers may share a host. A lease is an
exclusive ``flock`` on a file for each device; the step's process inherits it, so it lasts exactly as long as
somebody may use the device. A GPU that is divided (MIG) is leased by its parts, of which CUDA lets a process use one.
Not here: which devices there are (``nvidia.py``).
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from retrainer.artifacts.locks import Say, Waiting, holder_of, is_held, try_lock
from retrainer.errors import ResourceError
from retrainer.run.nvidia import gpus, visible

logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
RETRY_SECONDS = 2.0
PART = "MIG-"


@dataclass(frozen=True, slots=True)
class Lease:
    """Devices held.

    :param environment: what makes exactly these devices visible to a process.
    :param descriptors: open files that hold the lease; pass them to the process.
    """

    devices: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


HIDDEN = Lease(environment={"CUDA_VISIBLE_DEVICES": ""})
"""No device, and none to be seen."""


def list_devices() -> tuple[str, ...]:
    """The UUIDs of the GPUs, or of their parts, that this process may use, in order; empty on a host without any.

    :raises ResourceError: there are GPUs, or may be, and it cannot be told which.
    """
    return visible(gpus())


@contextmanager
def lease(
    count: int,
    *,
    wait: float = WAIT_SECONDS,
    folder: Path | None = None,
    holder: str = "",
    say: Say = logger.info,
) -> Iterator[Lease]:
    """Hold ``count`` GPUs of this host, waiting for others to give theirs back.

    No GPU wanted: all are hidden from the process. None on the host at all: the step runs on the CPU, and a
    warning says so, so that one pipeline file serves a laptop and a GPU worker.

    :param holder: who wants them, for those who wait meanwhile.
    :param say: is told at once, and then every minute, who is waited for.
    :raises ResourceError: the host has fewer GPUs than wanted, they stayed busy, or it cannot be told which there are.
    """
    devices = list_devices() if count else ()
    if not devices:
        if count:
            why = _why_none()
            logger.warning("resources.gpus is %d, and %s: training runs on the CPU", count, why)
            say(f"resources.gpus is {count}, and {why}: training runs on the CPU")
        yield HIDDEN
        return
    parts = [device for device in devices if device.startswith(PART)]
    if count > 1:  # of parts, a process sees but one, and processes on parts cannot talk to each other
        devices = tuple(device for device in devices if device not in parts)
    if len(devices) < count:
        also = f", and {len(parts)} parts (MIG), of which a training can use one" if parts else ""
        raise ResourceError(
            f"{count} GPUs wanted, this host has {len(devices)}{also}",
            where="resources.gpus",
            hint="lower resources.gpus, or send the task to a queue with larger hosts",
        )
    locks = folder or _locks()
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        held = _acquire({device: locks / _file(device) for device in devices}, count, wait, stack, holder, Waiting(say))
        yield Lease(
            devices=tuple(held),
            environment={"CUDA_VISIBLE_DEVICES": ",".join(held)},
            descriptors=tuple(stream.fileno() for stream in held.values()),
        )


def leased() -> dict[str, str]:
    """The devices that are leased now, by this user's processes, with who holds them. Takes none, and makes no file."""
    places = {device: _locks() / _file(device) for device in list_devices()}
    return {device: holder_of(path) for device, path in places.items() if is_held(path)}


def _why_none() -> str:
    found = gpus()
    if found and (said := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES={said} names no GPU of this host"
    if found:
        return "this host's GPUs are switched to MIG without a part"
    return "this host has no GPU"


def _file(device: str) -> str:
    """Old drivers call a part ``MIG-GPU-.../1/0``."""
    return device.replace("/", "_")


def _locks() -> Path:
    return Path(tempfile.gettempdir()) / f"retrainer-devices-{os.getuid()}"


def _acquire(
    devices: Mapping[str, Path], count: int, wait: float, stack: ExitStack, holder: str, waiting: Waiting
) -> dict[str, IO[str]]:
    """Take all or none in each try: two waiters that each held half would wait for ever."""
    deadline = time.monotonic() + wait
    while True:
        held = {device: stream for device, path in devices.items() if (stream := try_lock(path, holder)) is not None}
        if len(held) >= count:
            for device in list(held)[count:]:
                held.pop(device).close()
            for stream in held.values():
                stack.enter_context(stream)
            return held
        for stream in held.values():
            stream.close()
        holders = sorted({holder_of(path) for device, path in devices.items() if device not in held})
        if time.monotonic() >= deadline:
            raise ResourceError(
                f"{count} of this host's {len(devices)} GPUs stayed busy for {wait:.0f} s: {', '.join(holders)}",
                where="resources.gpus",
                hint="give the pool as many slots as the host has GPUs",
            )
        waiting.for_(f"{count} of this host's {len(devices)} GPUs, held by {', '.join(holders)}")
        time.sleep(RETRY_SECONDS)
