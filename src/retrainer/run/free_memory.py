"""How much memory this process may still take: what the machine has, and what its control groups leave of theirs.

Not here: what memory is worth (``ahead.py``).
"""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 62
# Of version 2 and of version 1: the limit, what is used, and of this the cache of files, which the kernel gives back
# (Linux, *Control Group v2* and *Memory Resource Controller*).
_VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(proc: Path = _PROC, root: Path = _ROOT) -> int:
    """Bytes that can be taken without swapping, by the tightest of the machine and the groups above this process."""
    machine = _numbers(proc / "meminfo").get("MemAvailable:", _NO_LIMIT >> 10) << 10
    return min([machine, *(_left(folder) for folder in _groups(proc, root))])


def _groups(proc: Path, root: Path) -> list[Path]:
    """The folders of this process's groups and of those above; in a container its own may be what is mounted."""
    folders = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers or "memory" in controllers.split(","):
            mount = root / "memory" if controllers else root
            below = mount / path.strip("/")
            folders += [folder for folder in (below, *below.parents) if folder.is_relative_to(mount)]
    return folders


def _left(folder: Path) -> int:
    for limit, used, cache in _VERSIONS:
        most, taken = _text(folder / limit).strip(), _text(folder / used).strip()
        if most.isdecimal() and taken.isdecimal():
            return int(most) - int(taken) + _numbers(folder / "memory.stat").get(cache, 0)
    return _NO_LIMIT


def _numbers(path: Path) -> dict[str, int]:
    lines = [line.split() for line in _text(path).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
