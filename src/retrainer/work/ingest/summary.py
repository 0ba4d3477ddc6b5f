"""What ingest found, line by line for people."""

from __future__ import annotations

from retrainer.artifacts.snapshot import SPLITS, SnapshotStatistics
from retrainer.work.reporter import Reporter

_LABELS_SHOWN = 8
_REASONS = {
    "missing_text": "without text",
    "missing_label": "without label",
    "conflicting_labels": "whose text also has another label",
    "also_in_test": "that are also in the test file",
    "also_in_validation": "that are also in the validation file",
    "nearly_in_test": "that are nearly a test row",
    "nearly_in_validation": "that are nearly a validation row",
}


def report(statistics: SnapshotStatistics, reporter: Reporter) -> None:
    """Say it in a few lines."""
    files = len(statistics.sources)
    reporter.log(f"read {statistics.source_rows:,} rows from {files} file{'s' * (files != 1)}")
    for split in SPLITS:
        part = statistics.splits[split]
        if not part.rows:
            reporter.log(f"{split:<10} no rows")
            continue
        counts = [f"{label} {count:,}" for label, count in part.label_counts.items()]
        shown = ", ".join(counts[:_LABELS_SHOWN])
        more = f" and {len(counts) - _LABELS_SHOWN} more labels" if len(counts) > _LABELS_SHOWN else ""
        length = f"{part.characters.p50:,} characters, 95 % at most {part.characters.p95:,}"
        reporter.log(f"{split:<10} {part.rows:>9,} rows: {shown}{more}; median {length}")
    if statistics.duplicates:
        reporter.log(f"{statistics.duplicates:,} repeated rows dropped")
    for reason, count in statistics.quarantined.items():
        reporter.log(f"{count:,} rows {_REASONS[reason]}: in quarantine", level="warning")
