"""Checks of the files of complete versions: there, of the right size, and unless in a hurry of the right content."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retrainer.errors import IntegrityError, NotFoundError, RetrainerError
from retrainer.records import sha256_file
from retrainer.storage import Storage, Transfer
from retrainer.storage.errors import filesystem_errors
from retrainer.store.fsck.findings import Code, OnProgress, Problem, Progress, Repair
from retrainer.store.fsck.listing import as_unreadable
from retrainer.store.fsck.state import ModelState
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.names import version_key

_AT_ONCE = 4
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
    _read(state, pending, faults, _Meter(state.model, chosen, pending, on_progress))
    holders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.key not in faults and _listed(state, file) is None:
            holders[file.entry.sha256].append(file.key)
    problems = [_problem(state, file, faults[file.key], holders) for file in chosen if file.key in faults]
    return CheckedFiles(problems, len(chosen), sum(file.entry.size for file in chosen))


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


class _Meter:
    """Counts files and bytes, and tells."""

    def __init__(
        self, model: str, chosen: list[File], pending: list[File], on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._model = model
        self._total = len(chosen)
        self._total_bytes = sum(file.entry.size for file in chosen)
        self._files = len(chosen) - len(pending)
        self._bytes = self._total_bytes - sum(file.entry.size for file in pending)
        self._tell = on_progress
        self.add(0, 0)

    def add(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size
        if self._tell is not None:
            self._tell(Progress(self._model, self._files, self._total, self._bytes, self._total_bytes))


def _read(state: ModelState, files: list[File], faults: dict[str, Fault], meter: _Meter) -> None:
    if not files:
        return
    with filesystem_errors(tempfile.gettempdir()):
        temporary = tempfile.TemporaryDirectory(prefix="retrainer-fsck-")
    with temporary as folder, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="retrainer-fsck") as pool:
        running = {
            pool.submit(_content_fault, state.storage, file, Path(folder) / str(number)): file
            for number, file in enumerate(files)
        }
        try:
            for done in as_completed(running):
                file = running.pop(done)
                fault = done.result()
                if fault is not None:
                    faults[file.key] = fault
                meter.add(1, file.entry.size)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
        found = _sha256(storage, file, temporary)
    except NotFoundError:
        return Code.FILE_MISSING, "is missing"
    except RetrainerError as error:
        return Code.OBJECT_UNREADABLE, as_unreadable(storage, file.key, error).message
    return None if found == file.entry.sha256 else (Code.FILE_ALTERED, "is not the one that was published")


def _sha256(storage: Storage, file: File, temporary: Path) -> str:
    path = storage.local_path(file.key)
    if path is not None:
        with filesystem_errors(str(path)):
            return sha256_file(path)
    try:
        storage.download(file.key, temporary)
        with filesystem_errors(str(temporary)):
            return sha256_file(temporary)
    finally:
        temporary.unlink(missing_ok=True)


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
