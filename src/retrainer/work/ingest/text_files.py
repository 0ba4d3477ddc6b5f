"""Rows of csv, tsv and jsonl files, with the line of whatever is wrong in them.

For csv and tsv Python's own reader, strict: it says where a quote is not closed, and reads a million short rows in a
few seconds. Faster readers guess types, and report a position in their own buffers.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrainer.errors import DataError
from retrainer.formats import FORMATS
from retrainer.sources.columns import empty_file, json_row, open_text
from retrainer.sources.files import SourceFile
from retrainer.work.ingest.rows import RawRows, Wanted, positions, raw_rows

_DELIMITERS = {",": "comma", "\t": "tab"}


def read_comma_separated(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a csv file.

    :raises DataError: empty, header only, a column is missing, a row has too few or too many fields.
    """
    return _read(path, file, name, wanted, {"strict": True})


def read_tab_separated(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a tsv file.

    Quotes in a tsv are plain characters to some tools and quotes to others: they are taken as quotes where that
    makes every row come out right, and as characters where only that does.

    :raises DataError: as of csv.
    """
    try:
        return _read(path, file, name, wanted, {"strict": True})
    except DataError as quoted:
        try:
            return _read(path, file, name, wanted, {"quoting": csv.QUOTE_NONE})
        except DataError:
            raise quoted from None  # neither way: what it says about quotes is the more useful


def read_json_lines(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted keys of every object. A key that some rows lack is null there.

    :raises DataError: empty, a line is not a JSON object, no row has a wanted key.
    """
    columns = (*wanted.texts, wanted.label, *wanted.slices)
    values: dict[str, list[Any]] = {column: [] for column in columns}
    keys: dict[str, None] = {}
    with open_text(path, compressed=file.compressed) as stream:
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


def _read(path: Path, file: SourceFile, name: str, wanted: Wanted, dialect: dict[str, Any]) -> RawRows:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts may be longer than the 128 KiB it allows
    with open_text(path, compressed=file.compressed) as stream:
        reader = csv.reader(stream, delimiter=str(FORMATS[file.format].delimiter), **dialect)
        rows = _rows(reader, file)
        header = [column.strip() for column in next(rows, [])]
        if not header:
            raise empty_file(file.url)
        at = positions(header, wanted, f"{file.url}, line 1")
        picked: dict[str, list[str]] = {column: [] for column in at}
        targets = [(picked[column].append, index) for column, index in at.items()]
        width = len(header)
        for row in rows:
            if len(row) != width:
                raise _wrong_width(row, width, reader.line_num, file)
            for append, index in targets:
                append(row[index])
    return raw_rows(picked.__getitem__, picked, wanted, name=name, where=file.url, format=file.format, size=file.size)


def _rows(reader: Any, file: SourceFile) -> Iterator[list[str]]:
    """The rows, without blank lines."""
    while True:
        started = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message, hint = _in_words(str(error), started)
            raise DataError(message, where=f"{file.url}, line {reader.line_num}", hint=hint) from None
        if row:
            yield row


def _in_words(problem: str, started: int) -> tuple[str, str]:
    if "unexpected end of data" in problem:
        return f"a quote that opens in line {started} is not closed", 'a quote within a text is written twice: ""'
    if "expected after" in problem:
        return f"after a closing quote more text follows ({problem})", 'a quote within a text is written twice: ""'
    return f"not a table: {problem}", "quote texts that hold commas, quotes or line ends"


def _wrong_width(row: list[str], width: int, line: int, file: SourceFile) -> DataError:
    mark = _DELIMITERS.get(str(FORMATS[file.format].delimiter), "delimiter")
    return DataError(
        f"the row has {len(row)} field{'s' * (len(row) != 1)}, the header {width}",
        where=f"{file.url}, line {line}",
        hint=f"a text that holds a {mark} must be in quotes" if len(row) > width else "fields are missing",
    )
