"""Lanes of a model that writes text: who goes away stops the model, and large requests let others pass."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from retrainer.errors import Busy, DataError, Stopped
from retrainer.serve import GenerationSettings, Generator
from retrainer.serve.generation_graphs import DecoderGraph
from retrainer.server import lanes as lanes_module
from retrainer.server.asking import Underway
from retrainer.server.batcher import Bounds
from retrainer.server.generate import Generate
from retrainer.server.lanes import Lanes
from retrainer.server.models import Models, ServedModel
from retrainer.server.settings import Limits, ModelAddress
from tests.export.writer_bundles import ROWS, writer

TEXTS = [str(row.text) for row in ROWS]
SETTINGS = GenerationSettings()


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator.from_folder(writer(tmp_path_factory, "gpt2").bundle, precision="fp32")


@pytest.fixture(scope="module")
def long(generator: Generator) -> str:
    """A text whose answer has many tokens, the first of them a piece."""
    answers = generator.respond(TEXTS).answers
    whole = [place for place, text in enumerate(TEXTS) if "\ufffd" not in answers[place].text[:1]]
    return TEXTS[max(whole, key=lambda place: len(answers[place].tokens))]


class Gate:
    """Holds the model up before each token but the first of an answer.

    :ivar steps: that were begun.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.reached = threading.Event()
        self.open = threading.Event()

    async def wait_until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate()
    advance = DecoderGraph.advance

    def held(self: DecoderGraph, *given: Any) -> None:
        found.steps += 1
        found.reached.set()
        assert found.open.wait(30)
        advance(self, *given)

    monkeypatch.setattr(DecoderGraph, "advance", held)
    yield found
    found.open.set()


def lanes_of(generator: Generator) -> Lanes:
    return Lanes(generator, Bounds(lanes=1, max_wait=60.0))


@pytest.mark.parametrize("settings", [SETTINGS, GenerationSettings(beams=2)], ids=str)
def test_who_goes_away_stops_the_model(generator: Generator, gate: Gate, settings: GenerationSettings) -> None:
    async def main() -> None:
        lanes = lanes_of(generator)
        asking = asyncio.create_task(lanes.generate(TEXTS[:20], settings))
        await gate.wait_until_reached()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.open.set()
        await lanes.close()  # waits for the lane

    asyncio.run(main())
    assert gate.steps == 1


def test_the_end_of_the_server_stops_the_model(generator: Generator, gate: Gate) -> None:
    async def main() -> None:
        lanes = lanes_of(generator)
        asking = asyncio.create_task(lanes.generate(TEXTS[:3], SETTINGS))
        await gate.wait_until_reached()
        closing = asyncio.create_task(lanes.close())
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(Busy, match="the server is stopping"):
            await asking
        await closing

    asyncio.run(main())
    assert gate.steps == 1


def test_large_requests_let_others_pass(generator: Generator, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "TURN_ROWS", 4)
    done: list[str] = []

    async def main() -> tuple[list[str], list[str]]:
        lanes = lanes_of(generator)

        async def ask(name: str, texts: list[str]) -> list[str]:
            response = await lanes.generate(texts, SETTINGS)
            done.append(name)
            return [answer.text for answer in response.answers]

        large = asyncio.create_task(ask("large", TEXTS[:18]))
        await gate.wait_until_reached()
        small = asyncio.create_task(ask("small", TEXTS[:1]))
        await asyncio.sleep(0)
        gate.open.set()
        answers = await large, await small
        with pytest.raises(DataError, match=r"texts\[9\]"):
            await lanes.generate([*TEXTS[:9], "\ud800"], SETTINGS)
        assert (await lanes.generate([], SETTINGS)).answers == ()
        await lanes.close()
        return answers

    large, small = asyncio.run(main())
    assert done == ["small", "large"]
    assert [*large, *small] == generator([*TEXTS[:18], TEXTS[0]])


def test_a_stream_stops_at_the_next_token(generator: Generator, gate: Gate, long: str) -> None:
    async def main() -> None:
        lanes = lanes_of(generator)
        stream = await lanes.stream(long, SETTINGS)
        await gate.wait_until_reached()
        stream.stopped.set()
        gate.open.set()
        await lanes.close()

    asyncio.run(main())
    assert gate.steps == 1


def test_the_stop_of_a_predictor(generator: Generator) -> None:
    predictor = generator.pinned().predictor
    with pytest.raises(Stopped):
        predictor.generate(TEXTS[:2], stop=lambda: True)
    with pytest.raises(Stopped):
        next(predictor.stream(TEXTS[0], stop=lambda: True))


class Client:
    """Asks for a stream.

    :ivar gone: whether it has closed the connection.
    """

    def __init__(self, text: str) -> None:
        self._body = json.dumps({"text": text, "stream": True}).encode()
        self.gone = asyncio.Event()
        self.received: list[bytes] = []
        self._sent = False

    async def receive(self) -> dict[str, Any]:
        if self._sent:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        self._sent = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: Any) -> None:
        self.received.append(message.get("body", b""))

    @property
    def request(self) -> Request:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "headers": headers, "path_params": {"name": "writer"}}
        return Request(scope, self.receive, self.send)


def served(generator: Generator) -> tuple[Generate, Lanes]:
    model = ServedModel(ModelAddress.parse("writer"), lambda address: generator, Bounds(), watch_interval=60)
    lanes = lanes_of(generator)
    model.client, model.queue = generator, lanes
    return Generate(Models([model]), Limits(), Underway()), lanes


def test_who_goes_away_before_the_first_piece(
    generator: Generator, gate: Gate, long: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrainer.serve.pieces.Pieces.add", lambda self, token: "")

    async def main() -> None:
        generate, lanes = served(generator)
        client = Client(long)
        asking = asyncio.create_task(generate(client.request))
        await gate.wait_until_reached()
        client.gone.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(asking, 30)
        gate.open.set()
        await lanes.close()

    asyncio.run(main())
    assert gate.steps == 1


def test_a_response_that_is_cancelled_before_it_begins(generator: Generator, gate: Gate, long: str) -> None:
    async def main() -> None:
        generate, lanes = served(generator)
        client = Client(long)
        response = await generate(client.request)
        await gate.wait_until_reached()

        async def send(message: Any) -> None:
            await asyncio.Event().wait()

        client.gone.set()
        await asyncio.wait_for(response(client.request.scope, client.receive, send), 30)
        gate.open.set()
        # Not by ``close``, which would stop it.
        await asyncio.wait_for(lanes.generate([], SETTINGS), 30)
        await lanes.close()

    asyncio.run(main())
    assert gate.steps == 1


def test_what_nobody_foresaw_ends_a_stream_with_a_problem(
    generator: Generator, long: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Panic(BaseException):
        """As libraries in Rust raise it."""

    def fail(self: DecoderGraph, *given: Any) -> None:
        raise Panic("secret")

    monkeypatch.setattr(DecoderGraph, "advance", fail)

    async def main() -> bytes:
        generate, lanes = served(generator)
        client = Client(long)
        response = await generate(client.request)
        assert isinstance(response, StreamingResponse)
        await response(client.request.scope, client.receive, client.send)
        await lanes.close()
        return b"".join(client.received)

    received = asyncio.run(main())
    assert b"event: problem\n" in received
    assert b"an unexpected error" in received
    assert b"secret" not in received
    assert "failed unexpectedly" in caplog.text
