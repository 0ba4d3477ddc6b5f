"""Text over HTTP: whole and as a stream, its limits, and what is asked of the wrong kind of model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrainer.serve import GenerationSettings, Generator
from tests.export.tiny_writers import MAX_NEW_TOKENS
from tests.export.writer_bundles import ROWS, writer
from tests.server.process import ServerProcess, publish
from tests.server.test_api import problem

TEXTS = [str(row.text) for row in ROWS]
LIMITS = ("--max-rows", 50, "--max-characters", 300, "--max-body-bytes", 20_000)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory, "t5").bundle


@pytest.fixture(scope="module")
def server(written: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    store = tmp_path_factory.mktemp("store")
    publish(store, written, "writer")
    publish(store, bundle, "trails")
    arguments = ("writer", "trails", *LIMITS, "--precision", "fp32", "--drain-seconds", 0)
    started = ServerProcess(tmp_path_factory.mktemp("server"), store, *arguments)
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


@pytest.fixture(scope="module")
def generate(written: Path) -> Generator:
    return Generator.from_folder(written, precision="fp32")


def ask(server: ServerProcess, model: str = "writer", **body: Any) -> httpx.Response:
    return server.http.post(f"/v1/models/{model}:generate", json=body)


def events(text: str) -> list[tuple[str, Any]]:
    """The name of each event, and its data."""
    found = []
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_one_text_and_several(server: ServerProcess, generate: Generator) -> None:
    expected = generate.respond(TEXTS[:20]).answers
    document = ask(server, texts=TEXTS[:20]).json()
    assert document["model"] == "writer"
    assert [answer["text"] for answer in document["answers"]] == [answer.text for answer in expected]
    assert [answer["tokens"] for answer in document["answers"]] == [len(answer.tokens) for answer in expected]
    assert [answer["truncated"] for answer in document["answers"]] == [answer.truncated for answer in expected]
    ended = [len(answer.tokens) < MAX_NEW_TOKENS for answer in expected]
    assert any(ended)
    assert [answer["finished"] for answer in document["answers"] if answer["tokens"] < MAX_NEW_TOKENS] == [True] * sum(
        ended
    )
    assert ask(server, text=TEXTS[0]).json()["answers"] == document["answers"][:1]
    assert ask(server, texts=[]).json()["answers"] == []


@pytest.mark.parametrize(
    "settings", [{"beams": 3}, {"temperature": 1.2, "seed": 5}, {"max_new_tokens": 2}, {"top_k": 3, "seed": 0}], ids=str
)
def test_settings(server: ServerProcess, generate: Generator, settings: dict[str, Any]) -> None:
    expected = generate(TEXTS[:5], GenerationSettings(**settings))
    assert [answer["text"] for answer in ask(server, texts=TEXTS[:5], **settings).json()["answers"]] == expected


def test_a_stream(server: ServerProcess) -> None:
    drawn: dict[str, Any] = {"temperature": 1.5, "seed": 2}
    for settings in ({}, drawn):
        whole = ask(server, text=TEXTS[4], **settings).json()
        answer = ask(server, text=TEXTS[4], stream=True, **settings)
        assert answer.headers["content-type"].startswith("text/event-stream")
        *pieces, (name, last) = events(answer.text)
        assert {name for name, _ in pieces} == {"message"}
        assert "".join(piece["text"] for _, piece in pieces) == whole["answers"][0]["text"]
        assert name == "done"
        assert last == {**{key: whole[key] for key in ("model", "version", "precision")}, "answer": whole["answers"][0]}


def test_who_goes_away_frees_the_lane(server: ServerProcess) -> None:
    for _ in range(12):  # more than there are lanes
        body = {"text": TEXTS[4], "stream": True}
        with server.http.stream("POST", "/v1/models/writer:generate", json=body) as answer:
            assert answer.status_code == 200
    assert ask(server, text=TEXTS[0]).status_code == 200


def test_many_at_once(server: ServerProcess) -> None:
    expected = [answer["text"] for answer in ask(server, texts=TEXTS[:8]).json()["answers"]]
    found: dict[int, str] = {}

    def one(place: int) -> None:
        answer = httpx.post(f"{server.url}/v1/models/writer:generate", json={"text": TEXTS[place]}, timeout=60)
        found[place] = answer.json()["answers"][0]["text"]

    threads = [threading.Thread(target=one, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(8)] == expected


def test_what_cannot_be_asked(server: ServerProcess) -> None:
    problem(ask(server, text="a", beams=5), 400, "beams")
    problem(ask(server, text="a", temperature=0), 400, "temperature")
    problem(ask(server, text="a", words=3), 400, "unknown: 'words'", "max_new_tokens")
    problem(ask(server, text="a", max_new_tokens=13), 422, "up to 12 tokens")
    problem(ask(server, text="a", beams=2, seed=1), 422, "beams")
    problem(ask(server, text=["a", "b"]), 422, "single texts")
    problem(ask(server, texts=["a"], stream=True), 422, "a stream answers one text")
    problem(ask(server, text="a", stream=True, beams=2), 422, "beams")
    problem(ask(server, text="a" * 301), 413, "text")
    problem(ask(server, texts=["a"] * 51), 413)
    problem(ask(server, "nobody", text="a"), 404)


def test_the_wrong_kind_of_model(server: ServerProcess) -> None:
    problem(server.predict("writer", text="a"), 422, "this model writes text", "/v1/models/writer:generate")
    problem(ask(server, "trails", text="a"), 422, "this model gives labels", "/v1/models/trails:predict")


def test_it_is_described_and_counted(server: ServerProcess) -> None:
    described = server.http.get("/openapi.json").json()
    assert "/v1/models/{name}:generate" in described["paths"]
    assert {"GenerateBody", "GenerateAnswer"} <= described["components"]["schemas"].keys()
    models = {model["name"]: model for model in server.http.get("/v1/models").json()["models"]}
    assert models["writer"]["task"] == "text2text-generation"
    assert models["writer"]["labels"] == []
    figures = server.http.get("/metrics").text
    assert 'route="/v1/models/{name}:generate"' in figures
    assert 'retrainer_rows_total{model="writer"}' in figures
