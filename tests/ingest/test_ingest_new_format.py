"""A data format is one entry: a toy format is found in a folder, its header checked, and its rows read."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from retrainer.errors import DataError
from retrainer.formats import FORMATS, Format, format_of
from retrainer.sources import SourceFile, expand, read_columns
from retrainer.sources.columns import Wanted
from retrainer.sources.text import open_text
from retrainer.spec import parse_pipeline
from retrainer.work.ingest import ingest
from retrainer.work.ingest.rows import RawRows, positions, raw_rows
from retrainer.work.reporter import Reporter


def header(path: Path, file: SourceFile) -> tuple[str, ...]:
    return ("label", "text")


def rows(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """``label: text`` a line."""
    with open_text(path, file) as stream:
        pairs = [line.rstrip("\n").split(": ", 1) for line in stream]
    at = positions(header(path, file), wanted, file.url)
    columns = {column: [pair[index] for pair in pairs] for column, index in at.items()}
    return raw_rows(columns.__getitem__, columns, wanted, name=name, where=file.url, format=file.format, size=file.size)


def lines(path: Path, file: SourceFile) -> int:
    with open_text(path, file) as stream:
        return sum(1 for _ in stream)


def test_every_reader_is_where_its_entry_says(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for form in FORMATS.values():
        file = SourceFile(url=str(empty), name="empty", format=form.name, compressed=False, size=0)
        with pytest.raises(DataError, match="the file is empty"):
            form.read_header(empty, file)
        with pytest.raises(DataError, match="the file is empty"):
            form.read_rows(empty, file, "empty", Wanted(("text",), "label"))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("A.CSV", "csv"),
        ("a.tsv.gz", "tsv"),
        ("a.b.ndjson", "jsonl"),
        ("part-0.pq", "parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("csv", None),
    ],
)
def test_the_suffix_tells_the_format(name: str, form: str | None) -> None:
    found = format_of(name)
    assert (found.name if found else None) == form


def test_a_new_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: f"{__name__}:{name}" for name in ("header", "rows")}
    toy = Format(name="colon", suffixes=(".colon",), gzipped=True, **places, count=f"{__name__}:lines")
    monkeypatch.setitem(FORMATS, toy.name, toy)
    (tmp_path / "data").mkdir()
    content = [f"{'high' if number % 2 else 'low'}: the river runs {number} feet" for number in range(200)]
    (tmp_path / "data" / "rows.colon").write_text("\n".join(content) + "\n")
    (tmp_path / "data" / "notes.txt").write_text("not data")
    (file,) = expand([str(tmp_path / "data")])
    assert (file.name, file.format) == ("rows.colon", "colon")
    assert read_columns(file) == ("label", "text")
    assert toy.count_rows(Path(file.url), file) == 200

    pipeline = parse_pipeline(
        {
            "name": "rivers",
            "dataset": {"train": str(tmp_path / "data"), "checks": {"near_duplicate_similarity": None}},
            "model": {"base": "base"},
            "publish": {"store": str(tmp_path / "models")},
        }
    )
    out = tmp_path / "snapshot"
    out.mkdir()
    statistics = ingest(pipeline, out, Reporter(tmp_path / "messages"))
    assert statistics.sources[0].format == "colon"
    assert statistics.source_rows == 200
    table = pq.read_table(out / "train.parquet").to_pydict()
    assert all(text.startswith("the river runs") for text in table["text"])
