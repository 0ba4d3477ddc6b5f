"""Reading every format: what comes out is the same, and whatever is wrong is named with file and row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import DataError
from retrainer.spec.model import HubDataset, HubSource
from retrainer.work.ingest.pools import read_pool
from retrainer.work.ingest.rows import RawRows, Wanted
from retrainer.work.reporter import Reporter

WANTED = Wanted(("text",), "label")
ROWS = [
    {"text": "plain", "label": "x", "more": 1},
    {"text": 'a "quote", a comma\nand a line', "label": "y", "more": 2},
    {"text": "naïve café ☃ 🎉", "label": "x", "more": 3},
]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table_text(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def read(path: Path | str, wanted: Wanted = WANTED, **hub: Any) -> RawRows:
    source = HubSource(hub=HubDataset(path=str(path), **hub)) if hub else (str(path),)
    pool = read_pool(source, wanted, "train", Path(path).parent, Reporter())
    assert len(pool) == 1
    return pool[0]


def refused(path: Path | str, wanted: Wanted = WANTED, **hub: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, wanted, **hub)
    return caught.value


def written(folder: Path, form: str) -> Path:
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
        return folder / "a.parquet"
    if form.startswith("jsonl"):
        content = "\n".join(json.dumps(row) for row in ROWS).encode()
    else:
        content = table_text(ROWS, "\t" if form.startswith("tsv") else ",").encode()
    return write(folder, f"a.{form}", gzip.compress(content) if form.endswith("gz") else content)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_the_same_rows_from_every_format(tmp_path: Path, form: str):
    rows = read(written(tmp_path, form), Wanted(("text",), "label", ("more",)))
    assert rows.texts[0].to_pylist() == [row["text"] for row in ROWS]
    assert rows.labels.to_pylist() == ["x", "y", "x"]
    assert rows.slices["more"].to_pylist() == ["1", "2", "3"]
    assert rows.name == f"train/a.{form}"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_that_are_missing(tmp_path: Path, form: str):
    path = written(tmp_path, form)
    error = refused(path, Wanted(("txt",), "label"))
    assert error.message == "no column 'txt'"
    assert error.hint == "did you mean 'text'? columns: text, label, more"
    assert error.where is not None
    assert error.where.startswith(str(path))
    assert refused(path, Wanted(("text",), "labels")).message == "no column 'labels'"
    assert refused(path, Wanted(("text",), "label", ("source",))).message == "no column 'source'"
    optional = read(path, Wanted(("text",), "label", ("source",), slices_required=False))
    assert optional.slices["source"].to_pylist() == ["", "", ""]


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("a.csv", "", "", "the file is empty"),
        ("a.csv", "text,label\n", "", "no data row, only a header"),
        ("a.csv", "text,label\na,x\nb\n", ", line 3", "the row has 1 field, the header 2"),
        ("a.csv", "text,label\na,x\nb,c,y\n", ", line 3", "a text that holds a comma must be in quotes"),
        ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', ", line 4", "a quote that opens in line 3 is not closed"),
        ("a.csv", 'text,label\n"a" b,x\n', ", line 2", "after a closing quote more text follows"),
        ("a.csv", b"text,label\na,x\nb\xe9,y\n", ", line 3", "not UTF-8: byte 0xe9 at offset 16"),
        ("a.csv", "text;label\na;x\nb\n", ", line 1", "separated by something other than commas"),
        ("a.csv", "text,label,text\na,x,b\n", ", line 1", "column 'text' is in the header 2 times"),
        ("a.tsv", "text\tlabel\na\tx\nb\tc\ty\n", ", line 3", "the row has 3 fields, the header 2"),
        ("a.jsonl", "", "", "the file is empty"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', ", line 2", "not JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', ", line 2", "not a JSON object"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n', ", row 1", "column 'text' holds a list where text is"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 1}\n', ", row 2", "surrogate"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "\xff"}\n', ", line 2", "not UTF-8"),
        ("a.parquet", b"", "", "the file is empty"),
        ("a.parquet", b"PAR1 nothing PAR1", "", "not parquet"),
        (
            "a.csv.gz",
            gzip.compress(b"text,label\n" + b"abc,x\n" * 90000, mtime=0)[:-40],
            "",
            "not a complete gzip file",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes, where: str, message: str):
    error = refused(write(tmp_path, name, content))
    assert message in f"{error.message} {error.hint}"
    assert error.where == f"{tmp_path}/{name}{where}"


def test_blank_lines_and_a_byte_order_mark_are_nothing(tmp_path: Path):
    path = write(tmp_path, "a.csv", "\ufefftext , label\r\n\r\na,x\r\n\r\nb, y \r\n\r\n")
    rows = read(path)
    assert rows.texts[0].to_pylist() == ["a", "b"]
    assert rows.labels.to_pylist() == ["x", "y"]


def test_very_long_texts(tmp_path: Path):
    long = "word " * 100_000
    rows = read(write(tmp_path, "a.csv", table_text([{"text": long, "label": "x"}])))
    assert rows.texts[0].to_pylist() == [long]


def test_quotes_in_a_tsv_either_way(tmp_path: Path):
    bare = 'text\tlabel\n"To be" or not\tx\nshe said "yes\tx\n"a\ty\nb"\tx\n'
    assert read(write(tmp_path, "a.tsv", bare)).texts[0].to_pylist() == [
        '"To be" or not',
        'she said "yes',
        '"a',
        'b"',
    ]
    quoted = 'text\tlabel\n"a\tb\nc"\tx\n'
    assert read(write(tmp_path, "b.tsv", quoted)).texts[0].to_pylist() == ["a\tb\nc"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, None], ["0", "1", None]),
        ([0.0, 1.0, float("nan")], ["0", "1", None]),
        ([True, False, None], ["true", "false", None]),
        ([" x ", "", "nan"], ["x", None, None]),
        (["none", "NA", "null"], ["none", "NA", None]),
        ([0.5, 1.0, None], ["0.5", "1", None]),
    ],
)
def test_labels_of_every_type(tmp_path: Path, values: list[Any], expected: list[str | None]):
    pq.write_table(pa.table({"text": ["a"] * len(values), "label": values}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").labels.to_pylist() == expected
    lines = "\n".join(json.dumps({"text": "a", "label": value}) for value in values)
    assert read(write(tmp_path, "b.jsonl", lines)).labels.to_pylist() == expected


def test_parquet_types(tmp_path: Path):
    table = pa.table(
        {
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "label": pa.array(["x", "y", "x"], pa.large_string()),
            "tags": [["a"], ["b"], []],
            "day": pa.array([0, 1, None], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet", Wanted(("text",), "label", ("day",)))
    assert rows.texts[0].to_pylist() == ["a", "b", None]
    assert rows.slices["day"].to_pylist() == ["1970-01-01", "1970-01-02", ""]
    error = refused(tmp_path / "a.parquet", Wanted(("tags",), "label"))
    assert error.message.startswith("column 'tags' holds list<")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    assert refused(tmp_path / "empty.parquet").message == "no data row, only a header"


text = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(text, min_size=1, max_size=8), delimiter=st.sampled_from([",", "\t"]))
def test_whatever_a_csv_writer_writes_comes_back(tmp_path: Path, values: list[str], delimiter: str):
    rows = [{"text": value, "label": "x"} for value in values]
    name = "a.csv" if delimiter == "," else "a.tsv"
    found = read(write(tmp_path, name, table_text(rows, delimiter))).texts[0].to_pylist()
    assert found == values


class TestFoldersOfDatasets:
    """``hub:`` with a local folder, through the `datasets` library."""

    def test_by_file_names(self, tmp_path: Path):
        folder = tmp_path / "set"
        folder.mkdir()
        write(folder, "train.csv", table_text(ROWS))
        write(folder, "test.csv", table_text(ROWS[:1]))
        assert read(folder, split="train").texts[0].to_pylist() == [row["text"] for row in ROWS]
        assert len(read(folder, split="test")) == 1
        assert read(folder, split="train[1:2]").labels.to_pylist() == ["y"]
        # No stale cache: a changed file is read again.
        write(folder, "train.csv", table_text(ROWS[:2]))
        assert len(read(folder, split="train")) == 2

    def test_saved_to_disk_with_label_names(self, tmp_path: Path):
        import datasets

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
        rows.save_to_disk(tmp_path / "one")
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "two")
        for folder, split in (("one", "train"), ("two", "train"), ("two", "train[:3]")):
            found = read(tmp_path / folder, split=split)
            assert found.labels.to_pylist() == ["1", "0", None]
            assert found.label_names == ("neg", "pos")
        assert len(read(tmp_path / "two", split="test")) == 1
        assert "cannot be read: " in refused(tmp_path / "two", split="nope").message
        rows.to_parquet(tmp_path / "rows.parquet")
        assert read(tmp_path / "rows.parquet").label_names == ("neg", "pos")

    def test_what_is_not_there(self, tmp_path: Path):
        write(tmp_path, "train.csv", table_text(ROWS))
        error = refused(tmp_path, split="tets")
        assert "cannot be read: " in error.message
        assert error.where == f"dataset {tmp_path}, split tets"
        assert refused(tmp_path, Wanted(("txt",), "label"), split="train").hint == (
            "did you mean 'text'? columns: text, label, more"
        )
        assert "cannot be read: " in refused(tmp_path / "none", split="train").message
