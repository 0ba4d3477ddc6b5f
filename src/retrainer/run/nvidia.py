"""Which GPUs this host has, or which parts of them (MIG), as ``nvidia-smi`` says: nothing here loads CUDA.

Not here: who may use them (``devices.py``), whether torch sees them (``doctor/gpus.py``).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from retrainer.errors import ResourceError

TIMEOUT_SECONDS = 60.0
# The driver makes them, also in a container that was given devices without the tool.
DEVICE_FILES = Path("/dev")
_QUERY = "--query-gpu=index,uuid,mig.mode.current"
# What it ends with where there are none: "No devices were found".
_NONE_FOUND = 6
_PART = re.compile(r"^\s+MIG .*\(UUID: (?P<uuid>MIG-[^)]+)\)")
_WHOLE = re.compile(r"^GPU (?P<index>\d+): .*\(UUID: (?P<uuid>GPU-[^)]+)\)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    :param index: as ``nvidia-smi`` counts.
    :param divided: whether it is switched to MIG. CUDA then uses none of it but its parts.
    :param parts: the UUIDs of these; none where nobody has made any.
    """

    index: str
    uuid: str
    divided: bool = False
    parts: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[str, ...]:
        """What CUDA can use of it."""
        return self.parts if self.divided else (self.uuid,)


def gpus() -> tuple[Gpu, ...]:
    """All that there are, in order; none on a host without a driver.

    :raises ResourceError: there are, or may be, and ``nvidia-smi`` does not say which.
    """
    try:
        listed = _ask(_QUERY, "--format=csv,noheader")
        fields = [[value.strip() for value in line.split(",")] for line in listed.splitlines() if "," in line]
    except FileNotFoundError:
        files = sorted(path.name for path in DEVICE_FILES.glob("nvidia[0-9]*"))
        if not files:
            return ()
        raise ResourceError(
            f"this host has {', '.join(files)} and no nvidia-smi, without which GPUs cannot be leased",
            where=str(DEVICE_FILES),
            hint="give the container NVIDIA_DRIVER_CAPABILITIES=compute,utility, or set resources.gpus: 0",
        ) from None
    modes = {uuid: (index, mode == ["Enabled"]) for index, uuid, *mode in fields}
    parts = _parts() if any(divided for _, divided in modes.values()) else {}
    return tuple(
        Gpu(index, uuid, divided, parts.get(uuid, ()) if divided else ()) for uuid, (index, divided) in modes.items()
    )


def visible(found: tuple[Gpu, ...]) -> tuple[str, ...]:
    """The UUIDs of what this process may use of them, by ``CUDA_VISIBLE_DEVICES``: of GPUs, or of parts."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return tuple(uuid for gpu in found for uuid in gpu.usable)
    wanted = [item.strip() for item in said.split(",") if item.strip()]
    # CUDA takes the beginning of a UUID for the whole.
    begins = tuple(item for item in wanted if item.startswith(("GPU-", "MIG-")))
    return tuple(
        uuid
        for gpu in found
        for uuid in gpu.usable
        if gpu.index in wanted or (begins and (uuid.startswith(begins) or gpu.uuid.startswith(begins)))
    )


def _parts() -> dict[str, tuple[str, ...]]:
    """The parts of each GPU that has any."""
    found: dict[str, tuple[str, ...]] = {}
    of = ""
    for line in _ask("-L").splitlines():
        if whole := _WHOLE.match(line):
            of = whole["uuid"]
        elif part := _PART.match(line):
            found[of] = (*found.get(of, ()), part["uuid"])
    return found


def _ask(*arguments: str) -> str:
    """What ``nvidia-smi`` says.

    :raises FileNotFoundError: it is not there.
    :raises ResourceError: it fails, or does not answer.
    """
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _failed(f"nvidia-smi did not answer within {TIMEOUT_SECONDS:.0f} s") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed(f"nvidia-smi cannot be started: {error.strerror}") from None
    said = f"{answer.stdout} {answer.stderr}"
    if answer.returncode == 0:
        return answer.stdout
    if answer.returncode == _NONE_FOUND or "No devices were found" in said:
        return ""
    if "mig.mode.current" in said and _QUERY in arguments:  # a driver from before there was MIG
        return _ask("--query-gpu=index,uuid", "--format=csv,noheader")
    raise _failed(f"nvidia-smi ended with {answer.returncode}: {' '.join(said.split())[:300] or 'nothing'}")


def _failed(what: str) -> ResourceError:
    return ResourceError(
        f"it cannot be told which GPUs this host has: {what}",
        where="resources.gpus",
        hint="mend the driver (nvidia-smi has to work), or set resources.gpus: 0 where the host has none",
    )
