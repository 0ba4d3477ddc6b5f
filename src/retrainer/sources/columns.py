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

from retrainer.errors import DataError
from retrainer.sources.files import SourceFile, fetched, unreadable

DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_columns(file: SourceFile) -> tuple[str, ...]:
    """Column names in their order; of jsonl the keys of its first row.

    :raises DataError: the file is empty, not of its format, not UTF-8, or cannot be read.
    """
    with fetched(file) as path:
        try:
            if file.format == "parquet":
                return _parquet(path, file.url)
            with open_text(path, compressed=file.compressed) as stream:
                return _jsonl(stream, file.url) if file.format == "jsonl" else _delimited(stream, file)
        except UnicodeDecodeError:
            raise not_utf8(path, file) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged_gzip(error, file.url) from None
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


def damaged_gzip(error: Exception, where: str) -> DataError:
    """The error about a .gz that is none, or was cut short."""
    return DataError(f"not a complete gzip file: {error}", where=where)


def not_utf8(path: Path, file: SourceFile) -> DataError:
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


def _delimited(stream: IO[str], file: SourceFile) -> tuple[str, ...]:
    try:
        header = next(csv.reader(stream, delimiter=DELIMITERS[file.format], strict=True), None)
    except csv.Error as error:
        raise DataError(f"the header is not {file.format}: {error}", where=f"{file.url}, line 1") from None
    if not header:
        raise empty_file(file.url)
    return tuple(name.strip() for name in header)


def _jsonl(stream: IO[str], where: str) -> tuple[str, ...]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            return tuple(json_row(line, f"{where}, line {number}"))
    raise empty_file(where)


def json_row(line: str, where: str) -> dict[str, object]:
    """One line of jsonl.

    :raises DataError: it is no JSON object.
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


def _parquet(path: Path, where: str) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise empty_file(where)
    try:
        return tuple(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise DataError(f"not parquet: {str(error).splitlines()[0]}", where=where) from None
