"""Published versions on the local disk: fetched once, verified each time, shared by all processes of a host.

::

    <cache>/<model>/versions/<version>/       files of one version; its name is the digest of its content
                   /channels/<digest>.json    where a channel of a store pointed when it was last served from
                   /locks/<version>           held by the process that fetches that version
                   /staging/                  half-fetched versions; never read

A version appears by one rename. A copy that was damaged later is repaired file by file, each replaced at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retrainer.errors import IntegrityError, NotFoundError, ResourceError, StorageError
from retrainer.records import Record, digest_of
from retrainer.storage import open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store import Manifest, ModelStore, Pointer, Store
from retrainer.store.names import MANIFEST, check_version
from retrainer.store.versions import matches

log = logging.getLogger(__name__)

SERVED_FILES = frozenset({"bundle.json", "config.json", "golden.jsonl", "tokenizer.json", "tokenizer_config.json"})
GRAPHS = "onnx/"


class SeenPointer(Record):
    """``channels/<digest>.json``: the pointer of a channel, when a model was last loaded from there."""

    store: str
    pointer: Pointer


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version on the local disk, every served file checked.

    :param pointer: of the channel that named it; ``None`` when the version was asked for by name.
    """

    folder: Path
    manifest: Manifest
    pointer: Pointer | None


def default_cache() -> Path:
    """``$RETRAINER_CACHE/models``, else ``~/.cache/retrainer/models``: may be deleted at any time."""
    configured = os.environ.get("RETRAINER_CACHE")
    home = Path(configured).expanduser() if configured else Path.home() / ".cache" / "retrainer"
    return home / "models"


class ModelCache:
    """The local copies of one model of one store.

    :param url: the store.
    :param folder: the cache; ``default_cache()`` when ``None``.
    """

    def __init__(self, url: str | Path, model: str, folder: Path | None = None) -> None:
        self._store: ModelStore = Store.open(url).model(model)
        storage = open_storage(url)
        self._url = storage.url
        self._local_store = storage.local_path()
        self._folder = (folder if folder is not None else default_cache()) / model

    def version(self, version: str) -> CachedVersion:
        """That version. The store is asked only for what is not here.

        :raises NotFoundError: the store has no such version.
        :raises IntegrityError: it was altered in the store.
        :raises StorageError: it is not here, and the store cannot be reached.
        """
        manifest = self._verified(check_version(version, where=self._where()))
        if manifest is None:
            manifest = self._fetch(version)
        return CachedVersion(self._version_folder(version), manifest, None)

    def champion(self, channel: str) -> CachedVersion:
        """The version that a channel points at; where the store cannot be reached, the one that was served last.

        :raises NotFoundError: the channel has no champion.
        :raises IntegrityError: what the channel points at was altered.
        :raises StorageError: the store cannot be reached, and nothing of that channel is here.
        """
        try:
            self._require_store()
            return self._current(channel)
        except NotFoundError:
            raise
        except StorageError as error:
            return self._last_seen(channel, error)

    def remember(self, cached: CachedVersion) -> None:
        """Note that a channel's champion was loaded and answers well, for a start without the store."""
        if cached.pointer is None:
            return
        path = self._seen_path(cached.pointer.channel)
        data = SeenPointer(store=self._url, pointer=cached.pointer).to_json()
        try:
            with filesystem_errors(str(path)):
                if path.is_file() and path.read_bytes() == data:
                    return
                _write(path, data)
        except (ResourceError, StorageError) as error:
            # A cache that was filled beforehand may be read-only. It still serves.
            log.warning("cannot note the present version for a start without the store: %s", error)

    def _current(self, channel: str) -> CachedVersion:
        while True:
            pointer = self._store.pointer(channel)
            if pointer is None:
                raise NotFoundError(
                    f"the model '{self._store.name}' has no champion on the channel '{channel}'",
                    where=self._url,
                    hint=f"channels: {', '.join(self._store.channels()) or 'none'}",
                )
            manifest = self._verified(pointer.version)
            if manifest is None:
                # Checks the manifest against the pointer's hash; the pointer may have moved in between.
                champion = self._store.champion(channel)
                if champion is None or champion.version != pointer.version:
                    continue
                manifest = self._fetch(pointer.version)
            return CachedVersion(self._version_folder(pointer.version), manifest, pointer)

    def _last_seen(self, channel: str, reason: StorageError) -> CachedVersion:
        path = self._seen_path(channel)
        if not path.is_file():
            raise reason
        with filesystem_errors(str(path)):
            data = path.read_bytes()
        pointer = SeenPointer.from_json(data, where=str(path)).pointer
        manifest = self._verified(pointer.version)
        if manifest is None:
            raise StorageError(
                f"the store cannot be reached, and the local copy of {pointer.version} is damaged: {reason.message}",
                where=reason.where,
                hint=reason.hint,
            ) from reason
        log.warning(
            "the store cannot be reached; serving %s %s, the champion of '%s' when it was last seen: %s",
            self._store.name,
            pointer.version,
            channel,
            reason,
        )
        return CachedVersion(self._version_folder(pointer.version), manifest, pointer)

    def _require_store(self) -> None:
        """A folder that is not there, such as a share that is not mounted, cannot be told from an empty store."""
        if self._local_store is not None and not self._local_store.is_dir():
            raise StorageError(
                "there is no such folder", where=self._url, hint="check the address, and that it is mounted"
            )

    def _verified(self, version: str) -> Manifest | None:
        """The manifest of a local copy in which every served file matches; ``None`` when there is none."""
        folder = self._version_folder(version)
        path = folder / MANIFEST
        if not path.is_file():
            return None
        with filesystem_errors(str(path)):
            data = path.read_bytes()
        try:
            manifest = Manifest.from_json(data, where=str(path))
        except IntegrityError:
            return None
        if manifest.version != version:
            return None
        sound = all(matches(folder / name, manifest.files[name]) for name in served_files(manifest))
        return manifest if sound else None

    def _fetch(self, version: str) -> Manifest:
        with self._lock(version):
            manifest = self._verified(version)  # another process may have fetched it meanwhile
            if manifest is not None:
                return manifest
            folder = self._version_folder(version)
            manifest = self._store.manifest(version)
            if folder.is_dir():
                log.warning("the local copy of %s %s is damaged; repairing it", self._store.name, version)
                self._fill(folder, manifest)
                return manifest
            with self._staging(version) as staging:
                self._fill(staging, manifest)
                with filesystem_errors(str(folder)):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    staging.rename(folder)
            return manifest

    def _fill(self, folder: Path, manifest: Manifest) -> None:
        self._store.fetch(manifest.version, folder, served_files(manifest))
        with filesystem_errors(str(folder)):
            _write(folder / MANIFEST, manifest.to_pretty_json().encode())

    @contextmanager
    def _lock(self, version: str) -> Iterator[None]:
        """Wait until no other process fetches that version; released when the holder ends, however it ends."""
        path = self._folder / "locks" / version
        with filesystem_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _staging(self, version: str) -> Iterator[Path]:
        parent = self._folder / "staging"
        # The lock is ours, so what others left here under that version was left by the dead.
        for stale in parent.glob(f"{version}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        staging = parent / f"{version}-{uuid.uuid4().hex[:8]}"
        with filesystem_errors(str(staging)):
            staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _version_folder(self, version: str) -> Path:
        return self._folder / "versions" / version

    def _seen_path(self, channel: str) -> Path:
        return self._folder / "channels" / f"{digest_of({'store': self._url, 'channel': channel})[:32]}.json"

    def _where(self) -> str:
        return f"{self._url}: {self._store.name}"


def served_files(manifest: Manifest) -> list[str]:
    """The files of a version that a client needs; not plots, model card or checkpoint."""
    return [name for name in sorted(manifest.files) if name in SERVED_FILES or name.startswith(GRAPHS)]


def _write(path: Path, data: bytes) -> None:
    """Write a file that appears as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
