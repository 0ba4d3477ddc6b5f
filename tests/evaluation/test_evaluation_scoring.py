"""Answers come in the order of the snapshot's labels, whatever order the model has them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from retrainer.serve.predictor import Predictor
from retrainer.work.evaluate.held_out import HeldOutRows
from retrainer.work.evaluate.scoring import score
from retrainer.work.reporter import Reporter
from tests.export import tiny


@pytest.fixture
def rows() -> HeldOutRows:
    texts = tuple(row.text for row in tiny.rows(30, pairs=False))
    return HeldOutRows(
        row_ids=tuple(f"{i:016x}" for i in range(30)),
        keys=tuple(f"{i:016x}" for i in range(30)),
        texts=texts,
        labels=np.zeros(30, dtype=np.int64),
        columns={"characters": pa.array([len(text) for text in texts], pa.int64())},
    )


def test_labels_are_matched_by_name(bundle: Path, rows: HeldOutRows, tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "messages")
    own = Predictor(bundle).probabilities(rows.texts)
    order = (2, 0, 1)
    permuted = score(bundle, "fp32", rows, tuple(tiny.LABELS[i] for i in order), reporter, name="x")
    assert np.array_equal(permuted.probabilities, own[:, order])
    assert np.array_equal(permuted.predictions, permuted.probabilities.argmax(axis=1))


def test_a_label_the_snapshot_lacks_is_never_right(bundle: Path, rows: HeldOutRows, tmp_path: Path) -> None:
    own = Predictor(bundle).probabilities(rows.texts).argmax(axis=1)
    known = (tiny.LABELS[0], "brand new")
    answers = score(bundle, "fp32", rows, known, Reporter(tmp_path / "messages"), name="x")
    assert answers.probabilities.shape == (30, 2)
    assert not answers.probabilities[:, 1].any()
    assert np.array_equal(answers.predictions, np.where(own == 0, 0, -1))
