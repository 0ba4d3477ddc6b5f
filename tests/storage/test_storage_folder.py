"""A folder as a storage: killed writers, racing writers, and what the operating system refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import NotFoundError, PreconditionFailed, ResourceError, StorageError
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.files import FileStorage
from tests.unprivileged import unprivileged

FORK = multiprocessing.get_context("fork")


def _create(root: Path, times: int, name: bytes) -> None:
    storage = FileStorage(root)
    created = 0
    for number in range(1000):
        try:
            storage.write(f"{number:03d}", name, if_absent=True)
            created += 1
        except PreconditionFailed:
            continue
        if created == times:
            return
    raise AssertionError


def test_each_object_is_created_by_one_process(tmp_path: Path) -> None:
    workers = [FORK.Process(target=_create, args=(tmp_path, 40, b"%d" % number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    storage = FileStorage(tmp_path)
    assert [info.key for info in storage.list()] == [f"{number:03d}" for number in range(160)]
    assert Counter(storage.read(info.key) for info in storage.list()) == {b"%d" % number: 40 for number in range(4)}


def _die_at_fsync(root: Path, if_absent: bool, call: int) -> None:
    fsync, calls = os.fsync, iter(range(1, 10))

    def deadly(descriptor: int) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = deadly  # type: ignore[assignment]
    FileStorage(root).write("folder/x", b"new" * 1000, if_absent=if_absent)


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize("call", [1, 2])
def test_a_killed_writer_leaves_the_old_or_the_new_and_no_lock(tmp_path: Path, if_absent: bool, call: int) -> None:
    storage = FileStorage(tmp_path)
    if not if_absent:
        storage.write("folder/x", b"old")
    worker = FORK.Process(target=_die_at_fsync, args=(tmp_path, if_absent, call))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    left = [b"new" * 1000] if call == 2 else [] if if_absent else [b"old"]
    assert [storage.read(info.key) for info in storage.list()] == left
    storage.write("folder/y", b"next", if_absent=True)
    assert storage.read("folder/y") == b"next"


def _hold_the_lock(root: Path, holding: Any) -> None:
    fsync = os.fsync

    def stay(descriptor: int) -> None:
        fsync(descriptor)
        holding.set()
        signal.pause()

    os.fsync = stay  # type: ignore[assignment]
    FileStorage(root).write("x", b"never", if_absent=True)


def _write_after(root: Path, started: Any) -> None:
    started.set()
    FileStorage(root).write("x", b"next", if_absent=True)


def test_who_waits_for_a_killed_writer_goes_on(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    holding, started = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=_hold_the_lock, args=(tmp_path, holding))
    holder.start()
    assert holding.wait(30)
    waiting = FORK.Process(target=_write_after, args=(tmp_path, started))
    waiting.start()
    assert started.wait(30)
    waiting.join(0.2)
    assert waiting.is_alive()
    assert not storage.exists("x")
    holder.kill()
    waiting.join(30)
    assert waiting.exitcode == 0
    assert storage.read("x") == b"next"
    [leftover] = storage.leftovers()
    storage.remove_leftover(leftover)
    assert storage.read("x") == b"next"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path)
    storage.write("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full") as caught:
        storage.write("x", b"new")
    assert caught.value.where == str(tmp_path / "x")
    assert caught.value.hint
    with pytest.raises(ResourceError, match="disk is full"):
        storage.upload(tmp_path / "x", "y")
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208 - also hidden files
    assert storage.read("x") == b"old"


def test_no_permission(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("folder/x", b"old")
    (tmp_path / "folder").chmod(0)
    try:
        with unprivileged():
            for attempt in (
                lambda: storage.read("folder/x"),
                lambda: storage.write("folder/x", b"new"),
                lambda: storage.write("folder/x", b"new", if_absent=True),
                lambda: storage.exists("folder/x"),
                lambda: list(storage.list("folder/")),
                lambda: storage.list_folders("folder"),
                lambda: storage.download("folder/x", Path("/nowhere/x")),
            ):
                with pytest.raises(ResourceError, match="no permission") as caught:
                    attempt()
                assert str(tmp_path) in str(caught.value)
    finally:
        (tmp_path / "folder").chmod(0o700)
    assert storage.read("folder/x") == b"old"


def test_a_file_where_the_storage_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    storage = FileStorage(tmp_path / "store")
    for attempt in (
        lambda: storage.read("x"),
        lambda: storage.write("x", b""),
        lambda: list(storage.list()),
        storage.list_folders,
    ):
        with pytest.raises(StorageError, match="a file stands where a folder should be") as caught:
            attempt()
        assert not isinstance(caught.value, NotFoundError)


def test_a_folder_where_an_object_should_be(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("x/y", b"")
    with pytest.raises(StorageError, match="a folder stands where a file should be") as caught:
        storage.write("x", b"")
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, ResourceError, "the disk is full"),
        (errno.EDQUOT, ResourceError, "quota"),
        (errno.EACCES, ResourceError, "no permission"),
        (errno.EPERM, ResourceError, "no permission"),
        (errno.EROFS, ResourceError, "read-only"),
        (errno.ENOENT, NotFoundError, "nothing is there"),
        (errno.ENAMETOOLONG, StorageError, "name too long"),
        (errno.EIO, StorageError, "Input/output error"),
    ],
)
def test_errors_of_the_system_get_words(code: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"(?i){message}") as caught, filesystem_errors("/data/x"):
        raise OSError(code, os.strerror(code), "/data")
    assert "/data/x" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
