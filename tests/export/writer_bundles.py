"""Two exported tiny bundles that write text, one with an encoder and one without: made once a session, read-only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retrainer.artifacts.parity import ParityReport
from retrainer.work.export.generation import export_bundle
from tests.export import tiny
from tests.export.tiny_writers import MAX_LENGTH, MAX_NEW_TOKENS, TASKS, save_writer
from tests.made_once import made_once

BOTH = ("gpt2", "t5")
ROWS = tiny.rows(70, longest=10)


@dataclass(frozen=True)
class Writer:
    architecture: str
    checkpoint: Path
    bundle: Path
    report: ParityReport


def writer(factory: pytest.TempPathFactory, architecture: str) -> Writer:
    """With fp32 and int8."""

    def make(folder: Path) -> None:
        report = export_bundle(
            save_writer(folder / "checkpoint", architecture),
            ROWS,
            folder / "bundle",
            task=TASKS[architecture],
            max_length=MAX_LENGTH,
            max_new_tokens=MAX_NEW_TOKENS,
            precisions=("fp32", "int8"),
            train_row_ids=[row.row_id for row in ROWS],
        )
        (folder / "report.json").write_bytes(report.to_json())

    folder = made_once(factory, f"writer_{architecture}", make)
    report = ParityReport.from_json((folder / "report.json").read_bytes(), where="report.json")
    return Writer(architecture, folder / "checkpoint", folder / "bundle", report)
