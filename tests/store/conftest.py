"""Small bundles to publish, and an S3 server that misbehaves as it is told."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from retrainer.records import sha256_file
from retrainer.store import FileEntry, Manifest, PrecisionEntry

MakeBundle = Callable[[str], tuple[Path, Manifest]]


@pytest.fixture
def bundle(tmp_path: Path) -> MakeBundle:
    """Makes a folder and its manifest; the same content is the same version."""

    def make(content: str) -> tuple[Path, Manifest]:
        folder = tmp_path / "bundles" / content
        for name in ("config.json", "onnx/model.onnx", "README.md"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {content}")
        manifest = Manifest(
            model="news",
            task="text-classification",
            labels=("World", "Sports"),
            max_length=128,
            precisions={"fp32": PrecisionEntry(file="onnx/model.onnx", weight_types={"FLOAT": 3})},
            files={
                path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
                for path in folder.rglob("*")
                if path.is_file()
            },
            metrics={"accuracy": 0.9},
            base_model="minilm",
            base_revision="abc",
            artifacts={"export": "0" * 64},
            libraries={"python": "3.11"},
            git_commit=None,
        )
        return folder, manifest

    return make


@pytest.fixture(params=["folder", "bucket"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, once on a folder and once in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('s3_bucket')}/models"


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a real S3 server, except where a test wants a fault.

    :ivar drop: headers that are taken off every request.
    :ivar answers: what to answer instead of handing a PUT on, one a request: a status and S3's code for it.
    :ivar cut: numbers of the PUTs after which the connection is cut before the answer, counted from 1.
    :ivar cut_before: numbers of the PUTs that are cut before they take effect.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.drop: set[str] = set()
        self.answers: list[tuple[int, str]] = []
        self.cut: set[int] = set()
        self.cut_before: set[int] = set()
        self.puts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _forward(self) -> None:
        body = self._body()
        number = 0
        if self.command == "PUT":
            self.server.puts += 1
            number = self.server.puts
            if self.server.answers:
                status, code = self.server.answers.pop(0)
                self._answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
        if number in self.server.cut_before:
            self._cut()
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in self.server.drop}
        headers.pop("Expect", None)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if number in self.server.cut:
            self._cut()
            return
        self._answer(answer.status, dict(answer.getheaders()), content)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The S3 server of the environment, through a proxy."""
    server = Proxy(s3_endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()
