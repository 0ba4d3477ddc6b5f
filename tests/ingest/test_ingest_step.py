"""The whole step: from a pipeline and its data to a snapshot."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.artifacts.snapshot import QUARANTINE, SPLITS, SnapshotStatistics, split_file
from retrainer.errors import DataError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.ingest import ingest, run
from retrainer.work.reporter import Reporter

Row = tuple[Any, ...]


def write(path: Path, rows: list[Row], header: Row = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def pipeline(train: object, *, checks: dict[str, Any] | None = None, **more: Any) -> Pipeline:
    dataset: dict[str, Any] = {key: str(more.pop(key)) for key in ("validation", "test") if key in more}
    dataset.update({key: more.pop(key) for key in ("text", "label", "labels", "split") if key in more})
    return parse_pipeline(
        {
            "name": "x",
            "dataset": {
                "train": train if isinstance(train, (dict, list)) else str(train),
                "checks": {"min_rows": 1, "min_rows_per_label": 1, **(checks or {})},
                **dataset,
            },
            "model": {"base": "m"},
            "publish": {"store": "s"},
            **more,
        }
    )


def made(spec: Pipeline, folder: Path) -> tuple[SnapshotStatistics, dict[str, list[dict[str, Any]]]]:
    """The statistics and all files of a snapshot."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    statistics = ingest(spec, folder, Reporter())
    tables: dict[str, list[dict[str, Any]]] = {
        split: pq.read_table(split_file(folder, split)).to_pylist() for split in SPLITS
    }
    tables["quarantine"] = pq.read_table(folder / QUARANTINE).to_pylist()
    assert SnapshotStatistics.load(folder) == statistics
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["quarantine.parquet", "statistics.json", *(f"{split}.parquet" for split in SPLITS)]
    )
    for split in SPLITS:
        assert statistics.splits[split].rows == len(tables[split])
        assert sum(statistics.splits[split].label_counts.values()) == len(tables[split])
    kept = sum(len(tables[split]) for split in SPLITS)
    assert statistics.source_rows == kept + statistics.duplicates + len(tables["quarantine"])
    assert sum(statistics.quarantined.values()) == len(tables["quarantine"])
    return statistics, tables


def refused(spec: Pipeline, folder: Path) -> DataError:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        ingest(spec, folder, Reporter())
    return caught.value


def rows_of(count: int, labels: str = "xy", start: int = 0) -> list[Row]:
    return [(f"text number {at}", labels[at % len(labels)]) for at in range(start, start + count)]


def test_a_carved_snapshot(tmp_path: Path):
    path = write(tmp_path / "a.csv", rows_of(200))
    statistics, tables = made(pipeline(path), tmp_path / "out")
    assert statistics.labels == ("x", "y")
    schema = pq.read_schema(tmp_path / "out" / "train.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("row_id", "string"),
        ("text", "string"),
        ("label", "int64"),
    ]
    assert 15 < len(tables["test"]) < 65
    assert 5 < len(tables["validation"]) < 40
    texts = [row["text"] for split in SPLITS for row in tables[split]]
    assert sorted(texts) == sorted(text for text, _ in rows_of(200))
    numbers = [int(row["text"].split()[-1]) for row in tables["train"]]
    assert numbers == sorted(numbers), "source order"
    assert {row["row_id"] for row in tables["test"]}.isdisjoint(row["row_id"] for row in tables["train"])
    source = statistics.sources[0]
    assert (source.split, source.name, source.rows) == ("train", "train/a.csv", 200)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path):
    path = write(tmp_path / "a.csv", [*rows_of(50), ("", "x"), ("text number 1", "x")])
    spec = pipeline(path, checks={"max_null_fraction": 0.1})
    for name in ("one", "two"):
        made(spec, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_files_are_read_in_order_and_named(tmp_path: Path):
    write(tmp_path / "b.csv", [*rows_of(20, start=20), ("Text  NUMBER 3", "y")])
    write(tmp_path / "a.csv", [*rows_of(20), ("  ", "x"), ("no label", "")])
    spec = pipeline(f"{tmp_path}/*.csv", checks={"max_null_fraction": 0.5})
    statistics, tables = made(spec, tmp_path / "out")
    assert [source.name for source in statistics.sources] == ["train/a.csv", "train/b.csv"]
    assert statistics.duplicates == 1
    assert tables["quarantine"] == [
        {"source": "train/a.csv", "row": 21, "reason": "missing_text", "text": "  ", "text_pair": None, "label": "x"},
        {
            "source": "train/a.csv",
            "row": 22,
            "reason": "missing_label",
            "text": "no label",
            "text_pair": None,
            "label": None,
        },
    ]


def test_conflicting_labels_all_go(tmp_path: Path):
    path = write(tmp_path / "a.csv", [*rows_of(40), ("Open", "x"), ("open ", "y"), ("OPEN", "x")])
    statistics, tables = made(pipeline(path), tmp_path / "out")
    assert statistics.conflicts == 1
    assert statistics.quarantined == {"conflicting_labels": 3}
    assert [row["text"] for row in tables["quarantine"]] == ["Open", "open ", "OPEN"]
    assert statistics.duplicates == 0


def test_leakage_leaves_what_is_held_out_alone(tmp_path: Path):
    train = write(tmp_path / "train.csv", rows_of(40))
    validation = write(tmp_path / "validation.csv", [("TEXT number 1", "y"), *rows_of(10, start=90)])
    test = write(tmp_path / "test.csv", [("text number 0", "y"), ("text  number 95", "y"), *rows_of(10, start=60)])
    statistics, tables = made(pipeline(train, validation=validation, test=test), tmp_path / "out")
    assert statistics.leakage == {"validation_in_test": 1, "train_in_test": 1, "train_in_validation": 1}
    assert statistics.quarantined == {"also_in_test": 2, "also_in_validation": 1}
    assert len(tables["test"]) == 12
    assert len(tables["validation"]) == 10
    assert len(tables["train"]) == 38

    spec = pipeline(train, validation=validation, test=test, checks={"on_leakage": "fail"})
    error = refused(spec, tmp_path / "out")
    assert "1 validation rows are also in test" in error.message
    assert f"{validation}, row 7 is {test}, row 2" in error.message


def test_given_splits_are_not_carved(tmp_path: Path):
    train = write(tmp_path / "train.csv", rows_of(40))
    test = write(tmp_path / "test.csv", rows_of(10, start=100))
    statistics, _ = made(pipeline(train, test=test), tmp_path / "out")
    assert statistics.splits["test"].rows == 10
    assert statistics.splits["train"].rows + statistics.splits["validation"].rows == 40
    statistics, _ = made(pipeline(train, test=test, split={"validation": 0}), tmp_path / "out")
    assert statistics.splits["validation"].rows == 0
    assert statistics.splits["train"].rows == 40


def test_pairs(tmp_path: Path):
    rows = [(f"a {at}", f"b {at % 7}", "xy"[at % 2]) for at in range(60)]
    rows += [("a 1", "b 1", "y"), ("A  1", "b 1", "y"), ("a", "1 b 1", "x"), ("", "b", "x"), ("c", "", "y")]
    path = write(tmp_path / "a.csv", rows, ("s1", "s2", "label"))
    spec = pipeline(path, text=["s1", "s2"], task="text-pair-classification", checks={"max_null_fraction": 0.1})
    statistics, tables = made(spec, tmp_path / "out")
    assert statistics.duplicates == 2
    assert statistics.quarantined == {"missing_text": 2}
    assert {"text", "text_pair"} <= set(tables["train"][0])
    assert tables["quarantine"][1]["text"] == "c"
    row = next(row for split in SPLITS for row in tables[split] if row["text"] == "a 8")
    assert row["text_pair"] == "b 1"
    assert statistics.splits["train"].characters.max <= 7


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        (["0", "1"], ["CLOSED", "OPEN"], ("CLOSED", "OPEN")),
        (["0.0", "1.0"], ["CLOSED", "OPEN"], ("CLOSED", "OPEN")),
        (["1", "0"], [1, 0], ("1", "0")),
        (["10", "9"], None, ("9", "10")),
        (["1.0", "0.0"], None, ("0", "1")),
        (["b", "a"], None, ("a", "b")),
        (["yes", "no"], ["yes", "no"], ("yes", "no")),
        ([" yes", "no "], None, ("no", "yes")),
        (["none", "hate"], None, ("hate", "none")),
    ],
)
def test_labels(tmp_path: Path, values: list[str], labels: list[Any] | None, expected: tuple[str, ...]):
    rows = [(f"text {at}", values[at % 2]) for at in range(40)]
    more: dict[str, Any] = {} if labels is None else {"labels": labels}
    statistics, tables = made(pipeline(write(tmp_path / "a.csv", rows), **more), tmp_path / "out")
    assert statistics.labels == expected
    meaning = {"0": expected[0], "1": expected[-1]} if labels == ["CLOSED", "OPEN"] else {}
    for row in tables["train"]:
        written = values[int(row["text"].split()[1]) % 2].strip().removesuffix(".0")
        assert expected[row["label"]] == meaning.get(written, written)


def test_numbers_index_into_given_labels_per_source(tmp_path: Path):
    train = write(tmp_path / "a.csv", [(f"text {at}", ("neg", "pos")[at % 2]) for at in range(30)])
    test = write(tmp_path / "t.csv", [("one more", "1"), ("another", "0")])
    _, tables = made(pipeline(train, test=test, labels=["neg", "pos"]), tmp_path / "out")
    assert [row["label"] for row in tables["test"]] == [1, 0]


def test_label_names_of_a_dataset(tmp_path: Path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg", "never"])}
    )
    rows = datasets.Dataset.from_dict(
        {"text": [f"text {at}" for at in range(60)], "label": [at % 2 for at in range(60)]}, features=features
    )
    rows.save_to_disk(tmp_path / "set")
    hub = {"hub": {"path": str(tmp_path / "set")}}
    statistics, tables = made(pipeline(hub), tmp_path / "out")
    assert statistics.labels == ("pos", "neg")
    assert all(row["label"] == int(row["text"].split()[1]) % 2 for row in tables["train"])
    statistics, _ = made(pipeline(hub, labels=["neg", "pos"]), tmp_path / "out")
    assert statistics.labels == ("neg", "pos")
    renamed = refused(pipeline(hub, labels=["good", "bad", "other"]), tmp_path / "out")
    assert "too few training rows of 'other' 0" in renamed.message


def test_slices_come_along(tmp_path: Path):
    train = write(
        tmp_path / "a.csv", [(*row, f"s{at % 3}") for at, row in enumerate(rows_of(40))], ("text", "label", "source")
    )
    gate = {"slices": {"by": ["label", "length", "source"]}}
    _, tables = made(pipeline(train, gate=gate), tmp_path / "out")
    assert all(
        row["slice_source"] == f"s{int(row['text'].split()[-1]) % 3}" for split in SPLITS for row in tables[split]
    )
    test = write(tmp_path / "t.csv", rows_of(5, start=50))
    assert refused(pipeline(train, test=test, gate=gate), tmp_path / "out").message == "no column 'source'"
    swapped, tables = made(pipeline(test, test=train, gate=gate), tmp_path / "out")
    assert {row["slice_source"] for row in tables["train"]} == {""}
    assert swapped.splits["test"].rows == 40


@pytest.mark.parametrize(
    ("rows", "more", "where", "message"),
    [
        (rows_of(20, "x"), {}, "", "only one label, 'x'"),
        ([("a", ""), ("b", "")], {}, "", "no row has a label"),
        ([*rows_of(20), ("q", "")], {}, ", row 21", "of 21 train rows, 1 without label (4.76%; 0.00% allowed)"),
        ([*rows_of(20), (" ", "x"), ("q", "nan")], {}, ", row 21", "1 without text and 1 without label"),
        ([*rows_of(20), ("q", "z")], {"labels": ["x", "y"]}, ", row 21", "unknown label 'z' in train (1 row)"),
        ([*rows_of(20), ("q", "2")], {"labels": ["x", "y"]}, ", row 21", "unknown label '2' in train"),
        ([("a", "0"), ("b", "2")], {"labels": ["x", "y"]}, ", row 2", "unknown label '2' in train (1 row)"),
        ([("a", "0"), ("b", "3")], {"labels": [1, 2, 3]}, ", row 1", "unknown label '0' in train"),
        (rows_of(20), {"labels": ["x", "y", "z"]}, "", "too few training rows of 'z' 0"),
        (
            rows_of(20),
            {"checks": {"min_rows": 100}},
            "",
            "training rows, dataset.checks.min_rows asks for 100 (20 read",
        ),
        (rows_of(20), {"checks": {"min_rows_per_label": 9}}, "", "too few training rows of 'x'"),
        ([("a", "x"), ("b", "y")], {"split": {"test": 0.01, "validation": 0}}, "", "no row is left to judge the model"),
    ],
)
def test_data_that_is_not_enough(tmp_path: Path, rows: list[Row], more: dict[str, Any], where: str, message: str):
    path = write(tmp_path / "a.csv", rows)
    error = refused(pipeline(path, **more), tmp_path / "out")
    assert message in error.message
    assert error.where == f"{path}{where}"
    assert list((tmp_path / "out").iterdir()) == [], "nothing half-written"


def test_unknown_label_in_test(tmp_path: Path):
    train = write(tmp_path / "a.csv", [(f"text {at}", ("open", "closed")[at % 2]) for at in range(30)])
    test = write(tmp_path / "t.csv", [("one", "open"), ("two", "opne"), ("three", "opne")])
    error = refused(pipeline(train, test=test), tmp_path / "out")
    assert error.message == "unknown label 'opne' in test (2 rows); the labels of train: closed, open"
    assert error.where == f"{test}, row 2"
    assert error.hint == "did you mean 'open'?"


def test_nulls_up_to_the_allowed_share(tmp_path: Path):
    path = write(tmp_path / "a.csv", [*rows_of(19), ("q", "")])
    statistics, _ = made(pipeline(path, checks={"max_null_fraction": 0.05}), tmp_path / "out")
    assert statistics.quarantined == {"missing_label": 1}
    refused(pipeline(path, checks={"max_null_fraction": 0.04}), tmp_path / "out")


messy_rows = st.lists(
    st.tuples(
        st.sampled_from(["", " ", "a", "A", " a", "b", "b b", "B  b", "c", "ﬁ", "fi", *(f"t{at}" for at in range(30))]),
        st.sampled_from(["x", "y", "y ", "", "nan"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=messy_rows, stratify=st.booleans())
def test_no_row_is_ever_lost(tmp_path: Path, rows: list[Row], stratify: bool):
    path = write(tmp_path / "a.csv", [*rows, *rows_of(30)])
    spec = pipeline(path, checks={"max_null_fraction": 1.0}, split={"stratify": stratify, "test": 0.4})
    statistics, tables = made(spec, tmp_path / "out")
    assert statistics.source_rows == len(rows) + 30
    texts = Counter(row["text"] for table in tables.values() for row in table)
    given_texts = Counter(text for text, _ in [*rows, *rows_of(30)])
    assert not texts - given_texts
    ids = [row["row_id"] for split in SPLITS for row in tables[split]]
    assert len(set(ids)) == len(ids)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(20, 60), more=st.integers(1, 60), seed=st.integers(0, 5))
def test_the_test_set_stays_as_data_grows(tmp_path: Path, first: int, more: int, seed: int):
    split = {"stratify": False, "seed": seed, "test": 0.3}
    old_spec = pipeline(write(tmp_path / "a.csv", rows_of(first)), split=split)
    new_spec = pipeline(write(tmp_path / "b.csv", rows_of(first + more)[::-1]), split=split)
    _, old = made(old_spec, tmp_path / "out")
    _, new = made(new_spec, tmp_path / "out")
    for split_name in SPLITS:
        assert {row["row_id"] for row in old[split_name]} <= {row["row_id"] for row in new[split_name]}


def test_from_s3(tmp_path: Path, s3_bucket: str):
    import boto3

    client = boto3.client("s3")
    client.upload_file(str(write(tmp_path / "a.csv", rows_of(30))), s3_bucket, "in/a.csv")
    table = pa.table({"text": [f"more {at}" for at in range(30)], "label": ["x", "y"] * 15})
    pq.write_table(table, tmp_path / "b.parquet")
    client.upload_file(str(tmp_path / "b.parquet"), s3_bucket, "in/b.parquet")
    statistics, _ = made(pipeline(f"s3://{s3_bucket}/in"), tmp_path / "out")
    assert [source.name for source in statistics.sources] == ["train/a.csv", "train/b.parquet"]
    assert statistics.source_rows == 60
    client.put_object(Bucket=s3_bucket, Key="in/c.csv", Body=b"text,label\na\n")
    error = refused(pipeline(f"s3://{s3_bucket}/in"), tmp_path / "out")
    assert error.where == f"s3://{s3_bucket}/in/c.csv, line 2"


def test_the_step(tmp_path: Path):
    from retrainer.chain import INGEST, RunContext, StepRequest

    path = write(tmp_path / "a.csv", [*rows_of(60), *rows_of(5)])
    spec = pipeline(path)
    context = RunContext(root="/artifacts", run_id="r", actor="me", started_at="2026-01-01T00:00:00Z")
    request = INGEST.plan(spec, context=context.model_copy(update={"root": str(tmp_path / "artifacts")}))
    (tmp_path / "out").mkdir()
    assert isinstance(request, StepRequest)
    handed_on = run(request, {}, tmp_path / "out", Reporter())
    assert sum(handed_on.rows.values()) == 60
    assert handed_on.labels == ("x", "y")
    assert handed_on.duplicates == 5
    write(path, rows_of(70))
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="the train data changed since this run was planned"):
        run(request, {}, tmp_path / "out", Reporter())


@pytest.mark.data
class TestPublicData:
    """What the data sets of the seeds give."""

    def test_trail_status(self, public_data: Path, tmp_path: Path):
        spec = pipeline(
            public_data / "trail_status" / "status.csv",
            text="status",
            label="Blankets_Creek",
            labels=["CLOSED", "OPEN"],
            split={"validation": 0.1, "test": 0.2, "seed": 42},
        )
        statistics, tables = made(spec, tmp_path / "out")
        assert statistics.source_rows == 80
        # 71 distinct texts as they stand there; two more pairs differ in white space only.
        assert statistics.duplicates == 11
        assert statistics.labels == ("CLOSED", "OPEN")
        assert all(min(part.label_counts.values()) >= 1 for part in statistics.splits.values())
        assert statistics.near_leakage == {"validation_in_test": 0, "train_in_test": 2, "train_in_validation": 9}
        row = next(row for split in SPLITS for row in tables[split] if row["text"].startswith("all trails are open"))
        assert row["label"] == 1

    @pytest.mark.parametrize(("name", "train", "test"), [("ag_news", 14_475, 7_600), ("imdb", 5_000, 1_000)])
    def test_single_texts(self, public_data: Path, tmp_path: Path, name: str, train: int, test: int):
        folder = public_data / name
        statistics, _ = made(pipeline(folder / "train.csv", test=folder / "test.csv"), tmp_path / "out")
        assert statistics.source_rows == train + test
        assert statistics.splits["test"].rows == test - statistics.duplicates or name == "imdb"
        assert len(statistics.labels) == (4 if name == "ag_news" else 2)

    @pytest.mark.parametrize("name", ["mrpc", "rte"])
    def test_pairs(self, public_data: Path, tmp_path: Path, name: str):
        folder = public_data / name
        spec = pipeline(
            folder / "train.csv",
            test=folder / "validation.csv",
            text=["sentence1", "sentence2"],
            task="text-pair-classification",
        )
        statistics, tables = made(spec, tmp_path / "out")
        assert len(statistics.labels) == 2
        assert all(row["text"] and row["text_pair"] for row in tables["test"])
