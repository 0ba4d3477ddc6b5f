"""A server between a storage and moto: it writes down what is asked, and answers otherwise where a test wants it."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Exchange:
    """One request, and the answer that the client gets. A test may change both."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    announced: int | None = None  # what the answer says of its length, where it is not true
    chunked: bool = False  # it says nothing of its length
    pieces: int = 1  # in which it is sent, with a pause before each but the first
    pause: float = 0.0
    sent: list[int] = field(default_factory=list)  # the sizes of those that went

    @property
    def what(self) -> str:
        """``PUT``, or ``POST uploads`` for a request whose query names an action."""
        _, _, query = self.path.partition("?")
        return f"{self.method} {query.split('=')[0].split('&')[0]}".strip()

    def refuse(self, status: int, code: str) -> None:
        """Answer with an error of S3."""
        self.status = status
        self.answer = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.answer_headers = {}


class Relay(ThreadingHTTPServer):
    """Passes requests on to moto.

    :ivar before: called with each request; one whose status it sets is not passed on.
    :ivar after: called with each answer; what it returns as ``False`` is never sent: the connection is cut.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.seen: list[Exchange] = []
        self.before: Callable[[Exchange], object] = lambda exchange: None
        self.after: Callable[[Exchange], bool] = lambda exchange: True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        exchange = Exchange(self.command, self.path, dict(self.headers), body)
        self.server.seen.append(exchange)
        self.server.before(exchange)
        if not exchange.status:
            upstream = http.client.HTTPConnection(self.server.target.removeprefix("http://"))
            headers = {name: value for name, value in exchange.headers.items() if name != "Expect"}
            headers["Content-Length"] = str(len(exchange.body))
            upstream.request(exchange.method, exchange.path, exchange.body, headers)
            answer = upstream.getresponse()
            exchange.status, exchange.answer = answer.status, answer.read()
            exchange.answer_headers = dict(answer.headers)
            upstream.close()
        if not self.server.after(exchange):
            self.close_connection = True
            return
        self.send_response_only(exchange.status)
        length = exchange.answer_headers.pop("Content-Length", "0")
        if self.command != "HEAD":
            length = str(len(exchange.answer) if exchange.announced is None else exchange.announced)
        for name, value in exchange.answer_headers.items():
            if name not in {"Connection", "Transfer-Encoding"}:
                self.send_header(name, value)
        self.send_header(*(("Transfer-Encoding", "chunked") if exchange.chunked else ("Content-Length", length)))
        self.end_headers()
        self.close_connection = exchange.announced is not None
        if self.command != "HEAD":
            with suppress(ConnectionError):  # the client has enough
                self._send(exchange)

    def _send(self, exchange: Exchange) -> None:
        step = -(-len(exchange.answer) // exchange.pieces) or 1
        for at in range(0, len(exchange.answer), step):
            piece = exchange.answer[at : at + step]
            if at and exchange.pause:
                time.sleep(exchange.pause)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if exchange.chunked else piece)
            exchange.sent.append(len(piece))
        if exchange.chunked:
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def relay(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The server, which the environment names as the endpoint."""
    server = Relay(s3_endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()
