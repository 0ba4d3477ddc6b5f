"""The export step: a checkpoint to the bundle that would be served, checked against the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from retrainer.snapshot import SnapshotStatistics, split_file
from retrainer.steps import StepRequest
from retrainer.work.export.bundle import GRAPHS, export_bundle
from retrainer.work.export.graph import graph_bytes
from retrainer.work.export.sample import read_rows
from retrainer.work.reporter import Reporter

BUNDLE_FOLDER = "bundle"
PARITY = "parity.json"


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Fill ``folder`` with ``bundle/`` and ``parity.json``.

    :raises ExportError: the graph does not compute what the checkpoint computes.
    """
    snapshot = inputs["ingest"]
    pipeline = request.pipeline
    labels = SnapshotStatistics.load(snapshot).labels
    # Without a validation split the rows it was trained on serve: it is the graph that is tested, not the model.
    rows = read_rows(split_file(snapshot, "validation")) or read_rows(split_file(snapshot, "train"))
    trained_on = pq.read_table(split_file(snapshot, "train"), columns=["row_id"]).column("row_id").to_pylist()
    bundle = folder / BUNDLE_FOLDER
    report = export_bundle(
        inputs["train"] / "checkpoint",
        rows,
        bundle,
        task=pipeline.task,
        labels=labels,
        max_length=pipeline.model.max_length,
        precisions=pipeline.export.precisions,
        train_row_ids=trained_on,
        on_stage=reporter.log,
    )
    (folder / PARITY).write_text(report.to_pretty_json())
    for precision, difference in report.max_difference.items():
        reporter.log(
            f"{precision}: logits within {difference:.1e} of the checkpoint on {report.rows} rows, "
            f"labels agree on {report.label_agreement[precision]:.2%}"
        )
    return {
        "precisions": sorted(report.max_difference),
        "max_difference": report.max_difference,
        "label_agreement": report.label_agreement,
        "rows": report.rows,
        "longest_tokens": report.longest_tokens,
        "exporter": report.exporter,
        "size_mb": {name: round(graph_bytes(bundle / GRAPHS[name]) / 1e6, 2) for name in sorted(report.max_difference)},
    }
