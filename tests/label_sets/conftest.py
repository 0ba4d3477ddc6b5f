"""Made-up rows that have any number of three labels, and one training and export of them that many tests read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import EXPORT, INGEST, TRAIN, StepRef
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.tasks import that_writes
from retrainer.work.__main__ import _make
from retrainer.work.reporter import Reporter
from tests.chain.made import in_root, planned
from tests.made_once import made_once

TASK = that_writes("labels")
WORDS = {"mud": ("deep mud", "slick clay"), "trees": ("a fallen oak", "branches"), "crowd": ("many riders", "a race")}
LABELS = tuple(sorted(WORDS))
# How often a row has each.
SHARES = {"mud": 0.5, "trees": 0.4, "crowd": 0.3}
FILLERS = ("north loop", "south loop", "the lower lot", "the new bridge", "today", "since Monday", "near the creek")


def rows(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Texts, each with its labels."""
    chance = random.Random(seed)
    made: dict[str, list[str]] = {}
    while len(made) < count:
        has = [label for label in LABELS if chance.random() < SHARES[label]]
        parts = [chance.choice(WORDS[label]) for label in has] + chance.sample(FILLERS, 2)
        chance.shuffle(parts)
        made.setdefault(f"{len(made)} {', '.join(parts)}", has)
    return list(made.items())


def as_json_lines(path: Path, some: list[tuple[str, list[str]]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": has}) + "\n" for text, has in some))
    return path


MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def make_pipeline(tiny_bert: Path, tmp_path: Path) -> MakePipeline:
    def make(train: Path | str = "rows.jsonl", **changes: Any) -> Pipeline:
        return parse_pipeline(content(train, tiny_bert, **changes), where="test", base_folder=tmp_path)

    return make


def content(train: Path | str, base: Path, **changes: Any) -> dict[str, Any]:
    dataset = {"train": str(train), "checks": {"near_duplicate_similarity": None}, **changes.pop("dataset", {})}
    return {
        "name": "trails",
        "task": TASK,
        "dataset": dataset,
        "model": {"base": str(base), "max_length": 32},
        "training": {"num_train_epochs": 12, "learning_rate": 5e-3, "per_device_train_batch_size": 16},
        "export": {"precisions": ["fp32", "int8"], "calibration": "temperature"},
        "publish": {"store": "store"},
    } | changes


@pytest.fixture(scope="session")
def exported(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the steps up to the export leave, a link named after each; made once a session, in this process."""

    def make(folder: Path) -> None:
        train = as_json_lines(folder / "rows.jsonl", rows(600))
        pipeline = parse_pipeline(content(train, tiny_bert), where="test", base_folder=folder)
        ref: tuple[StepRef, ...] = ()
        for step in (INGEST, TRAIN, EXPORT):
            base = str(tiny_bert) if ref else None
            request = planned(step.plan(pipeline, *ref, context=in_root(folder / "artifacts"), base=base))
            artifacts = Artifacts(request.root)
            assert _make(request, artifacts, Reporter())
            (folder / step.name).symlink_to(artifacts.fetch(step.name, request.digest))
            output = artifacts.get(step.name, request.digest).output
            made = StepRef(step=step.name, digest=request.digest, root=request.root, reused=False, output=output)
            ref = (made.model_copy(update={"base": base}),)

    return made_once(tmp_path_factory, "label_sets", make)


@pytest.fixture(scope="session")
def bundle(exported: Path) -> Path:
    return exported / "export" / "bundle"
