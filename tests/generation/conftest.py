"""Tiny bases that write text, pipelines that train them, and their snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrainer.chain import INGEST, StepRef
from retrainer.chain.messages import Message
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.tasks import TASKS
from tests.chain.made import in_root
from tests.generation import tiny
from tests.made_once import made_once

TASKS_THAT_WRITE = [name for name, task in TASKS.items() if task.writes == "text"]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task to the folder of its tiny base."""

    def make(folder: Path) -> None:
        tiny.save_t5(folder / "t5")
        tiny.save_gpt2(folder / "gpt2")

    folder = made_once(tmp_path_factory, "tiny_writers", make)
    return {name: folder / ("t5" if TASKS[name].has_encoder else "gpt2") for name in TASKS_THAT_WRITE}


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "rows.jsonl"
    lines = [json.dumps({"model_input": text, "model_output": output}) for text, output in tiny.rows(300)]
    path.write_text("\n".join(lines) + "\n")
    return path


MakeWriter = Callable[..., Pipeline]


@pytest.fixture
def make_writer(rows_file: Path, bases: dict[str, Path], tmp_path: Path) -> MakeWriter:
    def make(task: str, training: dict[str, Any] | None = None, **changes: Any) -> Pipeline:
        content: dict[str, Any] = {
            "name": "writer",
            "task": task,
            "dataset": {"train": str(rows_file), "checks": {"near_duplicate_similarity": None}},
            "model": {"base": str(bases.get(task, "")) or "base", "max_length": 8, "max_new_tokens": 6},
            "training": {"num_train_epochs": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 16}
            | (training or {}),
            "publish": {"store": str(tmp_path / "store")},
        } | changes
        return parse_pipeline(content, where="test", base_folder=tmp_path)

    return make


@pytest.fixture(scope="session")
def snapshots(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StepRef]:
    """Task to its snapshot, made once."""

    def ignore(message: Message) -> None: ...

    made = {}
    for task in TASKS_THAT_WRITE:
        folder = tmp_path_factory.mktemp("snapshot")
        content = {
            "name": "writer",
            "task": task,
            "dataset": {"train": str(rows_file), "checks": {"near_duplicate_similarity": None}},
            "model": {"base": "not needed"},
            "publish": {"store": "not needed"},
        }
        pipeline = parse_pipeline(content, where="test", base_folder=folder)
        made[task] = run_step(INGEST.plan(pipeline, context=in_root(folder / "artifacts")), on_message=ignore)
    return made
