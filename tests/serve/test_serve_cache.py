"""The cache: fetched once, verified each time, shared by processes, good for a start without the store."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from retrainer.errors import IntegrityError, NotFoundError, StorageError
from retrainer.serve import Classifier
from retrainer.serve.cache import ModelCache, default_cache
from retrainer.store import Store
from tests.serve.conftest import PublishedStore, manifest_of

PROGRAM = """
import sys
from retrainer.serve import Classifier
classify = Classifier.from_store(sys.argv[1], "trails", cache_dir=sys.argv[2])
print(classify.version, classify("the trail is open")[0]["label"])
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(store: PublishedStore, cache: Path, **options: Any) -> Classifier:
    return Classifier.from_store(store.url, "trails", cache_dir=cache, **options)


def folder_of(store: PublishedStore) -> Path:
    return Path(urlparse(store.url).path)


def cached_file(cache: Path, version: str, name: str) -> Path:
    return cache / "trails" / "versions" / version / name


def test_the_champion_is_loaded_and_cached(store: PublishedStore, cache: Path) -> None:
    classify = load(store, cache)
    champion = store.model.champion("production")
    assert champion is not None
    assert classify.version == champion.version
    assert classify.manifest == champion
    assert classify("the trail is open")
    served = {path.name for path in cached_file(cache, champion.version, "").rglob("*") if path.is_file()}
    assert "train_rows.bin" not in served
    assert {"manifest.json", "model.onnx", "model_int8.onnx"} <= served
    assert Classifier.from_folder(cached_file(cache, champion.version, "")).version == champion.version


def test_a_new_champion_is_followed_and_a_version_can_be_named(store: PublishedStore, cache: Path) -> None:
    first = load(store, cache).version
    second = store.publish(accuracy=0.95)
    assert load(store, cache).version == second != first
    assert load(store, cache, version=first).version == first


def test_what_is_not_there_is_said(store: PublishedStore, cache: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no champion on the channel 'staging'.*channels: production"):
        load(store, cache, channel="staging")
    with pytest.raises(NotFoundError, match="has no version '0123456789abcdef'"):
        load(store, cache, version="0123456789abcdef")
    with pytest.raises(NotFoundError, match="no champion"):
        Classifier.from_store(store.url, "roads", cache_dir=cache)
    with pytest.raises(NotFoundError, match="no version"):
        load(store, cache, version="../../etc")


def test_starts_without_the_store(store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = load(store, cache).version
    second = store.publish(accuracy=0.95)
    assert load(store, cache).version == second
    shutil.rmtree(folder_of(store))
    with caplog.at_level(logging.WARNING):
        assert load(store, cache).version == second
    assert f"serving trails {second}" in caplog.text
    assert load(store, cache, version=first).version == first
    with pytest.raises(StorageError, match="there is no such folder"):
        load(store, cache, channel="staging")
    with pytest.raises(StorageError):
        load(store, cache.with_name("empty"))


def test_starts_without_the_bucket(
    bundle: Path, cache: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"s3://{s3_bucket}/models"
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    version = published.publish()
    assert load(published, cache).version == version
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert load(published, cache).version == version


def test_a_damaged_copy_is_fetched_again(store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = load(store, cache).version
    graph = cached_file(cache, version, "onnx/model_int8.onnx")
    good = graph.read_bytes()
    for damage in (good[:-1], bytes([good[0] ^ 1]) + good[1:], b""):
        graph.write_bytes(damage)
        load(store, cache)
        assert graph.read_bytes() == good
    cached_file(cache, version, "tokenizer.json").unlink()
    cached_file(cache, version, "manifest.json").write_text("{}")
    assert load(store, cache).version == version
    assert "damaged; repairing" in caplog.text


def test_a_damaged_copy_is_refused_without_the_store(store: PublishedStore, cache: Path) -> None:
    version = load(store, cache).version
    cached_file(cache, version, "onnx/model.onnx").write_bytes(b"")
    shutil.rmtree(folder_of(store))
    with pytest.raises(StorageError, match=r"the local copy of .* is damaged"):
        load(store, cache)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "manifest.json"])
def test_what_was_altered_in_the_store_is_refused(store: PublishedStore, cache: Path, name: str) -> None:
    champion = store.model.champion("production")
    assert champion is not None
    path = folder_of(store) / "trails" / "versions" / champion.version / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b" " + content[-1:])
    with pytest.raises(IntegrityError):
        load(store, cache)
    assert not cached_file(cache, champion.version, "manifest.json").exists()
    assert list((cache / "trails").glob("staging/*")) == []


def test_a_manifest_of_another_version_is_refused(store: PublishedStore, cache: Path, bundle: Path) -> None:
    champion = store.model.champion("production")
    assert champion is not None
    path = folder_of(store) / "trails" / "versions" / champion.version / "manifest.json"
    path.write_text(manifest_of(bundle, accuracy=0.1).to_pretty_json())
    with pytest.raises(IntegrityError):
        load(store, cache)


def test_a_version_that_answers_otherwise_is_not_remembered(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """The next start without the store goes back to the last one that was good."""
    good = load(store, cache).version
    bad_bundle = shutil.copytree(store.bundle, tmp_path / "bad")
    golden = bad_bundle / "golden.jsonl"
    rows = [json.loads(line) for line in golden.read_text().splitlines()]
    for row in rows:
        row["logits"] = {name: values[::-1] for name, values in row["logits"].items()}
    golden.write_text("".join(json.dumps(row) + "\n" for row in rows))
    PublishedStore(store.url, store.model, bad_bundle).publish()
    with pytest.raises(IntegrityError, match="does not answer here"):
        load(store, cache)
    shutil.rmtree(folder_of(store))
    assert load(store, cache).version == good


def test_processes_share_one_copy(store: PublishedStore, cache: Path) -> None:
    """Started at once on an empty cache, all serve, and the version was fetched into place once."""
    stale = cache / "trails" / "staging" / f"{store.model.champion('production').version}-dead"  # type: ignore[union-attr]
    stale.mkdir(parents=True)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, store.url, str(cache)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((cache / "trails" / "versions").iterdir())) == 1
    assert list((cache / "trails" / "staging").iterdir()) == []


def test_two_stores_do_not_mix(store: PublishedStore, bundle: Path, cache: Path, tmp_path: Path) -> None:
    url = (tmp_path / "other").as_uri()
    other = PublishedStore(url, Store.open(url).model("trails"), bundle)
    second = other.publish(accuracy=0.5)
    first = load(store, cache).version
    assert load(other, cache).version == second
    shutil.rmtree(folder_of(store))
    shutil.rmtree(folder_of(other))
    assert load(store, cache).version == first
    assert load(other, cache).version == second


def test_a_cache_that_cannot_be_written_still_serves(
    store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = load(store, cache).version
    channels = cache / "trails" / "channels"
    shutil.rmtree(channels)
    channels.write_text("a file where a folder should be")
    assert load(store, cache).version == version
    assert "cannot note the present version" in caplog.text


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: PublishedStore) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "elsewhere"))
    assert default_cache() == tmp_path / "elsewhere" / "models"
    ModelCache(store.url, "trails").champion("production")
    assert (tmp_path / "elsewhere" / "models" / "trails" / "versions").is_dir()
    monkeypatch.delenv("RETRAINER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "retrainer" / "models"
