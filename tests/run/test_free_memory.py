"""Memory that a process may take, by the machine and by its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrainer.run.free_memory import available_bytes

GROUPS = {"": ("0::/pod/main\n", "memory.max", "memory.current", "inactive_file")} | {
    "memory": ("3:memory:/pod/main\n", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
}


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize("mount", GROUPS)
def test_the_tightest_counts(tmp_path: Path, mount: str) -> None:
    line, limit, used, cache = GROUPS[mount]
    proc, root = tmp_path / "proc", tmp_path / "groups"
    write(proc / "meminfo", "MemFree: 1 kB\nMemAvailable:    9000 kB\n")
    assert available_bytes(proc, root) == 9000 << 10
    write(proc / "self" / "cgroup", line)
    assert available_bytes(proc, root) == 9000 << 10
    write(root / mount / "pod" / limit, "max\n")
    write(root / mount / "pod" / used, "7\n")
    assert available_bytes(proc, root) == 9000 << 10
    write(root / mount / "pod" / limit, "5000000\n")
    write(root / mount / "pod" / used, "3000000\n")
    assert available_bytes(proc, root) == 2_000_000
    write(root / mount / "pod" / "memory.stat", f"anon 1\n{cache} 400000\n")
    assert available_bytes(proc, root) == 2_400_000


def test_here() -> None:
    assert 0 < available_bytes() < 1 << 50
