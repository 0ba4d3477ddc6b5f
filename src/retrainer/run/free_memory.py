"""How much memory this process may still take: what the machine has, and what its control groups leave of theirs.

Not here: what memory is worth (``ahead.py``).
"""

from __future__ import annotations

from pathlib import Path

from retrainer.control_groups import PROC, ROOT, group_folders, read

_NO_LIMIT = 1 << 62
# Of version 2 and of version 1: the limit, what is used, and of this the cache of files, which the kernel gives back
# (Linux, *Control Group v2* and *Memory Resource Controller*).
_VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(proc: Path = PROC, root: Path = ROOT) -> int:
    """Bytes that can be taken without swapping, by the tightest of the machine and the groups above this process."""
    machine = _numbers(proc / "meminfo").get("MemAvailable:", _NO_LIMIT >> 10) << 10
    return min([machine, *(_left(folder) for folder in group_folders("memory", proc, root))])


def _left(folder: Path) -> int:
    for limit, used, cache in _VERSIONS:
        most, taken = read(folder / limit).strip(), read(folder / used).strip()
        if most.isdecimal() and taken.isdecimal():
            return int(most) - int(taken) + _numbers(folder / "memory.stat").get(cache, 0)
    return _NO_LIMIT


def _numbers(path: Path) -> dict[str, int]:
    lines = [line.split() for line in read(path).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
