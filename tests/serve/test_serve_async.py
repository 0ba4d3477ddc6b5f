"""The classifier for asyncio: it does not hold the loop up, calls can be cancelled, and one serves all tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from retrainer.errors import DataError, UserError
from retrainer.serve import AsyncClassifier, Classifier
from tests.export import tiny
from tests.serve.conftest import PublishedStore, relabelled


class Gate:
    """Holds every call of a classifier up until it is opened."""

    def __init__(self, classifier: Classifier, patch: pytest.MonkeyPatch) -> None:
        assert classifier._served is not None
        self.entered = 0
        self.open = threading.Event()
        predictor = classifier._served.predictor
        original = predictor.probabilities

        def gated(*arguments: Any, **options: Any) -> Any:
            self.entered += 1
            assert self.open.wait(60)
            return original(*arguments, **options)

        patch.setattr(predictor, "probabilities", gated)


@pytest.fixture
def classifier(bundle: Path) -> Iterator[Classifier]:
    with Classifier.from_folder(bundle, precision="fp32") as classifier:
        yield classifier


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_it_answers_as_the_other_one(classifier: Classifier) -> None:
    texts = [str(row.text) for row in tiny.rows(8)]

    async def ask() -> None:
        async with AsyncClassifier(classifier) as classify:
            assert await classify(texts[0]) == expected[0]
            assert await classify(texts, top_k=2) == expected[1]
            assert await classify.respond(texts) == expected[2]
            answers = await asyncio.gather(*(classify(text) for text in texts * 4))
            assert answers == [[label] for label in expected[3]] * 4
            with pytest.raises(DataError, match=r"texts\[1\]"):
                await classify(["open", 3])  # type: ignore[arg-type]
            with pytest.raises(DataError, match="expected a list of texts"):
                await classify.respond(texts[0])
            with pytest.raises(DataError, match="got a table, a DataFrame"):
                await classify(cast(Any, pd.DataFrame({"text": texts})))
            with pytest.raises(DataError, match="got a ndarray"):
                await classify(cast(Any, np.array("open")))
            assert (classify.version, classify.labels, classify.task) == about
            assert classify.status.precision == "fp32"
            assert classify.classifier is classifier

    expected = (classifier(texts[0]), classifier(texts, top_k=2), classifier.respond(texts), classifier(texts))
    about = (classifier.version, classifier.labels, classifier.task)
    asyncio.run(ask())


def test_the_loop_goes_on_meanwhile(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(classifier, monkeypatch)

    async def ask() -> int:
        classify = AsyncClassifier(classifier)
        call = asyncio.create_task(classify("the trail is open"))
        await until(lambda: gate.entered)
        ticks = 0
        while ticks < 20:  # would never come to its end if the call held the loop
            await asyncio.sleep(0)
            ticks += 1
        assert not call.done()
        gate.open.set()
        assert len(await call) == 1
        await classify.close()
        return ticks

    assert asyncio.run(asyncio.wait_for(ask(), 60)) == 20


def test_no_more_calls_at_once_than_workers(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(classifier, monkeypatch)

    async def ask() -> None:
        classify = AsyncClassifier(classifier, workers=2)
        calls = [asyncio.create_task(classify("open")) for _ in range(10)]
        await until(lambda: gate.entered == 2)
        await asyncio.sleep(0.01)
        assert gate.entered == 2
        gate.open.set()
        assert len(await asyncio.gather(*calls)) == 10
        await classify.close()

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_cancelled_calls(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits computes nothing. One that computes ends in peace. Others are not touched."""
    gate = Gate(classifier, monkeypatch)

    async def ask() -> None:
        classify = AsyncClassifier(classifier, workers=1)
        running = asyncio.create_task(classify("open"))
        await until(lambda: gate.entered == 1)
        waiting = asyncio.create_task(classify("closed"))
        third = asyncio.create_task(classify("partly"))
        await asyncio.sleep(0)
        for task in (running, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.open.set()
        assert len(await third) == 1
        assert gate.entered == 2
        with pytest.raises(TimeoutError):
            gate.open.clear()
            await asyncio.wait_for(classify("open"), 0.01)
        gate.open.set()
        assert len(await classify("open")) == 1
        await classify.close()

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_from_a_store_and_new_versions(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    async def ask() -> None:
        classify = await AsyncClassifier.from_store(store.url, "trails", cache_dir=cache)
        first = classify.version
        assert not await classify.refresh()
        second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        assert await classify.refresh()
        response = await classify.respond(["the trail is open"])
        assert response.version == second != first
        classify.watch(3600)
        assert classify.status.watching
        await classify.close()
        with pytest.raises(UserError, match="was closed"):
            await classify("the trail is open")
        await classify.close()

    asyncio.run(ask())


def test_workers_that_make_no_sense(classifier: Classifier) -> None:
    with pytest.raises(UserError, match="workers"):
        AsyncClassifier(classifier, workers=0)
    with pytest.raises(UserError, match="workers"):
        AsyncClassifier(classifier, workers="2")  # type: ignore[arg-type]
