"""Two exported tiny bundles, one for texts and one for pairs, and a store that one is published in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retrainer.records import sha256_file
from retrainer.serve.predictor import load_info
from retrainer.store import FileEntry, Manifest, ModelStore, Store
from retrainer.work.export.bundle import export_bundle
from tests.export import tiny


def _export(folder: Path, *, pairs: bool) -> Path:
    checkpoint = tiny.save_checkpoint(folder / "checkpoint")
    export_bundle(
        checkpoint,
        tiny.rows(40, pairs=pairs),
        folder / "bundle",
        task="text-pair-classification" if pairs else "text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=("fp32",) if pairs else ("fp32", "int8"),
    )
    return folder / "bundle"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads single texts; fp32 and int8. Read-only: tests that change it copy it."""
    return _export(tmp_path_factory.mktemp("single"), pairs=False)


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads pairs; fp32 only. Read-only."""
    return _export(tmp_path_factory.mktemp("pairs"), pairs=True)


def manifest_of(folder: Path, *, accuracy: float) -> Manifest:
    """A manifest of all files of a bundle; another accuracy makes another version."""
    info = load_info(folder)
    return Manifest(
        model="trails",
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


@dataclass(frozen=True)
class PublishedStore:
    url: str
    model: ModelStore
    bundle: Path

    def publish(self, accuracy: float = 0.9) -> str:
        """Publish the bundle as a new version on the production channel."""
        before = self.model.champion("production")
        return self.model.publish(
            self.bundle,
            manifest_of(self.bundle, accuracy=accuracy),
            channel="production",
            actor="test",
            reason="a test",
            decision=None,
            expected=before.version if before else None,
        ).version


@pytest.fixture
def store(bundle: Path, tmp_path: Path) -> PublishedStore:
    """A folder store with one published version of the model 'trails'."""
    url = (tmp_path / "store").as_uri()
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    published.publish()
    return published
