"""Test rows that the champion knows, exactly or nearly, are left out and counted, or stop the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.snapshot import Characters, SnapshotStatistics, SplitStatistics
from retrainer.chain import RunContext, StepRequest
from retrainer.errors import DataError
from retrainer.spec import parse_pipeline
from retrainer.work.evaluate.held_out import held_out_rows
from retrainer.work.near import NEAR_ROWS
from retrainer.work.near.index import write_index
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import TRAIN_ROWS

LABELS = ("closed", "open")
TEST = (
    "The gate at the north trailhead is closed after last night's heavy rain",
    "Dry dirt from the lot to the lake, grab your bike and enjoy the evening",
    "Crews are still clearing two fallen trees near the creek crossing this week",
    "All loops are open again and the new bridge is ready for everybody to ride",
)
NEARLY = TEST[1].replace("evening", "morning")


def split(path: Path, texts: tuple[str, ...], labels: list[int], first_id: int) -> Path:
    table = pa.table(
        {
            "row_id": [f"{first_id + at:016x}" for at in range(len(texts))],
            "text": list(texts),
            "label": pa.array(labels, pa.int64()),
        }
    )
    pq.write_table(table, path)
    return path


def bundle(folder: Path, ids: list[int], near: Path | None) -> Path:
    folder.mkdir()
    np.array(sorted(ids), dtype=">u8").tofile(folder / TRAIN_ROWS)
    if near is not None:
        write_index(near, LABELS, folder / NEAR_ROWS)
    return folder


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    split(folder / "test.parquet", TEST, [0, 1, 0, 1], 0)
    counted = SplitStatistics(rows=4, label_counts={}, characters=Characters(p50=1, p95=1, max=1))
    statistics = SnapshotStatistics(
        labels=LABELS,
        splits={"train": counted, "validation": counted, "test": counted},
        source_rows=12,
        duplicates=0,
        conflicts=0,
        leakage={"train_in_test": 2},
        near_leakage={"train_in_test": 1},
        quarantined={},
        sources=(),
    )
    (folder / "statistics.json").write_text(statistics.to_pretty_json())
    return folder


def request(**checks: Any) -> StepRequest:
    pipeline = parse_pipeline(
        {
            "name": "trail",
            "dataset": {"train": "/train.csv", "checks": checks},
            "model": {"base": "some/model"},
            "publish": {"store": "/store"},
        }
    )
    context = RunContext(root="/artifacts", run_id="run", actor="me", started_at="2026-01-01T00:00:00+00:00")
    return StepRequest(
        step="evaluate", digest="d", identity={}, pipeline=pipeline, inputs={}, root="/root", context=context
    )


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    near = split(tmp_path / "train.parquet", (NEARLY, TEST[2].upper()), [1, 1], 100)
    return bundle(tmp_path / "champion", [0, 77], near)


@pytest.fixture
def challenger(tmp_path: Path) -> Path:
    return bundle(tmp_path / "challenger", [500], None)


def test_rows_the_champion_knows_are_left_out_and_counted(
    snapshot: Path, challenger: Path, champion: Path, tmp_path: Path
) -> None:
    rows, leakage = held_out_rows(request(), snapshot, challenger, champion, Reporter(tmp_path / "messages"))
    # The third stands in the champion's rows too, but with another label.
    assert rows.texts == (TEST[2], TEST[3])
    assert (leakage.champion_exact, leakage.champion_near) == (1, 1)
    assert leakage.champion_near_unknown is None
    assert (leakage.exact, leakage.near) == ({"train_in_test": 2}, {"train_in_test": 1})


def test_without_a_champion_all_rows_stay(snapshot: Path, challenger: Path, tmp_path: Path) -> None:
    rows, leakage = held_out_rows(request(), snapshot, challenger, None, Reporter(tmp_path / "messages"))
    assert len(rows) == 4
    assert (leakage.champion_exact, leakage.champion_near) == (0, 0)


def test_near_ones_stay_where_nobody_asks(snapshot: Path, challenger: Path, champion: Path, tmp_path: Path) -> None:
    asked = request(near_duplicate_similarity=None)
    rows, leakage = held_out_rows(asked, snapshot, challenger, champion, Reporter(tmp_path / "messages"))
    assert len(rows) == 3
    assert leakage.champion_near == 0


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_index_that_cannot_be_used_is_said_and_stops_nothing(
    snapshot: Path, challenger: Path, champion: Path, tmp_path: Path, damage: str
) -> None:
    index = champion / NEAR_ROWS
    whole = index.read_bytes()
    index.unlink()
    if damage == "cut":
        index.write_bytes(whole[:-5])
    rows, leakage = held_out_rows(request(), snapshot, challenger, champion, Reporter(tmp_path / "messages"))
    assert len(rows) == 3
    assert leakage.champion_near_unknown


def test_known_rows_stop_the_evaluation_where_the_pipeline_says_so(
    snapshot: Path, challenger: Path, champion: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        held_out_rows(request(on_leakage="fail"), snapshot, challenger, champion, Reporter(tmp_path / "messages"))
    assert "trained on 1 of the 4 test rows" in str(caught.value)
    assert "0000000000000000" in str(caught.value)


def test_no_row_left_is_an_error(snapshot: Path, challenger: Path, tmp_path: Path) -> None:
    everything = bundle(tmp_path / "all", [0, 1, 2, 3], None)
    with pytest.raises(DataError, match="no test row is left"):
        held_out_rows(request(), snapshot, challenger, everything, Reporter(tmp_path / "messages"))


def test_rows_of_a_champion_that_is_part_of_the_challenger_count_as_the_champions(
    snapshot: Path, champion: Path, tmp_path: Path
) -> None:
    blended = bundle(tmp_path / "blended", [0, 3, 500], None)
    said = Reporter(tmp_path / "messages")
    rows, leakage = held_out_rows(request(), snapshot, blended, champion, said)
    # The fourth was learnt by an earlier one.
    assert rows.texts == (TEST[2],)
    assert leakage.champion_exact == 1
    rows, _ = held_out_rows(request(), snapshot, blended, None, said)
    assert rows.texts == (TEST[1], TEST[2])
    with pytest.raises(DataError, match="trained on 1 of"):
        held_out_rows(request(on_leakage="fail"), snapshot, blended, champion, said)
