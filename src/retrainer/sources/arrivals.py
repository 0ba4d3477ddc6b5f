"""What is new in data that was read before: files by their versions, and how many rows came with them.

A version is what a listing says about a file's content without opening it. Rows are counted by reading a file once;
what was counted is a record that a caller may keep. Not here: when to look, and what to do about it
(``airflow/watch.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from retrainer.errors import DataError, NoDataError
from retrainer.formats import FORMATS
from retrainer.records import Record
from retrainer.sources.files import SourceFile, expand
from retrainer.sources.text import readable
from retrainer.spec.delimited import Csv

Listing = Mapping[str, str]
"""The version of each file, by its URL."""

_BLOCK = 1 << 20


class Count(Record):
    """What reading one version of a file told.

    :param rows: how many there are; ``None`` where the file could not be read.
    :param size: bytes.
    :param sha256: of the bytes.
    :param extends: the earlier versions that it begins with, to which rows were only added.
    :param problem: why it could not be read.
    """

    rows: int | None
    size: int = 0
    sha256: str = ""
    extends: tuple[str, ...] = ()
    problem: str = ""


Counts = Mapping[str, Mapping[str, Count]]
"""The counts of a file's versions, by its URL and the version."""


def data_files(paths: Iterable[str], csv: Csv | None = None) -> dict[str, SourceFile]:
    """The files that paths name at this moment, by URL. A path where nothing lies yet is no error here.

    :raises DataError: something else is wrong with a path, such as a missing permission.
    :raises StorageError: a bucket cannot be listed.
    """
    found: dict[str, SourceFile] = {}
    for path in paths:
        try:
            found.update((file.url, file) for file in expand((path,), csv))
        except NoDataError:
            continue
    return found


def listing(files: Mapping[str, SourceFile]) -> dict[str, str]:
    """The versions of files: ETag and size in a bucket; size and time of change in a folder.

    A file that vanishes meanwhile is left out.
    """
    versions = ((url, version_of(file)) for url, file in files.items())
    return {url: version for url, version in versions if version is not None}


def version_of(file: SourceFile) -> str | None:
    """The version of a file; ``None`` when it is gone."""
    if file.etag is not None:
        return f"{file.size}-{file.etag}"
    try:
        status = Path(file.url).stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def changed(now: Listing, before: Listing) -> dict[str, str]:
    """The files that are new or have another version than before. One that is gone brings nothing new."""
    return {url: version for url, version in now.items() if before.get(url) != version}


def count(file: SourceFile, earlier: Mapping[str, Count]) -> Count:
    """Read a file once and count its rows.

    :param earlier: counts of its earlier versions.
    :raises StorageError: a bucket did not give it.
    """
    try:
        with readable(file) as path:
            rows = FORMATS[file.format].count_rows(path, file)
            size = path.stat().st_size
            return Count(
                rows=rows,
                size=size,
                sha256=_sha256(path, size),
                extends=tuple(
                    version
                    for version, one in earlier.items()
                    if one.rows is not None and one.size <= size and _sha256(path, one.size) == one.sha256
                ),
            )
    except DataError as error:
        return Count(rows=None, problem=str(error))
    except ModuleNotFoundError as error:  # of a format that needs more than Airflow brings
        return Count(rows=None, problem=f"{file.url}: cannot be counted without {error.name}")


def added(url: str, version: str, before: Listing, counts: Counts) -> int | None:
    """How many rows a file has more than in the version that was read before; all of them where it is written anew.

    :return: ``None`` where that was not, or cannot be, counted.
    """
    known = counts.get(url, {})
    now, then = known.get(version), known.get(before.get(url, ""))
    if now is None or now.rows is None:
        return None
    grew = then is not None and then.rows is not None and before[url] in now.extends
    return now.rows - (then.rows or 0) if grew and then is not None else now.rows


def _sha256(path: Path, size: int) -> str:
    """Of the first bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size > 0 and (block := stream.read(min(_BLOCK, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
