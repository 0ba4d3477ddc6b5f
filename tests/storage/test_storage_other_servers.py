"""A real server that ignores conditions and names no checksums, ``rclone serve s3``: what works, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from retrainer.errors import IntegrityError, NotFoundError, StorageError
from retrainer.storage import S3Access, Transfer, open_storage
from retrainer.storage.s3 import S3Storage
from retrainer.store.conditional import require_conditional_writes


def test_publishing_there_is_refused(rclone: tuple[S3Access, Path]) -> None:
    with pytest.raises(StorageError, match="ignores conditional writes") as caught:
        require_conditional_writes(S3Storage("s3://models", access=rclone[0]), "news")
    assert caught.value.hint


def test_files_go_up_and_down_and_what_is_damaged_is_noticed(rclone: tuple[S3Access, Path], tmp_path: Path) -> None:
    access, served = rclone
    storage = open_storage("s3://models/folder", access=access)
    transfers = []
    for name, size in (("small", 100), ("large", 9 * 1024 * 1024), ("empty", 0)):
        data = hashlib.shake_128(name.encode()).digest(size)
        (tmp_path / name).write_bytes(data)
        transfers.append(Transfer(tmp_path / name, name, hashlib.sha256(data).hexdigest(), size))
    storage.upload_all(transfers)
    for transfer in transfers:
        assert (served / "models" / "folder" / transfer.key).read_bytes() == transfer.path.read_bytes()
    fetched = [Transfer(tmp_path / "fetched" / t.key, t.key, t.sha256, t.size) for t in transfers]
    storage.download_all(fetched)
    for transfer in fetched:
        assert hashlib.sha256(transfer.path.read_bytes()).hexdigest() == transfer.sha256
    assert storage.read("empty") == b""
    assert not storage.copy("small", "copy", sha256=str(transfers[0].sha256), size=100)  # nothing proves what arrived
    assert not storage.exists("copy")
    with (served / "models" / "folder" / "large").open("r+b") as stream:
        stream.write(b"damaged")
    with pytest.raises(IntegrityError):
        storage.download_all([fetched[1]])
    with pytest.raises(NotFoundError):
        storage.read("missing")
    assert [info.key for info in storage.list()] == ["empty", "large", "small"]


def test_wrong_keys_there(rclone: tuple[S3Access, Path]) -> None:
    wrong = S3Access(endpoint_url=rclone[0].endpoint_url, access_key_id="key", secret_access_key="x", region="x")
    with pytest.raises(StorageError):
        S3Storage("s3://models", access=wrong).read("x")
