"""The files that a path, a folder, a glob or an ``s3://`` address names."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrainer.errors import DataError
from retrainer.formats import FORMATS, format_of
from retrainer.records import sha256_file
from retrainer.spec.problems import listed, nearest
from retrainer.storage import is_s3, open_storage

KNOWN = f"{listed(FORMATS)} ({listed(form.name for form in FORMATS.values() if form.gzipped)} also as .gz)"
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of labelled text.

    :param url: absolute path, or ``s3://bucket/key``.
    :param name: path below what the pipeline named; of a single file its name. The same wherever the data is.
    :param format: its name in ``FORMATS``.
    :param compressed: with gzip.
    :param size: bytes.
    :param etag: S3's word for the content; ``None`` for a local file.
    """

    url: str
    name: str
    format: str
    compressed: bool
    size: int
    etag: str | None = None

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


def expand(paths: Iterable[str]) -> tuple[SourceFile, ...]:
    """The files that paths, folders and globs name: in the order given, within each sorted, each once.

    A folder means all files of a known format below it, without those that are hidden or start with ``_``.

    :param paths: absolute paths and ``s3://`` addresses, of a file, a folder (prefix) or a glob.
    :raises DataError: one of them names nothing, or a file of unknown format.
    :raises StorageError: the bucket cannot be read.
    """
    files: dict[str, SourceFile] = {}
    for path in paths:
        for file in _expand_s3(path) if is_s3(path) else _expand_local(path):
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
    root, _, key = file.url.rpartition("/")
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
        target = Path(temporary) / key
        open_storage(root).download(key, target)
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
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _hidden(file.relative_to(folder).as_posix()):
            yield file


def near_hint(place: Path) -> str | None:
    """What is in the folder of a path that does not exist, and might have been meant."""
    if place.is_symlink() and not place.exists():
        return f"it is a link to {place.readlink()}, where nothing is"
    if place.exists():
        return "what is there is neither a file nor a folder"
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


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(relative).parts)


def _known_format(name: str, where: str) -> str:
    form = format_of(name)
    if form is None:
        suffix = "".join(PurePosixPath(name).suffixes[-2:]) or "no suffix"
        hint = "write one JSON object a line and call it .jsonl" if suffix == ".json" else None
        raise DataError(f"'{suffix}' is not a known format; known are {KNOWN}", where=where, hint=hint)
    return form.name


def _expand_local(path: str) -> list[SourceFile]:
    place = Path(path)
    try:
        if place.is_file():
            return [_local_file(place, place.name)]
        if place.is_dir():
            return _files_of_folder(place)
        if _WILDCARD.search(path):
            return _matches(path)
    except OSError as error:
        raise unreadable(error, path) from None
    raise DataError("no such file or folder", where=path, hint=near_hint(place))


def _files_of_folder(folder: Path) -> list[SourceFile]:
    next(folder.iterdir(), None)  # rglob leaves out what it may not read, without a word
    everything = list(visible_files(folder))
    known = [file for file in everything if format_of(file.name) is not None]
    if not known:
        raise DataError(
            f"the folder holds no data file ({KNOWN})",
            where=str(folder),
            hint=_holds("it", [file.name for file in everything]),
        )
    return [_local_file(file, file.relative_to(folder).as_posix()) for file in known]


def _matches(pattern: str) -> list[SourceFile]:
    fixed = _fixed_part(pattern)
    root = Path(fixed or "/")
    found = sorted(root.glob(pattern[len(fixed) + 1 :])) if root.is_dir() else []
    files = [file for file in found if file.is_file() and not _hidden(file.relative_to(root).as_posix())]
    if not files:
        hint = _holds(root, _names(root)) if root.is_dir() else near_hint(root)
        raise DataError("no file matches", where=pattern, hint=hint)
    return [_local_file(file, file.relative_to(root).as_posix()) for file in files]


def _fixed_part(pattern: str) -> str:
    """The folder before the first wildcard; empty for none."""
    first = _WILDCARD.search(pattern)
    return pattern[: first.start() if first else len(pattern)].rpartition("/")[0]


def _local_file(file: Path, name: str) -> SourceFile:
    return SourceFile(
        url=str(file),
        name=name,
        format=_known_format(file.name, str(file)),
        compressed=file.suffix.lower() == ".gz",
        size=file.stat().st_size,
    )


def _expand_s3(url: str) -> list[SourceFile]:
    """An object, the objects below a prefix, or those that match a glob."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if _WILDCARD.search(key):
        root = _fixed_part(key)
        pattern = _glob_pattern(key[len(root) + 1 :] if root else key)
        return _objects(bucket, root, pattern, url)
    key = key.rstrip("/")
    if not url.endswith("/") and format_of(key) is not None:
        parent, _, name = key.rpartition("/")
        return _objects(bucket, parent, re.compile(re.escape(name)), url, one=True)
    return _objects(bucket, key, None, url)


def _objects(
    bucket: str, root: str, pattern: re.Pattern[str] | None, url: str, *, one: bool = False
) -> list[SourceFile]:
    address = f"s3://{bucket}/{root}" if root else f"s3://{bucket}"
    # The literal start of the pattern, so that a bucket of many objects is not listed as a whole.
    start = re.match(r"[\w./-]*", url.removeprefix(address).lstrip("/"))
    prefix = start[0] if pattern is not None and start is not None else ""
    entries = [entry for entry in open_storage(address).list(prefix) if entry.key]
    files = [
        SourceFile(
            url=f"{address}/{entry.key}",
            name=entry.key,
            format=_known_format(entry.key, f"{address}/{entry.key}"),
            compressed=entry.key.lower().endswith(".gz"),
            size=entry.size,
            etag=entry.etag,
        )
        for entry in entries
        if (pattern.fullmatch(entry.key) if pattern else not _hidden(entry.key) and format_of(entry.key))
    ]
    if files:
        return files
    names = [entry.key for entry in open_storage(address).list()]
    near = nearest(url.rpartition("/")[2], names) if one else None
    hint = f"did you mean '{near}'?" if near else _holds(address, names)
    message = "no such object" if one else "no object matches" if pattern else f"no data file below it ({KNOWN})"
    raise DataError(message, where=url, hint=hint)


def _glob_pattern(text: str) -> re.Pattern[str]:
    """A glob over object keys: ``*`` and ``?`` stay within a folder, ``**`` does not."""
    pattern = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", text):
        if token == "**/":
            pattern += "(?:.*/)?"
        elif token == "**":
            pattern += ".*"
        elif token == "*":
            pattern += "[^/]*"
        elif token == "?":
            pattern += "[^/]"
        elif len(token) > 1:
            pattern += token.replace("[!", "[^").replace("\\", "\\\\")
        else:
            pattern += re.escape(token)
    return re.compile(pattern)
