"""The files that a path, a folder, a glob or an ``s3://`` address names."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from retrainer.errors import DataError, NoDataError, StorageError
from retrainer.formats import FORMATS, format_of
from retrainer.records import sha256_file
from retrainer.spec.delimited import Csv
from retrainer.spec.paths import TEMPLATE
from retrainer.spec.problems import listed, nearest
from retrainer.storage import ObjectInfo, Transfer, is_s3, open_storage

KNOWN = f"{listed(FORMATS)} ({listed(form.name for form in FORMATS.values() if form.gzipped)} also as .gz)"
_WILDCARD = re.compile(r"[*?\[]")
# So many objects of a bucket are looked at for a hint.
_MOST_NAMED = 1000
# Of a folder, which may be /proc; so many take a second or two.
_MOST_ENTRIES = 200_000
# Any folders, any name; nothing hidden.
_ALL = ("**", "*")
# What is no table whatever ``dataset.csv`` says, and what to do with it.
_NO_TABLES = {
    ".json": "write one JSON object a line and call it .jsonl",
    ".xls": "save the sheet as csv",
    ".xlsx": "save the sheet as csv",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of labelled text.

    :param url: absolute path, or ``s3://bucket/key``.
    :param name: path below what the pipeline named; of a single file its name. The same wherever the data is.
    :param format: its name in ``FORMATS``.
    :param compressed: with gzip.
    :param size: bytes.
    :param etag: S3's word for the content; ``None`` for a local file.
    :param csv: what the pipeline says of files of rows and fields.
    """

    url: str
    name: str
    format: str
    compressed: bool
    size: int
    etag: str | None = None
    csv: Csv | None = None

    @property
    def delimited(self) -> bool:
        """Whether it consists of rows and fields."""
        return FORMATS[self.format].delimiter is not None

    def fingerprint(self) -> str:
        """What identifies the content: SHA-256 of a local file, size and ETag on S3.

        :raises DataError: the file cannot be read.
        """
        if self.etag is not None:
            return f"{self.size}-{self.etag}"
        try:
            return sha256_file(Path(self.url))
        except OSError as error:
            raise unreadable(error, self.url) from None


class _Found(NamedTuple):
    """A file or an object: its path below what was asked for, its address, size and ETag."""

    path: str
    url: str
    size: int | None
    etag: str | None = None


def expand(paths: Iterable[str], csv: Csv | None = None) -> tuple[SourceFile, ...]:
    """The files that paths, folders and globs name: in the order given, within each sorted, each once.

    A name means the same in a folder and in a bucket: the file or object of just that name; else the folder or prefix
    of that name, which means all files of a known format below it; else a glob. What is hidden, or starts with ``_``
    as ``_SUCCESS`` does, is left out unless it is named.

    :param paths: absolute paths and ``s3://`` addresses.
    :param csv: with it, a file that is named or matched may have any suffix.
    :raises DataError: one of them names nothing, or a file of unknown format.
    :raises StorageError: the bucket cannot be read.
    """
    files: dict[str, SourceFile] = {}
    for path in paths:
        for file in _named(path, csv):
            files.setdefault(file.url, file)
    return tuple(files.values())


@contextlib.contextmanager
def fetched(file: SourceFile, folder: Path | None = None) -> Iterator[Path]:
    """The file as a local one, downloaded for the while where it is on S3.

    :param folder: where to download to; the system's temporary folder by default.
    """
    if file.etag is None:
        yield Path(file.url)
        return
    bucket, key = _split(file.url)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
        target = Path(temporary) / "data"
        open_storage(bucket).download_all([Transfer(target, key, foreign=True)])
        yield target


def unreadable(error: OSError, where: str) -> DataError:
    """An error of the operating system about a data file, in the words of a data error."""
    if isinstance(error, PermissionError):
        return DataError("no permission to read it", where=where, hint="check its owner and mode")
    if isinstance(error, FileNotFoundError):
        return DataError("no such file or folder", where=where, hint=near_hint(Path(where)))
    return DataError(f"cannot be read: {error.strerror or error}", where=where)


def visible_files(folder: Path) -> Iterator[Path]:
    """Files below a folder in a fixed order, without hidden ones and markers such as ``_SUCCESS``."""
    return (Path(found.url) for found in _sorted(_below(str(folder))) if found.size is not None)


def near_hint(place: Path) -> str | None:
    """What is in the folder of a path that does not exist, and might have been meant."""
    if place.is_symlink() and not place.exists():
        return f"it is a link to {place.readlink()}, where nothing is"
    if place.exists():
        return "it is a file" if place.is_file() else "it may be a pipe or a device; give a file, or a folder of files"
    existing = place.parent
    if not existing.is_dir():
        while not existing.is_dir() and existing != existing.parent:
            existing = existing.parent
        missing = place.relative_to(existing).parts[0]
        names = _names(existing)
        near = nearest(missing, names)
        return f"{existing} holds no '{missing}'" + (f"; did you mean '{near}'?" if near else "")
    near = nearest(place.name, _names(existing))
    return f"did you mean '{near}'?" if near else _holds(existing, _names(existing))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []  # only a hint is lost


def _holds(place: object, names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{place} holds {listed(names[:5])}{more}" if names else f"{place} is empty"


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _named(path: str, csv: Csv | None) -> list[SourceFile]:
    """The files that one path names."""
    path = path.removesuffix("/") or "/"
    if TEMPLATE in path:
        raise DataError(
            "holds a template, which only Airflow completes, with the date of a run",
            where=path,
            hint="to try the pipeline here, write the path of one day",
        )
    try:
        if found := _just(path):
            return [_source_file(found, csv)]
        below = _sorted(_below(path))
        known = [found for found in below if format_of(found.path) is not None]
        if not known and _is_glob(path):
            known = _matching(path)
    except OSError as error:
        raise unreadable(error, error.filename or path) from None
    if not known:
        raise _nothing(path, [found.path for found in below])
    return [_source_file(found, csv) for found in known]


def _source_file(found: _Found, csv: Csv | None) -> SourceFile:
    if found.size is None:
        raise DataError("neither a file nor a folder", where=found.url, hint=near_hint(Path(found.url)))
    try:
        found.url.encode()
    except UnicodeEncodeError:
        raise DataError("the name of a file is not UTF-8", where=ascii(found.url), hint="rename it") from None
    form = format_of(found.path)
    return SourceFile(
        url=found.url,
        name=found.path,
        format=form.name if form else "csv" if csv and _suffix(found) not in _NO_TABLES else _unknown(found),
        compressed=found.path.lower().endswith(".gz"),
        size=found.size,
        etag=found.etag,
        csv=csv,
    )


def _suffix(found: _Found) -> str:
    return PurePosixPath(found.path.lower().removesuffix(".gz")).suffix


def _unknown(found: _Found) -> NoReturn:
    suffix = "".join(PurePosixPath(found.path).suffixes[-2:]) or "no suffix"
    hint = _NO_TABLES.get(
        _suffix(found), "if it holds rows and fields, say in dataset.csv how it is read: any suffix is taken then"
    )
    raise DataError(f"'{suffix}' is not a known format; known are {KNOWN}", where=found.url, hint=hint)


def _sorted(found: Iterable[_Found]) -> list[_Found]:
    """Folder by folder, so in the same order wherever they are."""
    return sorted(found, key=lambda one: one.path.split("/"))


def _just(path: str) -> _Found | None:
    """The file or the object of just that name."""
    if not is_s3(path):
        place = Path(path)
        return _Found(place.name, path, place.stat().st_size) if place.is_file() else None
    bucket, wanted = _split(path)
    for key, found in _objects(bucket, wanted):
        if key >= wanted:
            return found._replace(path=key.rpartition("/")[2]) if key == wanted else None
    return None


def _below(path: str, pattern: Sequence[str] = _ALL) -> Iterator[_Found]:
    """What is below the folder or the prefix of that name, and matches a pattern.

    What is there and is not a file, such as a pipe or a link to nothing, has no size.

    :param pattern: its parts.
    """
    if not is_s3(path):
        if Path(path or "/").is_dir():
            yield from _walk(path or "/", pattern)
        return
    bucket, key = _split(path)
    folder = f"{key}/" if key else ""
    for key, found in _objects(bucket, folder + _WILDCARD.split(pattern[0])[0]):
        inside = key.removeprefix(folder)
        if key.startswith(folder) and len(pattern) in reduce(partial(_after, pattern), inside.split("/"), _at(pattern)):
            yield found._replace(path=inside)


def _walk(root: str, pattern: Sequence[str]) -> Iterator[_Found]:
    """Each folder is entered once for what the pattern still has to match there, and by its own name before a link's.

    :raises DataError: there is too much to look at.
    """
    folders = deque([(root, "", _at(pattern))])
    seen = set()
    looked_at = 0
    while folders:
        folder, above, at = folders.popleft()
        status = Path(folder).stat()
        if (here := (status.st_dev, status.st_ino, at)) in seen:
            continue
        seen.add(here)
        with os.scandir(folder) as entries:
            # In a fixed order: of two links to one folder it is always the same that is followed.
            ordered = sorted(islice(entries, _MOST_ENTRIES + 1 - looked_at), key=lambda entry: entry.name)
        looked_at += len(ordered)
        if looked_at > _MOST_ENTRIES:
            raise DataError(
                f"more than {_MOST_ENTRIES:,} files and folders below it",
                where=root,
                hint="name the folder more closely",
            )
        for entry in ordered:
            then = _after(pattern, at, entry.name)
            if entry.is_dir():
                if within := then - {len(pattern)}:
                    add = folders.append if entry.is_symlink() else folders.appendleft
                    add((entry.path, f"{above}{entry.name}/", within))
            elif len(pattern) in then:
                yield _Found(above + entry.name, entry.path, entry.stat().st_size if entry.is_file() else None)


def etag_of(entry: ObjectInfo, where: str) -> str:
    """What identifies the content of an object.

    :raises StorageError: nothing does, so that a change would not be seen.
    """
    if not entry.etag:
        raise StorageError(
            f"the list of objects names no ETag for {entry.key}", where=where, hint="copy the files to another server"
        )
    return entry.etag


def _objects(bucket: str, prefix: str) -> Iterator[tuple[str, _Found]]:
    """The keys of a bucket that start so, in order."""
    # Our own storage has no key with an empty part, or one of dots; others' buckets have.
    listed_from = re.split(r"(?:^|(?<=/))(?:\.{0,2})/", prefix)[0]
    for entry in open_storage(bucket).list(listed_from):
        if entry.key.startswith(prefix):
            yield entry.key, _Found(entry.key, f"{bucket}/{entry.key}", entry.size, etag_of(entry, bucket))


def _split(url: str) -> tuple[str, str]:
    """``s3://bucket`` and the key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return f"s3://{bucket}", key


def _is_glob(path: str) -> bool:
    return _WILDCARD.search(_split(path)[1] if is_s3(path) else path) is not None


def _root_and_pattern(path: str) -> tuple[str, list[str]]:
    """The folder or prefix before the first part with a wildcard, and the parts from there on."""
    root, rest = _split(path) if is_s3(path) else ("", path.removeprefix("/"))
    parts = rest.split("/")
    first = next(at for at, part in enumerate(parts) if _WILDCARD.search(part))
    pattern: list[str] = []
    for part in parts[first:]:
        deep = part.startswith("**") and part != "**"
        pattern += ["**", part.replace("**", "*")] if deep else [part]
    return "/".join([root, *parts[:first]]), pattern


def _matching(path: str) -> list[_Found]:
    """What a glob matches: ``*``, ``?`` and ``[...]`` stay within a folder, ``**`` is any folders."""
    root, pattern = _root_and_pattern(path)
    return _sorted(_below(root, pattern))


def _at(pattern: Sequence[str], positions: Iterable[int] = (0,)) -> frozenset[int]:
    """The positions within a pattern with those that follow them for nothing: ``**`` may be no folder."""
    found = set(positions)
    for at, part in enumerate(pattern):
        if at in found and part == "**":
            found.add(at + 1)
    return frozenset(found)


def _after(pattern: Sequence[str], positions: Iterable[int], name: str) -> frozenset[int]:
    """Where one is within a pattern after one more name; at its end, the path so far matches."""
    reached = []
    for position in positions:
        wanted = pattern[position] if position < len(pattern) else None
        if wanted is None or (_hidden(name) and wanted[0] != name[0]):
            continue
        if wanted == "**":
            reached.append(position)
        elif fnmatch.fnmatchcase(name, wanted):
            reached.append(position + 1)
    return _at(pattern, reached)


def _nothing(path: str, below: list[str]) -> NoDataError:
    """The error about a path that names no data, with what is near it."""
    if _is_glob(path):
        root, _ = _root_and_pattern(path)
        if is_s3(path):
            names = [found.path for found in islice(_below(root), _MOST_NAMED)]
            return NoDataError("no object matches", where=path, hint=_holds(root, names))
        folder = Path(root or "/")
        hint = _holds(folder, _names(folder)) if folder.is_dir() else near_hint(folder)
        return NoDataError("no file matches", where=path, hint=hint)
    if below or (not is_s3(path) and Path(path).is_dir()):
        return NoDataError(f"the folder holds no data file ({KNOWN})", where=path, hint=_holds("it", below))
    if not is_s3(path):
        what = "neither a file nor a folder" if Path(path).exists() else "no such file or folder"
        return NoDataError(what, where=path, hint=near_hint(Path(path)))
    parent, _, name = path.rpartition("/")
    names = [found.path for found in islice(_below(parent), _MOST_NAMED)]
    near = nearest(name, {part for path in names for part in (path, path.partition("/")[0])})
    hint = f"did you mean '{near}'?" if near else _holds(parent, names)
    return NoDataError("no such object, and none below it", where=path, hint=hint)
