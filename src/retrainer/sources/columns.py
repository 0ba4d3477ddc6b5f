"""The columns of a data file, from its header or its first row: enough for ``retrainer check``."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from retrainer.errors import DataError, first_line
from retrainer.formats import FORMATS
from retrainer.sources.files import SourceFile, fetched, unreadable


def read_columns(file: SourceFile) -> tuple[str, ...]:
    """Column names in their order; of jsonl the keys of its first row.

    :raises DataError: the file is empty, not of its format, not UTF-8, or cannot be read.
    """
    with readable(file) as path:
        columns: tuple[str, ...] = FORMATS[file.format].read_header(path, file)
        return columns


@contextlib.contextmanager
def readable(file: SourceFile, folder: Path | None = None) -> Iterator[Path]:
    """The file as a local one; what is wrong with its bytes becomes a data error while the block reads it.

    :param folder: where to download to; the system's temporary folder unless given.
    :raises DataError: it is not UTF-8, not complete, or cannot be read.
    """
    with fetched(file, folder) as path:
        try:
            yield path
        except UnicodeDecodeError:
            raise _not_utf8(path, file) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"not a complete gzip file: {error}", where=file.url) from None
        except OSError as error:
            raise unreadable(error, file.url) from None


@contextlib.contextmanager
def open_text(path: Path, *, compressed: bool) -> Iterator[IO[str]]:
    """A file as text: UTF-8, with or without a byte order mark, line ends as they are."""
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if compressed
        else path.open(encoding="utf-8-sig", newline="")
    ) as stream:
        yield stream


def empty_file(where: str) -> DataError:
    """The error about a file without anything in it."""
    return DataError("the file is empty", where=where)


def _not_utf8(path: Path, file: SourceFile) -> DataError:
    """The error about a file in another encoding: finds the first bad byte and guesses the encoding."""
    offset = 0
    with gzip.open(path, "rb") if file.compressed else path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                wide = number == 1 and line[:2] in {b"\xff\xfe", b"\xfe\xff"}
                encoding = "UTF-16" if wide else "WINDOWS-1252"
                return DataError(
                    f"not UTF-8: byte 0x{line[error.start]:02x} at offset {offset + error.start:,}",
                    where=f"{file.url}, line {number}",
                    hint=f"convert it, perhaps with `iconv -f {encoding} -t UTF-8`",
                )
            offset += len(line)
    return DataError("not UTF-8: it ends within a character", where=file.url, hint="the file was cut short")


def delimited_header(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The first row of a csv or tsv file."""
    with open_text(path, compressed=file.compressed) as stream:
        try:
            header = next(csv.reader(stream, delimiter=str(FORMATS[file.format].delimiter), strict=True), None)
        except csv.Error as error:
            raise DataError(f"the header is not {file.format}: {error}", where=f"{file.url}, line 1") from None
    if not header:
        raise empty_file(file.url)
    return tuple(name.strip() for name in header)


def json_lines_header(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The keys of the first object."""
    with open_text(path, compressed=file.compressed) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                return tuple(json_row(line, f"{file.url}, line {number}"))
    raise empty_file(file.url)


def parquet_header(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The names in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise empty_file(file.url)
    try:
        return tuple(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise DataError(f"not parquet: {first_line(error)}", where=file.url) from None


def json_row(line: str, where: str) -> dict[str, object]:
    """One line of jsonl.

    :raises DataError: it is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        hint = "a JSON array; write one object a line" if line.lstrip().startswith("[") else None
        raise DataError(f"not JSON: {error}", where=where, hint=hint) from None
    if not isinstance(row, dict):
        hint = "a JSON array; write one object a line" if isinstance(row, list) else None
        raise DataError("not a JSON object", where=where, hint=hint)
    return row
