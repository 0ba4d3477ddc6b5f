"""Connections through real sockets, with an application that is slow: several requests at once, ends, and what is none.

The application answers each request with its path and the length of its body, after the seconds in its query.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import uvicorn

from retrainer.server.connections import Connection, with_limits
from retrainer.server.settings import Limits

LIMITS = Limits(header_bytes=8192, read_seconds=0.5, keep_alive_seconds=1.0)
HOST = b"host: x\r\n"


def get(path: str, headers: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + headers + b"\r\n"


def post(path: str, body: bytes, headers: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\n".encode() + HOST + headers + b"content-length: %d\r\n\r\n" % len(body) + body


class Served(uvicorn.Server):
    """A server in a thread.

    :ivar begun: paths that the application was asked for.
    :ivar left: paths whose client was gone before the answer.
    :ivar refused: statuses that connections answered by themselves.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.left: list[str] = []
        self.refused: list[int] = []
        super().__init__(
            uvicorn.Config(
                cast(Any, self._answer),
                loop="uvloop",
                http=with_limits(LIMITS, refused=self.refused.append),
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                server_header=False,
                timeout_keep_alive=1,
            )
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=lambda: self.run(sockets=[self._listener]), daemon=True)
        self._thread.start()
        while not self.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            cast(Connection, connection).sweep(now)
        return await super().on_tick(counter)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.begun.append(path)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                self.left.append(path)
                return
            body, more = body + message["body"], message["more_body"]
        deadline = time.monotonic() + float(scope["query_string"] or 0)
        while time.monotonic() < deadline:
            if scope["extensions"]["retrainer.transport"].is_closing():
                self.left.append(path)
                return
            await asyncio.sleep(0.01)
        content = b"%s %d" % (path.encode(), len(body))
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, *pieces: bytes, pause: float = 0.1) -> bytes:
        """What comes until the server closes."""
        with self.connect() as client:
            for position, piece in enumerate(pieces):
                time.sleep(pause if position else 0)
                client.sendall(piece)
            return received(client)


def received(client: socket.socket) -> bytes:
    with client.makefile("rb") as stream:
        return stream.read()


def answers(content: bytes) -> list[str]:
    """The status of each answer, and the body of those that the application gave."""
    found = re.findall(rb"HTTP/1\.1 (\d+) .*?\r\n\r\n(/\w+ \d+)?", content, re.DOTALL)
    return [f"{status.decode()} {body.decode()}".strip() for status, body in found]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    started = Served()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


CLOSE = b"connection: close\r\n"


def test_many_requests_at_once(server: Served) -> None:
    count = 1000
    requests = [post(f"/r{number}", b"x" * 50) for number in range(count)]
    found = answers(server.ask(b"".join(requests) + get("/last", CLOSE)))
    assert found == [f"200 /r{number} 50" for number in range(count)] + ["200 /last 0"]


def test_requests_that_wait_are_not_added_to_without_end(server: Served) -> None:
    """A client that goes on asking has to wait until what it asked is answered."""
    with server.connect() as client:
        client.settimeout(0.3)
        client.sendall(get("/first?1.5"))
        request, sent = get("/more"), 0
        with pytest.raises(TimeoutError):
            while sent < 50_000_000:
                sent += client.send(request * 2000)
    assert sent < 50_000_000


@pytest.mark.parametrize(
    ("rest", "last"),
    [
        (b"GARBAGE\r\n\r\n", []),
        (get("/b", b"x: " + b"y" * 10_000 + b"\r\n"), []),
        (b"GET /b HTTP/1.1\r\n\r\n", []),
        (post("/b", b"x", b"transfer-encoding: chunked\r\n"), []),
        (b"POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nGARBAGE", []),
        (get("/b")[:20], ["408"]),
        (post("/b", b"1234")[:-2], ["408"]),
    ],
)
def test_what_is_wrong_with_a_request_takes_no_answers_to_others(server: Served, rest: bytes, last: list[str]) -> None:
    before = [get("/a?0.3"), get("/c?0.3"), get("/d?0.3")]
    with ThreadPoolExecutor() as clients:
        one = clients.submit(server.ask, before[0] + rest), clients.submit(server.ask, before[0], rest)
        more = clients.submit(server.ask, b"".join(before) + rest), clients.submit(server.ask, *before, rest)
    assert [answers(asked.result()) for asked in one] == [["200 /a 0", *last]] * 2
    assert [answers(asked.result()) for asked in more] == [["200 /a 0", "200 /c 0", "200 /d 0", *last]] * 2


def test_a_request_behind_a_slow_one_has_its_time_after_it(server: Served) -> None:
    second = post("/b", b"1234", CLOSE)
    for cut in (20, len(second) - 2):
        content = server.ask(get("/a?1") + second[:cut], second[cut:], pause=1.2)
        assert answers(content) == ["200 /a 0", "200 /b 4"]


def test_large_bodies_do_not_count_as_headers(server: Served) -> None:
    large = post("/a", b"x" * 60_000)
    second = get("/b", CLOSE)
    assert answers(server.ask(large + second[:30], second[30:])) == ["200 /a 60000", "200 /b 0"]


@pytest.mark.parametrize(
    "pieces",
    [
        [get("/a", b"x: " + b"y" * 10_000 + b"\r\n")],
        [get("/" + "a" * 10_000)],
        [get("/a", b"x: y\r\n" * 2000)],
        [get("/a")[:-2], *[b"x: " + b"y" * 1000 + b"\r\n"] * 9],
        [get("/a")[:-2] + b"x: ", *[b"y" * 1000] * 9],
    ],
)
def test_headers_that_are_too_large(server: Served, pieces: list[bytes]) -> None:
    before = len(server.refused)
    assert answers(server.ask(*pieces, pause=0.01)) == ["431"]
    assert server.refused[before:] == [431]


def test_headers_that_are_just_small_enough(server: Served) -> None:
    assert answers(server.ask(get("/a", b"x: " + b"y" * 8000 + b"\r\n" + CLOSE))) == ["200 /a 0"]


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)


def test_a_client_that_leaves_while_it_is_answered(server: Served) -> None:
    left = len(server.left)
    with server.connect() as client:
        client.sendall(get("/gone?5"))
        time.sleep(0.8)
    until(lambda: len(server.left) > left)
    assert server.left[left:] == ["/gone"]


def test_a_client_that_leaves_with_more_requests_open(server: Served) -> None:
    """While requests wait nothing is read, so it is noticed with the first answer. The others are forgotten."""
    begun = len(server.begun)
    with server.connect() as client:
        client.sendall(b"".join(get(f"/gone{number}?0.3") for number in range(9)))
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not server.server_state.connections)
    assert 1 <= len(server.begun) - begun <= 2


def test_a_client_that_leaves_within_a_body(server: Served) -> None:
    left = len(server.left)
    with server.connect() as client:
        client.sendall(post("/part", b"1234")[:-2])
        time.sleep(0.1)
    until(lambda: len(server.left) > left)
    assert server.left[left:] == ["/part"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (post("/a?1", b"12"), ["200 /a 2"]),
        (get("/a?0.8") + post("/b?0.3", b"12"), ["200 /a 0", "200 /b 2"]),
        (get("/a?0.3") + post("/b", b"1234")[:-2], ["200 /a 0"]),
        (get("/a?0.3") + get("/b")[:10], ["200 /a 0"]),
        (post("/a", b"1234")[:-2], []),
        (b"", []),
    ],
)
def test_a_client_that_only_ends_its_side(server: Served, sent: bytes, expected: list[str]) -> None:
    with server.connect() as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        assert answers(received(client)) == expected
        assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("sent", [[b"\r\n"], [get("/a"), b"\r\n"], [b"\r\n"] * 20])
def test_empty_lines_keep_no_connection_open(server: Served, sent: list[bytes]) -> None:
    began = time.monotonic()
    with server.connect() as client:
        try:
            for piece in sent:
                client.sendall(piece)
                time.sleep(0.15)
            content = received(client)
        except ConnectionError:
            content = b""
    assert answers(content) == ["200 /a 0"] * (len(sent) == 2)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /a HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nhost: x\r\nhost: y\r\nconnection: close\r\n\r\n", "400"),
        (b"GET /a HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n", "400"),
        (b"GET /a HTTP/1.0\r\n\r\n", "200 /a 0"),
        (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"hello there\r\n\r\n", "400"),
    ],
)
def test_what_is_no_http(server: Served, sent: bytes, status: str) -> None:
    before = len(server.refused)
    content = server.ask(sent)
    assert answers(content) == [status]
    if status == "400":
        assert b'"/docs#no-http"' in content
        assert b"JSON" not in content
    assert server.refused[before:] == [400] * (status == "400")


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nuPGrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAAABk\r\n"


def test_an_offer_of_another_protocol_wherever_it_is_split(server: Served) -> None:
    request = post("/a", b"12345678", OFFER)
    for cut in range(1, len(request), 3):
        with server.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(request[:cut])
            time.sleep(0.002)
            client.sendall(request[cut:] + get("/b", CLOSE))
            assert answers(received(client)) == ["200 /a 8", "200 /b 0"]


def test_many_offers_at_once(server: Served) -> None:
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + OFFER + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    found = answers(server.ask((post("/a", b"12", OFFER) + chunked + get("/b", OFFER)) * 500 + get("/last", CLOSE)))
    assert found == ["200 /a 2", "200 /c 3", "200 /b 0"] * 500 + ["200 /last 0"]


def test_a_drain_answers_what_came_together() -> None:
    server = Served()
    with server.connect() as client:
        client.sendall(get("/a?0.3") + get("/b") + get("/c"))
        time.sleep(0.1)
        close = (b"connection", b"close")
        server.server_state.default_headers.append(close)
        server.config.encoded_headers.append(close)
        content = received(client)
    assert answers(content) == ["200 /a 0", "200 /b 0", "200 /c 0"]
    assert content.count(b"connection: close") == 1
    server.stop()
