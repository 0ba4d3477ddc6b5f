"""No request is lost: while models are swapped, and while the server stops."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from retrainer.server.application import Application
from retrainer.server.metrics import Metrics
from retrainer.server.models import Models
from retrainer.server.settings import Limits
from retrainer.server.tokens import Tokens
from tests.export import tiny
from tests.server.process import ServerProcess, publish

# Nothing is refused on a slow machine: whether an answer comes is what is tested here.
PATIENT = ("--max-wait-ms", 60_000)
TEXTS = [str(row.text) for row in tiny.rows(20)]


@dataclass
class Client(threading.Thread):
    """Asks without a pause until it is told to stop, by the test or by the server.

    :ivar lost: requests that got no whole answer.
    :ivar obeys: whether it ends when the server tells it.
    :ivar told: whether the server closed a connection that was to be kept, with an answer that said so.
    """

    port: int
    keep_alive: bool
    obeys: bool = True
    rows: int = 1
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    told: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        connection: socket.socket | None = None
        number = 0
        while not self.stopped:
            connection = connection or socket.create_connection(("127.0.0.1", self.port), timeout=20)
            number += 1
            body = json.dumps({"texts": [TEXTS[(number + row) % len(TEXTS)] for row in range(self.rows)]}).encode()
            closing = self._ask(connection, body)
            self.told = closing and self.keep_alive
            if self.told and self.obeys:
                break
            if closing or not self.keep_alive:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _ask(self, connection: socket.socket, body: bytes) -> bool:
        """Whether the server closes the connection."""
        head = "POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += "" if self.keep_alive else "connection: close\r\n"
        try:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            with connection.makefile("rb") as stream:
                status = stream.readline()
                headers = {}
                while (line := stream.readline()) not in {b"\r\n", b""}:
                    name, _, value = line.decode().partition(": ")
                    headers[name.lower()] = value.strip()
                content = stream.read(int(headers["content-length"]))
                self.answers.append((int(status.split()[1]), json.loads(content)))
        except (OSError, ValueError, KeyError, IndexError) as error:
            self.lost.append(f"{type(error).__name__}: {error}")
            return True
        return headers.get("connection") == "close"


def clients_of(port: int, *, kept: int = 2, fresh: int = 2, obey: bool = True) -> list[Client]:
    """Of them one with large requests."""
    clients = [Client(port, keep_alive=number < kept, obeys=obey) for number in range(kept + fresh)]
    clients.append(Client(port, keep_alive=True, obeys=obey, rows=20))
    for client in clients:
        client.start()
    return clients


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture
def store(bundle: Path, tmp_path: Path) -> Path:
    publish(tmp_path / "store", bundle, "trails")
    return tmp_path / "store"


def test_swaps_lose_no_request_and_mix_no_versions(store: Path, bundle: Path, tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path, store, "trails", "--watch-interval", 0.1, "--drain-seconds", 0, "--max-run-tokens", 64, *PATIENT
    )
    try:
        server.wait_until_ready()
        clients = clients_of(server.port)
        published = [server.http.get("/v1/models/trails").json()["version"]]
        for number in range(6):
            published.append(publish(store, bundle, "trails", accuracy=0.5 + number / 100))
            server.wait_until(published[-1], "/v1/models/trails")
        for client in clients:
            client.stopped = True
        for client in clients:
            client.join(30)
        assert [loss for client in clients for loss in client.lost] == []
        answers = [answer for client in clients for answer in client.answers]
        assert {status for status, _ in answers} == {200}
        assert {document["version"] for _, document in answers} <= set(published)
        # Each client saw versions in the order in which they were published, never back and forth.
        for client in clients:
            seen = [published.index(document["version"]) for _, document in client.answers]
            assert seen == sorted(seen)
            assert all(len(document["predictions"]) == client.rows for _, document in client.answers)
        assert 'retrainer_model_swaps_total{model="trails"} 6.0' in server.http.get("/metrics").text
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_loses_no_request(store: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """Of clients that go when they are told. Those that do not need a proxy (``test_nginx.py``)."""
    server = ServerProcess(tmp_path, store, "trails", "--drain-seconds", 2, *PATIENT)
    try:
        server.wait_until_ready()
        clients = clients_of(server.port, kept=6, fresh=0)
        until(lambda: all(len(client.answers) > 5 for client in clients))
        server.process.send_signal(sent)
        assert server.process.wait(40) == 0
        for client in clients:
            client.join(30)
        assert [loss for client in clients for loss in client.lost] == []
        assert all(client.told for client in clients)
        assert {status for client in clients for status, _ in client.answers} == {200}
    finally:
        assert server.stop() == 0


def test_readiness_ends_at_once_and_answers_go_on(store: Path, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, store, "trails", "--drain-seconds", 3)
    try:
        server.wait_until_ready()
        assert "connection" not in server.predict("trails", text="open").headers
        server.process.send_signal(signal.SIGTERM)
        server.wait_until_logged("draining")
        answer = httpx.get(f"{server.url}/readyz")
        assert (answer.status_code, answer.json()["ready"], answer.json()["stopping"]) == (503, False, True)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        answer = server.predict("trails", text="open")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    finally:
        assert server.stop() != 0  # stopping it again was the second signal
    assert "ended_at_once signal=SIGTERM" in server.log


def test_a_connection_without_a_request_does_not_hold_up_the_end(store: Path, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, store, "trails", "--drain-seconds", 0)
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        server.wait_until_ready()
        assert server.stop() == 0
        assert silent.recv(1) == b""


def test_a_request_that_was_half_sent_is_answered(store: Path, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, store, "trails", "--drain-seconds", 0)
    try:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(b"POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
            slow.sendall(b'content-length: 13\r\n\r\n{"text"')
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            server.wait_until_logged("closing")
            time.sleep(1)
            slow.sendall(b': "a"}')
            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        assert server.process.wait(20) == 0
    finally:
        assert server.stop() == 0


def test_who_is_waited_for_no_longer_gets_an_answer() -> None:
    """uvicorn cancels what is left at the end: a client whose body never came is told, and no trace is logged."""
    models = Models([])
    application = Application(models, Metrics(models), Tokens(), Limits())
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("it was cancelled")

    async def send(message: Message) -> None:
        sent.append(message)

    async def body_never_comes(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    application._router = body_never_comes  # type: ignore[assignment]

    async def stop() -> None:
        request = asyncio.create_task(
            application({"type": "http", "method": "POST", "path": "/v1/models/m:predict"}, receive, send)
        )
        await asyncio.sleep(0)
        models.stopping = True
        request.cancel()
        await request

    asyncio.run(stop())
    assert [message.get("status") for message in sent if message["type"] == "http.response.start"] == [503]


def test_a_stop_while_models_still_load(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    server = ServerProcess(tmp_path, tmp_path / "store", "trails", "--drain-seconds", 0)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert server.stop() == 0
