"""A check of a champion by its own files: which rows count, what they say, and where it says nothing."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.decay import DecayCode, DecayRecord
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SPLITS, split_file
from retrainer.chain import DECAY
from retrainer.errors import DataError, IntegrityError
from retrainer.gate.metrics import METRICS
from retrainer.spec import load_pipeline
from retrainer.storage import open_storage
from retrainer.store import Store
from retrainer.store.summary import make_summary, read_summary
from tests.airflow.harness import Project, write_rows
from tests.chain.made import in_root, planned
from tests.decay.conftest import MakeProject, checked

CHECK = {"min_rows": 100, "max_drop": 0.1}


def version_of(project: Project) -> str:
    champion = Store.open(str(project.store)).model("watched").champion("production")
    assert champion is not None
    return champion.version


def test_rows_that_the_champion_answers_as_well_as_before(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)
    write_rows(project.folder / "data" / "train_later.csv", 200, start=5000)

    record = checked(project)

    assert (record.verdict, record.code) == ("holds", DecayCode.WITHIN), record.text
    assert record.version == version_of(project)
    assert record.drop is not None
    assert record.drop.low <= record.drop.estimate <= record.drop.high <= 0.1
    assert record.before_rows == 40
    assert record.now is not None
    assert record.now.value == 1.0
    digest = planned(DECAY.plan(load_pipeline(project.pipeline_file), context=in_root(project.artifacts))).digest
    predictions = pq.read_table(Artifacts(project.artifacts).fetch(DECAY.name, digest) / "predictions.parquet")
    assert predictions.num_rows == record.rows


@pytest.mark.parametrize("label", ["closed", "flooded"])
def test_corrections_of_rows_that_are_elsewhere_say_nothing_of_these(make_project: MakeProject, label: str) -> None:
    """In the rows of the check there is one label only; a correction gives one of them another."""
    project = make_project(decay=dict(CHECK), dataset__labels=None)  # written to below
    project.write(
        decay__data=str(project.folder / "later" / "*.csv"), dataset__corrections=str(project.folder / "corrections")
    )
    write_rows(project.folder / "both.csv", 400, start=5000)
    lines = (project.folder / "both.csv").read_text().splitlines()
    (project.folder / "later").mkdir()
    (project.folder / "later" / "one.csv").write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    (project.folder / "corrections").mkdir()
    said = [["text", "label", "who", "when"], ["Trail 1 is closed because of mud", "flood", "ann", "2026-11-27"]]
    said.append(["Trail 5000 is open and dry today", label, "ann", "2026-11-27"])
    with (project.folder / "corrections" / "one.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(said)

    record = checked(project)

    assert record.now is not None, record.text
    assert record.rows > 100
    assert record.now.value == pytest.approx(1 - 1 / record.rows)
    assert record.unknown_labels == ({"flooded": 1} if label == "flooded" else {})


def test_rows_that_it_gets_wrong_are_decay_and_stand_in_the_summary(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)
    write_rows(project.folder / "data" / "train_later.csv", 200, start=5000, swapped=True)

    record = checked(project)

    assert (record.verdict, record.code) == ("decayed", DecayCode.DROP_TOO_LARGE), record.text
    assert record.drop is not None
    assert record.drop.low > 0.5
    storage = open_storage(str(project.store))
    summary = read_summary(storage, "watched")
    assert summary is not None
    note = summary.of("production").decay
    assert note is not None
    assert (note.version, note.verdict, note.rows) == (record.version, "decayed", record.rows)
    assert note.drop is not None
    assert note.drop.low == record.drop.low
    # Log and ledger know nothing of checks, so that a summary which is made anew keeps what is known.
    assert make_summary(storage, "watched", summary).of("production").decay == note
    assert make_summary(storage, "watched").of("production").decay is None


def test_no_row_counts_that_the_champion_was_trained_chosen_or_judged_by(make_project: MakeProject) -> None:
    """All the rows of its snapshot, spelled otherwise and labelled wrong, say nothing of it."""
    project = make_project(decay=CHECK)
    (snapshot,) = (project.artifacts / "ingest").iterdir()
    seen: dict[str, list[str]] = {}
    for split in SPLITS:
        seen[split] = pq.read_table(split_file(snapshot, split)).column("text").to_pylist()
    for old in (project.folder / "data").glob("train*.csv"):
        old.unlink()
    write(project.folder / "data" / "train_later.csv", [f"  {t.upper()} " for rows in seen.values() for t in rows])

    record = checked(project)

    assert (record.verdict, record.code, record.rows) == ("insufficient", DecayCode.TOO_FEW_ROWS, 0)
    left = record.left_out
    assert (left.train, left.validation, left.test) == tuple(len(seen[name]) for name in SPLITS)


def write(path: Path, texts: list[str], label: str = "closed") -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["status", "label"])
        writer.writerows([text, label] for text in texts)


def test_rows_that_are_nearly_training_rows_are_left_out(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)
    (snapshot,) = (project.artifacts / "ingest").iterdir()
    train = pq.read_table(split_file(snapshot, "train"))
    closed = [t for t, label in zip(train["text"].to_pylist(), train["label"].to_pylist(), strict=True) if label == 0]
    write(project.folder / "data" / "train_later.csv", [f"{text} !" for text in closed])

    record = checked(project)

    # The same text but for a mark is nearly the same text; ingest itself left three rows of the first file out.
    assert record.left_out.near >= len(closed)
    assert record.rows <= 3


def test_data_of_its_own_need_not_have_every_label_nor_be_much(make_project: MakeProject) -> None:
    project = make_project(decay={"data": "later", "min_rows": 20, "max_drop": 0.02}, dataset__labels=None)
    later = project.folder / "pipelines" / "later"
    # Nothing was labelled yet.
    assert checked(project).code == DecayCode.TOO_FEW_ROWS
    later.mkdir()
    write(later / "a.csv", [f"Trail {number} is closed because of mud" for number in range(6000, 6030)])

    record = checked(project)

    assert record.verdict == "insufficient"
    assert record.code == DecayCode.NOT_TOLD, "30 rows cannot show a drop of at most 0.02"
    assert record.rows == 30
    assert {share.label: (share.before, share.now) for share in record.shares} == {"closed": (0.5, 1), "open": (0.5, 0)}
    assert record.at_old_shares is None, "no new row is open"


def test_labels_that_the_champion_does_not_know_are_wrong_and_named(make_project: MakeProject) -> None:
    project = make_project(decay={**CHECK, "data": "later.csv"}, dataset__labels=None)
    file = project.folder / "pipelines" / "later.csv"
    write(file, [f"Trail {number} is icy" for number in range(6000, 6150)], label="ice")

    record = checked(project)

    assert record.verdict == "decayed"
    assert record.now is not None
    assert record.now.value == 0.0
    assert record.unknown_labels == {"ice": 150}


def test_another_spelling_of_a_label_is_an_error_and_no_decay(make_project: MakeProject) -> None:
    project = make_project(decay={**CHECK, "data": "later.csv"}, dataset__labels=None)
    file = project.folder / "pipelines" / "later.csv"
    write(file, [f"Trail {number} is closed because of mud" for number in range(6000, 6150)], label="Closed")

    with pytest.raises(DataError, match="differ only in case"):
        checked(project)


def test_a_changed_mix_of_labels_is_told_apart(make_project: MakeProject) -> None:
    """The champion knows one label and not the other; more of the other is a drop that is none at the old shares."""
    project = make_project(decay={**CHECK, "data": "later.csv", "max_drop": 0.02})
    file = project.folder / "pipelines" / "later.csv"
    rows = [(f"Trail {number} is closed because of mud", "closed") for number in range(6000, 6040)]
    rows += [(f"Trail {number} is closed because of mud", "open") for number in range(7000, 7160)]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["status", "label"])
        writer.writerows(rows)

    record = checked(project)

    assert record.now is not None
    assert record.now.value == pytest.approx(0.2)
    assert record.at_old_shares == pytest.approx(0.5)
    assert "with the label shares of its decision it would be 0.5000" in record.text


def test_where_nothing_can_be_said_the_reason_is_said(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(decay=CHECK)
    write_rows(project.folder / "data" / "train_later.csv", 200, start=5000)
    # Another host, with artifacts of its own.
    elsewhere = checked(project, root=tmp_path / "elsewhere")
    assert (elsewhere.verdict, elsewhere.code) == ("insufficient", DecayCode.ORIGIN_UNKNOWN)
    assert "not in this artifact root" in elsewhere.text
    # A metric that was not measured when it was decided about.
    project.write(decay={**CHECK, "metric": "mcc"}, metrics=["accuracy", "mcc"])
    before = checked(project)
    assert (before.verdict, before.code) == ("insufficient", DecayCode.NOT_SCORED_BEFORE)
    # Another channel serves nothing.
    project.write(decay=CHECK, publish__channel="staging")
    nothing = checked(project)
    assert (nothing.verdict, nothing.code, nothing.version) == ("insufficient", DecayCode.NO_CHAMPION, None)


def test_what_cannot_be_read_is_an_error(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)
    write(project.folder / "data" / "train_later.csv", ["Trail 1 is odd"], label="no such label")
    with pytest.raises(DataError, match="unknown label 'no such label'"):
        checked(project)
    (project.folder / "data" / "train_later.csv").unlink()
    version = project.store / "watched" / "versions" / version_of(project)
    (version / "receipt.json").write_text("{}")
    with pytest.raises(IntegrityError, match="the champion cannot be read"):
        checked(project)
    shutil.rmtree(version)
    with pytest.raises(IntegrityError, match="the champion cannot be read"):
        checked(project)


def test_a_check_is_named_by_champion_rows_and_what_is_asked(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)

    def digest(**changes: Any) -> str:
        project.write(**changes)
        request = DECAY.plan(load_pipeline(project.pipeline_file), context=in_root(project.artifacts))
        return planned(request).digest

    first = digest()
    assert digest(training={"num_train_epochs": 7}) == first
    assert digest(decay={**CHECK, "cron": "@daily", "retrain": True}) == first
    others = {first, digest(decay={**CHECK, "max_drop": 0.2}), digest(decay={**CHECK, "metric": "f1"})}
    write_rows(project.folder / "data" / "train_later.csv", 10, start=5000)
    others.add(digest(decay=CHECK))
    assert len(others) == 4


def test_the_record_is_read_as_it_was_written(make_project: MakeProject) -> None:
    record = checked(make_project(decay=CHECK))
    assert DecayRecord.from_json(record.to_json(), where="test") == record


def test_a_metric_of_these_labels_says_nothing_where_there_are_others(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the mean absolute error, which the champion of these tests was not judged by."""
    assert METRICS["mae"].known.of_its_labels
    changed = replace(METRICS["accuracy"].known, of_its_labels=True)
    monkeypatch.setattr(METRICS["accuracy"], "known", changed)
    project = make_project(decay={**CHECK, "data": "later.csv"}, dataset__labels=None)
    file = project.folder / "pipelines" / "later.csv"
    write(file, [f"Trail {number} is icy" for number in range(6000, 6150)], label="ice")

    record = checked(project)

    assert (record.verdict, record.code) == ("insufficient", DecayCode.METRIC_UNDEFINED)
    assert record.text.endswith("it does not know ice")
