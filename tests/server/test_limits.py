"""Too many requests, too large ones, and who may ask."""

from __future__ import annotations

import json
import logging
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from retrainer.errors import UserError
from retrainer.server.batcher import Bounds
from retrainer.server.bodies import PredictBody
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits, ModelAddress, Settings, share_cores
from retrainer.server.tokens import Tokens
from tests.server.process import ServerProcess, publish

FIRST, SECOND, THIRD = "first-token-" + "a" * 20, "second-token-" + "b" * 20, "third-token-" + "c" * 20
HEAD = b"POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def store(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    publish(folder, bundle, "trails")
    return folder


def test_too_many_requests_at_once(store: Path, tmp_path: Path) -> None:
    """One prediction at a time is allowed here, and one whose body is still on its way is one."""
    server = ServerProcess(tmp_path, store, "trails", "--max-requests", 1, "--drain-seconds", 0)
    try:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(HEAD + b"content-length: 13\r\n\r\n{")
            for _ in range(5):  # until the server has seen the slow one: a prediction could take its place
                server.http.get("/healthz")
            answer = server.predict("trails", text="a")
            assert answer.status_code == 503
            assert answer.json()["type"] == "/docs#busy"
            assert int(answer.headers["retry-after"]) >= 1
            assert server.http.get("/healthz").status_code == 200
        while answer.status_code == 503:  # until it is noticed that the slow one is gone
            answer = server.predict("trails", text="a")
        assert answer.status_code == 200
    finally:
        assert server.stop() == 0


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
        for path in ("/v1/models", "/v1/models/trails", "/docs", "/openapi.json"):
            assert server.http.get(path).status_code == 401
            assert server.http.get(path, headers={"authorization": f"Bearer {FIRST}"}).status_code == 200
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
        headers = {"authorization": f"Bearer {renewed}"}
        schema = server.http.get("/openapi.json", headers=headers).json()
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                open_to_all = path in {"/healthz", "/readyz", "/metrics"}
                assert operation.get("security") == (None if open_to_all else [{"token": []}])
                assert ("401" in operation["responses"]) != open_to_all
        for token in (FIRST, SECOND, renewed):
            assert token not in server.log + server.output
    finally:
        assert server.stop() == 0


def test_a_file_that_goes_bad_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokens"
    path.write_text(FIRST)
    tokens = Tokens(file=path)
    for content in (None, "# nothing\n", "short"):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with caplog.at_level(logging.WARNING):
            tokens.refresh(path)
            tokens.refresh(path)
        tokens.check(Headers({"authorization": f"Bearer {FIRST}"}))
        # Once, not each time.
        assert caplog.text.count("the tokens stay as they are") == 1
        caplog.clear()
    path.write_text(SECOND)
    tokens.refresh(path)
    tokens.check(Headers({"authorization": f"Bearer {SECOND}"}))
    path.unlink()
    tokens.refresh(path)
    assert caplog.text.count("the tokens stay as they are") == 1


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


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1.0, 1e12, 0.0])
def test_times_that_are_none(seconds: float) -> None:
    def settings(**options: Any) -> Settings:
        return Settings(store="s", models=(ModelAddress.parse("trails"),), **options)

    options: dict[str, Callable[[], Settings]] = {
        "--watch-interval": lambda: settings(watch_interval=seconds),
        "--max-wait-ms": lambda: settings(bounds=Bounds(max_wait=seconds)),
        "--drain-seconds": lambda: settings(drain_seconds=seconds or -1.0),
    }
    for option, make in options.items():
        with pytest.raises(UserError, match=option):
            make()
    settings(drain_seconds=0.0)


def test_a_time_that_is_none_ends_the_command(store: Path) -> None:
    command = [sys.executable, "-m", "retrainer.cli", "serve", str(store), "trails", "--port", "0"]
    ended = subprocess.run([*command, "--max-wait-ms", "inf"], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "--max-wait-ms" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_bodies_of_many_small_values_are_refused() -> None:
    for body, status in (
        (b'{"texts":[' + b",".join([b"[]"] * 1_000_000) + b"]}", 413),
        (b'{"texts":[' + b'"",' * 1_000_000 + b'""]}', 413),
        (b"{" + b",".join(b'"%x":0' % number for number in range(300_000)) + b"}", 400),
        (b"[" * 4_000_000, 400),
    ):
        with pytest.raises(Problem) as caught:
            PredictBody.within(Limits()).read(body, "text-classification")
        assert caught.value.kind.status == status
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("indent", [None, 8])
def test_as_many_texts_as_are_allowed_are_read(indent: int | None) -> None:
    nasty = '"\\[]{},:\n' * 20
    for rows in ([nasty] * 256, [nasty + "\\"] * 256, [(nasty, nasty)] * 256, ["x" * 20_000] * 256, [("", "")] * 256):
        body = json.dumps({"texts": rows, "text": None, "top_k": None}, indent=indent).encode()
        task = "text-pair-classification" if isinstance(rows[0], tuple) else "text-classification"
        assert PredictBody.within(Limits()).read(body + b" " * 20_000, task) == (rows, None)


def test_no_tokens_where_some_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Tokens(file=tmp_path / "nothing")
    monkeypatch.delenv("API_TOKENS", raising=False)
    with pytest.raises(UserError, match="there is no token"):
        Tokens(variable="API_TOKENS")
    assert not Tokens().required
