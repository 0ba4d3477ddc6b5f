"""The routes, asked over a real socket: answers, problems, readiness, figures, documents."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrainer.serve import Classifier
from tests.export import tiny
from tests.server.process import ServerProcess, publish

LIMITS = ("--max-rows", 50, "--max-characters", 300, "--max-body-bytes", 20_000)


@pytest.fixture(scope="module")
def versions(bundle: Path, pair_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("store")
    return {
        "store": store,
        "trails": publish(store, bundle, "trails"),
        "pairs": publish(store, pair_bundle, "pairs"),
    }


@pytest.fixture(scope="module")
def server(versions: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = ("trails", "pairs", *LIMITS, "--precision", "fp32", "--drain-seconds", 0)
    started = ServerProcess(tmp_path_factory.mktemp("server"), versions["store"], *arguments)
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


@pytest.fixture(scope="module")
def classify(bundle: Path) -> Classifier:
    return Classifier.from_folder(bundle, precision="fp32")


def problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """The problem document of an answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert "Traceback" not in answer.text
    for word in words:
        assert word in document["detail"]
    return document


def post(server: ServerProcess, content: Any, model: str = "trails", **headers: str) -> httpx.Response:
    headers = {"content-type": "application/json", **headers}
    return server.http.post(f"/v1/models/{model}:predict", content=content, headers=headers)


def test_one_text(server: ServerProcess, versions: dict[str, Any], classify: Classifier) -> None:
    answer = server.predict("trails", text="the trail is open")
    assert answer.status_code == 200
    document = answer.json()
    assert {**document, "predictions": None} == {
        "model": "trails",
        "version": versions["trails"],
        "precision": "fp32",
        "predictions": None,
    }
    ((best,),) = document["predictions"]
    expected = classify("the trail is open")[0]
    assert best["label"] == expected["label"]
    assert best["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_several_texts_keep_their_order(server: ServerProcess, classify: Classifier) -> None:
    texts = [str(row.text) for row in tiny.rows(40)]
    found = server.predict("trails", texts=texts, top_k=None).json()["predictions"]
    for ranked, expected in zip(found, classify.respond(texts).predictions, strict=True):
        assert [item["label"] for item in ranked] == [item["label"] for item in expected]
        assert [item["score"] for item in ranked] == pytest.approx([item["score"] for item in expected], abs=1e-5)
    assert [len(row) for row in server.predict("trails", texts=texts, top_k=2).json()["predictions"]] == [2] * 40
    assert server.predict("trails", texts=[]).json()["predictions"] == []


def test_pairs(server: ServerProcess, pair_bundle: Path) -> None:
    pairs = [("the trail is open", "yes"), ("rain fell", "the trail is closed")]
    expected = Classifier.from_folder(pair_bundle)(pairs)
    found = server.predict("pairs", texts=pairs).json()["predictions"]
    assert [row[0]["label"] for row in found] == [item["label"] for item in expected]
    assert server.predict("pairs", text=pairs[1]).json()["predictions"] == [found[1]]


def test_null_is_like_nothing(server: ServerProcess) -> None:
    assert server.predict("trails", text="a", texts=None, top_k=None).status_code == 200
    assert server.predict("trails", text=None, texts=["a"]).status_code == 200


def test_a_label_or_text_of_any_letters(server: ServerProcess) -> None:
    for text in ("", " ", "Ω≈ç 😀 \u2028 \0", '"\\'):
        assert server.predict("trails", text=text).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["Invalid JSON"]),
        (b"{", 400, ["Invalid JSON"]),
        (b"\xff", 400, ["Invalid JSON"]),
        (b'{"text": "\\ud800"}', 400, ["Invalid JSON"]),
        (b'{"text": NaN}', 400, ["text: Input should be a valid string"]),
        (b"[" * 9000, 400, ["Invalid JSON"]),
        (b"[]", 400, ["Input should be an object"]),
        (b"{}", 400, ["either 'text' or 'texts'", "neither"]),
        (b'{"text": "a", "texts": []}', 400, ["both"]),
        (b'{"text": "a", "topk": 1}', 400, ["unknown: 'topk'", "top_k"]),
        (b'{"text": 3}', 400, ["text: Input should be a valid string"]),
        (b'{"text": null}', 400, ["either 'text' or 'texts'", "neither"]),
        (b'{"text": null, "texts": null}', 400, ["either 'text' or 'texts'", "neither"]),
        (b'{"texts": ["a", null]}', 400, ["texts[1]: Input should be a valid string"]),
        (b'{"texts": "a"}', 400, ["texts: Input should be a valid array"]),
        (b'{"texts": ["a", true]}', 400, ["texts[1]: Input should be a valid string"]),
        (b'{"text": "a", "top_k": 0}', 400, ["top_k: Input should be greater than or equal to 1"]),
        (b'{"text": "a", "top_k": true}', 400, ["top_k"]),
        (b'{"text": "a", "top_k": 1.5}', 400, ["top_k"]),
        (b'{"text": "a", "top_k": "2"}', 400, ["top_k"]),
        (b'{"text": ["a", "b"]}', 422, ["text: this model reads single texts"]),
        (b'{"texts": ["a", ["a", "b"]]}', 422, ["texts[1]: this model reads single texts"]),
        (json.dumps({"text": "x" * 301}).encode(), 413, ["text: String should have at most 300 characters"]),
        (
            json.dumps({"texts": ["x"] * 51}).encode(),
            413,
            ["texts: List should have at most 50 items", "several requests"],
        ),
        (json.dumps({"texts": ["x"] * 3500}).encode(), 413, ["texts: List should have at most 50 items"]),
        (json.dumps({"text": "x" * 20_000}).encode(), 413, ["bytes, and 20000 are allowed"]),
    ],
)
def test_what_is_no_request_is_told_so(server: ServerProcess, body: bytes, status: int, words: list[str]) -> None:
    problem(post(server, body), status, *words)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": "a"}, 422, ["text: this model reads pairs", '["first", "second"]']),
        ({"texts": [["a", "b"], "a"]}, 422, ["texts[1]: this model reads pairs"]),
        ({"text": ["a"]}, 400, ["text: Input should be a valid string"]),
        ({"text": ["a", 1]}, 400, ["text: Input should be a valid string"]),
        ({"text": ["a", "b", "c"]}, 400, ["text: Input should be a valid string"]),
        ({"texts": [["a", "x" * 301]]}, 413, ["texts[0]: String should have at most 300 characters"]),
        ({"text": {}}, 400, ["text: Input should be a valid string"]),
    ],
)
def test_what_is_no_pair_is_told_so(server: ServerProcess, body: dict[str, Any], status: int, words: list[str]) -> None:
    problem(server.predict("pairs", **body), status, *words)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_only_json_is_read(server: ServerProcess, headers: dict[str, str]) -> None:
    problem(post(server, b'{"text": "a"}', **headers), 415)


def test_json_may_be_declared_in_other_ways(server: ServerProcess) -> None:
    for media_type in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        assert post(server, b'{"text": "a"}', **{"content-type": media_type}).status_code == 200


def test_a_chunked_body(server: ServerProcess) -> None:
    assert post(server, iter([b'{"te', b'xt": "the trail', b' is open"}'])).status_code == 200
    pieces = iter([b'{"text": "', *[b"x" * 4096] * 10, b'"}'])
    problem(post(server, pieces), 413, "more than the 20000 bytes")


def test_a_body_far_too_large_gets_its_answer_and_no_reset(server: ServerProcess) -> None:
    problem(post(server, b"x" * 5_000_000), 413, "5000000 bytes")


def test_a_client_that_asks_before_it_sends(server: ServerProcess) -> None:
    """With Expect, a client learns that its body is too large without sending it."""
    head = "POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += "expect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"{head}content-length: 999999\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"{head}content-length: 13\r\n\r\n".encode())
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b'{"text": "a"}')
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_is_not_there(server: ServerProcess) -> None:
    problem(server.predict("nothing", text="a"), 404, "no model 'nothing' here", "GET /v1/models")
    problem(server.http.get("/v1/models/nothing"), 404, "no model 'nothing' here")
    problem(server.http.get("/nothing"), 404, "/docs")
    # Not the address of the model, and no redirect: it would lead to whatever host the client names.
    for path in ("/v1/models/trails/", "/v1/models/trails%0a", "/healthz%0a", "/metrics%0A"):
        problem(server.http.get(path), 404, "no such address")
    problem(server.http.post("/v1/models/trails:predict%0a", json={"text": "a"}), 404, "no such address")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("model", ["trails", "nothing"])
def test_predictions_are_posted(server: ServerProcess, method: str, model: str) -> None:
    answer = server.http.request(method, f"/v1/models/{model}:predict")
    assert answer.headers["allow"] == "POST"
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (405, b"")
    else:
        problem(answer, 405, f"not {method} here (known: POST)")


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/trails", "/openapi.json"]
)
def test_what_can_be_read(server: ServerProcess, path: str) -> None:
    answer, head = server.http.get(path), server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == answer.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert server.http.get("/healthz").status_code == 200  # on the same connection
    for method in ("POST", "DELETE", "OPTIONS"):
        refused = server.http.request(method, path)
        problem(refused, 405, f"not {method} here")
        assert refused.headers["allow"] == "GET, HEAD"
    assert server.http.head("/nothing").status_code == 404


def test_models(server: ServerProcess, versions: dict[str, Any]) -> None:
    listed = server.http.get("/v1/models").json()["models"]
    assert [model["name"] for model in listed] == ["trails", "pairs"]
    shown = server.http.get("/v1/models/pairs").json()
    assert shown["version"] == versions["pairs"]
    assert shown["task"] == "text-pair-classification"
    assert shown["labels"] == list(tiny.LABELS)
    assert shown["ready"] is True
    assert shown["problem"] is None
    assert (shown["channel"], shown["swaps"], shown["max_length"]) == ("production", 0, tiny.MAX_LENGTH)


def test_probes(server: ServerProcess) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}
    answer = server.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "stopping": False, "models": {"trails": "ready", "pairs": "ready"}}


def figures(server: ServerProcess) -> dict[str, float]:
    """Samples by name and labels, read with Prometheus' own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        f"{sample.name} {' '.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}".strip(): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics(server: ServerProcess, versions: dict[str, Any]) -> None:
    before = figures(server)
    server.predict("trails", texts=["a", "b", "c"])
    server.predict("trails", text=3)
    server.predict("invented-by-a-client", text="a")
    server.http.get("/invented/address")
    after = figures(server)

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    route = "route=/v1/models/{name}:predict"
    assert grew(f"retrainer_http_requests_total model=trails {route} status=200") == 1
    assert grew(f"retrainer_http_requests_total model=trails {route} status=400") == 1
    assert grew(f"retrainer_http_requests_total model= {route} status=404") == 1
    assert grew("retrainer_http_requests_total model= route=other status=404") == 1
    assert grew("retrainer_rows_total model=trails") == 3
    assert grew("retrainer_http_request_seconds_count model=trails") == 2
    assert grew("retrainer_batch_rows_sum model=trails") == 3
    assert grew("retrainer_batch_requests_count model=trails") == 1
    version = f"channel=production model=trails precision=fp32 version={versions['trails']}"
    assert after[f"retrainer_model_version_info {version}"] == 1
    for name in ("model_swaps_total", "model_refusals_total", "queue_rows"):
        assert after[f"retrainer_{name} model=trails"] == 0
    assert after["retrainer_model_ready model=pairs"] == 1
    assert after["retrainer_store_look_age_seconds model=trails"] >= 0
    assert after["process_resident_memory_bytes"] > 0
    assert not [name for name in after if "invented" in name]


def test_the_document_is_valid(server: ServerProcess) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(server.http.get("/openapi.json").json())


def test_the_api_is_documented(server: ServerProcess) -> None:
    schema = server.http.get("/openapi.json").json()
    predict = schema["paths"]["/v1/models/{name}:predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/PredictBody"
    }
    body = schema["components"]["schemas"]["PredictBody"]
    assert set(body["properties"]) == {"text", "texts", "top_k"}
    for example in body["examples"]:
        model = "pairs" if isinstance([*example.get("texts", []), example.get("text")][0], list) else "trails"
        assert server.predict(model, **example).status_code == 200
    answer = server.predict("trails", text="a").json()
    assert set(schema["components"]["schemas"]["PredictAnswer"]["properties"]) == set(answer)
    assert {"400", "404", "413", "415", "422", "503"} <= set(predict["responses"])
    # Here no token is asked for.
    assert "401" not in predict["responses"]
    assert "security" not in json.dumps(schema)
    names = {reference.rpartition("/")[2] for reference in references(schema)}
    assert names <= set(schema["components"]["schemas"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a"},
        {"text": None},
        {"texts": ["a"]},
        {"texts": []},
        {"text": "a", "texts": None},
        {"text": None, "texts": ["a"]},
        {"text": None, "texts": None},
        {"text": "a", "texts": ["a"]},
        {"text": "a", "top_k": None},
        {"text": "a", "top_k": 0},
        {"text": "a", "more": 1},
        {"text": 3},
        {"texts": "a"},
        {"texts": ["a", None]},
        {"text": "x" * 301},
        {"texts": ["x"] * 51},
    ],
)
def test_the_schema_and_the_server_agree(server: ServerProcess, body: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    components = server.http.get("/openapi.json").json()["components"]
    schema = {"$ref": "#/components/schemas/PredictBody", "components": components}
    valid = jsonschema.Draft202012Validator(schema).is_valid(body)
    assert valid == (server.predict("trails", **body).status_code == 200)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from references(item)


def test_the_page_of_the_api_loads_nothing_from_elsewhere(server: ServerProcess) -> None:
    answer = server.http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/models/{name}:predict" in answer.text
    assert "http://" not in answer.text.replace(server.url, "")
    assert "https://" not in answer.text
    assert "<script" not in answer.text
    kind = problem(server.predict("nothing", text="a"), 404)["type"]
    assert kind.startswith("/docs#")
    assert f"id={kind.removeprefix('/docs#')}>" in answer.text


def test_texts_are_not_logged(server: ServerProcess) -> None:
    server.predict("trails", text="a very private matter")
    server.predict("trails", text={"a very private": "matter"})
    server.predict("pairs", text="a very private matter")
    assert "private" not in server.log
