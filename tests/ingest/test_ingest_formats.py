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
from retrainer.sources.columns import Wanted
from retrainer.spec.dataset import HubDataset, HubSource
from retrainer.spec.delimited import Csv
from retrainer.work.ingest.pools import read_pool
from retrainer.work.ingest.rows import RawRows
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


def reading(path: Path, **csv: Any) -> tuple[list[tuple[str, str | None]], str | None]:
    """The rows, and what is said about how they were read."""
    (rows,) = read_pool((str(path),), WANTED, "train", path.parent, Reporter(), Csv(**csv) if csv else None)
    return list(zip(rows.texts[0].to_pylist(), rows.labels.to_pylist(), strict=True)), rows.reading


SENTENCES = [("x", '"He said'), ("y", "so what"), ("x", 'and left."'), ("y", "no, really")]


@pytest.mark.parametrize(
    ("name", "content", "rows", "said"),
    [
        ("a.csv", "text,label\na,x\n", [("a", "x")], None),
        ("a.csv", 'text, label\n"a, b", "x"\nc, "y"\n', [("a, b", "x"), ("c", "y")], "blanks before them dropped"),
        ("a.csv", '"text", "label"\n"a, b", "x"\n', [("a, b", "x")], "blanks before them dropped"),
        ("a.csv", 'text,label\n a "" b,x\n', [(' a "" b', "x")], None),
        ("a.csv", 'text,label\n"say \\"hi\\", now",x\n', [('say "hi", now', "x")], "with a backslash before"),
        ("a.csv", "text;label\na, b;x\nc;y\n", [("a, b", "x"), ("c", "y")], "semicolon between fields"),
        ("a.tsv", "text,label\na,x\n", [("a", "x")], "comma between fields"),
        ("a.csv", "sep=;\r\ntext;label\r\na, b;x\r\n", [("a, b", "x")], "semicolon between fields"),
        ("a.csv", "sep=,\ntext,label\na,x\n", [("a", "x")], "comma between fields"),
        ("a.csv", "\ufeff\ufefftext,label\na,x\n", [("a", "x")], None),
        ("a.csv", "text\u200b,\ufefflabel\na,x\n", [("a", "x")], None),
        ("a.csv", "text,label\n\ufeffé,x\n".encode("utf-16"), [("\ufeffé", "x")], None),
        ("a.tsv", "text\tlabel\né\tx\n".encode("utf-32"), [("é", "x")], None),
        ("a.csv", "text,label\ra,x\rb,y\r", [("a", "x"), ("b", "y")], None),
    ],
)
def test_how_a_file_of_fields_is_read_is_found_out(
    tmp_path: Path, name: str, content: str | bytes, rows: list[tuple[str, str]], said: str | None
):
    found, how = reading(write(tmp_path, name, content))
    assert found == rows
    assert (how is None) == (said is None)
    assert said is None or said in str(how)


def test_quotes_that_are_part_of_texts_can_stay(tmp_path: Path):
    sayings = write(tmp_path, "a.csv", "text,label\n" + "“a”,'x'\n" * 5)
    assert "if they are part of the texts, set dataset.csv: {quoting: standard}" in str(refused(sayings).hint)
    assert reading(sayings, quoting="standard")[0] == [("“a”", "'x'")] * 5
    for texts in (["“a”", "“b”", "c", "d"], ["“a” or “b”"] * 5, ["'"] * 5, [""] * 5):
        path = write(tmp_path, "b.csv", "text,label\n" + "".join(f"{text},x\n" for text in texts))
        assert [text for text, _ in reading(path)[0]] == texts


def test_unpaired_quotes_do_not_join_rows(tmp_path: Path):
    lines = [f"{label}\t{text}" for _ in range(3) for label, text in SENTENCES]
    path = write(tmp_path, "a.tsv", "\n".join(["label\ttext", *lines]) + "\n")
    found, how = reading(path)
    assert found == [(text, label) for label, text in SENTENCES] * 3
    assert how == "tab between fields, quotes as plain characters"
    # Twice may be an accident; then it has to be said.
    few = write(tmp_path, "b.tsv", "\n".join(["label\ttext", *lines[:4], "x\tmore", "y\tmore"]) + "\n")
    error = refused(few)
    assert "can be read in two ways: 4 rows with quotes around fields" in error.message
    assert "or 6 rows" in error.message
    assert error.hint == "set dataset.csv: {quoting: standard} or {quoting: none}"
    assert len(reading(few, quoting="none")[0]) == 6
    assert len(reading(few, quoting="standard")[0]) == 4
    # Some labels may be only in what would be joined.
    rare = [f"{label}{at % 9}\t{text}" for at in range(36) for label, text in SENTENCES[at % 4 : at % 4 + 1]]
    rare = [*rare[:20], "once\tonly here", *rare[20:]]
    assert len(reading(write(tmp_path, "r.tsv", "\n".join(["label\ttext", *rare]) + "\n"))[0]) == 37
    # A letter of several lines stays one text.
    letters = 'text,label\n"Dear Sir,\nthanks",x\n"Hello,\nbye",y\n' * 1 + '"Dear all,\nthanks",x\n' * 5
    assert len(reading(write(tmp_path, "l.csv", letters))[0]) == 7
    # Where most quotes are around fields, the one that is not is a slip.
    slip = write(tmp_path, "d.tsv", 'label\ttext\n"x"\t"one"\n"y"\t"5" wide"\n')
    assert "if quotes are plain characters" in str(refused(slip).hint)
    # In csv quotes are quotes; that they are none has to be said, too.
    comma = write(tmp_path, "c.csv", 'label,text\nx,"He said\ny,so\nx,and left.\n')
    error = refused(comma)
    assert error.where == f"{comma}, line 4"
    assert "if quotes are plain characters in this file, set dataset.csv: {quoting: none}" in str(error.hint)
    assert reading(comma, quoting="none")[0][0] == ('"He said', "x")


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("a.csv", 'text, label\na, "x"\nc, "y" z\n', ", line 2", "a blank before a quote"),
        ("a.csv", 'text,label\na,x\n\t"b",\u00a0"y"\n', ", line 3", "a blank before a quote"),
        ("a.csv", 'label,text\nx,\u00a0"a"\ny, "b"\n', ", line 2", "take out the blanks, tabs and no-break spaces"),
        (
            "a.csv",
            "text,label\n" + "'a, b',x\n".replace(",", "", 1) * 3,
            "",
            "3 of 3 texts in column 'text' are in '...'",
        ),
        ("a.tsv", "text\tlabel\n" + "\u201cIt\u2019s a\u201d\tx\n" * 20 + "b\tx\n", "", "are in “...”"),
        ("a.csv", "text,label\na,x\ntext,label\nb,y\n", ", line 3", "the header is there once more"),
        ("a.csv", "text,label\na,x\n\ufefftext,label\nb,y\n", ", line 3", "the header is there once more"),
        ("a.csv", "text,label\na,x\nb\0,y\n", ", line 3", "a NUL character, which is not text"),
        ("a.csv", "text,label\na,x\n".encode("utf-16-le"), "", "seems to be UTF-16-LE"),
        ("a.csv", "文本,label\n文,x\n".encode("utf-16-be"), "", "seems to be UTF-16-BE"),
        ("a.csv", "a;b,c\td\n", ", line 1", "no column 'text'"),
        ("a.jsonl", '{"text": "a", "label": 1' + "0" * 5000 + "}\n", ", line 1", "a number of thousands of digits"),
        ("a.jsonl", '{"text": "a", "label": ' + "[" * 100_000 + "\n", ", line 1", "not JSON that can be read"),
        ("a.jsonl", '{"text": "a", "label": 1, "label": 2}\n', ", line 1", "key 'label' is there twice"),
        ("a.jsonl", '{"text": "a", "label": 1, "\\ud800": 2}\n', ", line 1", "half of a surrogate pair"),
        ("a.jsonl", '{"text": "a\0", "label": 1}\n', ", line 1", "not JSON"),
        ("a.csv", b"SQLite format 3\0", "", "an SQLite database"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(
    tmp_path: Path, name: str, content: str | bytes, where: str, message: str
):
    error = refused(write(tmp_path, name, content))
    assert message in f"{error.message} {error.hint}"
    assert error.where == f"{tmp_path}/{name}{where}"


@pytest.mark.parametrize("name", ["SMSSpamCollection", "train.label", "notes.txt", "raw.data.gz", "a.csv"])
def test_what_the_pipeline_says_about_a_file(tmp_path: Path, name: str):
    content = 'ham\tOk "lar\nspam\tFree, é\n'.encode("windows-1252")
    path = write(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    said = {"header": False, "columns": ("label", "text"), "encoding": "windows-1252", "delimiter": "\\t"}
    assert reading(path, **said)[0] == [('Ok "lar', "ham"), ("Free, é", "spam")]
    del said["delimiter"]
    assert reading(path, **said)[0] == [('Ok "lar', "ham"), ("Free, é", "spam")]
    with pytest.raises(DataError, match=r"dataset.csv.columns 3"):
        reading(path, **{**said, "columns": ("label", "text", "more"), "delimiter": "tab"})
    assert "not UTF-8" in refused_with(path, columns=("label", "text"), delimiter="\t").message


def refused_with(path: Path, **csv: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        reading(path, **csv)
    return caught.value


def test_names_in_place_of_a_header(tmp_path: Path):
    path = write(tmp_path, "a.csv", "Comment; Klasse\na;x\n")
    assert reading(path, columns=("text", "label"))[0] == [("a", "x")]
    both = write(tmp_path, "b.txt", "a,b\tc\nd,e\tf\n")
    error = refused_with(both, header=False, columns=("text", "label"))
    assert error.message == "what is between the fields can be any of comma, tab"


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
