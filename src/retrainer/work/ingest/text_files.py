"""Rows of csv, tsv and jsonl files, with the line of whatever is wrong in them. How a file of rows and fields is to be
read is settled in ``sources/delimited.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrainer.formats import FORMATS
from retrainer.sources.columns import Wanted, json_row
from retrainer.sources.delimited import Reading, columns_of, reading_of, refuse_wrapped, rows_of
from retrainer.sources.files import SourceFile
from retrainer.sources.text import empty_file, open_text
from retrainer.work.ingest.rows import RawRows, positions, raw_rows


def read_delimited(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a csv or tsv file.

    :raises DataError: empty, header only, a column is missing, a row has too few or too many fields, or
        other quotes are around nearly all texts.
    """
    columns = columns_of(path, file)
    at = positions(columns, wanted, f"{file.url}, line 1")
    reading = reading_of(path, file)
    picked: dict[str, list[str]] = {column: [] for column in at}
    targets = [(picked[column].append, index) for column, index in at.items()]
    for _, row in rows_of(path, file, reading):
        for append, index in targets:
            append(row[index])
    for column in wanted.texts:
        refuse_wrapped(picked[column], file, column)
    return raw_rows(
        picked.__getitem__,
        picked,
        wanted,
        name=name,
        where=file.url,
        format=file.format,
        size=file.size,
        reading=None if reading == Reading(str(FORMATS[file.format].delimiter)) else str(reading),
    )


def read_json_lines(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted keys of every object. A key that some rows lack is null there.

    :raises DataError: empty, a line is not a JSON object, no row has a wanted key.
    """
    columns = (*wanted.texts, *wanted.label_columns, *wanted.slices)
    values: dict[str, list[Any]] = {column: [] for column in columns}
    keys: dict[str, None] = {}
    with open_text(path, file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = json_row(line, f"{file.url}, line {number}")
            if row.keys() - keys.keys():
                keys.update(dict.fromkeys(row))
            for column in columns:
                values[column].append(row.get(column))
    if not keys:
        raise empty_file(file.url)
    positions(list(keys), wanted, file.url)
    return raw_rows(values.__getitem__, values, wanted, name=name, where=file.url, format=file.format, size=file.size)
