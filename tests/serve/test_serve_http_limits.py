"""Slow clients, endless headers, too many requests, and who may ask."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from retrainer.errors import UserError
from retrainer.serve.http.settings import share_cores
from retrainer.serve.http.tokens import Tokens
from tests.serve.http_server import ServerProcess, publish

FIRST, SECOND, THIRD = "first-token-" + "a" * 20, "second-token-" + "b" * 20, "third-token-" + "c" * 20
HEAD = b"POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def store(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    publish(folder, bundle, "trails")
    return folder


@pytest.fixture(scope="module")
def impatient(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that waits for nobody."""
    limits = ("--read-timeout", 0.3, "--keep-alive", 1, "--max-requests", 1, "--drain-seconds", 0)
    server = ServerProcess(tmp_path_factory.mktemp("server"), store, "trails", *limits)
    try:
        server.wait_until_ready()
        yield server
    finally:
        assert server.stop() == 0


def exchange(port: int, *pieces: bytes) -> bytes:
    """What the server sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for piece in pieces:
            client.sendall(piece)
        return client.makefile("rb").read()


@pytest.mark.parametrize(
    "begun",
    [b"POST", HEAD, HEAD + b"content-length: 13\r\n\r\n{", HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"],
)
def test_a_request_that_does_not_arrive(impatient: ServerProcess, begun: bytes) -> None:
    answer = exchange(impatient.port, begun)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_the_second_request_of_a_connection_has_the_same_time(impatient: ServerProcess) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = exchange(impatient.port, whole, HEAD)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(impatient: ServerProcess, sent: bytes) -> None:
    answer = exchange(impatient.port, sent)
    assert answer.count(b"HTTP/1.1") == (1 if sent else 0)


def test_headers_without_end(impatient: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        sent = 0
        try:
            while sent < 10_000_000:
                sent += client.send(b"x-header: " + b"y" * 1000 + b"\r\n")
        except ConnectionError:
            pass
        assert sent < 10_000_000


def test_too_many_requests_at_once(impatient: ServerProcess) -> None:
    """One prediction at a time is allowed here, and one whose body is still on its way is one."""
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as slow:
        slow.sendall(HEAD + b"content-length: 13\r\n\r\n{")
        answer = impatient.http.post("/v1/models/trails:predict", json={"text": "a"})
        while answer.status_code == 200:  # it came before the slow one
            answer = impatient.http.post("/v1/models/trails:predict", json={"text": "a"})
        assert answer.status_code == 503
        assert answer.json()["type"] == "/docs#busy"
        assert int(answer.headers["retry-after"]) >= 1
        assert impatient.http.get("/healthz").status_code == 200
    impatient.http.post("/v1/models/trails:predict", json={"text": "a"})


def test_more_requests_than_can_be_answered_in_time(store: Path, tmp_path: Path) -> None:
    """All are answered: with labels, or with 503 and when to try again."""
    server = ServerProcess(tmp_path, store, "trails", "--max-wait-ms", 1, "--drain-seconds", 0)
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for _ in range(15):
                answers.append(client.post("/v1/models/trails:predict", json={"texts": ["open " * 20] * 100}))

    try:
        server.wait_until_ready()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = [answer for answer in answers if answer.status_code == 503]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all("busy" in answer.json()["detail"] for answer in refused)
    finally:
        assert server.stop() == 0


def test_tokens(store: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# of the website\n{FIRST}\n\n")
    options = ("--token-file", tokens, "--token-env", "API_TOKENS", "--drain-seconds", 0)
    server = ServerProcess(tmp_path, store, "trails", *options, API_TOKENS=f"{SECOND}, {THIRD}")
    try:
        server.wait_until_ready()  # needs none
        for path in ("/healthz", "/readyz", "/metrics"):
            assert server.http.get(path).status_code == 200
        for path in ("/v1/models", "/v1/models/trails", "/docs", "/openapi.json", "/nothing"):
            assert server.http.get(path).status_code == 401
            assert server.http.get(path, headers={"authorization": f"Bearer {FIRST}"}).status_code != 401
        refused = server.predict("trails", text="a")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
        # Whoever has no token does not learn which models there are.
        assert server.predict("nothing", text="a").status_code == 401
        for token, status in ((FIRST, 200), (SECOND, 200), (THIRD, 200), (FIRST + "x", 401), ("x", 401)):
            headers = {"authorization": f"Bearer {token}"}
            answer = server.http.post("/v1/models/trails:predict", json={"text": "a"}, headers=headers)
            assert answer.status_code == status
        for header in (FIRST, f"Basic {FIRST}", f"Bearer{FIRST}", f"Bearer {FIRST} {FIRST}"):
            assert server.http.get("/v1/models", headers={"authorization": header}).status_code == 401
        renewed = "renewed-token-" + "d" * 20
        tokens.write_text(f"{renewed}\n")
        server.wait_until('"models"', "/v1/models", authorization=f"Bearer {renewed}")
        assert server.http.get("/v1/models", headers={"authorization": f"Bearer {FIRST}"}).status_code == 401
        for token in (FIRST, SECOND, renewed):
            assert token not in server.log + server.output
    finally:
        assert server.stop() == 0


def test_a_file_that_goes_bad_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokens"
    path.write_text(FIRST)
    tokens = Tokens(file=path)
    for content in (None, "", "# nothing\n", "short"):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with caplog.at_level(logging.WARNING):
            tokens.refresh()
        assert tokens.allows(f"Bearer {FIRST}".encode())
        assert "the tokens stay as they are" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "content", ["", "\n# none\n", "short", "white space in it and long enough", "naïve-and-long-enough"]
)
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        Tokens(file=path)
    assert str(path) in str(caught.value)
    assert not content or content not in caught.value.message


@pytest.mark.parametrize(
    ("cores", "threads", "runs", "shared"),
    [
        (1, None, None, (1, 1)),
        (2, None, None, (1, 2)),
        (8, None, None, (2, 4)),
        (16, 1, None, (1, 4)),
        (8, 8, None, (8, 1)),
        (4, 16, None, (16, 1)),
        (16, None, 2, (8, 2)),
        (2, None, 8, (1, 8)),
        (4, 3, 3, (3, 3)),
    ],
)
def test_runs_share_the_cores(cores: int, threads: int | None, runs: int | None, shared: tuple[int, int]) -> None:
    assert share_cores(cores, threads, runs) == shared


def test_no_tokens_where_some_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Tokens(file=tmp_path / "nothing")
    monkeypatch.delenv("API_TOKENS", raising=False)
    with pytest.raises(UserError, match="there is no token"):
        Tokens(variable="API_TOKENS")
    assert not Tokens().required
