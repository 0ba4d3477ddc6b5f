"""Rows of csv and tsv files, with the line of whatever is wrong in them.

Python's own csv reader, strict: it says where a quote is not closed, and reads a million short rows in a few
seconds. Faster readers guess types, and report a position in their own buffers.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrainer.errors import DataError
from retrainer.sources.columns import DELIMITERS, empty_file, open_text
from retrainer.sources.files import SourceFile
from retrainer.work.ingest.rows import (
    RawRows,
    Wanted,
    empty_column,
    label_column,
    no_rows,
    positions,
    text_column,
)

_QUOTED = {"strict": True}
_UNQUOTED = {"quoting": csv.QUOTE_NONE}


def read_delimited(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a csv or tsv file.

    Quotes in a tsv are plain characters to some tools and quotes to others: they are taken as quotes where that
    makes every row come out right, and as characters where only that does.

    :raises DataError: empty, header only, a column is missing, a row has too few or too many fields.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts may be longer than the 128 KiB it allows
    try:
        return _read(path, file, name, wanted, _QUOTED)
    except _MalformedError as malformed:
        if file.format == "tsv":
            try:
                return _read(path, file, name, wanted, _UNQUOTED)
            except _MalformedError:
                pass  # neither way: what it says about quotes is the more useful
        raise DataError(malformed.message, where=malformed.where, hint=malformed.hint) from None


class _MalformedError(DataError):
    """The text is not that of a table."""


def _read(path: Path, file: SourceFile, name: str, wanted: Wanted, dialect: dict[str, Any]) -> RawRows:
    with open_text(path, compressed=file.compressed) as stream:
        reader = csv.reader(stream, delimiter=DELIMITERS[file.format], **dialect)
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
    count = len(picked[wanted.label])
    if count == 0:
        raise no_rows(file.url)
    return RawRows(
        name=name,
        where=file.url,
        format=file.format,
        size=file.size,
        texts=tuple(text_column(picked[column], file.url, column) for column in wanted.texts),
        labels=label_column(picked[wanted.label], file.url, wanted.label),
        slices={
            column: text_column(picked[column], file.url, column) if column in picked else empty_column(count)
            for column in wanted.slices
        },
    )


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
            raise _MalformedError(message, where=f"{file.url}, line {reader.line_num}", hint=hint) from None
        if row:
            yield row


def _in_words(problem: str, started: int) -> tuple[str, str]:
    if "unexpected end of data" in problem:
        return f"a quote that opens in line {started} is not closed", 'a quote within a text is written twice: ""'
    if "expected after" in problem:
        return f"after a closing quote more text follows ({problem})", 'a quote within a text is written twice: ""'
    return f"not a table: {problem}", "quote texts that hold commas, quotes or line ends"


def _wrong_width(row: list[str], width: int, line: int, file: SourceFile) -> _MalformedError:
    mark = "comma" if file.format == "csv" else "tab"
    return _MalformedError(
        f"the row has {len(row)} field{'s' * (len(row) != 1)}, the header {width}",
        where=f"{file.url}, line {line}",
        hint=f"a text that holds a {mark} must stand in quotes" if len(row) > width else "fields are missing",
    )
