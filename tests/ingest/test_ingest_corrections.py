"""Corrections of labels: added by the command, used by the next snapshot, which says what became of each."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from retrainer.artifacts.snapshot import CORRECTIONS, SnapshotStatistics, split_file
from retrainer.chain.requests import RunContext
from retrainer.chain.steps.ingest import INGEST, Ingested
from retrainer.errors import DataError
from retrainer.spec import Pipeline, load_pipeline
from retrainer.work.ingest import ingest, run
from retrainer.work.reporter import Reporter

Rows = list[tuple[Any, ...]]
HEADER = ("text", "label")


class Desk:
    """A folder with data, a pipeline and its corrections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def write(self, name: str, rows: Rows, header: tuple[str, ...] = HEADER) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([header, *rows])
        return path

    def pipeline(self, **dataset: Any) -> Path:
        document = {
            "name": "x",
            "dataset": {
                "train": "data.csv",
                "checks": {"min_rows": 1, "min_rows_per_label": 1},
                "corrections": "corrections/",
                **dataset,
            },
            "model": {"base": "m"},
            "publish": {"store": "s"},
        }
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def relabel(self, *arguments: object, code: int = 0) -> str:
        answer = subprocess.run(
            [sys.executable, "-m", "retrainer.cli", "relabel", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RETRAINER_ACTOR": "ann"},
        )
        assert answer.returncode == code, answer.stderr
        return " ".join((answer.stdout + answer.stderr).split())

    def snapshot(self, spec: Pipeline) -> tuple[SnapshotStatistics, Path]:
        self.made += 1
        folder = self.folder / f"out{self.made}"
        folder.mkdir()
        return ingest(spec, folder, Reporter()), folder


def labels_in(folder: Path, statistics: SnapshotStatistics, split: str) -> dict[str, str]:
    rows = pq.read_table(split_file(folder, split)).to_pylist()  # type: ignore[arg-type]
    return {row["text"]: statistics.labels[row["label"]] for row in rows}


def data(count: int = 200) -> Rows:
    return [(f"text number {at}", "xy"[at % 2]) for at in range(count)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_next_snapshot_uses_them_on_the_same_rows_and_says_so(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write("data.csv", data())
    before, old = desk.snapshot(load_pipeline(desk.pipeline(corrections=None)))
    tested, trained = labels_in(old, before, "test"), labels_in(old, before, "train")
    in_test, in_train = next(iter(tested)), next(iter(trained))
    by_id = pq.read_table(split_file(old, "train")).column("row_id")[1].as_py()
    right = {"x": "y", "y": "x"}
    second = list(trained)[1]
    decisions = desk.write(
        "decisions.csv",
        [
            ("", in_test.upper(), right[tested[in_test]], "", "bob"),
            ("", in_train, right[trained[in_train]], "a slip", ""),
            (by_id, "", trained[second], "", ""),
            ("", "a text that is nowhere", "x", "", ""),
            ("", "text number 9", "", "", ""),  # not decided
        ],
        ("row_id", "text", "label", "why", "who"),
    )
    said = desk.relabel(decisions, desk.pipeline(), "--why", "looked at")
    assert "4 corrections by bob, ann in" in said
    capsys.readouterr()
    statistics, folder = desk.snapshot(load_pipeline(desk.pipeline()))
    log = "".join(capsys.readouterr())

    assert statistics.corrections is not None
    assert statistics.corrections.outcomes == {"already_so": 1, "no_such_row": 1, "relabelled": 2}
    assert statistics.corrections.relabelled == {"train": 1, "validation": 0, "test": 1}
    assert labels_in(folder, statistics, "test") == {**tested, in_test: right[tested[in_test]]}
    assert labels_in(folder, statistics, "train") == {**trained, in_train: right[trained[in_train]]}
    assert "4 corrections: 1 said what the data says, 1 match no row, 2 of them changed a label" in log
    assert "the test rows are the same rows" in log
    kept = pq.read_table(folder / CORRECTIONS).to_pylist()
    assert [(row["who"], row["why"], row["outcome"]) for row in kept] == [
        ("bob", "looked at", "relabelled"),
        ("ann", "a slip", "relabelled"),
        ("ann", "looked at", "already_so"),
        ("ann", "looked at", "no_such_row"),
    ]
    assert all(row["when"].endswith("Z") for row in kept)
    facts = dict(Ingested.of(statistics).facts())
    assert facts["corrections"] == "4, other labels: train 1, test 1; 1 match no row"


def test_they_are_part_of_what_identifies_the_snapshot(desk: Desk) -> None:
    desk.write("data.csv", data())
    context = RunContext(
        root=str(desk.folder / "artifacts"), run_id="r", actor="ann", started_at="2026-03-02T10:00:00Z"
    )

    def digest() -> str:
        request = INGEST.plan(load_pipeline(desk.folder / "pipeline.yaml"), context=context)
        return request.digest

    desk.pipeline(corrections=None)
    without = digest()
    decisions = desk.write("decisions.csv", [("text number 3", "x")])
    desk.relabel(decisions, desk.pipeline())
    one = digest()
    desk.relabel(desk.write("decisions.csv", [("text number 5", "x")]), desk.pipeline())
    two = digest()
    assert len({without, one, two}) == 3
    assert len(list((desk.folder / "corrections").glob("*.csv"))) == 2, "a file for each call; none is changed"


def test_added_after_the_plan_they_stop_the_step(desk: Desk) -> None:
    desk.write("data.csv", data())
    desk.relabel(desk.write("decisions.csv", [("text number 3", "x")]), desk.pipeline())
    context = RunContext(
        root=str(desk.folder / "artifacts"), run_id="r", actor="ann", started_at="2026-03-02T10:00:00Z"
    )
    request = INGEST.plan(load_pipeline(desk.folder / "pipeline.yaml"), context=context)
    desk.relabel(desk.write("decisions.csv", [("text number 5", "x")]), desk.pipeline())
    (desk.folder / "out").mkdir()
    with pytest.raises(DataError, match="corrections were added since this run was planned"):
        run(request, {}, desk.folder / "out", Reporter())  # type: ignore[arg-type]


def test_the_latest_of_several_counts(desk: Desk) -> None:
    desk.write("data.csv", data())
    desk.write(
        "corrections/a.csv",
        [
            ("text number 2", "y", "ann", "2026-03-02T10:00:00+02:00"),
            ("TEXT number  2", "x", "bob", "2026-03-02T09:00:00+02:00"),
        ],
        ("text", "label", "who", "when"),
    )
    statistics, folder = desk.snapshot(load_pipeline(desk.pipeline()))
    assert statistics.corrections is not None
    assert statistics.corrections.outcomes == {"corrected_again": 1, "relabelled": 1}
    everything = {**labels_in(folder, statistics, "train"), **labels_in(folder, statistics, "test")}
    assert {**everything, **labels_in(folder, statistics, "validation")}["text number 2"] == "y"


def test_a_text_with_several_labels_is_settled_and_one_without_a_label_gets_one(desk: Desk) -> None:
    desk.write("data.csv", [*data(), ("Open", "x"), ("open ", "y"), ("nothing said", "")])
    when = "2026-03-02T10:00:00Z"
    desk.write(
        "corrections/a.csv",
        [("open", "y", "ann", when), ("nothing said", "x", "ann", when)],
        ("text", "label", "who", "when"),
    )
    statistics, folder = desk.snapshot(load_pipeline(desk.pipeline()))
    assert statistics.conflicts == 0
    assert statistics.quarantined == {}
    assert statistics.duplicates == 1
    found = {**labels_in(folder, statistics, "train"), **labels_in(folder, statistics, "test")}
    found.update(labels_in(folder, statistics, "validation"))
    assert (found["Open"], found["nothing said"]) == ("y", "x")


def test_of_pairs_both_texts_name_the_row(desk: Desk) -> None:
    desk.write("data.csv", [(f"one {at}", f"two {at}", "xy"[at % 2]) for at in range(60)], ("first", "second", "label"))
    spec = desk.pipeline(text=["first", "second"])
    spec.write_text(spec.read_text() + "task: text-pair-classification\n")
    decisions = desk.write("decisions.csv", [("one 4", "two 4", "y")], ("first", "second", "label"))
    desk.relabel(decisions, spec)
    statistics, _ = desk.snapshot(load_pipeline(spec))
    assert statistics.corrections is not None
    assert statistics.corrections.outcomes == {"relabelled": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "text number 3", "z", "ann", "2026-03-02"), "unknown label 'z'"),
        (("", "text number 3", "x", "", "2026-03-02"), "a correction without who"),
        (("", "text number 3", "", "ann", "2026-03-02"), "a correction without label"),
        (("", "text number 3", "x", "ann", "yesterday"), "'yesterday' is not a time"),
        (("", "text number 3", "x", "ann", "0001-01-01T00:00:00+14:00"), "is not a time"),
        (("", "", "x", "ann", "2026-03-02"), "neither a row_id nor a text"),
        (("12", "", "x", "ann", "2026-03-02"), "'12' is not a row_id"),
        (("0123456789abcdef", "text number 3", "x", "ann", "2026-03-02"), "is not that of the text beside it"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_place(desk: Desk, row: tuple[str, ...], message: str) -> None:
    desk.write("data.csv", data())
    desk.write("corrections/a.csv", [row], ("row_id", "text", "label", "who", "when"))
    with pytest.raises(DataError, match=message) as caught:
        desk.snapshot(load_pipeline(desk.pipeline()))
    assert str(caught.value.where).endswith("corrections/a.csv, line 2")


def test_corrections_that_are_named_and_not_there_are_an_error(desk: Desk) -> None:
    desk.write("data.csv", data())
    with pytest.raises(DataError):
        desk.snapshot(load_pipeline(desk.pipeline()))


def test_the_command_writes_nothing_where_something_is_wrong(desk: Desk) -> None:
    desk.write("data.csv", data())
    decisions = desk.write("decisions.csv", [("text number 3", "z")])
    listed = desk.pipeline(labels=["x", "y"])
    assert "decisions.csv, line 2: unknown label 'z'" in desk.relabel(decisions, listed, code=1)
    assert "no row has a label" in desk.relabel(desk.write("none.csv", [("text number 3", "")]), listed, code=1)
    assert "names no place for corrections" in desk.relabel(decisions, desk.pipeline(corrections=None), code=1)
    good = desk.write("decisions.csv", [("text number 3", "x")])
    assert "adds one to a folder" in " ".join(desk.relabel(good, desk.pipeline(corrections="one.csv"), code=1).split())
    assert not (desk.folder / "corrections").exists()
