"""Champions of every task are checked by the same step: pairs, sets of labels, texts."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from retrainer.artifacts.decay import DecayCode, DecayRecord
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import DECAY
from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.__main__ import _make
from retrainer.work.reporter import Reporter
from tests.chain.made import in_root, planned
from tests.generation import tiny
from tests.generation.conftest import bases
from tests.label_sets.conftest import LABELS, as_json_lines, rows

__all__ = ["bases"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def live(folder: Path, content: dict[str, Any]) -> Pipeline:
    """A pipeline whose first model is published."""
    exact = {"checks": {"near_duplicate_similarity": None, "min_rows": 10}}
    content["dataset"] = {**exact, "train": str(folder / "rows*.*"), **content.get("dataset", {})}
    # What is learnt in a second is judged by nothing here.
    gate = {"floors": content.pop("floors"), "against_champion": None, "baseline": "report"}
    whole = {"name": "watched", "gate": gate, "publish": {"store": str(folder / "store")}, **content}
    pipeline = parse_pipeline(whole, where="test", base_folder=folder)
    result = run_pipeline(pipeline, context=new_context(str(folder / "artifacts")))
    assert result.outcome == "promoted"
    return pipeline


def checked(pipeline: Pipeline, folder: Path) -> DecayRecord:
    request = planned(DECAY.plan(pipeline, context=in_root(folder / "artifacts")))
    artifacts = Artifacts(request.root)
    assert _make(request, artifacts, Reporter())
    return DecayRecord.load(artifacts.fetch(DECAY.name, request.digest))


def pairs(path: Path, count: int, start: int, *, wrong: bool = False) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second", "label"])
        for number in range(start, start + count):
            same = number % 2 == 0
            second = "open and dry today" if same else "closed because of mud"
            writer.writerow([f"trail {number}", second, ("no", "yes")[same != wrong]])


def test_pairs(tiny_bert: Path, tmp_path: Path) -> None:
    pairs(tmp_path / "rows.csv", 200, 0)
    content = {
        "task": "text-pair-classification",
        "dataset": {"text": ["first", "second"]},
        "model": {"base": str(tiny_bert), "max_length": 24},
        "training": {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 0.01},
        "floors": {"accuracy": 0.9},
        "decay": {"min_rows": 100},
    }
    pipeline = live(tmp_path, content)
    assert checked(pipeline, tmp_path).rows == 0
    pairs(tmp_path / "rows_later.csv", 200, 1000, wrong=True)
    record = checked(pipeline, tmp_path)
    assert (record.verdict, record.rows) == ("decayed", 200), record.text
    assert record.left_out.rows == 200
    assert min(record.left_out.train, record.left_out.validation, record.left_out.test) > 0


def test_sets_of_labels(tiny_bert: Path, tmp_path: Path) -> None:
    every = rows(1000)
    as_json_lines(tmp_path / "rows.jsonl", every[:600])
    content = {
        "task": "multi-label-classification",
        "model": {"base": str(tiny_bert), "max_length": 32},
        "training": {"num_train_epochs": 12, "learning_rate": 5e-3, "per_device_train_batch_size": 16},
        "floors": {"f1_micro": 0.5},
        "decay": {"min_rows": 100, "max_drop": 0.1},
    }
    pipeline = live(tmp_path, content)
    as_json_lines(tmp_path / "rows_later.jsonl", every[600:])
    same = checked(pipeline, tmp_path)
    assert (same.metric, same.rows) == ("f1_micro", 400)
    assert same.verdict != "decayed", same.text
    assert {share.label for share in same.shares} == set(LABELS)
    assert all(abs(share.before - share.now) < 0.15 for share in same.shares)
    # Everything is another label now, and one that the model does not know.
    others = {"mud": ["trees"], "trees": ["ice"], "crowd": ["mud"]}
    turned = [(text, sorted({new for label in has for new in others[label]})) for text, has in every[600:]]
    as_json_lines(tmp_path / "rows_later.jsonl", turned)
    other = checked(pipeline, tmp_path)
    assert other.verdict == "decayed", other.text
    assert set(other.unknown_labels) == {"ice"}


@pytest.mark.parametrize("task", ["text2text-generation", "text-generation"])
def test_texts(task: str, bases: dict[str, Path], tmp_path: Path) -> None:
    every = tiny.rows(460)
    chance = random.Random(0)

    def write(name: str, some: list[tuple[str, str]]) -> None:
        lines = (json.dumps({"model_input": text, "model_output": output}) for text, output in some)
        (tmp_path / name).write_text("\n".join(lines) + "\n")

    write("rows.jsonl", every[:260])
    content = {
        "task": task,
        "model": {"base": str(bases[task]), "max_length": 8, "max_new_tokens": 6},
        "training": {"num_train_epochs": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 16},
        "metrics": ["chrf", "exact_match"],
        "floors": {"chrf": 0.0},
        "decay": {"min_rows": 100, "max_drop": 0.1},
    }
    pipeline = live(tmp_path, content)
    write("rows_later.jsonl", every[260:])
    same = checked(pipeline, tmp_path)
    assert (same.metric, same.rows) == ("chrf", 200)
    assert same.verdict != "decayed", same.text
    assert same.shares == ()
    assert same.left_out.rows == 260
    write("rows_later.jsonl", [(text, " ".join(chance.choices("xyz", k=3))) for text, _ in every[260:]])
    other = checked(pipeline, tmp_path)
    assert (other.verdict, other.code) == ("decayed", DecayCode.DROP_TOO_LARGE), other.text
