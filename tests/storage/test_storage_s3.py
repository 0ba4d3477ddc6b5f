"""What a bucket refuses, in words that say what is wrong, where, and what to do."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retrainer.errors import NotFoundError, PreconditionFailed, ResourceError, StorageError, StoragePermissionError
from retrainer.storage import open_storage
from retrainer.storage.s3 import S3Storage


@pytest.fixture
def attempts(tmp_path: Path) -> Callable[[S3Storage], list[Callable[[], object]]]:
    """Every operation, ready to be called."""
    source = tmp_path / "source"
    source.write_bytes(b"content")

    def of(storage: S3Storage) -> list[Callable[[], object]]:
        return [
            lambda: storage.read("x"),
            lambda: storage.write("x", b""),
            lambda: storage.write("x", b"", if_absent=True),
            lambda: storage.exists("x"),
            lambda: list(storage.list()),
            storage.list_folders,
            lambda: storage.upload(source, "x"),
            lambda: storage.download("x", tmp_path / "target"),
            lambda: storage.delete("x"),
            lambda: storage.delete_tree("x"),
        ]

    return of


def test_no_such_bucket(s3_endpoint: str, attempts: Callable[[S3Storage], list[Callable[[], object]]]) -> None:
    for attempt in attempts(S3Storage("s3://no-such-bucket/prefix")):
        with pytest.raises(StorageError, match="no such bucket") as caught:
            attempt()
        # Never "nothing is there": a mistyped bucket must not look like a store without a champion.
        assert type(caught.value) is StorageError
        assert str(caught.value.where).startswith("s3://no-such-bucket/prefix")
        assert caught.value.hint


def test_no_credentials(
    s3_bucket: str, attempts: Callable[[S3Storage], list[Callable[[], object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for attempt in attempts(S3Storage(f"s3://{s3_bucket}")):
        with pytest.raises(StoragePermissionError, match="no credentials for S3") as caught:
            attempt()
        assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)


def test_nobody_listens(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(StorageError, match="cannot reach the server") as caught:
            open_storage(f"s3://{s3_bucket}/a").read("x")
    assert caught.value.where == f"s3://{s3_bucket}/a/x"


class _Answer(BaseHTTPRequestHandler):
    """Answers every request with the error that the server was made for."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = self.server.answer  # type: ignore[attr-defined]
        body = f"<Error><Code>{code}</Code><Message>{code} says the server</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_access_denied(
    answering: ThreadingHTTPServer, attempts: Callable[[S3Storage], list[Callable[[], object]]]
) -> None:
    answering.answer = (403, "AccessDenied")  # type: ignore[attr-defined]
    for attempt in attempts(S3Storage("s3://bucket/a")):
        with pytest.raises(StoragePermissionError, match="access denied") as caught:
            attempt()
        assert re.search("s3:(Get|Put|Delete)Object|s3:ListBucket", str(caught.value.hint))
        assert str(caught.value.where).startswith("s3://bucket/a")


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (403, "InvalidAccessKeyId", StoragePermissionError, "access key is not known"),
        (403, "SignatureDoesNotMatch", StoragePermissionError, "secret key is wrong"),
        (400, "InvalidToken", StoragePermissionError, "session token is wrong"),
        (400, "KMS.DisabledException", StoragePermissionError, "disabled"),
        (403, "RequestTimeTooSkewed", StorageError, "clock"),
        (400, "ExpiredToken", StorageError, "have expired"),
        (501, "NotImplemented", StorageError, "does not implement"),
        (400, "SomethingElse", StorageError, "SomethingElse says the server"),
        (412, "PreconditionFailed", PreconditionFailed, "another writer came first"),
    ],
)
def test_what_a_refused_write_says(
    answering: ThreadingHTTPServer, status: int, code: str, kind: type[StorageError], message: str
) -> None:
    answering.answer = (status, code)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=message) as caught:
        S3Storage("s3://bucket").write("x", b"", if_absent=True)
    assert type(caught.value) is kind
    assert caught.value.where == "s3://bucket/x"


def test_more_objects_than_one_answer_holds(s3_endpoint: str, s3_bucket: str) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    server = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"))
    for number in range(1005):
        server.request("PUT", f"/{s3_bucket}/many/{number:04}/x", b"x")
        server.getresponse().read()
    server.close()
    assert [info.key for info in storage.list("many/")] == [f"many/{number:04}/x" for number in range(1005)]
    assert storage.list_folders("many") == [f"{number:04}" for number in range(1005)]
    storage.delete_tree("many")
    assert list(storage.list()) == []


def test_what_consoles_make_for_an_empty_folder_is_no_object(s3_bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    for key in ("a/", "a/b/", "a/x", "ab/x"):
        client.put_object(Bucket=s3_bucket, Key=key)
    storage = S3Storage(f"s3://{s3_bucket}/a")
    assert [info.key for info in storage.list()] == ["x"]
    assert storage.list_folders() == ["b"]


def test_a_local_fault_is_not_taken_for_one_of_the_bucket(s3_bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    storage.write("x", b"content")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file stands where a folder should be") as caught:
        storage.download("x", tmp_path / "file" / "target")
    assert str(caught.value.where).startswith(str(tmp_path / "file"))
    with pytest.raises(StorageError) as caught:
        storage.upload(tmp_path, "y")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises((ResourceError, StorageError)):
        storage.download("x", Path("/proc/nowhere/target"))
    assert not storage.exists("y")
    with pytest.raises(NotFoundError):
        storage.download("y", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
