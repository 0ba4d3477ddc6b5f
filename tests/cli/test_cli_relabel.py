"""Wrong labels from end to end: found by a run, corrected by a person, used by the next run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrainer.artifacts.snapshot import SnapshotStatistics

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

CLOSED = ("closed", "flooded", "muddy", "shut")


def newest(artifacts: Path, step: str) -> Path:
    return max((artifacts / step).iterdir(), key=lambda folder: (folder / "manifest.json").stat().st_mtime)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def true_label(text: str) -> str:
    return "closed" if set(text.split()) & set(CLOSED) else "open"


@pytest.mark.long
def test_what_a_run_suspects_a_person_corrects_and_the_next_run_uses(
    cli: Cli, bench: Workbench, published: Published, tmp_path: Path
) -> None:
    for name in ("store", ".retrainer"):
        shutil.copytree(published.folder / name, tmp_path / name, symlinks=True)
    bench.rows(tmp_path / "train.csv", 400, seed=3)
    bench.rows(tmp_path / "test.csv", 120, seed=2)
    rows = read(tmp_path / "test.csv")
    for row in rows[:5]:
        row["label"] = {"open": "closed", "closed": "open"}[row["label"]]
    with (tmp_path / "test.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    pipeline = tmp_path / "pipeline.yaml"
    plain = published.pipeline.read_text()
    assert "  test: test.csv\n" in plain
    corrected = plain.replace("  test: test.csv\n", "  test: test.csv\n  corrections: labels/\n")
    pipeline.write_text(corrected)
    assert cli("check", pipeline).returncode == 1, "the folder is not there yet"
    pipeline.write_text(plain)
    answer = cli("run", pipeline)
    assert answer.returncode in {0, 3}, answer.stderr
    artifacts = tmp_path / ".retrainer" / "artifacts"
    evaluation, decision = newest(artifacts, "evaluate"), newest(artifacts, "decide")
    suspects = [row for row in read(evaluation / "suspects.csv") if row["split"] == "test"]
    assert {row["text"] for row in suspects} == {row["text"] for row in rows[:5]}
    assert (evaluation / "look_first.csv").is_file()
    receipt = json_of(decision / "receipt.json")
    assert receipt["overturn"]["exact"]
    assert any("test labels seem wrong" in note for note in receipt["notes"])
    page = (decision / "report.html").read_text()
    assert "Labels that may be wrong" in page
    assert suspects[0]["text"] in page

    decisions = tmp_path / "decisions.csv"
    with decisions.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(suspects[0]))
        writer.writeheader()
        writer.writerows([{**row, "label": true_label(row["text"])} for row in suspects])
    pipeline.write_text(corrected)
    added = cli("relabel", decisions, pipeline)
    assert "5 corrections by tester" in added.stdout, added.stderr
    checked = cli("check", pipeline)
    assert "5 corrections, the last by tester" in " ".join(checked.stdout.split()), checked.stdout
    assert cli("run", pipeline).returncode in {0, 3}
    statistics = SnapshotStatistics.load(newest(artifacts, "ingest"))
    assert statistics.corrections is not None
    assert statistics.corrections.relabelled == {"train": 0, "validation": 0, "test": 5}
    assert "relabelled by corrections, test" in (newest(artifacts, "decide") / "report.html").read_text()
    assert cli("verify", newest(artifacts, "decide") / "receipt.json").returncode == 0


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())
