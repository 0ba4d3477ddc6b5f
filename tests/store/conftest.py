"""Small bundles to publish, and an S3 server that misbehaves as it is told."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest

from retrainer.records import sha256_file
from retrainer.storage import Storage, open_storage
from retrainer.store import FileEntry, Manifest, ModelStore, PrecisionEntry, Published

MakeBundle = Callable[[str], tuple[Path, Manifest]]
_DIGEST = re.compile(r"[0-9a-f]{16,}|[0-9]{10}")


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


@pytest.fixture
def sharing(bundle: MakeBundle) -> MakeBundle:
    """Bundles that all have the same config.json."""

    def make(content: str) -> tuple[Path, Manifest]:
        folder, manifest = bundle(content)
        config = folder / "config.json"
        config.write_text("the same in all")
        entry = FileEntry(size=config.stat().st_size, sha256=sha256_file(config))
        return folder, manifest.model_copy(update={"files": {**manifest.files, "config.json": entry}})

    return make


@pytest.fixture(params=["folder", "bucket"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, once on a folder and once in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('s3_bucket')}/models"


@pytest.fixture
def storage(store_url: str) -> Storage:
    return open_storage(store_url)


def publish(model: ModelStore, bundle: tuple[Path, Manifest], expected: str | None = None) -> Published:
    folder, manifest = bundle
    return model.publish(
        folder, manifest, channel="production", actor="ada", reason="", decision=None, expected=expected
    )


Fault = Literal[
    "500",
    "503",
    "403",
    "timeout",
    "timeout after",
    "cut",
    "cut after",
    "kill",
    "kill after",
    "drip",
    "drip body",
    "half",
    "no etag",
    "strange headers",
    "large",
    "endless",
    "page",
    "page with etag",
    "not found page",
    "garbage",
]
# What becomes of an answer on its way, or what a hostile server makes of it.
INJURIES = ("drip", "drip body", "half", "no etag", "strange headers", "large", "endless")
# Instead of an answer; the request is not handed on.
PAGES = {
    "page": (200, "text/html", b"<html><head><title>Log in</title></head><body><br/></body></html>"),
    "page with etag": (200, "text/html; charset=utf-8", b"\n<!DOCTYPE html><p>Accept our terms"),
    "not found page": (404, "text/plain", b"404 page not found\n"),
    "garbage": (200, "application/xml", b"<?xml \x00\xff<" * 50),
}
ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
}


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a real S3 server, except where a test wants a fault.

    Calls are counted from 1, the tries of one call as one. Conditional writes are handed on one after the other: the
    server behind compares and writes in two steps, which S3 does in one.

    :ivar drop: headers that are taken off every request.
    :ivar answers: what to answer instead of handing a PUT on, one a request: a status and S3's code for it.
    :ivar fault: what befalls the call of the number ``at``; those named "after" once it took effect.
    :ivar once: only its first try; else all of them.
    :ivar victim: the process that ``kill`` kills.
    :ivar calls: method and key of each call, digests as ``*``.
    :ivar struck: those that a fault befell.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.drop: set[str] = set()
        self.answers: list[tuple[int, str]] = []
        self.puts = 0
        self.fault: Fault | None = None
        self.at = 0
        self.once = False
        self.victim: int | None = None
        self.calls: list[str] = []
        self.struck: set[str] = set()
        self.writing = threading.Lock()
        self._counting = threading.Lock()
        self._numbers: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has enough is no error here."""

    @property
    def unharmed(self) -> bool:
        """Whether there were fewer calls than the one that was to be struck."""
        return len(self.calls) < self.at

    def strike(self, fault: Fault | None, at: int = 0, *, once: bool = False, victim: int | None = None) -> None:
        """Begin to count anew, with that fault."""
        with self._counting:
            self.fault, self.at, self.once, self.victim = fault, at, once, victim
            self.calls, self._numbers = [], {}

    def fault_of(self, method: str, path: str, call: str) -> Fault | None:
        """What befalls a request."""
        with self._counting:
            known = call in self._numbers
            if not known:
                self.calls.append(f"{method} {_DIGEST.sub('*', path.partition('?')[0])}")
                self._numbers[call] = len(self.calls)
            if self._numbers[call] != self.at or (known and self.once):
                return None
            self.struck.add(self.calls[self.at - 1])
            return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Proxy

    def _forward(self) -> None:
        body = self._body()
        if self.command == "PUT":
            self.server.puts += 1
            if self.server.answers:
                self._error(*self.server.answers.pop(0))
                return
        fault = self.server.fault_of(self.command, self.path, self.headers.get("amz-sdk-invocation-id", ""))
        if fault in ERRORS:
            self._error(*ERRORS[fault])
            return
        if fault in PAGES:
            status, kind, content = PAGES[fault]
            self._answer(
                status, {"Content-Type": kind} | ({"ETag": '"1"'} if fault == "page with etag" else {}), content
            )
            return
        if fault in {"timeout", "cut", "kill"}:
            self._break(fault)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in self.server.drop}
        headers.pop("Expect", None)
        conditional = any(name.lower() in {"if-match", "if-none-match"} for name in headers)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            with self.server.writing if conditional else nullcontext():
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
        except (OSError, http.client.HTTPException):  # the server behind broke off: so does this one
            self._break("cut")
            return
        connection.close()
        if fault is None:
            self._answer(answer.status, dict(answer.getheaders()), content)
        elif fault.endswith("after"):
            self._break(fault)
        else:
            with suppress(OSError):  # until the client has enough of it
                self._injure(fault, answer.status, dict(answer.getheaders()), content)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _injure(self, fault: Fault, status: int, headers: dict[str, str], content: bytes) -> None:
        """Answer, and not as it should be."""
        if fault == "no etag":
            self._answer(status, {name: value for name, value in headers.items() if name.lower() != "etag"}, content)
        elif fault == "strange headers":
            self._answer(status, headers | {"Last-Modified": "yesterday", "x-amz-mp-parts-count": "x"}, content)
        elif fault in {"large", "endless"}:
            self.send_response_only(200)
            self.send_header("ETag", '"1"')
            self.send_header(
                *(("Content-Length", str(3 << 30)) if fault == "large" else ("Transfer-Encoding", "chunked"))
            )
            self.end_headers()
            block = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20)) if fault == "endless" else bytes(1 << 20)
            for _ in range(3 << 10):
                self.wfile.write(block)
        else:
            whole = io.BytesIO()
            self.wfile, wfile = whole, self.wfile
            self._answer(status, headers, content)
            self.wfile = wfile
            answer = whole.getvalue()
            if fault == "half":
                wfile.write(answer[: len(answer) - (len(content) + 1) // 2])
                wfile.flush()
                return
            at = answer.index(b"\r\n\r\n") + 4 if fault == "drip body" else 0
            wfile.write(answer[:at])
            for position in range(at, len(answer)):
                wfile.write(answer[position : position + 1])
                wfile.flush()
                time.sleep(0.1)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _break(self, fault: Fault) -> None:
        if fault.startswith("kill"):
            assert self.server.victim is not None
            os.kill(self.server.victim, signal.SIGKILL)
        elif fault.startswith("timeout"):
            self.rfile.read(1)  # until the client gives up
        self.close_connection = True
        self.connection.close()

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())

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
        self.wfile.flush()

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
