"""Locks between processes: who waits, who does not, and what a fork makes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retrainer.errors import StorageError
from retrainer.serve.content import Content
from retrainer.serve.file_locks import take
from retrainer.serve.retention import KEPT_VERSIONS, prune, use_lock
from retrainer.store import FileEntry

# Holds a lock, forks, and says who lives on: the child alone, or both while the child has come to its end.
FORKED = """
import os, sys, time
from pathlib import Path
from retrainer.serve.file_locks import take

hold = take(Path(sys.argv[2]), "exclusive")
child = os.fork()
if child == 0:
    if sys.argv[1] == "parent ends":
        print(os.getpid(), flush=True)
        time.sleep(600)
    del hold
    os._exit(0)
if sys.argv[1] == "child ends":
    os.waitpid(child, 0)
    print(child, flush=True)
    sys.stdin.read()
os._exit(0)
"""


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one"
    first = take(path, "shared")
    assert first is not None
    assert take(path, "exclusive", wait=False) is None
    second = take(path, "shared", wait=False)
    assert second is not None
    first.release()
    first.release()
    assert take(path, "exclusive", wait=False) is None
    second.release()
    third = take(path, "exclusive", wait=False)
    assert third is not None
    assert take(path, "shared", wait=False) is None
    del third
    assert take(path, "shared", wait=False) is not None


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder should be"):
        take(tmp_path / "file" / "one", "exclusive", wait=False)


def test_a_child_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    """Or whoever waits for the parent waits for a child that knows of nothing, too."""
    path = tmp_path / "one"
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, "parent ends", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert process.wait(60) == 0
            assert take(path, "exclusive", wait=False) is not None
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_releases_nothing_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "one"
    command = [sys.executable, "-c", FORKED, "child ends", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert take(path, "exclusive", wait=False) is None
        process.communicate("")
    assert take(path, "exclusive", wait=False) is not None


def test_pruning_goes_on_past_a_version_that_is_held(tmp_path: Path) -> None:
    """And past one that cannot be moved; what only removed versions had goes in any case."""
    folder, content = tmp_path / "trails", Content(tmp_path)
    names = [f"{number:016x}" for number in range(KEPT_VERSIONS + 4)]
    for number, name in enumerate(names):
        version = folder / "versions" / name
        version.mkdir(parents=True)
        (version / "manifest.json").write_text(name)
        content.add(FileEntry(size=16, sha256=f"{number:064x}"), version / "manifest.json")
        os.utime(version / "manifest.json", (number + 1, number + 1))
    held, stuck, in_use = names[2], names[1], names[-1]
    hold = take(use_lock(folder, held), "shared")
    use_lock(folder, stuck).symlink_to(stuck + ".use")  # to itself: cannot be opened
    prune(folder, content, in_use=in_use)
    assert {path.name for path in (folder / "versions").iterdir()} == {held, stuck, *names[-KEPT_VERSIONS:]}
    assert all(path.stat().st_nlink == 2 for path in (tmp_path / ".content").iterdir())
    assert hold is not None
    hold.release()
    use_lock(folder, stuck).unlink()
    prune(folder, content, in_use=in_use)
    assert {path.name for path in (folder / "versions").iterdir()} == set(names[-KEPT_VERSIONS:])
