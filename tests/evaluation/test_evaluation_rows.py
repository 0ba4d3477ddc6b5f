"""Which test rows both models are scored on, and what is written of their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.gate.answers import Answers
from retrainer.work.evaluate.held_out import read_rows
from retrainer.work.evaluate.written import write_predictions
from retrainer.work.snapshot_texts import TRAIN_ROWS, trained_on

IDS = ["ffffffffffffffff", "0000000000000001", "8000000000000000"]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "row_id": IDS,
            "text": ["one", "two two", "three"],
            "label": pa.array([0, 1, 0], pa.int64()),
            "slice_park": ["north", "", "south"],
        }
    )
    pq.write_table(table, tmp_path / "test.parquet")
    return tmp_path / "test.parquet"


def bundle_trained_on(folder: Path, ids: list[str]) -> Path:
    np.array(sorted(int(row_id, 16) for row_id in ids), dtype=">u8").tofile(folder / TRAIN_ROWS)
    return folder


def test_rows_the_champion_learnt_by_heart_do_not_count(split: Path, tmp_path: Path) -> None:
    rows = read_rows(split)
    kept = rows.where(~trained_on(rows.row_ids, bundle_trained_on(tmp_path, [IDS[0], "1234567890abcdef"])))
    assert kept.row_ids == tuple(IDS[1:])
    assert kept.texts == ("two two", "three")
    assert kept.labels.tolist() == [1, 0]
    assert kept.columns["slice_park"].to_pylist() == ["", "south"]
    assert kept.columns["characters"].to_pylist() == [7, 5]
    assert not trained_on(rows.row_ids, bundle_trained_on(tmp_path, [])).any()
    assert trained_on(rows.row_ids, bundle_trained_on(tmp_path, IDS)).all()


def test_patterns_are_searched_in_every_text(split: Path, tmp_path: Path) -> None:
    rows = read_rows(split, patterns=(r"t[wh]", "^one$"))
    assert rows.columns["pattern_0"].to_pylist() == [False, True, True]
    assert rows.columns["pattern_1"].to_pylist() == [True, False, False]
    pairs = pq.read_table(split).append_column("text_pair", pa.array(["", "", "one"]))
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    assert read_rows(tmp_path / "pairs.parquet", ("^one$",)).columns["pattern_0"].to_pylist() == [True, False, True]


def test_predictions_are_the_same_bytes_for_the_same_answers(split: Path, tmp_path: Path) -> None:
    rows = read_rows(split)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    for name in ("first", "second"):
        write_predictions(tmp_path / name / "p.parquet", rows, Answers(scores.argmax(axis=1), scores))
    assert (tmp_path / "first" / "p.parquet").read_bytes() == (tmp_path / "second" / "p.parquet").read_bytes()
    table = pq.read_table(tmp_path / "first" / "p.parquet").to_pydict()
    assert table["row_id"] == IDS
    assert table["prediction"] == [0, 1, 0]
    assert table["scores"] == scores.tolist()
    assert table["slice_park"] == ["north", "", "south"]
