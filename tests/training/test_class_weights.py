"""``training.class_weights``: what the weights are, and that they reach the loss however rows are divided up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import INGEST, TRAIN, StepRef
from retrainer.errors import PipelineError
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import MOST_WEIGHT, balanced
from tests.chain.made import CONTEXT, in_root
from tests.training.conftest import ignore, train_here

RATE = 0.5
# One step of plain gradient descent over the first sixteen rows: what it changes is the gradient.
ONE_STEP = {
    "max_steps": 1, "optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential", "eval_strategy": "no", "per_device_train_batch_size": 16,
}  # fmt: skip


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_each_label_weighs_the_same_and_the_mean_weight_is_one(labels: list[int]) -> None:
    rows = np.array(labels, dtype=np.int64)
    weights = balanced(rows, 5)
    assert weights[rows].mean() == pytest.approx(1.0)
    there = np.unique(rows)
    assert np.bincount(rows, minlength=5)[there] * weights[there] == pytest.approx(len(rows) / len(there))
    assert not weights[np.setdiff1d(np.arange(5), there)].any()


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=60))
def test_of_sets_having_a_label_weighs_as_much_as_not_having_it(sets: list[list[bool]]) -> None:
    rows = np.array(sets, dtype=np.float32)
    weights = balanced(rows, 3)
    having = rows.sum(axis=0)
    one_sided = (having == 0) | (having == len(rows))
    assert (weights[one_sided] == 1.0).all()  # there is nothing to balance, and the label is still to be learnt
    expected = np.minimum((len(rows) - having)[~one_sided], MOST_WEIGHT * having[~one_sided])
    assert weights[~one_sided] * having[~one_sided] == pytest.approx(expected)


def pipeline_of(base: Path, folder: Path, training: dict[str, Any], **changes: Any) -> Pipeline:
    rows = folder / "rows.csv"
    if not rows.exists():
        states = ["closed" if number % 6 == 0 else "open" for number in range(180)]
        rows.write_text("text,label\n" + "".join(f"trail {at} is {state},{state}\n" for at, state in enumerate(states)))
    content = {
        "name": "rare",
        "dataset": {"train": str(rows), "checks": {"near_duplicate_similarity": None}},
        "model": {"base": str(base), "max_length": 16},
        "training": {**ONE_STEP, **training},
        "publish": {"store": str(folder / "store")},
    } | changes
    return parse_pipeline(content, where="test", base_folder=folder)


@pytest.fixture(scope="module")
def rare(still_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> StepRef:
    """A snapshot in which one label is five times as common as the other."""
    folder = tmp_path_factory.mktemp("rare")
    pipeline = pipeline_of(still_bert, folder, {})
    return run_step(INGEST.plan(pipeline, context=in_root(folder / "artifacts")), on_message=ignore)


def head_after_a_step(pipeline: Pipeline, snapshot: StepRef, folder: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = train_here(pipeline, snapshot, folder)
    return {name: value for name, value in load_file(checkpoint / "model.safetensors").items() if "classifier" in name}


def test_the_weights_reach_the_loss_and_the_record(still_bert: Path, rare: StepRef, tmp_path: Path) -> None:
    pipeline = pipeline_of(still_bert, tmp_path, {"class_weights": "balanced"})
    found = head_after_a_step(pipeline, rare, tmp_path / "one")

    train = pq.read_table(Artifacts(rare.root).fetch("ingest", rare.digest) / "train.parquet")
    labels = torch.tensor(train.column("label").to_numpy())
    base = load_base(pipeline, ("closed", "open"), Reporter(tmp_path / "messages.jsonl"))
    encoded = base.tokenizer(train.column("text").to_pylist()[:16], padding=True, return_tensors="pt")
    base.model.eval()
    weights = torch.tensor([len(labels) / (2.0 * int((labels == label).sum())) for label in (0, 1)])
    losses = torch.nn.CrossEntropyLoss(weight=weights, reduction="none")(base.model(**encoded).logits, labels[:16])
    losses.mean().backward()
    for name, parameter in base.model.classifier.named_parameters():
        expected = parameter.detach() - RATE * parameter.grad
        torch.testing.assert_close(found[f"classifier.{name}"], expected, atol=1e-6, rtol=1e-4)

    record = TrainingRecord.load(tmp_path / "one")
    assert record.class_weights == pytest.approx({"closed": float(weights[0]), "open": float(weights[1])}, rel=1e-5)
    assert weights[0] > 2 * weights[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_steps_make_the_same_step(
    still_bert: Path, rare: StepRef, tmp_path: Path, smoothing: float
) -> None:
    common = {"class_weights": "balanced", "label_smoothing_factor": smoothing}
    whole = head_after_a_step(pipeline_of(still_bert, tmp_path, common), rare, tmp_path / "one")
    divided = {**common, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    parts = head_after_a_step(pipeline_of(still_bert, tmp_path, divided), rare, tmp_path / "four")
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.long
def test_two_processes_make_the_same_step(still_bert: Path, rare: StepRef, tmp_path: Path) -> None:
    common = {"class_weights": "balanced"}
    whole = head_after_a_step(pipeline_of(still_bert, tmp_path, common), rare, tmp_path / "one")
    two = pipeline_of(still_bert, tmp_path, {**common, "per_device_train_batch_size": 8}, resources={"processes": 2})
    ref = run_step(TRAIN.plan(two, rare, context=CONTEXT), on_message=ignore)
    trained = load_file(Artifacts(ref.root).fetch("train", ref.digest) / "checkpoint" / "model.safetensors")
    torch.testing.assert_close({name: trained[name] for name in whole}, whole, atol=1e-6, rtol=1e-4)


def test_weights_are_part_of_what_a_training_is(still_bert: Path, rare: StepRef, tmp_path: Path) -> None:
    plain, weighted, spelled_out = (
        TRAIN.plan(pipeline_of(still_bert, tmp_path, training), rare, context=CONTEXT).digest
        for training in ({}, {"class_weights": "balanced"}, {"class_weights": "none"})
    )
    assert plain == spelled_out != weighted


def test_what_is_refused(still_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="class_weights"):
        pipeline_of(still_bert, tmp_path, {"class_weights": "some"})
    with pytest.raises(PipelineError, match="class_weights is for tasks with labels"):
        pipeline_of(still_bert, tmp_path, {"class_weights": "balanced"}, task="text-generation")
