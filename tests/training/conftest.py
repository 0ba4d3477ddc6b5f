"""A snapshot of made-up rows that a tiny model can learn, and requests to train on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import INGEST, TRAIN, StepRef, Trained
from retrainer.chain.messages import Message
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline, parse_pipeline
from tests.chain.made import CONTEXT, in_root, planned
from tests.made_once import made_once

WORDS = {"open": ["open", "clear", "dry", "go"], "closed": ["closed", "mud", "storm", "stay home"]}


def ignore(message: Message) -> None:
    """For steps whose messages do not matter."""


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = random.Random(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = ["text,label"]
    for number in range(240):
        label = chance.choice(sorted(WORDS))
        filler = " ".join(
            chance.choice(["the", "trail", "today", "loop", "north"]) for _ in range(chance.randint(1, 4))
        )
        lines.append(f"{filler} {chance.choice(WORDS[label])} {number},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def make_pipeline(rows_file: Path, tiny_bert: Path, tmp_path: Path) -> MakePipeline:
    def make(training: dict[str, Any] | None = None, **changes: Any) -> Pipeline:
        content: dict[str, Any] = {
            "name": "tiny",
            "dataset": {"train": str(rows_file)},
            "model": {"base": str(tiny_bert), "max_length": 32},
            "training": {"num_train_epochs": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
            | (training or {}),
            "publish": {"store": str(tmp_path / "store")},
        } | changes
        return parse_pipeline(content, where="test", base_folder=tmp_path)

    return make


@pytest.fixture(scope="session")
def snapshot(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> StepRef:
    """Made once: every test trains on it with arguments of its own, so under a digest of its own."""
    folder = tmp_path_factory.mktemp("snapshot")
    content = {
        "name": "tiny",
        "dataset": {"train": str(rows_file)},
        "model": {"base": "not needed"},
        "publish": {"store": "not needed"},
    }
    pipeline = parse_pipeline(content, where="test", base_folder=folder)
    return run_step(INGEST.plan(pipeline, context=in_root(folder / "artifacts")), on_message=ignore)


@pytest.fixture(scope="session")
def still_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout, so that steps can be compared however their rows are divided up."""

    def make(folder: Path) -> None:
        from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

        set_seed(0)
        still = BertConfig.from_pretrained(tiny_bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        BertModel(still).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)

    return made_once(tmp_path_factory, "still_bert", make)


def train_here(pipeline: Pipeline, snapshot: StepRef, folder: Path, root: str = "") -> tuple[Path, Trained]:
    """The train step in this process: for what does not need one of its own, since starting one takes seconds.

    :param root: of the artifacts, by default one of its own.
    :return: the folder of the checkpoint, and what the step hands on.
    """
    from retrainer.work import train
    from retrainer.work.reporter import Reporter

    folder.mkdir()
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).model_copy(
        update={"root": root or str(folder / "root")}
    )
    inputs = {"ingest": Artifacts(snapshot.root).fetch("ingest", snapshot.digest)}
    trained = train.run(request, inputs, folder, Reporter(folder / "messages.jsonl"))
    assert trained is not None
    return folder / "checkpoint", trained
