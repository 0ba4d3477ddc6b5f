"""Clients, the server and the command line give the labels that apply."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from retrainer.cli import app
from retrainer.errors import WrongTask
from retrainer.serve import AsyncClassifier, Classifier, Generator
from retrainer.serve.predictions import GIVEN, Prediction, TopK, cut, ranked
from retrainer.server.batcher import Batcher, Bounds
from retrainer.server.bodies import LabelScore, PredictBody
from retrainer.tasks import TASKS
from tests.label_sets.conftest import TASK, rows
from tests.server.process import ServerProcess, publish

TEXTS = [text for text, _ in rows(40, seed=5)]
NAMES = ("a", "b", "c", "d")
COUNTS = st.one_of(st.none(), st.just(GIVEN), st.integers(1, 6))


@given(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1), st.booleans(), COUNTS)
def test_asked_for_at_once_or_cut_from_all_is_the_same(found: list[list[int]], sets: bool, top_k: TopK) -> None:
    probabilities = np.array(found) / 20
    thresholds = np.array([0.5, 0.2, 0.8, 0.05]) if sets else None
    every = ranked(probabilities, NAMES, None, thresholds)
    asked = ranked(probabilities, NAMES, top_k, thresholds)
    assert [cut(labels, top_k) for labels in every] == asked
    for row, given_ in zip(probabilities, ranked(probabilities, NAMES, GIVEN, thresholds), strict=True):
        if thresholds is None:
            assert [one["label"] for one in given_] == [NAMES[int(row.argmax())]]
        else:
            assert {one["label"] for one in given_} == {NAMES[at] for at in np.flatnonzero(row >= thresholds)}
            assert all(one["applies"] for one in given_)


def test_awaited_it_is_the_same(bundle: Path) -> None:
    async def asked(classify: Classifier) -> Any:
        async with AsyncClassifier(classify) as awaited:
            return await awaited(TEXTS), await awaited(TEXTS[0]), await awaited(TEXTS, top_k=None)

    with Classifier.from_folder(bundle, precision="fp32") as classify:
        expected = classify(TEXTS), classify(TEXTS[0]), classify(TEXTS, top_k=None)
        assert asyncio.run(asked(classify)) == expected


def test_it_is_a_model_for_a_classifier(bundle: Path) -> None:
    with pytest.raises(WrongTask, match=r"a multi-label classifier, which gives labels.*Classifier"):
        Generator.from_folder(bundle)
    assert "Classifier.from_store" in TASKS[TASK].loading_code("store", "trails")


def test_requests_that_run_together_are_each_given_what_they_ask_for(bundle: Path) -> None:
    async def asked(classify: Classifier) -> list[Any]:
        batcher = Batcher(classify, Bounds(run_tokens=100_000))
        try:
            first = batcher.ask(TEXTS[:1], top_k=1)
            kinds: list[TopK] = [GIVEN, None, 1, 2, GIVEN]
            together = [batcher.ask(TEXTS, top_k=top_k) for top_k in kinds]
            return [answer.predictions for answer in await asyncio.gather(first, *together)]
        finally:
            await batcher.close()

    with Classifier.from_folder(bundle, precision="fp32") as classify:
        found = asyncio.run(asked(classify))
        labels = [[[one["label"] for one in row] for row in answer] for answer in found[1:]]
        for answer, top_k in zip(labels, (GIVEN, None, 1, 2, GIVEN), strict=True):
            alone = classify.respond(TEXTS, top_k=top_k).predictions
            assert answer == [[one["label"] for one in row] for row in alone]


def test_a_request_without_a_number_asks_for_what_is_given() -> None:
    body = PredictBody.read(b'{"text": "a"}', TASK)
    assert body == (["a"], GIVEN)
    assert PredictBody.read(b'{"text": "a", "top_k": null}', TASK)[1] is None
    assert PredictBody.read(b'{"text": "a", "top_k": 2}', TASK)[1] == 2
    assert "default" not in PredictBody.model_json_schema()["properties"]["top_k"]
    sets = LabelScore.model_validate(Prediction(label="a", score=0.5, applies=True))
    assert sets.applies is True


def test_a_server_gives_what_the_client_gives(bundle: Path, tmp_path: Path) -> None:
    publish(tmp_path / "store", bundle, "trails")
    server = ServerProcess(tmp_path, tmp_path / "store", "trails", "--precision", "fp32", "--drain-seconds", 0)
    try:
        server.wait_until_ready()
        with Classifier.from_folder(bundle, precision="fp32") as classify:
            given_, two, all_ = classify(TEXTS), classify(TEXTS, top_k=2), classify(TEXTS, top_k=None)
        asked: list[tuple[dict[str, Any], Any]] = [
            ({}, given_), ({"top_k": 2}, two), ({"top_k": None}, all_)
        ]  # fmt: skip
        for more, every in asked:
            answer = server.http.post("/v1/models/trails:predict", json={"texts": TEXTS, **more})
            assert answer.status_code == 200, answer.text
            found = [[(one["label"], one["applies"]) for one in row] for row in answer.json()["predictions"]]
            assert found == [[(one["label"], one["applies"]) for one in row] for row in every]
        assert [] in given_
    finally:
        assert server.stop() == 0


def run(*arguments: Any) -> str:
    answer = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_predict_prints_those_that_apply(bundle: Path) -> None:
    with Classifier.from_folder(bundle, precision="fp32") as classify:
        given_, every = classify(TEXTS), classify.respond(TEXTS).predictions
    compared = ["--compare", bundle, "--compare", bundle, "--precision", "fp32"]
    lines = [json.loads(line) for line in run(*compared, "--json", *TEXTS).splitlines()]
    assert [[one["label"] for one in line["models"]["export"]] for line in lines] == [
        [one["label"] for one in row] for row in given_
    ]
    lines = [json.loads(line) for line in run(*compared, "--json", "--top-k", 0, *TEXTS).splitlines()]
    assert [[one["applies"] for one in line["models"]["export"]] for line in lines] == [
        [one["applies"] for one in row] for row in every
    ]
    table = run(*compared, *TEXTS)
    assert "(no label)" in table
    assert "2 models say the same labels for 40 of 40 texts" in table
