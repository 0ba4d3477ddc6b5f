"""The columns of a data file, from its header or its first row: enough for ``retrainer check``.

Also the record of which of them are to be read, for the formats' readers of rows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from retrainer.errors import DataError, first_line
from retrainer.formats import FORMATS
from retrainer.sources.files import SourceFile
from retrainer.sources.text import empty_file, open_text, readable

# Half of a character's surrogate pair: an escape of JSON can spell it, no encoding can.
HALF = re.compile("[\ud800-\udfff]")


class Wanted(NamedTuple):
    """The columns to read.

    :param texts: one or two.
    :param slices: for the gate's groups.
    :param outputs: what is in the column of the label is text to be written, and kept as it is.
    :param slices_required: a file without a slice column is an error; otherwise the column is empty there.
    """

    texts: tuple[str, ...]
    label: str
    slices: tuple[str, ...] = ()
    slices_required: bool = True
    outputs: bool = False


def read_columns(file: SourceFile) -> tuple[str, ...]:
    """Column names in their order; of jsonl the keys of its first row.

    :raises DataError: the file is empty, not of its format, not UTF-8, or cannot be read.
    """
    with readable(file) as path:
        columns: tuple[str, ...] = FORMATS[file.format].read_header(path, file)
        return columns


def json_lines_header(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The keys of the first object."""
    with open_text(path, file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                return tuple(json_row(line, f"{file.url}, line {number}"))
    raise empty_file(file.url)


def count_json_lines(path: Path, file: SourceFile) -> int:
    """How many lines are not blank. Whether each is an object is found when they are read."""
    with open_text(path, file) as stream:
        return sum(1 for line in stream if line.strip())


def parquet_header(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The names in the schema."""
    return tuple(parquet_schema(path, file).names)


def parquet_schema(path: Path, file: SourceFile) -> Any:
    """The schema, as Arrow's.

    :raises DataError: the file is not parquet, or damaged.
    """
    return _parquet(path, file, "read_schema")


def count_parquet(path: Path, file: SourceFile) -> int:
    """The number of rows that the file's end names.

    :raises DataError: the file is not parquet, or damaged.
    """
    return int(_parquet(path, file, "read_metadata").num_rows)


def _parquet(path: Path, file: SourceFile, what: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise empty_file(file.url)
    try:
        return getattr(pq, what)(path)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise not_parquet(error, file) from None


def not_parquet(error: Exception, file: SourceFile) -> DataError:
    """The error about a file that Arrow cannot read as parquet."""
    return DataError(f"not parquet, or damaged: {first_line(error)}", where=file.url)


def json_row(line: str, where: str) -> dict[str, object]:
    """One line of jsonl.

    :raises DataError: it is not a JSON object, has a key twice, or holds what cannot be read.
    """
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except _Twice as error:
        raise DataError(f"the key '{error}' is there twice", where=where) from None
    except (ValueError, RecursionError) as error:
        hint = "a JSON array; write one object a line" if line.lstrip().startswith("[") else None
        problem = "a number of thousands of digits" if "digits" in str(error) else error
        raise DataError(f"not JSON that can be read: {problem}", where=where, hint=hint) from None
    if not isinstance(row, dict):
        hint = "a JSON array; write one object a line" if isinstance(row, list) else None
        raise DataError("not a JSON object", where=where, hint=hint)
    if "\\u" in line and (half := next((key for key in row if HALF.search(key)), None)):
        raise DataError(f"the key {half!a} holds half of a surrogate pair, which is not a character", where=where)
    return row


class _Twice(ValueError):
    """Which of two values is meant, nobody can tell."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(ascii(next(key for key in keys if keys.count(key) > 1))[1:-1])
    return row
