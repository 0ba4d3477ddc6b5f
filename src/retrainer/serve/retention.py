"""Which versions the cache keeps. Old ones do not fill the disk for ever.

Kept are those that were served last, those that a channel would be started with while the store is away, and those
that a process uses. The rest is removed, each by one rename, so that no process ever finds half of one.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrainer.errors import IntegrityError, ResourceError, StorageError
from retrainer.serve.content import Content
from retrainer.serve.file_locks import take
from retrainer.serve.memory import SeenMoves
from retrainer.storage.errors import filesystem_errors
from retrainer.store.names import MANIFEST

log = logging.getLogger(__name__)

# So that a rollback or two need no download.
KEPT_VERSIONS = 3


def use_lock(folder: Path, version: str) -> Path:
    """The file that processes lock, shared, for as long as they need a version.

    :param folder: of the model in the cache.
    """
    return folder / "locks" / f"{version}.use"


def prune(folder: Path, content: Content, *, in_use: str) -> None:
    """Remove the versions of a model that are not kept. A cache that cannot be written stays as it is.

    :param folder: of the model in the cache.
    :param in_use: the version that was just loaded: now the one that was served last.
    """
    versions = folder / "versions"
    with _left_as_it_is(folder):
        os.utime(versions / in_use / MANIFEST)
        found = sorted((path for path in versions.iterdir() if path.is_dir()), key=_last_served, reverse=True)
        _remove_abandoned(folder)
        keep = {path.name for path in found[:KEPT_VERSIONS]} | _remembered(folder)
        dropped = [path for path in found if path.name not in keep and _removed(folder, path)]
        if dropped:
            content.prune()


@contextmanager
def _left_as_it_is(path: Path) -> Iterator[None]:
    """One thing that cannot be removed does not keep the others."""
    try:
        yield
    except (OSError, ResourceError, StorageError) as error:
        log.debug("in %s, something old stays: %s", path, error)


def mark_unserved(version: Path) -> None:
    """Note that a version that was just fetched has not answered yet: the first to be dropped, if it never does."""
    with filesystem_errors(str(version)):
        os.utime(version / MANIFEST, (0, 0))


def _last_served(version: Path) -> float:
    try:
        return (version / MANIFEST).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remembered(folder: Path) -> set[str]:
    """The versions that channels would be started with."""
    names = set()
    for path in (folder / "channels").glob("*.json"):
        with suppress(OSError, IntegrityError):
            served = SeenMoves.from_json(path.read_bytes(), where=str(path)).served if path.is_file() else None
            if served is not None:
                names.add(served.to_version)
    return names


def _removed(folder: Path, version: Path) -> bool:
    """Whether a version is gone now. One that a process uses stays."""
    lock = use_lock(folder, version.name)
    moved = False
    with _left_as_it_is(version):
        hold = take(lock, "exclusive", wait=False)
        if hold is None:
            return False
        try:
            staging = folder / "staging"
            staging.mkdir(parents=True, exist_ok=True)
            grave = staging / f"{version.name}-{uuid.uuid4().hex[:8]}"
            version.rename(grave)
            moved = True
            shutil.rmtree(grave, ignore_errors=True)
            lock.unlink(missing_ok=True)
        finally:
            hold.release()
    if moved:
        log.info("dropped version %s of %s from the cache", version.name, folder.name)
    return moved


def _remove_abandoned(folder: Path) -> None:
    """What killed processes left half-fetched, and lock files of versions that are gone."""
    for path in (folder / "staging").glob("*-*"):
        version = path.name.partition("-")[0]
        with _left_as_it_is(path):
            hold = take(folder / "locks" / f"{version}.fetch", "exclusive", wait=False)
            if hold is not None:
                try:
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    hold.release()
    for lock in [*(folder / "locks").glob("*.fetch"), *(folder / "locks").glob("*.use")]:
        if not (folder / "versions" / lock.stem).is_dir():
            with _left_as_it_is(lock):
                hold = take(lock, "exclusive", wait=False)
                if hold is not None:
                    try:
                        lock.unlink(missing_ok=True)
                    finally:
                        hold.release()
