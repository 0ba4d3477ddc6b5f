"""Checks of the files of complete versions: there, of the right size, and unless in a hurry of the right content."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retrainer.daemon_pool import DaemonPool
from retrainer.errors import IntegrityError, NotFoundError, RetrainerError
from retrainer.storage import Storage, Transfer
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.hashing import open_file
from retrainer.store.fsck.findings import Code, OnProgress, Problem, Progress, Repair
from retrainer.store.fsck.listing import as_unreadable
from retrainer.store.fsck.state import ModelState
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.names import version_key

_AT_ONCE = 4
# Larger objects of a bucket go through a temporary file, so that memory stays bounded.
_IN_MEMORY = 8 << 20
_PUBLISH = "roll the channel back, if one serves it; remove the version's manifest and publish the same bundle again"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version, as its manifest has it."""

    version: str
    name: str
    key: str
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """What checking came to.

    :ivar count: files that were looked at, ``size`` their bytes.
    """

    problems: list[Problem]
    count: int
    size: int


Fault = tuple[Code, str]


def check_files(
    state: ModelState, *, quick: bool, on_progress: OnProgress | None = None, only: Collection[str] | None = None
) -> CheckedFiles:
    """Check the files of every version whose manifest is sound.

    :param quick: look at the listing only.
    :param only: of these keys, instead of all.
    """
    files = _files_of(state)
    chosen = files if only is None else [file for file in files if file.key in only]
    faults: dict[str, Fault] = {}
    pending: list[File] = []
    for file in chosen:
        fault = _listed(state, file)
        if fault is not None:
            faults[file.key] = fault
        elif not quick:
            pending.append(file)
    count, size, total = 0, 0, _size(chosen)

    def tell(done: list[File]) -> None:
        nonlocal count, size
        count, size = count + len(done), size + _size(done)
        if on_progress is not None:
            on_progress(Progress(state.model, count, len(chosen), size, total))

    tell([file for file in chosen if quick or file.key in faults])
    _read(state, pending, faults, tell)
    holders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.key not in faults and _listed(state, file) is None:
            holders[file.entry.sha256].append(file.key)
    problems = [_problem(state, file, faults[file.key], holders) for file in chosen if file.key in faults]
    return CheckedFiles(problems, len(chosen), total)


def _size(files: list[File]) -> int:
    return sum(file.entry.size for file in files)


def _files_of(state: ModelState) -> list[File]:
    return [
        File(version, name, version_key(state.model, version, name), entry)
        for version, found in sorted(state.versions.items())
        if found.manifest is not None and (found.removal is None or version in state.serving)  # else gc is at work
        for name, entry in sorted(found.manifest.files.items())
    ]


def _listed(state: ModelState, file: File) -> Fault | None:
    """What the listing alone tells of a file. A listing takes time, so what it lacks is looked for again."""
    info = state.versions[file.version].objects.get(file.name)
    if info is None:
        try:
            return None if state.storage.exists(file.key) else (Code.FILE_MISSING, "is missing")
        except RetrainerError as error:  # such as a name that this storage cannot hold
            return Code.OBJECT_UNREADABLE, as_unreadable(state.storage, file.key, error).message
    if info.size != file.entry.size:
        return Code.FILE_ALTERED, f"has {info.size:,} bytes, and {file.entry.size:,} were published"
    return None


def _read(state: ModelState, files: list[File], faults: dict[str, Fault], tell: Callable[[list[File]], None]) -> None:
    """Read files, several at a time, and note what is wrong with each.

    :param tell: called with what was read just now.
    """
    if not files:
        return
    with filesystem_errors(tempfile.gettempdir()):
        temporary = tempfile.TemporaryDirectory(prefix="retrainer-fsck-")
    with temporary as folder, DaemonPool(_AT_ONCE, "retrainer-fsck") as pool:
        running = {
            pool.submit(_content_fault, state.storage, file, Path(folder) / str(number)): file
            for number, file in enumerate(files)
        }
        for done in as_completed(running):
            file = running.pop(done)
            fault = done.result()
            if fault is not None:
                faults[file.key] = fault
            tell([file])


def require_files(state: ModelState, manifest: Manifest) -> None:
    """Insist that every file of a version has the content that its manifest says, one after the other.

    :raises IntegrityError: one is missing, altered, or cannot be read.
    """
    with filesystem_errors(tempfile.gettempdir()):
        temporary = tempfile.TemporaryDirectory(prefix="retrainer-fsck-")
    with temporary as folder:
        for name, entry in sorted(manifest.files.items()):
            key = version_key(state.model, manifest.version, name)
            fault = _content_fault(state.storage, File(manifest.version, name, key, entry), Path(folder) / "file")
            if fault is not None:
                raise IntegrityError(f"{name} {fault[1]}", where=state.storage.where(key), hint=_PUBLISH)


def _content_fault(storage: Storage, file: File, temporary: Path) -> Fault | None:
    try:
        if _is_published(storage, file, temporary):
            return None
    except NotFoundError:
        return Code.FILE_MISSING, "is missing"
    except IntegrityError:
        pass
    except RetrainerError as error:
        return Code.OBJECT_UNREADABLE, as_unreadable(storage, file.key, error).message
    return Code.FILE_ALTERED, "is not the one that was published"


def _is_published(storage: Storage, file: File, temporary: Path) -> bool:
    path = storage.local_path(file.key)
    if path is not None:
        with filesystem_errors(str(path)), open_file(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.entry.sha256
    if file.entry.size <= _IN_MEMORY:
        content = storage.read(file.key, most=file.entry.size)
        return hashlib.sha256(content).hexdigest() == file.entry.sha256
    try:
        storage.download_all([Transfer(temporary, file.key, file.entry.sha256, file.entry.size)])
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _problem(state: ModelState, file: File, fault: Fault, holders: dict[str, list[str]]) -> Problem:
    code, text = fault
    sources = [key for key in holders[file.entry.sha256] if key != file.key]
    repair = None
    if sources:
        text_of_repair = f"copy it from {state.storage.where(sources[0])}, which holds the same content"
        repair = Repair(text_of_repair, partial(_restore, state.storage, file, sources))
    return state.problem(
        code,
        "damage",
        file.key,
        f"{file.name} of the version {file.version} {text}",
        "run 'retrainer fsck --repair'" if repair else _PUBLISH,
        version=file.version,
        repair=repair,
    )


def _restore(storage: Storage, file: File, sources: list[str]) -> None:
    """Copy the content from the first place that proves to hold it."""
    for source in sources:
        if storage.copy(source, file.key, sha256=file.entry.sha256, size=file.entry.size):
            return
        if _sent(storage, file, source):
            return
    raise IntegrityError("no other version holds that content", where=storage.where(file.key), hint=_PUBLISH)


def _sent(storage: Storage, file: File, source: str) -> bool:
    """Copy through this machine, for a storage that cannot prove what it copied itself."""
    with filesystem_errors(tempfile.gettempdir()):
        temporary = tempfile.TemporaryDirectory(prefix="retrainer-fsck-")
    with temporary as folder:
        path = Path(folder) / "file"
        try:
            storage.download_all([Transfer(path, source, file.entry.sha256, file.entry.size)])
        except (NotFoundError, IntegrityError):
            return False
        storage.upload_all([Transfer(path, file.key, file.entry.sha256, file.entry.size)])
    return True
