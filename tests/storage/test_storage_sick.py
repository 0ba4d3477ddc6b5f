"""A bucket's server that is slow, silent, floods or is another; and what may be in a folder in place of a file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError
from retrainer.sources.files import etag_of
from retrainer.storage import S3Access, Transfer, deadline, open_storage
from retrainer.storage.files import FileStorage
from retrainer.storage.s3 import S3Storage
from tests.storage.conftest import Exchange, Relay

MB = 1024 * 1024


@pytest.fixture
def storage(relay: Relay, s3_bucket: str) -> S3Storage:
    return S3Storage(f"s3://{s3_bucket}/p", access=S3Access(timeout=60))


@pytest.fixture
def hasty(relay: Relay, s3_bucket: str) -> S3Storage:
    """With little patience: only where that is what is tried, since a busy machine tries it as well."""
    return S3Storage(f"s3://{s3_bucket}/p", access=S3Access(timeout=1.0))


@pytest.fixture
def hang(relay: Relay) -> Iterator[Callable[[Exchange], None]]:
    """Never answers, until the test ends."""
    ended = threading.Event()

    def wait(exchange: Exchange) -> None:
        ended.wait(60)
        exchange.refuse(500, "Ended")

    yield wait
    ended.set()


def test_a_server_that_says_nothing(
    relay: Relay, storage: S3Storage, hasty: S3Storage, hang: Callable[[Exchange], None]
) -> None:
    storage.write("x", b"content")
    relay.before = hang
    attempts: list[Callable[[], object]] = [
        lambda: hasty.read("x"),
        lambda: hasty.write("x", b"", if_absent=True),
        lambda: hasty.exists("x"),
        lambda: list(hasty.list()),
        hasty.list_folders,
        lambda: hasty.delete("x"),
        lambda: hasty.delete_tree("x"),
        lambda: list(hasty.leftovers()),
        lambda: hasty.copy("x", "y", sha256="0" * 64, size=7),
    ]

    def error_of(attempt: Callable[[], object]) -> StorageError:
        with pytest.raises(StorageError, match="no whole answer within 1 s") as caught:
            attempt()
        return caught.value

    relay.seen.clear()
    began = time.monotonic()
    with ThreadPoolExecutor(len(attempts)) as pool:
        errors = list(pool.map(error_of, attempts))
    assert time.monotonic() - began < 20  # four tries of a minute each, once
    # Twice each; on a busy machine a second may pass before a request has even been read.
    assert len(attempts) < len(relay.seen) <= 2 * len(attempts)
    for error in errors:
        assert str(error.where).startswith(hasty.url)
        assert "RETRAINER_S3_TIMEOUT" in str(error.hint)


def test_a_connection_that_died_while_nobody_used_it(
    relay: Relay, storage: S3Storage, hang: Callable[[Exchange], None]
) -> None:
    storage.write("x", b"content")
    first = threading.Event()

    def swallow(exchange: Exchange) -> None:
        if not first.is_set():
            first.set()
            hang(exchange)

    relay.before = swallow
    assert S3Storage(storage.url, access=S3Access(timeout=5)).read("x") == b"content"


def test_a_deadline_holds_for_what_is_asked_in_it(
    relay: Relay, s3_bucket: str, tmp_path: Path, hang: Callable[[Exchange], None]
) -> None:
    storage = open_storage(f"s3://{s3_bucket}", access=S3Access(timeout=60))
    storage.write("x", b"content")
    relay.before = hang
    fetched = Transfer(tmp_path / "x", "x", hashlib.sha256(b"content").hexdigest(), 7)
    for attempt in (lambda: storage.read("x"), lambda: storage.download_all([fetched])):
        began = time.monotonic()
        with deadline(0.5), deadline(60), pytest.raises(StorageError):
            attempt()
        assert time.monotonic() - began < 20
    relay.before = lambda exchange: None
    assert storage.read("x") == b"content"
    with deadline(0.0), pytest.raises(StorageError):
        storage.read("x")


@pytest.mark.parametrize("size", [1000, 9 * MB])
def test_a_file_that_stands_still_ends_and_one_that_moves_does_not(
    relay: Relay, storage: S3Storage, hasty: S3Storage, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    (tmp_path / "sent").write_bytes(content)
    transfer = Transfer(tmp_path / "fetched", "x", hashlib.sha256(content).hexdigest(), size)
    storage.upload(tmp_path / "sent", "x")

    def slow(exchange: Exchange) -> bool:
        exchange.pieces, exchange.pause = 8, 0.4
        return True

    relay.after = slow
    hasty.download_all([transfer])  # takes longer than anything may stand still
    assert transfer.path.read_bytes() == content
    transfer.path.unlink()

    def stuck(exchange: Exchange) -> bool:
        exchange.pieces, exchange.pause = 2, 60
        return True

    relay.after = stuck
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"next to nothing moved for 2 s|stopped answering"):
        hasty.download_all([transfer])
    assert time.monotonic() - began < 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sent"]


def test_a_body_that_is_cut_once_is_asked_for_again(relay: Relay, storage: S3Storage, tmp_path: Path) -> None:
    content = os.urandom(9 * MB)
    (tmp_path / "sent").write_bytes(content)
    storage.upload(tmp_path / "sent", "large")
    storage.write("x", b"content")
    cut: set[str] = set()

    def spoil(exchange: Exchange) -> bool:
        if exchange.method == "GET" and exchange.path not in cut:
            cut.add(exchange.path)
            exchange.announced = len(exchange.answer)
            exchange.answer = exchange.answer[: len(exchange.answer) // 2]
        return True

    relay.after = spoil
    assert storage.read("x") == b"content"
    assert [info.key for info in storage.list()] == ["large", "x"]
    assert storage.list_folders() == []
    relay.seen.clear()
    storage.download("large", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    asked = [one.headers["Range"] for one in relay.seen if one.method == "GET"]
    assert len(asked) == 3
    assert asked[2] in {"bytes=4194304-8388607", "bytes=8912896-9437183"}  # from where it was cut


@pytest.mark.parametrize("announced", [True, False])
def test_no_more_is_fetched_than_what_may_be_there(
    relay: Relay, storage: S3Storage, tmp_path: Path, announced: bool
) -> None:
    storage.write("x", bytes(8 * MB))
    sent: list[int] = []

    def count(exchange: Exchange) -> bool:
        exchange.pieces, exchange.sent = 64, sent
        exchange.chunked = not announced
        return True

    relay.after = count
    transfer = Transfer(tmp_path / "fetched", "x", hashlib.sha256(b"x" * 100).hexdigest(), 100)
    for attempt in (lambda: storage.read("x", most=1000), lambda: storage.download_all([transfer])):
        sent.clear()
        with pytest.raises(IntegrityError) as caught:
            attempt()
        assert caught.value.where == storage.where("x")
        assert sum(sent) < 6 * MB  # what fits into buffers on the way
    relay.after = lambda exchange: True
    assert storage.read("x", most=8 * MB) == bytes(8 * MB)
    with pytest.raises(IntegrityError, match="more than the 8,388,607 bytes"):
        storage.read("x", most=8 * MB - 1)


PAGE = b"<html><head><title>Log in</title></head><body><br/></body></html>"  # which is XML as well


def test_a_list_without_etags_is_one(relay: Relay, storage: S3Storage) -> None:
    """Some servers name none there. Only data and base models are told apart by them, and say so."""
    storage.write("data/a.csv", b"text,label\n")

    def without(exchange: Exchange) -> bool:
        exchange.answer = re.sub(rb"<ETag>[^<]*</ETag>", b"", exchange.answer)
        exchange.answer_headers.pop("Content-Length", None)
        return True

    relay.after = without
    (info,) = storage.list()
    assert (info.key, info.etag) == ("data/a.csv", "")
    with pytest.raises(StorageError, match=r"names no ETag for data/a\.csv"):
        etag_of(info, storage.url)


@pytest.mark.parametrize("page", [PAGE, b"<!DOCTYPE html><p>Log in", b"", b"\x00\xff", b"<a/>"])
@pytest.mark.parametrize("etag", [False, True])
def test_something_else_in_place_of_s3(
    relay: Relay, storage: S3Storage, tmp_path: Path, page: bytes, etag: bool
) -> None:
    storage.write("x", b"content")

    def replace(exchange: Exchange) -> None:
        exchange.status, exchange.answer = 200, page
        exchange.answer_headers = {"Content-Type": "text/html"} | ({"ETag": '"1"'} if etag else {})

    relay.before = replace
    sha256 = hashlib.sha256(b"content").hexdigest()
    attempts: list[Callable[[], object]] = [
        lambda: storage.read("x"),
        lambda: storage.download_all([Transfer(tmp_path / "x", "x", sha256, 7)]),
        lambda: list(storage.list()),
        storage.list_folders,
        lambda: storage.delete_tree("x"),
        lambda: list(storage.leftovers()),
    ]
    (tmp_path / "large").write_bytes(bytes(9 * MB))
    attempts += [lambda: storage.upload(tmp_path / "large", "large")]
    if not etag or b"html" in page.lower():
        attempts += [lambda: storage.write("x", b"", if_absent=True)]
    for attempt in attempts:
        with pytest.raises(StorageError, match="something else answered in place of S3"):
            attempt()
    relay.before = lambda exchange: None
    assert storage.read("x") == b"content"


@pytest.mark.parametrize(
    "answer",
    [
        b"<ListBucketResult><Contents><Key>p/x</Key></Contents><CommonPrefixes/></ListBucketResult>",
        b"<ListMultipartUploadsResult><Upload><Key>p/x</Key></Upload></ListMultipartUploadsResult>",
        b"<InitiateMultipartUploadResult/>",
    ],
)
def test_an_answer_that_lacks_what_it_is_about(relay: Relay, storage: S3Storage, tmp_path: Path, answer: bytes) -> None:
    def replace(exchange: Exchange) -> None:
        exchange.status, exchange.answer = 200, answer

    relay.before = replace
    (tmp_path / "large").write_bytes(bytes(9 * MB))
    attempts: list[Callable[[], object]] = [
        lambda: list(storage.list()),
        storage.list_folders,
        lambda: list(storage.leftovers()),
        lambda: storage.upload(tmp_path / "large", "large"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=r"lacks|something else"):
            attempt()


def test_a_redirection_is_somebody_else_s(relay: Relay, storage: S3Storage) -> None:
    def send_elsewhere(exchange: Exchange) -> None:
        exchange.status, exchange.answer_headers = 302, {"Location": "http://127.0.0.1/login"}

    relay.before = send_elsewhere
    for attempt in (lambda: storage.read("x"), lambda: storage.write("x", b""), lambda: storage.exists("x")):
        with pytest.raises(StorageError, match="a redirection"):
            attempt()


def test_what_a_page_says_is_missing_is_not(relay: Relay, storage: S3Storage) -> None:
    storage.write("x", b"content")

    def missing(exchange: Exchange) -> None:
        exchange.status, exchange.answer, exchange.answer_headers = 404, b"default backend - 404", {}

    relay.before = missing
    with pytest.raises(StorageError, match="does not say what is missing") as caught:
        storage.read("x")
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize(
    "headers", [{"Last-Modified": "yesterday"}, {"Content-Length": "many"}, {"x-amz-missing-meta": "some"}]
)
def test_headers_that_cannot_be_read(relay: Relay, storage: S3Storage, headers: dict[str, str]) -> None:
    storage.write("x", b"content")

    def strange(exchange: Exchange) -> bool:
        exchange.answer_headers |= headers
        exchange.chunked = "Content-Length" in headers
        return True

    relay.after = strange
    for attempt in (lambda: storage.read("x"), lambda: storage.exists("x")):
        try:
            attempt()
        except StorageError as error:
            assert "cannot be read" in error.message  # noqa: PT017 - a header that nobody needs may be strange


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_pipe, a_device])
def test_what_is_not_a_file_in_a_folder(tmp_path: Path, make: Callable[[Path], None]) -> None:
    storage = FileStorage(tmp_path / "store")
    storage.write("good", b"content")
    make(tmp_path / "store" / "x")
    sha256 = hashlib.sha256(b"").hexdigest()
    attempts: list[Callable[[], object]] = [
        lambda: storage.read("x"),
        lambda: storage.download("x", tmp_path / "fetched"),
        lambda: storage.copy("x", "y", sha256=sha256, size=0),
        lambda: storage.upload(tmp_path / "store" / "x", "y"),
        lambda: storage.write("x", b"", if_absent=True),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="a pipe or a device is there, not a file"):
            attempt()
    assert not storage.exists("x")
    storage.write("x", b"content")  # takes its place
    assert storage.read("x") == b"content"


def test_a_small_object_in_a_folder_has_no_more_bytes_than_it_may_have(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("x", b"content")
    assert storage.read("x", most=7) == b"content"
    with pytest.raises(IntegrityError, match="more than the 6 bytes"):
        storage.read("x", most=6)


def test_a_lock_that_nobody_lets_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrainer.storage.files._LOCK_SECONDS", 0.2)
    storage = FileStorage(tmp_path / "store")
    storage.write("x", b"one", if_absent=True)
    lock = tmp_path / "store" / ".retrainer-lock"
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process has held the lock"):
            storage.write("x", b"two", if_absent=True)
    with pytest.raises(PreconditionFailed):
        storage.write("x", b"two", if_absent=True)
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StorageError):
        storage.write("x", b"two", if_absent=True)
