"""Write a snapshot, splits and quarantine, and say what is in it. The same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrainer.artifacts.snapshot import (
    QUARANTINE,
    SPLITS,
    TEXT_KEY,
    Characters,
    CorrectionStatistics,
    QuarantineReason,
    SnapshotStatistics,
    SourceStatistics,
    SplitName,
    SplitStatistics,
    slice_column,
    split_file,
)
from retrainer.label_names import spelled
from retrainer.work.ingest.label_sets import LabelSets
from retrainer.work.ingest.pools import Pool
from retrainer.work.reporter import Reporter

Selection = Mapping[SplitName, tuple[Pool, npt.NDArray[np.int64]]]

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


def write_splits(
    selection: Selection, folder: Path, labels: Sequence[str], slices: Sequence[str], sets: LabelSets | None = None
) -> dict[SplitName, SplitStatistics]:
    """Write the three splits in source order.

    :param selection: for each split the pool its rows come from, and their positions in it.
    :param sets: what the labels of the pools are codes of, where a row has any number of labels.
    """
    statistics: dict[SplitName, SplitStatistics] = {}
    for split in SPLITS:
        pool, rows = selection[split]
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            "row_id": _hex(pool.row_id[rows]),
            "text": pool.text().take(rows),
        }
        lengths = pc.utf8_length(columns["text"]).to_numpy()
        if len(pool.files[0].texts) == 2:
            columns["text_pair"] = pool.text(1).take(rows)
            lengths = lengths + pc.utf8_length(columns["text_pair"]).to_numpy()
        codes = pool.label[rows]
        if sets is not None:
            columns["label"] = sets.column(codes)
        elif labels:
            columns["label"] = pa.array(codes, pa.int64())
        else:
            columns["target"] = pool.raw_labels().take(rows)
            columns[TEXT_KEY] = _hex(pool.key[rows])
        for name in slices:
            columns[slice_column(name)] = pool.slices(name).take(rows)
        _write_table(pa.table(columns), split_file(folder, split))
        counts = rows_of_labels(codes, labels, sets)
        sizes = None if sets is None else sets.sizes(codes)
        statistics[split] = SplitStatistics(
            rows=len(rows),
            label_counts={label: int(count) for label, count in zip(labels, counts, strict=bool(labels))},
            characters=_characters(lengths),
            without_labels=None if sizes is None else int((sizes == 0).sum()),
            labels_a_row=None if sizes is None else float(sizes.mean()) if len(sizes) else 0.0,
        )
    return statistics


def rows_of_labels(
    found: npt.NDArray[np.int64], labels: Sequence[str], sets: LabelSets | None
) -> npt.NDArray[np.int64]:
    """How many rows have each label; nothing of use where there are no labels.

    :param found: label of each row, as in a pool.
    """
    return np.bincount(found, minlength=len(labels)) if sets is None else sets.counts(found)


def _hex(numbers: npt.NDArray[np.uint64]) -> pa.Array:
    return pa.array([f"{number:016x}" for number in numbers.tolist()], pa.string())


def _characters(lengths: npt.NDArray[np.int64]) -> Characters:
    if len(lengths) == 0:
        return Characters(p50=0, p95=0, max=0)
    half, most = (int(value) for value in np.percentile(lengths, [50, 95], method="nearest"))
    return Characters(p50=half, p95=most, max=int(lengths.max()))


def write_quarantine(pools: Sequence[Pool], folder: Path) -> dict[QuarantineReason, int]:
    """Write every row that was set aside, with where it was and why.

    :return: reason to rows.
    """
    counts: dict[QuarantineReason, int] = {}
    tables = []
    for pool in pools:
        reasons = np.full(len(pool), "", dtype=object)
        for reason, rows in pool.quarantined.items():
            reasons[rows] = reason
            counts[reason] = counts.get(reason, 0) + len(rows)
        rows = np.flatnonzero(reasons != "")
        tables.append(
            pa.table(
                {
                    "source": pool.file_names().take(rows),
                    "row": pa.array(pool.file_rows()[rows], pa.int64()),
                    "reason": pa.array(reasons[rows].tolist(), pa.large_string()),
                    "text": pool.text().take(rows),
                    "text_pair": pool.text(1).take(rows)
                    if len(pool.files[0].texts) == 2
                    else pa.nulls(len(rows), pa.large_string()),
                    "label": pool.raw_labels().take(rows),
                }
            )
        )
    _write_table(pa.concat_tables(tables), folder / QUARANTINE)
    return counts


def describe_sources(pools: Sequence[Pool]) -> tuple[SourceStatistics, ...]:
    """What was read."""
    return tuple(
        SourceStatistics(
            split=pool.split, name=rows.name, format=rows.format, rows=len(rows), size=rows.size, reading=rows.reading
        )
        for pool in pools
        for rows in pool.files
    )


def report(statistics: SnapshotStatistics, reporter: Reporter) -> None:
    """Say what ingest found, in a few lines for people."""
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
        reporter.log(f"{split:<10} {part.rows:>9,} rows{': ' if shown else ''}{shown}{more}; median {length}")
        if part.labels_a_row is not None:
            reporter.log(f"{'':<10} {part.labels_a_row:.2f} labels a row, {part.without_labels:,} rows with none")
    for label, spellings in list(statistics.spellings.items())[:_LABELS_SHOWN]:
        counted = ", ".join(f"{spelled(spelling)} {count:,}" for spelling, count in spellings.items())
        reporter.log(f"labels     {counted}: read as '{label}'")
    if len(statistics.spellings) > _LABELS_SHOWN:
        rest = len(statistics.spellings) - _LABELS_SHOWN
        reporter.log(f"labels     {rest} more are not spelled as they are called: statistics.json has them all")
    if statistics.duplicates:
        reporter.log(f"{statistics.duplicates:,} repeated rows dropped")
    if statistics.corrections:
        _report_corrections(statistics.corrections, reporter)
    reasons = _REASONS if statistics.labels else {**_REASONS, "missing_label": "without output"}
    for reason, count in statistics.quarantined.items():
        reporter.log(f"{count:,} rows {reasons[reason]}: in quarantine", level="warning")


_OUTCOMES = {
    "relabelled": "of them changed a label",
    "already_so": "said what the data says",
    "corrected_again": "were corrected again later",
    "no_such_row": "match no row",
}


def _report_corrections(found: CorrectionStatistics, reporter: Reporter) -> None:
    counts = ", ".join(f"{count:,} {_OUTCOMES[outcome]}" for outcome, count in found.outcomes.items())
    unmatched = "no_such_row" in found.outcomes
    reporter.log(f"{found.given:,} corrections: {counts or 'nothing to do'}", level="warning" if unmatched else "info")
    changed = ", ".join(f"{split} {count:,}" for split, count in found.relabelled.items() if count)
    if changed:
        reporter.log(f"rows that have another label than in the data: {changed}")
    if found.relabelled.get("test"):
        reporter.log("the test rows are the same rows as without corrections; of some the label is another")


def _write_table(table: pa.Table, path: Path) -> None:
    # Without Arrow's own schema beside parquet's: readers then see plain strings, not our 64-bit offsets.
    pq.write_table(table, path, compression="zstd", store_schema=False)
