"""Many files at once, to and from a folder and a bucket: what arrives is what was named, or nothing does."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import IntegrityError, NotFoundError, StorageError
from retrainer.storage import Leftover, Storage, Transfer, open_storage

MB = 1024 * 1024


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "store")
    return open_storage(f"s3://{request.getfixturevalue('s3_bucket')}/some prefix")


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat nowhere near a part's length."""
    block = hashlib.shake_128(str(seed).encode()).digest(min(size, MB - 1))
    return (block * (size // len(block) + 1))[:size] if block else b""


def a_file(folder: Path, key: str, data: bytes) -> Transfer:
    path = folder / key.replace("/", "_")
    path.write_bytes(data)
    return Transfer(path, key, hashlib.sha256(data).hexdigest(), len(data))


def elsewhere(transfers: list[Transfer], folder: Path) -> list[Transfer]:
    return [Transfer(folder / t.key, t.key, t.sha256, t.size) for t in transfers]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


def test_files_of_every_size_go_up_and_down(storage: Storage, tmp_path: Path) -> None:
    sizes = [0, 1, 8 * MB - 1, 8 * MB, 8 * MB + 1, 17 * MB]
    transfers = [a_file(tmp_path, f"a/{size}.bin", content(size, size)) for size in sizes]
    before = our_threads()
    storage.upload_all(transfers)
    assert {info.key: info.size for info in storage.list()} == {t.key: t.size for t in transfers}
    fetched = elsewhere(transfers, tmp_path / "fetched")
    storage.download_all(fetched)
    for transfer in fetched:
        assert hashlib.sha256(transfer.path.read_bytes()).hexdigest() == transfer.sha256
    assert sorted(path.name for path in (tmp_path / "fetched" / "a").iterdir()) == sorted(f"{s}.bin" for s in sizes)
    assert our_threads() == before
    assert list(storage.leftovers()) == []
    storage.upload_all([])
    storage.download_all([])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.data())
def test_what_arrives_is_what_was_named_or_nothing(
    storage: Storage, tmp_path: Path, contents: list[bytes], data: st.DataObject
) -> None:
    storage.delete_tree("x")
    transfers = [a_file(tmp_path, f"x/{number}", one) for number, one in enumerate(contents)]
    changed = data.draw(st.none() | st.integers(0, len(contents) - 1))
    if changed is None:
        storage.upload_all(transfers)
    else:
        transfers[changed].path.write_bytes(data.draw(st.binary(max_size=300).filter(lambda b: b != contents[changed])))
        with pytest.raises(IntegrityError) as caught:
            storage.upload_all(transfers)
        assert caught.value.where == str(transfers[changed].path)
    stored = {info.key for info in storage.list()}
    assert stored <= {t.key for n, t in enumerate(transfers) if n != changed}
    assert changed is not None or len(stored) == len(transfers)
    for key in stored:
        assert storage.read(key) == contents[int(key.removeprefix("x/"))]


@pytest.mark.parametrize(
    ("size", "how"), [(100, "shorter"), (100, "longer"), (100, "other"), (9 * MB, "longer"), (9 * MB, "other")]
)
def test_a_file_that_changed_is_not_sent(storage: Storage, tmp_path: Path, size: int, how: str) -> None:
    transfer = a_file(tmp_path, "x", content(size))
    old = transfer.path.read_bytes()
    new = {"shorter": old[:-1], "longer": old + b"x", "other": old[:-1] + bytes([old[-1] ^ 1])}[how]
    transfer.path.write_bytes(new)
    with pytest.raises(IntegrityError) as caught:
        storage.upload_all([transfer])
    assert caught.value.where == str(transfer.path)
    assert not storage.exists("x")
    assert list(storage.leftovers()) == []


@pytest.mark.parametrize(
    ("size", "how"), [(0, "longer"), (100, "shorter"), (100, "longer"), (9 * MB, "shorter"), (9 * MB, "other")]
)
def test_an_object_that_is_another_does_not_appear(storage: Storage, tmp_path: Path, size: int, how: str) -> None:
    old = content(size)
    transfer = a_file(tmp_path, "x", {"shorter": old[:-1], "longer": old + b"x", "other": b"y" + old[1:]}[how])
    storage.upload_all([transfer])
    target = tmp_path / "fetched" / "x"
    named = Transfer(target, "x", hashlib.sha256(old).hexdigest(), size)
    with pytest.raises(IntegrityError, match="not the one that was named") as caught:
        storage.download_all([named])
    assert caught.value.where == storage.where("x")
    assert list(target.parent.iterdir()) == []
    target.write_bytes(b"old")
    with pytest.raises(IntegrityError):
        storage.download_all([named])
    assert target.read_bytes() == b"old"


def test_one_that_is_missing_ends_the_others(storage: Storage, tmp_path: Path) -> None:
    transfers = [a_file(tmp_path, f"{number}", content(100, number)) for number in range(10)]
    transfers[3].path.unlink()
    with pytest.raises(NotFoundError) as caught:
        storage.upload_all(transfers)
    assert caught.value.where == str(transfers[3].path)
    transfers[3].path.write_bytes(content(100, 3))
    storage.upload_all(transfers)
    storage.delete("4")
    with pytest.raises(NotFoundError) as caught:
        storage.download_all(elsewhere(transfers, tmp_path / "fetched"))
    assert caught.value.where == storage.where("4")
    assert {path.name for path in (tmp_path / "fetched").iterdir()} <= {t.key for t in transfers}
    with pytest.raises(StorageError, match="cannot be a key"):
        storage.upload_all([Transfer(transfers[0].path, "../x", transfers[0].sha256, 100)])


def test_several_senders_of_the_same_files_do_not_disturb_each_other(storage: Storage, tmp_path: Path) -> None:
    transfers = [a_file(tmp_path, f"{size}", content(size)) for size in (100, 9 * MB)]
    with ThreadPoolExecutor(4) as pool:
        for sent in [pool.submit(storage.upload_all, transfers) for _ in range(4)]:
            sent.result()
    storage.download_all(elsewhere(transfers, tmp_path / "fetched"))


@pytest.mark.parametrize("size", [0, 9 * MB])
def test_a_copy_is_what_was_named(storage: Storage, tmp_path: Path, size: int) -> None:
    transfer = a_file(tmp_path, "from/here ü", content(size))
    storage.upload_all([transfer])
    assert storage.copy("from/here ü", "to/there +", sha256=str(transfer.sha256), size=size)
    assert storage.exists("from/here ü")
    [fetched] = elsewhere([Transfer(transfer.path, "to/there +", transfer.sha256, size)], tmp_path)
    storage.download_all([fetched])
    assert fetched.path.read_bytes() == transfer.path.read_bytes()


def test_a_copy_of_something_else_does_not_appear(storage: Storage, tmp_path: Path) -> None:
    transfer = a_file(tmp_path, "x", b"published")
    assert not storage.copy("x", "y", sha256=str(transfer.sha256), size=transfer.size)
    storage.write("x", b"destroyed")
    assert not storage.copy("x", "y", sha256=str(transfer.sha256), size=transfer.size)
    storage.write("x", b"longer than it was")
    assert not storage.copy("x", "y", sha256=str(transfer.sha256), size=transfer.size)
    assert [info.key for info in storage.list()] == ["x"]
    assert list(storage.leftovers()) == []


def test_a_copy_shares_nothing_with_its_source(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
    transfer = a_file(tmp_path, "x", content(MB))
    storage.upload_all([transfer])
    assert storage.copy("x", "y", sha256=str(transfer.sha256), size=transfer.size)
    with (tmp_path / "store" / "x").open("r+b") as stream:
        stream.write(b"damaged")
    assert storage.read("y") == transfer.path.read_bytes()


def test_leftovers_of_a_folder_are_listed_and_removed(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert list(storage.leftovers()) == []
    storage.write("a/x", b"x", if_absent=True)
    (tmp_path / "a" / ".retrainer-temporary-1").write_bytes(b"half")
    (tmp_path / ".retrainer-temporary-2").write_bytes(b"")
    found = list(storage.leftovers("a"))
    assert [(left.where, left.size) for left in found] == [(str(tmp_path / "a" / ".retrainer-temporary-1"), 4)]
    assert found[0].modified.tzinfo is not None
    assert len(list(storage.leftovers())) == 2
    for left in [*found, *found]:
        storage.remove_leftover(left)
    assert [left.size for left in storage.leftovers()] == [0]
    for token in ("a/x", "a/.retrainer-lock", "../.retrainer-temporary-2"):
        with pytest.raises(StorageError):
            storage.remove_leftover(Leftover("x", (token,), found[0].modified, 0))
    assert storage.read("a/x") == b"x"


def test_leftovers_of_a_bucket_are_listed_and_removed(s3_bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    for key in ("p/a/x", "p/a/y", "p/b/x", "other/x"):
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    storage = open_storage(f"s3://{s3_bucket}/p")
    found = list(storage.leftovers("a"))
    assert [left.where for left in found] == [f"s3://{s3_bucket}/p/a/x", f"s3://{s3_bucket}/p/a/y"]
    for left in [*found, *found]:
        storage.remove_leftover(left)
    assert [left.where for left in storage.leftovers()] == [f"s3://{s3_bucket}/p/b/x"]
    with pytest.raises(StorageError):
        storage.remove_leftover(Leftover("x", ("other/x", "1"), found[0].modified, None))
