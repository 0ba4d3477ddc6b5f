"""Data files as text: opened in their encoding, or refused with what they are instead. Not here: what the text says."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from retrainer.errors import DataError
from retrainer.sources.files import SourceFile, fetched, unreadable

# What a file begins with that says in which encoding it is; the longer marks first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHERS = (
    (b"\x1f\x8b", "gzip", "let its name end in .gz, after the suffix of what is in it"),
    (b"PK\x03\x04", "a zip archive (.xlsx is one, too)", "unpack it, or save the sheet as csv"),
    (b"PAR1", "parquet", "let its name end in .parquet"),
    (b"ARROW1", "Arrow", "write it as parquet"),
    (b"ORC", "ORC", "write it as parquet"),
    (b"Obj\x01", "Avro", "write it as parquet"),
    (b"BZh", "bzip2", "unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "xz", "unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Office document (such as .xls)", "save the sheet as csv"),
    (b"SQLite format 3", "an SQLite database", "export the table as csv"),
    (b"\x80\x04\x95", "a Python pickle", "write it as csv or parquet"),
    (b"\x80\x05\x95", "a Python pickle", "write it as csv or parquet"),
    (b"%PDF", "PDF", "labelled text is csv, tsv, jsonl or parquet"),
)
_HEAD = 4096


@contextlib.contextmanager
def readable(file: SourceFile, folder: Path | None = None) -> Iterator[Path]:
    """The file as a local one; what is wrong with its bytes becomes a data error while the block reads it.

    :param folder: where to download to; the system's temporary folder unless given.
    :raises DataError: it is not in its encoding, not complete, or cannot be read.
    """
    with fetched(file, folder) as path:
        try:
            try:
                yield path
            except UnicodeError as error:
                raise _undecodable(path, file, error) from None  # reads it once more, so may find it damaged
        except gzip.BadGzipFile as error:
            hint = "if it is not compressed, leave .gz out of its name" if "Not a gzipped" in str(error) else None
            raise DataError(f"not a complete gzip file: {error}", where=file.url, hint=hint) from None
        except (EOFError, zlib.error) as error:
            raise DataError(f"not a complete gzip file: {error}", where=file.url) from None
        except OSError as error:
            raise unreadable(error, file.url) from None


@contextlib.contextmanager
def open_text(path: Path, file: SourceFile, *, encoding: str | None = None) -> Iterator[IO[str]]:
    """A file as text, line ends as they are, without byte order marks.

    :param path: where it is now.
    :param encoding: unless given, UTF-8 or what a byte order mark says.
    :raises DataError: it is something else than text, or UTF-16 that does not say so.
    """
    with _open_bytes(path, file) as stream:
        head = stream.read(_HEAD)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is None and marked is None:
        _refuse_other(head, file)
    encoding = encoding or marked or "utf-8"
    start = head.decode(encoding, errors="ignore")
    # Tools that add a mark to what has one already leave two.
    marks = len(start) - len(start.lstrip("\ufeff"))
    opened = gzip.open if file.compressed else open
    with cast("IO[str]", opened(path, "rt", encoding=encoding, newline="")) as text:
        text.read(marks)
        yield text


def _open_bytes(path: Path, file: SourceFile) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if file.compressed else path.open("rb")


def empty_file(where: str) -> DataError:
    """The error about a file without anything in it."""
    return DataError("the file is empty", where=where)


def _refuse_other(head: bytes, file: SourceFile) -> None:
    for magic, name, hint in _OTHERS:
        if head.startswith(magic):
            what = "once unpacked, the file" if file.compressed else "the file"
            raise DataError(f"{what} is not text but {name}", where=file.url, hint=hint)
    if wide := _wide(head):
        raise DataError(
            f"the file seems to be {wide.upper()}, and has no byte order mark that says so",
            where=file.url,
            hint=_convert(file, wide),
        )


def _wide(head: bytes) -> str | None:
    """UTF-16 where every second byte of plain letters, blanks and line ends is zero, and no other is."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    return "utf-16-le" if odd > 1 and not even else "utf-16-be" if even > 1 and not odd else None


def _convert(file: SourceFile, encoding: str) -> str:
    convert = f"convert it, perhaps with `iconv -f {encoding.upper()} -t UTF-8`"
    return f"set dataset.csv: {{encoding: {encoding}}}, or {convert}" if file.delimited else convert


def _undecodable(path: Path, file: SourceFile, error: UnicodeError) -> DataError:
    """The error about a file in another encoding: finds the first bad byte and guesses the encoding."""
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "utf-8":
        name = error.encoding if isinstance(error, UnicodeDecodeError) else "of its encoding"
        return DataError(f"not {name}: {error}", where=file.url, hint="check dataset.csv.encoding")
    offset = 0
    with _open_bytes(path, file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as bad:
                return DataError(
                    f"not UTF-8: byte 0x{line[bad.start]:02x} at offset {offset + bad.start:,}",
                    where=f"{file.url}, line {number}",
                    hint=_convert(file, "windows-1252"),
                )
            offset += len(line)
    return DataError("not UTF-8: it ends within a character", where=file.url, hint="the file was cut short")
