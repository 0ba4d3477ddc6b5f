"""Published versions on the local disk: fetched once, verified each time, shared by all processes of a host.

::

    <cache>/.content/                          files by their SHA-256, shared by versions and models (``content.py``)
           /<model>/versions/<version>/        files of one version; its name is the digest of its content
                   /channels/<digest>.json     what is remembered of a channel of a store (``memory.py``)
                   /locks/                     who fetches a version, who uses it
                   /staging/                   half-fetched versions; never read

A version appears by one rename. A copy that was damaged later is repaired file by file, each replaced at once. A new
version is fetched and checked as a whole, plots and papers too: where one file was altered, nothing of the version is
believed. Later starts hash only what they use. The layout of a version is that of the store, signatures included, so
the store's own code verifies both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from retrainer.errors import IntegrityError, NotFoundError, ReplayError, ResourceError, StorageError
from retrainer.serve.cached_version import (
    ANOTHER_CACHE,
    AUTO,
    CachedVersion,
    Verify,
    graph_files,
    preferred,
    small_files,
)
from retrainer.serve.content import Content
from retrainer.serve.file_locks import Hold, locked, take
from retrainer.serve.local_files import write_whole
from retrainer.serve.memory import ChannelMemory, is_later
from retrainer.serve.retention import mark_unserved, prune, use_lock
from retrainer.storage import S3Access, Storage, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.files import FileStorage
from retrainer.store import Keyring, Manifest, ModelStore, Move, Store
from retrainer.store.names import MANIFEST, SIGNATURES, check_version, version_key
from retrainer.store.versions import Versions, matches

log = logging.getLogger(__name__)

# How often a channel may move on while one look at it is under way, before the look gives up.
MOVES_MEANWHILE = 10
# Looks of one request before one that begins at the hint again: so a channel that was begun anew is noticed.
LOOKS_IN_A_ROW = 64


class ModelCache:
    """The local copies of one model of one store.

    :param url: the store.
    :param folder: the cache; ``default_cache()`` when ``None``.
    :param trusted: public keys; what none of them signed is refused. ``None`` accepts all.
    :param access: how a bucket is reached; ``None`` for ``use_access`` or the environment.
    :param verify: ``all`` fetches and checks every file of a new version; ``served`` only those that are used, so that
        a host on which int8 answers well never has the fp32 graph.
    """

    def __init__(
        self,
        url: str | Path,
        model: str,
        folder: Path,
        *,
        trusted: Keyring | None = None,
        access: S3Access | None = None,
        verify: Verify = "all",
    ) -> None:
        self._storage: Storage = open_storage(url, access=access)
        self._store: ModelStore = Store(self._storage, trusted=trusted).model(model)
        self._copies = Versions(FileStorage(folder), model, trusted=trusted)
        self._trusted = trusted
        self._verify: Verify = verify
        self._folder = folder / model
        self._content = Content(folder)
        self._memories: dict[str, ChannelMemory] = {}
        self._current: dict[str, Move] = {}  # of each channel, as far as it was followed in this process
        self._looks: dict[str, int] = {}  # since the last one that began at the hint

    @property
    def model(self) -> str:
        """Its name."""
        return self._store.name

    @property
    def store_url(self) -> str:
        """Where the store is."""
        return self._storage.url

    # What the store says

    def newest_move(self, channel: str) -> Move:
        """What a channel serves now, in one request while it does not move; remembered.

        :raises NotFoundError: the channel has no champion.
        :raises SignatureError: keys are pinned, and none of them signed the move.
        :raises ReplayError: the channel had moved further before.
        :raises IntegrityError: the move was altered, or does not continue those that were seen.
        :raises StorageError: the store cannot be reached.
        """
        memory = self._memory(channel)
        move = self._look(channel)
        for left in reversed(range(MOVES_MEANWHILE)):
            try:
                memory.refuse_older(move)
                memory.admit(move)
            except ReplayError:
                # Another process of this host may have seen a move that was made since this one was read.
                again = self._read_newest(channel)
                if again == move or not left:
                    raise
                move = again
            else:
                break
        self._current[channel] = move
        return move

    def _look(self, channel: str) -> Move:
        """The newest move, after the one that was followed last; else, or where that fails, from the hint on.

        The move that this host remembers has to lead to it: also where another process saw more than this one.
        """
        if (folder := self._storage.local_path()) is not None and not folder.is_dir():
            # A share that is not mounted cannot be told from an empty store.
            raise StorageError(
                "there is no such folder", where=self._storage.url, hint="check the address, and that it is mounted"
            )
        current = self._current.pop(channel, None)  # until this look ends well
        known = self._memory(channel).newest()
        if current is not None and known is not None and is_later(known, current):
            current = known
        self._looks[channel] = self._looks.get(channel, 0) + 1
        if current is not None and self._looks[channel] < LOOKS_IN_A_ROW:
            try:
                return self._store.move_after(current)
            except IntegrityError as error:
                log.debug("the channel '%s' is looked at from the hint on: %s", channel, error)
        self._looks[channel] = 0
        return self._read_newest(channel)

    def last_good(self, channel: str) -> Move | None:
        """The move to the version that answered last on this host; ``None`` where none did."""
        return self._memory(channel).last_good()

    def _read_newest(self, channel: str) -> Move:
        move = self._store.newest_move(channel, seen=self._memory(channel).newest())
        if move is None:
            raise NotFoundError(
                f"the model '{self.model}' has no champion on the channel '{channel}'",
                where=self._storage.url,
                hint=f"channels: {', '.join(self._store.channels()) or 'none'}",
            )
        return move

    # Versions

    def version(self, version: str, precision: str = AUTO) -> CachedVersion:
        """That version. The store is asked only for what is not here.

        :param precision: of the graph that will be wanted first; it is fetched together with the rest.
        :raises NotFoundError: the store has no such version.
        :raises IntegrityError: it was altered in the store.
        :raises StorageError: it is not here, and the store cannot be reached.
        """
        return self._obtain(check_version(version, where=self._storage.where(self.model)), None, precision)

    def pointed_at(self, move: Move, precision: str = AUTO) -> CachedVersion:
        """The version that a move went to. Parameters and errors as of ``version``."""
        return self._obtain(move.to_version, move, precision)

    def kept(self, move: Move, reason: StorageError | ResourceError) -> CachedVersion:
        """The version that a remembered move went to, without the store.

        :param reason: why the store is not asked.
        :raises StorageError: the local copy is not complete and sound.
        """
        with self._named_in_errors(), self._held(move.to_version) as hold:
            manifest = self._verified(move, whole=False)
            if manifest is None:
                raise self._not_here(move.to_version, "damaged", reason)
            return CachedVersion(self._version_folder(move.to_version), manifest, move, hold)

    def has(self, cached: CachedVersion, precision: str) -> bool:
        """Whether the graph of a precision is here and sound, or there is none."""
        files = cached.manifest.files
        with self._named_in_errors():
            return all(matches(cached.folder / name, files[name]) for name in graph_files(cached.manifest, precision))

    def arrived(self, version: str) -> int:
        """Bytes that are here of a version that is being fetched, by whichever process."""
        # Other processes make and remove folders meanwhile. This goes on past one that is gone; pathlib's globs do not.
        walks = map(os.walk, (self._version_folder(version), self._folder / "staging"))
        size = 0
        for path in (Path(parent, name) for walk in walks for parent, _, names in walk for name in names):
            if version in str(path):
                with suppress(OSError):  # it was temporary
                    size += path.stat().st_size
        return size

    def require(
        self, cached: CachedVersion, precision: str, offline: StorageError | ResourceError | None = None
    ) -> None:
        """See to it that the graph of a precision is here and sound. A precision that there is not needs nothing.

        :param offline: why the store is not asked, where it cannot be.
        :raises IntegrityError: it was altered in the store.
        :raises StorageError: it is not here, and the store cannot be reached.
        """
        if self.has(cached, precision):
            return
        if offline is not None:
            raise self._not_here(cached.manifest.version, f"without a sound {precision} graph", offline)
        with self._named_in_errors(), locked(self._fetch_lock(cached.manifest.version)):
            self._fill(cached.folder, cached.manifest, graph_files(cached.manifest, precision))

    def remember(self, cached: CachedVersion) -> None:
        """Note that a version was loaded and answers well, for a start without the store; drop what is long unused."""
        if cached.move is not None:
            self._memory(cached.move.channel).served(cached.move)
        prune(self._folder, self._content, in_use=cached.manifest.version)

    def seen_again(self, move: Move) -> None:
        """Note that a channel that moved names the version that answers already."""
        self._memory(move.channel).served(move)

    def _obtain(self, version: str, move: Move | None, precision: str) -> CachedVersion:
        with self._named_in_errors(), self._held(version) as hold:
            manifest = self._verified(move or version)
            if manifest is None:
                manifest = self._fetch(version, move, precision)
            return CachedVersion(self._version_folder(version), manifest, move, hold)

    def _verified(self, wanted: Move | str, *, whole: bool = True) -> Manifest | None:
        """The manifest of a local copy of which all but the graphs match; ``None`` when there is none.

        :param whole: ask for the files that are not served, too, where all are to be fetched.
        """
        version, move = (wanted, None) if isinstance(wanted, str) else (wanted.to_version, wanted)
        folder = self._version_folder(version)
        try:
            manifest = self._copies.manifest(version, sha256=move.manifest_sha256 if move else None)
        except (IntegrityError, StorageError) as error:  # altered, not there, or not a file
            log.debug("the local copy of %s %s is not used: %s", self.model, version, error)
            return None
        sound = all(matches(folder / name, manifest.files[name]) for name in small_files(manifest))
        return manifest if sound and (not whole or self._is_whole(folder, manifest)) else None

    def _is_whole(self, folder: Path, manifest: Manifest) -> bool:
        """Whether every file is here that was to be fetched; those that are used are hashed where they are."""
        if self._verify == "served":
            return True
        with filesystem_errors(str(folder)):
            return all(
                (folder / name).is_file() and (folder / name).stat().st_size == entry.size
                for name, entry in manifest.files.items()
            )

    def _fetch(self, version: str, move: Move | None, precision: str) -> Manifest:
        with locked(self._fetch_lock(version)):
            manifest = self._verified(move or version)  # another process may have fetched it meanwhile
            if manifest is not None:
                return manifest
            manifest, sha256 = self._published(version, move)
            names = self._wanted(manifest, precision)
            folder = self._version_folder(version)
            if folder.is_dir():
                log.warning("the local copy of %s %s is damaged; repairing it", self.model, version)
                self._fill(folder, manifest, names)
                self._copy_statements(folder, version, sha256)
                return manifest
            with self._staging(version) as staging:
                self._fill(staging, manifest, names)
                self._copy_statements(staging, version, sha256)
                mark_unserved(staging)
                with filesystem_errors(str(folder)):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    staging.rename(folder)
            return manifest

    def _wanted(self, manifest: Manifest, precision: str) -> list[str]:
        if self._verify == "all":
            return sorted(manifest.files)
        first = preferred(precision, manifest.precisions)[0]
        return [*small_files(manifest), *graph_files(manifest, first)]

    def _published(self, version: str, move: Move | None) -> tuple[Manifest, str]:
        """The manifest as it is in the store, with the SHA-256 of its bytes."""
        try:
            return self._store.manifest_with_sha256(version, sha256=move.manifest_sha256 if move else None)
        except NotFoundError as error:
            if move is None:
                raise
            raise IntegrityError(
                f"the channel '{move.channel}' points at a version that is not there: {version}",
                where=error.where,
                hint="roll the channel back to a version that is",
            ) from None

    def _fill(self, folder: Path, manifest: Manifest, names: Sequence[str]) -> None:
        """Put files of a version into a folder, each checked; what another version has is taken from there."""
        with filesystem_errors(str(folder)):
            for path in (folder / name for name in (*names, MANIFEST)):
                if path.is_dir() and not path.is_symlink():  # a rename would not replace it
                    shutil.rmtree(path)
            for name in names:
                if not matches(folder / name, manifest.files[name]):
                    self._content.place(manifest.files[name], folder / name)
        self._store.fetch(manifest.version, folder, names)
        for name in names:
            self._content.add(manifest.files[name], folder / name)

    def _copy_statements(self, folder: Path, version: str, sha256: str) -> None:
        """The signatures of pinned keys, and the manifest byte for byte: its bytes are what is signed."""
        for signed in self._store.signatures(version) if self._trusted is not None else ():
            write_whole(folder / SIGNATURES / f"{signed.signature.key_id}.json", signed.to_json())
        data = self._storage.read(version_key(self.model, version))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(
                "the manifest changed while the version was fetched",
                where=self._storage.where(version_key(self.model, version)),
                hint="run 'retrainer fsck' on the store",
            )
        # Last: its presence makes the copy one.
        write_whole(folder / MANIFEST, data)

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        """What is wrong with the cache is this host's fault, not the store's; say how to have it elsewhere."""
        try:
            yield
        except (ResourceError, StorageError) as error:
            if str(self._folder) not in (error.where or "") or ANOTHER_CACHE in (error.hint or ""):
                raise  # of the store, or said already
            hint = f"{error.hint}; or {ANOTHER_CACHE}" if error.hint else ANOTHER_CACHE
            raise ResourceError(error.message, where=error.where, hint=hint) from None

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

    @contextmanager
    def _held(self, version: str) -> Iterator[Hold | None]:
        """Keeps the version from being dropped, also after the block, unless that fails.

        None is needed where the cache cannot be written.
        """
        hold = None
        with suppress(ResourceError, StorageError):
            hold = take(use_lock(self._folder, version), "shared")
        try:
            yield hold
        except BaseException:
            if hold is not None:
                hold.release()  # whoever keeps the error keeps its frames, and would keep the version
            raise

    def _not_here(self, version: str, state: str, reason: StorageError | ResourceError) -> StorageError | ResourceError:
        here = f"the local copy of {version} is {state}: {reason.message}"
        if isinstance(reason, ResourceError):
            return ResourceError(f"no other version can be had, and {here}", where=reason.where, hint=reason.hint)
        return StorageError(f"the store cannot be reached, and {here}", where=reason.where, hint=reason.hint)

    def _memory(self, channel: str) -> ChannelMemory:
        if channel not in self._memories:
            self._memories[channel] = ChannelMemory(self._folder, self._storage.url, channel, self._trusted)
        return self._memories[channel]

    def _version_folder(self, version: str) -> Path:
        return self._folder / "versions" / version

    def _fetch_lock(self, version: str) -> Path:
        return self._folder / "locks" / f"{version}.fetch"
