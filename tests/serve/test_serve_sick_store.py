"""A store that does not answer, or not with what it holds: a warm host serves what it has, and says so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrainer.serve import Classifier
from retrainer.store import Signer, Store
from tests.serve.conftest import PublishedStore, Sick, cached_file, eventually, load, relabelled
from tests.serve.test_serve_bad_versions import edit_graphs, with_a_loss

Sickness = Callable[[Any], None]
PATIENCE = 0.5
PAGE = b"<!DOCTYPE html><html><head><title>Welcome to the lobby</title></head><body>Please log in<br></body></html>"
XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>Please log in</p></body></html>'
over = threading.Event()


def silence(handler: Any) -> None:
    over.wait(60)
    handler.close_connection = True


def drip(handler: Any) -> None:
    """A byte in five seconds."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 1000\r\n\r\n")
    handler.wfile.flush()
    while not over.wait(5):
        handler.wfile.write(b"{")
        handler.wfile.flush()


def drip_headers(handler: Any) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n":
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if over.wait(5):
            return


def page(handler: Any) -> None:
    handler._answer(200, {"Content-Type": "text/html"}, PAGE)


def xhtml(handler: Any) -> None:
    handler._answer(200, {"Content-Type": "text/html", "ETag": '"5f3e"'}, XHTML)


def elsewhere(handler: Any) -> None:
    handler._answer(302, {"Location": "http://127.0.0.1:9/login"}, PAGE)


@pytest.fixture(autouse=True)
def _all_ends() -> Iterator[None]:
    over.clear()
    yield
    over.set()


@pytest.fixture
def keys(request: pytest.FixtureRequest, release_key: Signer) -> Signer | None:
    """None are pinned, unless a test asks for it."""
    return release_key if getattr(request, "param", None) else None


@pytest.fixture
def bucket(bundle: Path, s3_bucket: str, keys: Signer | None) -> PublishedStore:
    url = f"s3://{s3_bucket}/models"
    published = PublishedStore(url, Store.open(url, signer=keys).model("trails"), bundle)
    published.publish()
    return published


def start(bucket: PublishedStore, cache: Path, keys: Signer | None, **options: Any) -> Classifier:
    return load(bucket, cache, public_keys=str(keys.public) if keys else None, **options)


@pytest.mark.parametrize(
    ("sickness", "keys"),
    [(silence, True), (drip, False), (drip_headers, False), (page, True), (xhtml, False), (elsewhere, False)],
    indirect=["keys"],
)
def test_a_warm_host_starts_soon(
    bucket: PublishedStore,
    cache: Path,
    keys: Signer | None,
    sick: Sick,
    sickness: Sickness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = start(bucket, cache, keys).version
    sick[""] = sickness
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), start(bucket, cache, keys, store_timeout=PATIENCE) as classify:
        assert time.monotonic() - began < 30
        assert (classify.version, classify.status.offline) == (version, True)
        assert classify("the trail is open")
        assert bucket.url in str(classify.status.problem)
        assert f"serving version {version}" in caplog.text
        sick.clear()
        assert not classify.refresh()
        assert (classify.status.problem, classify.status.offline) == (None, False)


@pytest.mark.parametrize(
    ("part", "keys"),
    [("manifest.json", False), ("signatures", True), ("bundle.json", False), ("model_int8.onnx", True)],
    indirect=["keys"],
)
def test_a_warm_host_does_not_wait_for_a_new_version_that_does_not_come(
    bucket: PublishedStore, cache: Path, keys: Signer | None, sick: Sick, part: str, tmp_path: Path
) -> None:
    """It serves the one before, and takes the new one when it can."""
    first = start(bucket, cache, keys).version
    folder = relabelled(bucket.bundle, tmp_path / "second", "2")
    edit_graphs(folder, with_a_loss)
    second = bucket.publish(bundle=folder)
    sick[part] = silence
    with start(bucket, cache, keys, store_timeout=PATIENCE) as classify:
        assert (classify.version, classify.status.offline) == (first, True)
        sick.clear()
        over.set()
        assert classify.refresh()
        assert classify.version == second


def test_a_slow_store_is_waited_for_while_files_arrive(
    bucket: PublishedStore, cache: Path, keys: Signer | None, sick: Sick, tmp_path: Path
) -> None:
    start(bucket, cache, keys)
    folder = relabelled(bucket.bundle, tmp_path / "second", "2")
    edit_graphs(folder, with_a_loss)
    second = bucket.publish(bundle=folder)
    turn = threading.Lock()
    patience = 4 * PATIENCE

    def one_by_one(handler: Any) -> None:
        with turn:
            time.sleep(patience / 2)
        handler._forward()

    for part in ("bundle.json", "onnx/"):  # three files: each takes less than there is patience, all of them more
        sick[part] = one_by_one
    with start(bucket, cache, keys, store_timeout=patience) as classify:
        assert classify.version == second


def test_a_damaged_cache_leaves_the_store_all_its_time(
    bucket: PublishedStore, cache: Path, keys: Signer | None, sick: Sick
) -> None:
    version = start(bucket, cache, keys).version
    cached_file(cache, version, "tokenizer.json").write_bytes(b"")
    slow = time.monotonic() + 3 * PATIENCE

    def late(handler: Any) -> None:
        time.sleep(max(0.0, slow - time.monotonic()))
        handler._forward()

    sick[""] = late
    with start(bucket, cache, keys, store_timeout=PATIENCE) as classify:
        assert (classify.version, classify.status.problem) == (version, None)


def test_a_version_that_is_here_is_not_asked_for(
    bucket: PublishedStore, cache: Path, keys: Signer | None, sick: Sick
) -> None:
    version = start(bucket, cache, keys).version
    sick[""] = silence
    with start(bucket, cache, keys, version=version) as classify:
        assert classify.version == version


def test_a_look_at_a_store_that_hangs_is_seen_and_ends(
    bucket: PublishedStore,
    cache: Path,
    keys: Signer | None,
    sick: Sick,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("retrainer.serve.following.LOOK_SECONDS", PATIENCE)
    with start(bucket, cache, keys) as classify:
        assert classify.status.looking_since is None
        sick[""] = silence
        classify.watch(0.05)
        eventually(lambda: classify.status.looking_since is not None, "nobody looked")
        eventually(lambda: classify.status.offline, "the look did not end")
        assert "does not answer within 0.5 s" in str(classify.status.problem)
        assert classify("the trail is open")
        sick.clear()
        second = bucket.publish(bundle=relabelled(bucket.bundle, tmp_path / "second", "2"))
        eventually(lambda: classify.version == second, "the thread did not go on")
