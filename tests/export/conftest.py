"""One exported tiny bundle for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retrainer.artifacts.parity import ParityReport
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row
from tests.export import tiny


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    bundle: Path
    rows: list[Row]
    report: ParityReport


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny bert with fp32 and int8. Read-only: tests that change it copy it."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = tiny.save_checkpoint(folder / "checkpoint")
    rows = tiny.rows(60)
    report = export_bundle(
        checkpoint,
        rows,
        folder / "bundle",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=("fp32", "int8"),
        train_row_ids=[row.row_id for row in reversed(rows)],
    )
    return Exported(checkpoint, folder / "bundle", rows, report)
