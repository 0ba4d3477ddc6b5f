"""The command as people call it, and one published model that all its tests share."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrainer.records import sha256_file
from tests.made_once import made_once
from tests.warm import run_warm

Cli = Callable[..., subprocess.CompletedProcess[str]]

MODEL = "tiny-status"
OPEN = ("open", "clear", "dry", "ready")
CLOSED = ("closed", "flooded", "muddy", "shut")
PLACES = ("north", "south", "east", "west", "creek", "mill", "ridge", "loop")
TIMES = ("today", "now", "again", "tonight", "this week", "since noon")


def retrainer(
    *arguments: object, stdin: str | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return run_warm(
        [*map(str, arguments)],
        stdin=stdin,
        cwd=cwd,
        environment={**os.environ, "RETRAINER_ACTOR": "tester", **environment},
    )


@pytest.fixture(scope="session")
def cli() -> Cli:
    return retrainer


class Workbench:
    """What tests make: rows, pipeline files, further versions."""

    @staticmethod
    def rows(path: Path, count: int, *, seed: int, flipped: bool = False) -> None:
        write_rows(path, count, seed=seed, flipped=flipped)

    @staticmethod
    def pipeline(folder: Path, base: Path | str, **changes: Any) -> Path:
        return write_pipeline(folder, base, **changes)

    @staticmethod
    def variant(store: Path, change: Callable[[Path], None], **fields: Any) -> str:
        return publish_variant(store, change, **fields)


@pytest.fixture(scope="session")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture(scope="session")
def one_clear_error() -> Callable[..., None]:
    return assert_one_clear_error


def write_rows(path: Path, count: int, *, seed: int, flipped: bool = False) -> None:
    """Status lines that one word tells apart, every one different."""
    rng = random.Random(seed)
    seen: set[str] = set()
    lines = ["text,label"]
    while len(seen) < count:
        label = ("open", "closed")[len(seen) % 2]
        word = rng.choice(OPEN if label == "open" else CLOSED)
        text = f"the {rng.choice(PLACES)} trail {rng.randrange(1000)} is {word} {rng.choice(TIMES)}"
        if text not in seen:
            seen.add(text)
            said = {"open": "closed", "closed": "open"}[label] if flipped else label
            lines.append(f"{text},{said}")
    path.write_text("\n".join(lines) + "\n")


def write_pipeline(folder: Path, base: Path | str, **changes: Any) -> Path:
    """A pipeline that trains in seconds; keys of ``changes`` replace whole sections."""
    document: dict[str, Any] = {
        "name": MODEL,
        "dataset": {"train": "train.csv", "test": "test.csv", "checks": {"min_rows": 10}},
        "model": {"base": str(base), "max_length": 32},
        "training": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "seed": 7,
        },
        "gate": {"floors": {"accuracy": 0.8}},
        "publish": {"store": "store"},
        **changes,
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@dataclass(frozen=True)
class Published:
    """A folder in which ``retrainer run`` published once.

    :param run: its dated folder.
    :param output: what the command printed.
    """

    folder: Path
    pipeline: Path
    store: Path
    run: Path
    version: str
    output: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Published:
    """One run from rows to a published model, shared by all test processes: copy what you change."""

    def make(place: Path) -> None:
        folder = place / "project"
        folder.mkdir()
        write_rows(folder / "train.csv", 400, seed=1)
        write_rows(folder / "test.csv", 120, seed=2)
        output = retrainer("run", write_pipeline(folder, tiny_bert))
        assert output.returncode == 0, output.stderr + output.stdout
        (place / "output.json").write_text(json.dumps(vars(output)))

    place = made_once(tmp_path_factory, "published", make)
    folder = place / "project"
    output = subprocess.CompletedProcess[str](**json.loads((place / "output.json").read_text()))
    (run,) = (folder / ".retrainer" / "artifacts" / "runs").iterdir()
    version = json.loads((run / "steps" / "publish.json").read_text())["output"]["version"]
    return Published(folder, folder / "pipeline.yaml", folder / "store", run, version, output)


@pytest.fixture
def store(published: Published, tmp_path: Path) -> Path:
    """A copy of the published store, to be changed."""
    copy = tmp_path / "store"
    shutil.copytree(published.store, copy)
    return copy


def publish_variant(store: Path, change: Callable[[Path], None], **fields: Any) -> str:
    """Publish the champion again with changed files, as another version; ``fields`` replace those of its manifest."""
    from retrainer.store import FileEntry, Store

    found = Store.open(str(store)).model(MODEL)
    champion = found.champion("production")
    assert champion is not None
    folder = store.parent / "variant"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found.fetch(champion.version, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    change(folder)
    files = {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = champion.model_copy(update={"files": files, **fields})
    target = Store.open(str(store)).model(manifest.model)
    newest = target.newest_move("production")
    moved = target.publish(
        folder,
        manifest,
        channel="production",
        actor="tester",
        reason="a variant",
        decision=None,
        expected=newest.to_version if newest else None,
    )
    return moved.version


def assert_one_clear_error(output: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1, an error with these words, and no stack trace."""
    assert output.returncode == 1, output.stdout + output.stderr
    assert "Traceback" not in output.stderr
    assert output.stderr.splitlines()[-1].startswith(("error: ", "hint: ", "       ")), output.stderr
    assert "error: " in output.stderr
    for word in words:
        assert word in output.stderr, output.stderr
