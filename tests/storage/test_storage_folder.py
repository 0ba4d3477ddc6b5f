"""A folder as a storage: killed writers, racing writers, and what the operating system refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import NotFoundError, PreconditionFailed, ResourceError, StorageError
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.files import FileStorage

FORK = multiprocessing.get_context("fork")


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user to whom permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _increase(root: Path, times: int) -> None:
    storage = FileStorage(root)
    done = 0
    while done < times:
        try:
            data, etag = storage.read_with_etag("count")
        except NotFoundError:
            data, etag = b"0", None
        try:
            storage.write("count", str(int(data) + 1).encode(), if_match=etag, if_absent=etag is None)
            done += 1
        except PreconditionFailed:
            continue


def test_no_increase_is_lost_among_processes(tmp_path: Path) -> None:
    workers = [FORK.Process(target=_increase, args=(tmp_path, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert FileStorage(tmp_path).read("count") == b"160"
    assert [info.key for info in FileStorage(tmp_path).list()] == ["count"]


def _die_at_fsync(root: Path, conditional: dict[str, Any], call: int) -> None:
    fsync, calls = os.fsync, iter(range(1, 10))

    def deadly(descriptor: int) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = deadly  # type: ignore[assignment]
    FileStorage(root).write("folder/x", b"new" * 1000, **conditional)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(("call", "content"), [(1, b"old"), (2, b"new" * 1000)])
def test_a_killed_writer_leaves_the_old_or_the_new_and_no_lock(
    tmp_path: Path, conditional: bool, call: int, content: bytes
) -> None:
    storage = FileStorage(tmp_path)
    etag = storage.write("folder/x", b"old")
    condition = {"if_match": etag} if conditional else {}
    worker = FORK.Process(target=_die_at_fsync, args=(tmp_path, condition, call))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    data, etag = storage.read_with_etag("folder/x")
    assert data == content
    assert [info.key for info in storage.list()] == ["folder/x"]
    storage.write("folder/x", b"next", if_match=etag)
    assert storage.read("folder/x") == b"next"


def _hold_the_lock(root: Path, holding: Any) -> None:
    fsync = os.fsync

    def stay(descriptor: int) -> None:
        fsync(descriptor)
        holding.set()
        signal.pause()

    os.fsync = stay  # type: ignore[assignment]
    FileStorage(root).write("x", b"never", if_match=FileStorage(root).read_with_etag("x")[1])


def _write_after(root: Path, started: Any) -> None:
    started.set()
    FileStorage(root).write("x", b"next", if_match=FileStorage(root).read_with_etag("x")[1])


def test_who_waits_for_a_killed_writer_goes_on(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("x", b"old")
    holding, started = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=_hold_the_lock, args=(tmp_path, holding))
    holder.start()
    assert holding.wait(30)
    waiting = FORK.Process(target=_write_after, args=(tmp_path, started))
    waiting.start()
    assert started.wait(30)
    waiting.join(0.2)
    assert waiting.is_alive()
    assert storage.read("x") == b"old"
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
        with without_privileges():
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
