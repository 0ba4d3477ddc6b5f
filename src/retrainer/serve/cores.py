"""How many cores this process may use: what it is pinned to, and what its control group pays for.

A container with a quota of two cores still sees all of its host. With a thread for each of those, the kernel stops
all of them for most of every period.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from retrainer.control_groups import PROC, ROOT, group_folders, read


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: the smaller of its affinity and its CPU quota, rounded up."""
    pinned = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return pinned if quota is None else max(1, min(pinned, math.ceil(quota)))


def cpu_quota(proc: Path = PROC, root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control groups of this process grant, the tightest of them; ``None`` for no limit.

    Of version 2 ``cpu.max``, of version 1 ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``, each of the group and of
    those above it (Linux, *Control Group v2*, and *CFS Bandwidth Control*).
    """
    quotas = [_version_2(folder) or _version_1(folder) for folder in group_folders("cpu", proc, root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _version_2(folder: Path) -> float | None:
    words = read(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return _cores(*words)


def _version_1(folder: Path) -> float | None:
    return _cores(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> float | None:
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None  # -1 is no limit
