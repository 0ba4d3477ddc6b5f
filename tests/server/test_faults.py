"""Faults that nobody foresaw: the client gets a problem, the log the place and no text of anybody."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
import uvicorn

from retrainer.errors import IntegrityError
from retrainer.serve import Classifier
from retrainer.serve.predictions import Response
from retrainer.serve.status import Status
from retrainer.server.application import Application, describe
from retrainer.server.batcher import Bounds
from retrainer.server.log_lines import LineFormatter, event
from retrainer.server.metrics import Metrics
from retrainer.server.models import Models, ServedModel
from retrainer.server.settings import Limits, ModelAddress
from retrainer.server.tokens import Tokens

PRIVATE = "a very private matter"


class Faulty:
    """Stands for a classifier that fails in ways that no real one should."""

    answers_with = "label"
    task, labels, manifest, version, precision = "text-classification", ("a", "b"), None, "1", "fp32"

    def pinned(self) -> Faulty:
        return self

    def respond(self, texts: list[Any], top_k: Any) -> Response:
        if texts == ["damaged"]:
            raise IntegrityError("the graph fails on 1 rows", where="onnx/model.onnx")
        raise ZeroDivisionError(f"while reading {texts}")

    @property
    def status(self) -> Status:
        raise ZeroDivisionError(PRIVATE)

    def watch(self, interval: float) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What would be written to the error stream."""
    # As ``log_to_stderr`` sets it; Airflow, where another test of this process loaded it, sets it otherwise.
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "propagate", True)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def ask(*requests: tuple[str, str, dict[str, Any] | None]) -> list[httpx.Response]:
    """Of a real HTTP server with such a model."""

    async def test() -> list[httpx.Response]:
        address = ModelAddress.parse("faulty")
        model = ServedModel(address, lambda _: cast(Classifier, Faulty()), Bounds(), watch_interval=60)
        models = Models([model])
        model.start()
        while not models.ready:
            await asyncio.sleep(0.001)
        application = Application(models, Metrics(models), Tokens(), Limits())
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(cast(Any, application), log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            answers = [await client.request(method, path, json=body) for method, path, body in requests]
        server.should_exit = True
        await serving
        await model.close()
        return answers

    return asyncio.run(test())


def test_a_fault_in_a_prediction(log: io.StringIO) -> None:
    (answer,) = ask(("POST", "/v1/models/faulty:predict", {"text": PRIVATE}))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "an unexpected error (the server's log says where)"
    assert "ZeroDivisionError" in log.getvalue()
    assert "in respond" in log.getvalue()
    assert PRIVATE not in log.getvalue() + answer.text


def test_what_is_said_of_a_model_is_of_one_version() -> None:
    """Of one look at its state: all else may belong to the next version already."""
    model = ServedModel(ModelAddress.parse("trails"), lambda _: cast(Classifier, None), Bounds(), watch_interval=60)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    looked = iter(
        [
            Status(
                model="trails",
                channel="production",
                version="1",
                precision="int8",
                sequence=1,
                loaded_at=now,
                checked_at=None,
                watching=True,
                swaps=0,
                refusals=0,
                failures_in_a_row=0,
                problem=None,
                refused_version=None,
                offline=False,
                labels=("a", "b"),
                task="text-classification",
                max_length=64,
            )
        ]
    )

    class Looked:
        @property
        def status(self) -> Status:
            return next(looked)

    model.client = cast(Classifier, Looked())
    said = describe(model)
    assert (said.version, said.precision, said.labels) == ("1", "int8", ["a", "b"])
    assert (said.task, said.max_length) == ("text-classification", 64)


def test_a_fault_in_another_route() -> None:
    (answer,) = ask(("GET", "/v1/models", None))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert PRIVATE not in answer.text


def test_a_model_that_breaks_says_so() -> None:
    (answer,) = ask(("POST", "/v1/models/faulty:predict", {"text": "damaged"}))
    assert answer.status_code == 500
    assert answer.json()["detail"] == "onnx/model.onnx: the graph fails on 1 rows"


def test_a_line_of_the_log_is_one_line(log: io.StringIO) -> None:
    event(logging.getLogger("test"), "model_ready", level=logging.WARNING, model="a b", problem='x\n"y"', none=None)
    logging.getLogger("test").warning("two\r\nlines at %s", datetime(2026, 1, 1, tzinfo=UTC))
    first, second = log.getvalue().splitlines()
    assert first.endswith(r'model_ready model="a b" problem="x\n\"y\""')
    assert second.endswith(r"two\r\nlines at 2026-01-01 00:00:00+00:00")
