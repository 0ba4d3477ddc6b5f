"""Two exported tiny bundles, one for texts and one for pairs, and a store that one is published in."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.records import sha256_file
from retrainer.serve import Classifier
from retrainer.serve.predictor import load_info
from retrainer.store import FileEntry, Manifest, ModelStore, Signer, Store
from tests.export.bundles import bundle_of_pairs, export_of_texts
from tests.store.conftest import Proxy, proxy  # noqa: F401

Sick = dict[str, Callable[[Any], None]]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads single texts; fp32 and int8. Read-only: tests that change it copy it."""
    return export_of_texts(tmp_path_factory).bundle


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads pairs; fp32 only. Read-only."""
    return bundle_of_pairs(tmp_path_factory)


def manifest_of(folder: Path, *, accuracy: float = 0.9, model: str = "trails") -> Manifest:
    """A manifest of all files of a bundle; another accuracy makes another version."""
    info = load_info(folder)
    return Manifest(
        model=model,
        task=info.task,
        labels=info.labels,
        max_length=info.max_length,
        precisions=info.precisions,
        files={
            path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in folder.rglob("*")
            if path.is_file()
        },
        metrics={"accuracy": accuracy},
        base_model="tiny",
        base_revision="1",
        artifacts={},
        libraries={},
        git_commit=None,
    )


def relabelled(bundle: Path, folder: Path, suffix: str) -> Path:
    """The same model with other names for its labels: an answer tells which version gave it."""
    shutil.copytree(bundle, folder)
    path = folder / "bundle.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"labels": [f"{label}-{suffix}" for label in info["labels"]]}))
    return folder


def contradicted(bundle: Path, folder: Path) -> Path:
    """The same model with golden rows that it does not answer like that."""
    shutil.copytree(bundle, folder)
    path = folder / "golden.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["logits"] = {name: values[::-1] for name, values in row["logits"].items()}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@dataclass(frozen=True)
class PublishedStore:
    url: str
    model: ModelStore
    bundle: Path

    def publish(self, accuracy: float = 0.9, *, bundle: Path | None = None) -> str:
        """Publish a bundle as a new version on the production channel."""
        before = self.model.champion("production")
        folder = bundle or self.bundle
        return self.model.publish(
            folder,
            manifest_of(folder, accuracy=accuracy, model=self.model.name),
            channel="production",
            actor="test",
            reason="a test",
            decision=None,
            expected=before.version if before else None,
        ).version

    @property
    def folder(self) -> Path:
        """Of the store."""
        return Path(urlparse(self.url).path)

    def move_path(self, number: int) -> Path:
        """Of a move of the production channel."""
        return self.hint_path.with_name(f"{number:010d}.json")

    @property
    def hint_path(self) -> Path:
        """Of the production channel."""
        return self.folder / self.model.name / "channels" / "production" / "latest.json"

    def file(self, version: str, name: str) -> Path:
        """A file of a version in the store."""
        return self.folder / self.model.name / "versions" / version / name


@pytest.fixture
def store(bundle: Path, tmp_path: Path) -> PublishedStore:
    """A folder store with one published version of the model 'trails'."""
    url = (tmp_path / "store").as_uri()
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    published.publish()
    return published


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where a cache may be made."""
    return tmp_path / "cache"


def load(store: PublishedStore, cache: Path, **options: Any) -> Classifier:
    return Classifier.from_store(store.url, store.model.name, cache_dir=cache, **options)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a watching thread to come to something."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def cached_file(cache: Path, version: str, name: str) -> Path:
    return cache / "trails" / "versions" / version / name


@pytest.fixture(scope="session")
def release_key() -> Signer:
    """A key that publishes."""
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def bucket(bundle: Path, s3_bucket: str) -> PublishedStore:
    """As ``store``, in a bucket."""
    url = f"s3://{s3_bucket}/models"
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    published.publish()
    return published


@pytest.fixture
def sick(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Sick:  # noqa: F811
    """Part of a key to what becomes of requests for such keys, given their handler, instead of an answer."""
    sicknesses: Sick = {}
    handler: Any = proxy.RequestHandlerClass

    def ask(self: Any, well: Callable[[Any], None]) -> None:
        found = next((sickness for part, sickness in sicknesses.items() if part in self.path), None)
        try:
            (found or well)(self)
        except OSError:  # the client has gone
            self.close_connection = True

    get, head = handler.do_GET, handler.do_HEAD
    monkeypatch.setattr(handler, "do_GET", lambda self: ask(self, get))
    monkeypatch.setattr(handler, "do_HEAD", lambda self: ask(self, head))
    return sicknesses
