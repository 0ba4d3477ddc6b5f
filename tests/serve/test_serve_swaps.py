"""A swap under load: no call fails, no answer mixes versions, and the old version is freed after its last call."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrainer.errors import UserError
from retrainer.serve import Response, forks
from tests.export import tiny
from tests.serve.conftest import PublishedStore, contradicted, load, relabelled

THREADS = 4
SWAPS = 20


def answered_by(response: Response) -> set[str]:
    """The endings of all labels of an answer."""
    return {label["label"].rpartition("-")[2] for labels in response.predictions for label in labels}


def test_swaps_under_load(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    endings = {}
    for name in ("a", "b"):
        bundle = relabelled(store.bundle, tmp_path / name, name)
        endings[store.publish(bundle=bundle)] = name
    classify = load(store, cache)
    texts = [row.text for row in tiny.rows(24)]
    stop = threading.Event()
    responses: list[Response] = []

    def ask() -> None:
        while not stop.is_set():
            responses.append(classify.respond(texts))

    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(ask) for _ in range(THREADS)]
        try:
            for number in range(SWAPS):
                expected = next(version for version in endings if version != classify.version)
                before = len(responses)
                store.model.promote("production", version=expected, actor="test", reason=f"swap {number}")
                assert classify.refresh()
                assert classify.version == expected
                while len(responses) < before + THREADS and not any(future.done() for future in running):
                    threading.Event().wait(0.001)
        finally:
            stop.set()
    for future in running:
        future.result()
    assert classify.status.swaps == SWAPS
    assert {response.version for response in responses} == set(endings)
    for response in responses:
        assert answered_by(response) == {endings[response.version]}
        assert len(response.predictions) == len(texts)


def test_the_old_version_is_freed_after_its_last_call(
    store: PublishedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = load(store, cache)
    served = classify._served
    assert served is not None
    first, session = weakref.ref(served), weakref.ref(served.predictor._session)
    version = served.version
    computing, go_on = threading.Event(), threading.Event()
    original = type(served.predictor)._run

    def slow(self: object, *arguments: object) -> object:
        computing.set()
        assert go_on.wait(60)
        return original(self, *arguments)

    monkeypatch.setattr(type(served.predictor), "_run", slow)
    del served
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(classify.respond, ["the trail is open"])
        assert computing.wait(60)
        monkeypatch.setattr(type(classify._served.predictor), "_run", original)  # type: ignore[union-attr]
        store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        assert classify.refresh()
        gc.collect()
        assert session() is not None  # its call is not answered yet
        go_on.set()
        assert call.result(60).version == version
    del call
    gc.collect()
    assert (first(), session()) == (None, None)
    assert classify.respond(["the trail is open"]).version != version


def test_a_refused_version_is_freed(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """Not kept alive by the error that says why it was refused."""
    classify = load(store, cache)
    gc.collect()
    sessions = len(forks._sessions)
    store.publish(bundle=contradicted(store.bundle, tmp_path / "bad"))
    assert not classify.refresh()
    gc.collect()
    assert len(forks._sessions) == sessions


def test_closing_waits_for_nobody_and_breaks_no_call(
    store: PublishedStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = load(store, cache)
    computing, go_on = threading.Event(), threading.Event()
    assert classify._served is not None
    kind = type(classify._served.predictor)
    original = kind._run

    def slow(self: object, *arguments: object) -> object:
        computing.set()
        assert go_on.wait(60)
        return original(self, *arguments)

    monkeypatch.setattr(kind, "_run", slow)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(classify.respond, ["the trail is open"])
        assert computing.wait(60)
        classify.close()
        go_on.set()
        assert len(call.result(60).predictions) == 1
    with pytest.raises(UserError, match="was closed"):
        classify.respond(["the trail is open"])
    classify.close()
