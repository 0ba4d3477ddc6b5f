"""Several processes: without dropout they end with the weights of one process whose batch is all of theirs together.

Tolerance: the gradients are the same sums of float32 taken in another order, of which 24 bits are kept, so that after a
few dozen steps of plain descent weights of the order of 0.1 differ by about 1e-7. They leave room for another
machine's order; a row that counts twice in one step moves weights a thousand times as far (tested).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.chain import StepRef
from retrainer.chain.messages import Metrics, Progress, parse_message
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.train.shares import BLANK, IGNORED, FilledUp, Shares, WithBlanks
from tests.training.conftest import train_here
from tests.training.ranks import Training, train_in_ranks

ATOL, RTOL = 2e-6, 1e-4
PLAIN = {"optim": "sgd", "learning_rate": 0.2, "num_train_epochs": 2, "logging_steps": 3}


class Case(NamedTuple):
    """A training on 171 rows. The last step of an epoch has one row, or nine for the second batch of two processes.

    :param batch: rows of a step.
    :param accumulated: batches of each of several processes in it.
    """

    training: dict[str, Any]
    batch: int = 34
    accumulated: int = 1


TWICE = {"batch": 36, "accumulated": 2}


@given(
    rows=st.integers(1, 200), batch=st.integers(1, 9), processes=st.integers(1, 5), accumulated=st.integers(1, 4),
    drops_last=st.booleans(),
)  # fmt: skip
def test_every_row_is_in_one_batch(rows: int, batch: int, processes: int, accumulated: int, drops_last: bool) -> None:
    shares = Shares(rows, batch, processes, accumulated, drops_last)
    used = rows - rows % (batch * processes) if drops_last else rows
    order = list(range(rows)) if drops_last else list(FilledUp(range(rows), batch * processes))
    batches = [order[at : at + batch] for at in range(0, len(order) - batch + 1, batch)]
    batches = batches[: len(batches) // processes * processes]
    if not batches:
        return
    rounds = [batches[at : at + processes] for at in range(0, len(batches), processes)]
    steps = [rounds[at : at + accumulated] for at in range(0, len(rounds), accumulated)]
    assert len(steps) == shares.steps
    assert sorted(row for one in batches for row in one if row != BLANK) == list(range(used))
    for step, of_step in enumerate(steps):
        found = [[sum(row != BLANK for row in one) for one in of_round] for of_round in of_step]
        assert found == [
            [shares.of_batch(step, number, process) for process in range(processes)] for number in range(len(of_step))
        ]
        assert sum(map(sum, found)) == shares.of_step(step) > 0
        assert all(one[len(one) - one.count(BLANK) :] == [BLANK] * one.count(BLANK) for of in of_step for one in of)


@pytest.mark.parametrize(("labels", "none"), [(1, IGNORED), ([0.0, 1.0], [IGNORED, IGNORED])])
def test_a_blank_row_has_no_label(labels: Any, none: Any) -> None:
    rows = WithBlanks([{"input_ids": [1, 2], "labels": labels}])
    assert rows[BLANK] == {"input_ids": [1, 2], "labels": none}
    assert (len(rows), rows[0]["labels"]) == (1, labels)


def of(case: Case, base: Pipeline, processes: int) -> Pipeline:
    """The training in that many processes, a step of which has the same rows in any number of them."""
    rows = case.batch // (processes * (case.accumulated if processes > 1 else 1))
    arguments = {**PLAIN, "per_device_eval_batch_size": 16 // processes, **case.training}
    content = base.model_dump(mode="json", exclude_unset=True)
    content["training"] = {**arguments, "per_device_train_batch_size": rows}
    if processes > 1:
        content["training"]["gradient_accumulation_steps"] = case.accumulated
        content["resources"] = {"processes": processes}
    return parse_pipeline(content, where="test", base_folder=Path("/"))


CASES = {
    "random": Case({}),
    "sequential, accumulated, weighted, smoothed": Case(
        {"train_sampling_strategy": "sequential", "class_weights": "balanced", "label_smoothing_factor": 0.1}, **TWICE
    ),
    "by length": Case({"train_sampling_strategy": "group_by_length"}),
    "by length, accumulated, frozen": Case({"train_sampling_strategy": "group_by_length", "freeze_layers": 1}, **TWICE),
    "rebalanced, accumulated": Case({"train_sampling_strategy": "batch_rebalance"}, **TWICE),
    "unpadded": Case({"unpadded": True}),
    "incomplete batches dropped, not clipped": Case({"dataloader_drop_last": True, "max_grad_norm": 0.0}),
    "adam": Case({"optim": "adamw_torch", "learning_rate": 1e-3}),
    "stops early": Case({"num_train_epochs": 9, "early_stopping_patience": 1}),
}


@pytest.fixture(scope="module")
def classifier(still_bert: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("classifier")
    content = {
        "name": "tiny",
        "dataset": {"train": str(rows_file)},
        "model": {"base": str(still_bert), "max_length": 32},
        "publish": {"store": str(folder / "store")},
    }
    return parse_pipeline(content, where="test", base_folder=folder)


@pytest.fixture(scope="module")
def in_two(classifier: Pipeline, snapshot: StepRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    pipelines = [of(case, classifier, 2) for case in CASES.values()]
    trained = train_in_ranks(pipelines, snapshot, tmp_path_factory.mktemp("two") / "ranks")
    return dict(zip(CASES, trained, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_two_are_one(
    name: str, in_two: dict[str, Training], classifier: Pipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    checkpoint, _ = train_here(of(CASES[name], classifier, 1), snapshot, tmp_path / "one")
    one, two = Training(checkpoint.parent), in_two[name]
    for weight, values in one.weights.items():
        np.testing.assert_allclose(two.weights[weight], values, atol=ATOL, rtol=RTOL, err_msg=weight)
    assert (two.record.steps, two.record.best_step) == (one.record.steps, one.record.best_step)
    assert two.record.device.startswith("2 x ")
    assert len(one.record.curve) == len(two.record.curve) > 2
    for alone, together in zip(one.record.curve, two.record.curve, strict=True):
        assert together.step == alone.step
        assert together.loss == (None if alone.loss is None else pytest.approx(alone.loss, rel=1e-4))
        assert together.validation == pytest.approx(alone.validation, rel=1e-4)


@pytest.mark.long
def test_what_is_seen_is_of_both(in_two: dict[str, Training], snapshot: StepRef) -> None:
    """Rows, progress and scores once, from the process that speaks."""
    trained = in_two["random"]
    folder, number = trained.folder.parent, trained.folder.name.removeprefix("trained-")
    lines = (folder / f"messages-{number}.jsonl").read_bytes().splitlines()
    messages = [parse_message(line) for line in lines]
    assert [message.epoch for message in messages if isinstance(message, Metrics)] == [1, 2]
    done = [message.done for message in messages if isinstance(message, Progress)]
    assert done == sorted(set(done))
    rows = SnapshotStatistics.load(Artifacts(snapshot.root).fetch("ingest", snapshot.digest)).splits["train"].rows
    assert trained.record.rows_per_second * trained.record.seconds == pytest.approx(2 * rows)
    assert rows % 34 == 1, "the last step of an epoch has a row for one process alone"
