"""A published champion that every test copies, breaks something around, and finds still serving."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrainer.run.pipeline_run import Observer, RunResult, new_context, run_pipeline
from retrainer.serve import Classifier
from retrainer.spec import load_pipeline
from tests.cli.conftest import (  # noqa: F401  (fixtures)
    MODEL,
    Published,
    assert_one_clear_error,
    published,
)

STEPS = ("ingest", "train", "export", "evaluate", "decide", "publish")


@dataclass(frozen=True)
class Bench:
    """A folder in which a champion was published, to break something in."""

    folder: Path
    cache: Path

    @property
    def pipeline(self) -> Path:
        return self.folder / "pipeline.yaml"

    @property
    def root(self) -> Path:
        return self.folder / ".retrainer" / "artifacts"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def change(self, **sections: dict[str, Any]) -> None:
        """Merge keys into sections of the pipeline file."""
        document = yaml.safe_load(self.pipeline.read_text())
        for name, section in sections.items():
            document[name] = {**document.get(name, {}), **section}
        self.pipeline.write_text(yaml.safe_dump(document, sort_keys=False))

    def artifact(self, step: str) -> Path:
        """The folder of the only artifact of a step."""
        (folder,) = (self.root / step).iterdir()
        return folder

    def forget(self, *steps: str) -> None:
        """Delete the artifacts of steps, so that they run again."""
        for step in steps:
            shutil.rmtree(self.root / step)

    def run(self, observer: Observer | None = None) -> RunResult:
        """The pipeline in this process, its steps in theirs."""
        pipeline = load_pipeline(self.pipeline)
        return run_pipeline(pipeline, context=new_context(str(self.root), actor="tester"), observer=observer)

    def command(
        self, *arguments: object, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command itself, perhaps below another one."""
        return subprocess.run(
            [*prefix, sys.executable, "-m", "retrainer.cli", "run", str(self.pipeline), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RETRAINER_ACTOR": "tester", **(environment or {})},
        )

    def moves(self) -> dict[str, bytes]:
        """Of the production channel, and its hint."""
        return moves_of(self.store)


def moves_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / MODEL / "channels" / "production").glob("*.json")}


@pytest.fixture
def bench(published: Published, tmp_path: Path) -> Bench:  # noqa: F811
    shutil.copytree(published.folder, tmp_path / "bench", symlinks=True)
    return Bench(tmp_path / "bench", tmp_path / "cache")


@pytest.fixture
def unharmed(published: Published) -> Callable[[Bench], None]:  # noqa: F811
    """Nothing half-written can be read, and the champion serves as before."""

    def check(bench: Bench, root: Path | None = None) -> None:
        place = root or bench.root
        assert not list((place / ".staging").glob("*"))
        for step in STEPS:
            for artifact in (place / step).glob("*"):
                assert (artifact / "manifest.json").is_file(), artifact
        assert bench.moves() == moves_of(published.store)
        classifier = Classifier.from_store(str(bench.store), MODEL, cache_dir=bench.cache)
        assert classifier("the north trail 5 is flooded today")[0]["label"] == "closed"

    return check


@pytest.fixture(scope="session")
def one_clear_error() -> Callable[..., None]:
    return assert_one_clear_error
