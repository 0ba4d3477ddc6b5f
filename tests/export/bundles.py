"""Two exported tiny bundles that many tests read, one for texts and one for pairs: made once a session, read-only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retrainer.artifacts.parity import ParityReport
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row
from tests.export import tiny
from tests.made_once import made_once


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    bundle: Path
    rows: list[Row]
    report: ParityReport


def export_of_texts(factory: pytest.TempPathFactory) -> Exported:
    """A tiny bert with fp32 and int8."""
    rows = tiny.rows(60)

    def make(folder: Path) -> None:
        report = export_bundle(
            tiny.save_checkpoint(folder / "checkpoint"),
            rows,
            folder / "bundle",
            task="text-classification",
            labels=tiny.LABELS,
            max_length=tiny.MAX_LENGTH,
            precisions=("fp32", "int8"),
            train_row_ids=[row.row_id for row in reversed(rows)],
        )
        (folder / "report.json").write_bytes(report.to_json())

    folder = made_once(factory, "export_of_texts", make)
    report = ParityReport.from_json((folder / "report.json").read_bytes(), where="report.json")
    return Exported(folder / "checkpoint", folder / "bundle", rows, report)


def bundle_of_pairs(factory: pytest.TempPathFactory) -> Path:
    """A tiny bert with fp32 only."""

    def make(folder: Path) -> None:
        export_bundle(
            tiny.save_checkpoint(folder / "checkpoint"),
            tiny.rows(40, pairs=True),
            folder / "bundle",
            task="text-pair-classification",
            labels=tiny.LABELS,
            max_length=tiny.MAX_LENGTH,
        )

    return made_once(factory, "bundle_of_pairs", make) / "bundle"
