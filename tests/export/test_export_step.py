"""The export step on a snapshot and a checkpoint, as its process runs it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.parity import ParityReport
from retrainer.artifacts.snapshot import SPLITS, Characters, SnapshotStatistics, SplitStatistics, split_file
from retrainer.chain import RunContext, StepRequest
from retrainer.chain.messages import Log
from retrainer.serve import Classifier
from retrainer.serve.predictor import load_info
from retrainer.spec.model import Pipeline
from retrainer.work.export import graph, run
from retrainer.work.export.sample import Row
from retrainer.work.reporter import Reporter
from tests.export import tiny


class Listener(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def send(self, message: object) -> None:
        if isinstance(message, Log):
            self.said.append(message.text)


def snapshot(folder: Path, splits: dict[str, list[Row]]) -> Path:
    folder.mkdir()
    for split in SPLITS:
        rows = splits.get(split, [])
        table = pa.table(
            {
                "row_id": pa.array([row.row_id for row in rows], pa.string()),
                "text": pa.array([row.text[0] for row in rows], pa.string()),
                "text_pair": pa.array([row.text[1] for row in rows], pa.string()),
                "label": pa.array([index % 3 for index, _ in enumerate(rows)], pa.int64()),
            }
        )
        pq.write_table(table, split_file(folder, split))
    counted = SplitStatistics(rows=0, label_counts={}, characters=Characters(p50=0, p95=0, max=0))
    statistics = SnapshotStatistics(
        labels=tiny.LABELS,
        splits=dict.fromkeys(SPLITS, counted),
        source_rows=0,
        duplicates=0,
        conflicts=0,
        leakage={},
        quarantined={},
        sources=(),
    )
    (folder / "statistics.json").write_text(statistics.to_pretty_json())
    return folder


def request(precisions: list[str]) -> StepRequest:
    pipeline = Pipeline.model_validate(
        {
            "name": "trails",
            "task": "text-pair-classification",
            "dataset": {"train": "/data.csv", "text": ["first", "second"]},
            "model": {"base": "/base", "max_length": tiny.MAX_LENGTH},
            "export": {"precisions": precisions},
            "publish": {"store": "/store"},
        }
    )
    return StepRequest(
        step="export",
        digest="0" * 64,
        identity={},
        pipeline=pipeline,
        inputs={"ingest": "1" * 64, "train": "2" * 64},
        root="/artifacts",
        context=RunContext(root="/artifacts", run_id="run", actor="test", started_at="2025-01-01T00:00:00+00:00"),
    )


@pytest.mark.parametrize("has_validation", [True, False])
def test_pairs_to_a_bundle(tmp_path: Path, has_validation: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny.rows(30, pairs=True)
    splits = {"train": rows[:20], "validation": rows[20:]} if has_validation else {"train": rows}
    tiny.save_checkpoint(tmp_path / "train" / "checkpoint")
    if not has_validation:
        monkeypatch.setattr(graph, "SINGLE_FILE_BYTES", 1000)  # as if the weights were more than a file can hold
    folder = tmp_path / "export"
    folder.mkdir()
    listener = Listener()
    handed_on = run(
        request(["fp32", "int8"]),
        {"ingest": snapshot(tmp_path / "ingest", splits), "train": tmp_path / "train"},
        folder,
        listener,
    )
    path = folder / "parity.json"
    report = ParityReport.from_json(path.read_bytes(), where=str(path))
    assert report.rows == handed_on.rows == len(splits.get("validation", rows))
    assert handed_on.precisions == ("fp32", "int8")
    assert handed_on.max_difference == report.max_difference
    assert handed_on.size_mb["fp32"] >= handed_on.size_mb["int8"] > 0
    assert "tracing the fp32 graph" in listener.said
    assert listener.said[-1].startswith("int8: logits within")

    bundle = folder / "bundle"
    assert (bundle / "train_rows.bin").stat().st_size == 8 * len(splits["train"])
    assert (bundle / "onnx" / "model.onnx.data").exists() is not has_validation
    assert load_info(bundle).task == "text-pair-classification"
    assert Classifier.from_folder(bundle)(("the trail is open", "yes"))[0]["label"] in tiny.LABELS
