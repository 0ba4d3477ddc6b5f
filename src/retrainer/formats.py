"""The formats of data files, one entry each. A new one is its readers and an entry in ``FORMATS``.

Light, and below everything that asks: readers are named by dotted names. Not here: finding files
(``sources/files.py``), and the readers, of a header (``sources/columns.py``) and of rows (``work/ingest``).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    :param suffixes: of file names, in lower case.
    :param gzipped: whether ``.gz`` may follow the suffix.
    :param delimiter: between the fields of a row, where the format has one.
    :param header: ``package.module:name`` of what reads the names of the columns, and nothing heavy; called with the
        local path and the ``SourceFile``.
    :param rows: likewise of what reads the rows; called with the path, the ``SourceFile``, the name for people, and
        the wanted columns.
    :param count: likewise of what says how many rows there are, and loads nothing heavy but for a binary format.
    """

    name: str
    suffixes: tuple[str, ...]
    gzipped: bool = False
    delimiter: str | None = None
    header: str
    rows: str
    count: str

    def read_header(self, *arguments: Any) -> Any:
        """The names of a file's columns."""
        return pkgutil.resolve_name(self.header)(*arguments)

    def read_rows(self, *arguments: Any) -> Any:
        """The wanted columns of a file."""
        return pkgutil.resolve_name(self.rows)(*arguments)

    def count_rows(self, *arguments: Any) -> int:
        """How many rows a file has; called with the local path and the ``SourceFile``."""
        return int(pkgutil.resolve_name(self.count)(*arguments))


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="csv",
            suffixes=(".csv",),
            gzipped=True,
            delimiter=",",
            header="retrainer.sources.delimited:columns_of",
            rows="retrainer.work.ingest.text_files:read_delimited",
            count="retrainer.sources.delimited:count_rows",
        ),
        Format(
            name="tsv",
            suffixes=(".tsv",),
            gzipped=True,
            delimiter="\t",
            header="retrainer.sources.delimited:columns_of",
            rows="retrainer.work.ingest.text_files:read_delimited",
            count="retrainer.sources.delimited:count_rows",
        ),
        Format(
            name="jsonl",
            suffixes=(".jsonl", ".ndjson"),
            gzipped=True,
            header="retrainer.sources.columns:json_lines_header",
            rows="retrainer.work.ingest.text_files:read_json_lines",
            count="retrainer.sources.columns:count_json_lines",
        ),
        Format(
            name="parquet",
            suffixes=(".parquet", ".pq"),
            header="retrainer.sources.columns:parquet_header",
            rows="retrainer.work.ingest.tables:read_parquet",
            count="retrainer.sources.columns:count_parquet",
        ),
    )
}


def format_of(name: str) -> Format | None:
    """The format of a file by its name; ``None`` for none of these."""
    lowered = name.lower()
    for form in FORMATS.values():
        endings = (*form.suffixes, *(f"{suffix}.gz" for suffix in form.suffixes if form.gzipped))
        if lowered.endswith(endings):
            return form
    return None
