"""What a writer of csv, tsv or jsonl writes is read as it was meant, or refused with its place: never read otherwise.

``RETRAINER_EXAMPLES=10000`` looks longer than the suite does, and elsewhere each time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from retrainer.errors import DataError
from retrainer.sources.columns import Wanted
from retrainer.spec.delimited import Csv
from retrainer.work.ingest.labels import index_labels
from retrainer.work.ingest.pools import read_pool
from retrainer.work.reporter import Reporter

EXAMPLES = int(os.environ.get("RETRAINER_EXAMPLES", "200"))
WANTED = Wanted(("text",), "label")

# Name to how it may be spelled; two labels each.
FAMILIES: list[dict[str, list[Any]]] = [
    {"good": ["good"], "bad": ["bad"]},
    {"true": ["true", "True", "TRUE", True], "false": ["false", "False", "FALSE", False]},
    {"1": ["1", "1.0", 1, 1.0], "2": ["2", "2.00", 2]},
    {"4.5": ["4.5", 4.5], "5": ["5", "5.0", 5.0]},
    {
        "café": ["café", "cafe\u0301", "ca\u200bfé", "\ufeffcafé"],
        "bar none": ["bar none", " bar none", "bar\u00a0none", "bar  none\u2060"],
    },
]
ENCODINGS = ("utf-8", "utf-8-sig", "two marks", "utf-16", "utf-16-le", "utf-32", "latin-1")

texts = st.one_of(
    st.text(alphabet="ab,;|\t\n\r\"'\\ =é☃\u00a0\ufeff", max_size=12),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(["plain words", ' "so called"', '"quoted"', "said: 'no'", "a, b", 'x\\"y', "sep=;", "text", "1.0"]),
)


@dataclass(frozen=True)
class Table:
    """Rows of a text and a spelling, and the label that each spelling means."""

    rows: list[tuple[str, Any]]
    labels: list[str]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    family = draw(st.sampled_from(FAMILIES))
    names = [*family, *draw(st.lists(st.sampled_from([*family]), max_size=8))]
    return Table([(draw(texts), draw(st.sampled_from(family[name]))) for name in names], names)


@dataclass(frozen=True)
class Writer:
    """How rows are written as fields."""

    delimiter: str
    quoting: Any
    end: str
    blank: bool
    label_first: bool
    header: bool
    directive: bool

    def write(self, table: Table) -> str:
        rows = [("text", "label")] * self.header + [(text, str(label)) for text, label in table.rows]
        if self.label_first:
            rows = [(label, text) for text, label in rows]
        stream = io.StringIO(newline="")
        if self.directive:
            stream.write(f"sep={self.delimiter}{self.end}")
        if self.blank:
            quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
            stream.writelines(f"{self.delimiter} ".join(row) + self.end for row in quoted)
        else:
            csv.writer(stream, delimiter=self.delimiter, quoting=self.quoting, lineterminator=self.end).writerows(rows)
        return stream.getvalue()


writers = st.builds(
    Writer,
    delimiter=st.sampled_from([",", "\t", ";", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.booleans(),
    label_first=st.booleans(),
    header=st.booleans(),
    directive=st.booleans(),
)


def encoded(content: str, encoding: str) -> bytes:
    if encoding == "two marks":
        return ("\ufeff\ufeff" + content).encode()
    if encoding != "latin-1":
        return content.encode(encoding)
    data = content.encode(encoding, errors="ignore")
    assume(data.decode(encoding) == content)
    assume(data.isascii() or data.decode("utf-8", errors="ignore").encode() != data)
    return data


def check(path: Path, table: Table, setting: Csv | None) -> None:
    """What is read is what the table says, or an error says where."""
    try:
        pool = read_pool((str(path),), WANTED, "train", path.parent, Reporter(), setting)
        labels, indices, *_ = index_labels({"train": pool}, None)
    except DataError as error:
        refused = error
    else:
        event("read")
        assert pool[0].texts[0].to_pylist() == [text for text, _ in table.rows]
        assert [labels[at] for at in indices["train"]] == table.labels
        return
    event(f"refused: {refused.message[:30]}")
    assert str(refused.where).startswith(str(path))


def put(folder: Path, name: str, content: bytes, *, compressed: bool) -> Path:
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=tables(),
    writer=writers,
    encoding=st.sampled_from(ENCODINGS),
    suffix=st.sampled_from([".csv", ".tsv", ".label", ""]),
    said=st.sets(st.sampled_from(["delimiter", "quoting", "encoding"])),
    compressed=st.booleans(),
)
def test_rows_and_fields(
    tmp_path: Path, table: Table, writer: Writer, encoding: str, suffix: str, said: set[str], compressed: bool
) -> None:
    # Python's writer before 3.13 leaves these without quotes: nobody can tell that they are not the end of a row.
    other_end = {"\n": "\r", "\r": "\n"}.get(writer.end, "\0")
    assume(writer.blank or writer.quoting == csv.QUOTE_ALL or not any(other_end in text for text, _ in table.rows))
    known: dict[str, Any] = {
        "delimiter": writer.delimiter,
        "quoting": "standard",
        "encoding": {"two marks": "utf-8"}.get(encoding, encoding),
    }
    setting = {key: known[key] for key in said}
    if not writer.header:
        setting |= {"header": False, "columns": ("label", "text") if writer.label_first else ("text", "label")}
    content = writer.write(table)
    # Without a header the first text may begin with one, which nobody can tell from a mark.
    assume(not content.startswith("\ufeff"))
    path = put(tmp_path, f"data{suffix}", encoded(content, encoding), compressed=compressed)
    needed = setting or suffix not in {".csv", ".tsv"}
    check(path, table, Csv(**setting) if needed else None)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=tables(),
    encoding=st.sampled_from(ENCODINGS),
    ascii_only=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    compressed=st.booleans(),
)
def test_json_lines(tmp_path: Path, table: Table, encoding: str, ascii_only: bool, end: str, compressed: bool) -> None:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=ascii_only) + end for text, label in table.rows]
    path = put(tmp_path, "data.jsonl", encoded("".join(lines), encoding), compressed=compressed)
    check(path, table, None)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), tab=st.booleans(), every=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_usual_is_not_refused(tmp_path: Path, table: Table, tab: bool, every: bool, end: str) -> None:
    # One of them is surely not in quotes: a column whose texts all are is refused on purpose.
    rows = [("plain words", table.rows[0][1])]
    rows += [(" ".join(text.replace("\0", "").split()), label) for text, label in table.rows[1:]]
    table = Table(rows, table.labels)
    quoting = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    writer = Writer("\t" if tab else ",", quoting, end, blank=False, label_first=False, header=True, directive=False)
    path = put(tmp_path, "data.tsv" if tab else "data.csv", writer.write(table).encode(), compressed=False)
    pool = read_pool((str(path),), WANTED, "train", tmp_path, Reporter())
    assert pool[0].texts[0].to_pylist() == [text for text, _ in rows]
