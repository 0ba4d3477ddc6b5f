"""How many cores this process may use: what it is pinned to, and what its control group pays for.

A container with a quota of two cores still sees all of its host. With a thread for each of those, the kernel stops
all of them for most of every period.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: the smaller of its affinity and its CPU quota, rounded up."""
    pinned = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return pinned if quota is None else max(1, min(pinned, math.ceil(quota)))


def cpu_quota(proc: Path = _PROC, root: Path = _ROOT) -> float | None:
    """Cores' worth of time that the control groups of this process grant, the tightest of them; ``None`` for no limit.

    Of version 2 ``cpu.max``, of version 1 ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``, each of the group and of
    those above it (Linux, *Control Group v2*, and *CFS Bandwidth Control*).
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            quotas += [quota for folder in _upwards(root, path) if (quota := _version_2(folder)) is not None]
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += [quota for folder in _upwards(mount, path) if (quota := _version_1(folder)) is not None]
    return min(quotas, default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container, the group's own folder may be what is mounted."""
    folder = mount / path.strip("/")
    above = [folder, *folder.parents]
    return above[: above.index(mount) + 1] if mount in above else [mount]


def _version_2(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return _cores(*words)


def _version_1(folder: Path) -> float | None:
    return _cores(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> float | None:
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None  # -1 is no limit


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
