"""Cores that a process may use, by its affinity and the quota of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrainer.serve import cores
from retrainer.serve.cores import cpu_quota, usable_cores


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "fs"
    write(proc / "self" / "cgroup", "0::/kubepods/pod1/main\n")
    assert cpu_quota(proc, root) is None
    write(root / "kubepods" / "pod1" / "main" / "cpu.max", "max 100000\n")
    assert cpu_quota(proc, root) is None
    write(root / "kubepods" / "pod1" / "cpu.max", "150000 100000\n")
    assert cpu_quota(proc, root) == 1.5
    write(root / "kubepods" / "pod1" / "main" / "cpu.max", "50000 100000\n")
    assert cpu_quota(proc, root) == 0.5


def test_version_2_in_a_container(tmp_path: Path) -> None:
    """Its own group is the root of what it sees."""
    proc, root = tmp_path / "proc", tmp_path / "fs"
    write(proc / "self" / "cgroup", "0::/\n")
    write(root / "cpu.max", "200000 100000\n")
    assert cpu_quota(proc, root) == 2.0


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, mount: str) -> None:
    proc, root = tmp_path / "proc", tmp_path / "fs"
    write(proc / "self" / "cgroup", f"9:name=systemd:/\n4:memory:/docker/x\n1:{mount}:/docker/x\n0::/\n")
    write(root / mount / "cpu.cfs_quota_us", "-1\n")
    write(root / mount / "cpu.cfs_period_us", "100000\n")
    assert cpu_quota(proc, root) is None
    write(root / mount / "docker" / "x" / "cpu.cfs_quota_us", "300000\n")
    write(root / mount / "docker" / "x" / "cpu.cfs_period_us", "100000\n")
    assert cpu_quota(proc, root) == 3.0


@pytest.mark.parametrize("content", ["", "max", "a b", "100000 0", "0 100000", "1 2 3"])
def test_what_makes_no_sense_is_no_limit(tmp_path: Path, content: str) -> None:
    proc, root = tmp_path / "proc", tmp_path / "fs"
    write(proc / "self" / "cgroup", "0::/\ngarbage\n")
    write(root / "cpu.max", content)
    assert cpu_quota(proc, root) is None
    assert cpu_quota(tmp_path / "absent", root) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (0.2, 1), (1.0, 1), (1.5, 2), (64.0, 4)])
def test_the_smaller_of_both(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == expected
