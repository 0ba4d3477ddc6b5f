"""Published models: the store, and one model of it with its versions, channels and history.

Order of every publication: files, manifest, history entry, pointer. Readers follow the pointer, so that a crash at
any point leaves them on the old version, and a second try ends at the same new one. Not here: whether a model
deserves to be published (``gate``), and what is done with it (``serve``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Self

from retrainer.errors import ChampionChanged, IntegrityError, NotFoundError, StorageError
from retrainer.storage import S3Access, Storage, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store.channels import Pointer, Seen, list_channels, read_pointer, swap_pointer
from retrainer.store.history import Action, HistoryEntry, line_of_champions, walk, write_entry
from retrainer.store.manifest import Manifest
from retrainer.store.names import check_name, is_name, pointer_key
from retrainer.store.probe import require_conditional_writes
from retrainer.store.signing import Keyring, Signer
from retrainer.store.versions import Versions

Check = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication, promotion or rollback ended.

    :ivar moved: ``False`` when the channel already pointed there.
    :ivar previous: the champion before this version.
    :ivar sequence: number of the move in the channel's history.
    :ivar history: SHA-256 of its entry.
    """

    version: str
    channel: str
    moved: bool
    previous: str | None
    sequence: int
    history: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One line of a list of versions.

    :ivar channels: those that point at it now.
    :ivar created_at: when it was first published, ISO 8601 in UTC; ``None`` when it never was.
    :ivar problem: why its manifest cannot be trusted; ``None`` for a sound one.
    """

    version: str
    channels: tuple[str, ...]
    metrics: dict[str, float]
    created_at: str | None
    problem: str | None = None


class Store:
    """The published models of one folder or bucket."""

    def __init__(self, storage: Storage, *, signer: Signer | None = None, trusted: Keyring | None = None) -> None:
        self._storage = storage
        self._signer = signer
        self._trusted = trusted

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        signer: Signer | None = None,
        trusted: Keyring | None = None,
        access: S3Access | None = None,
    ) -> Self:
        """The store at ``s3://bucket/prefix``, ``file:///folder`` or a path. Nothing is read yet.

        :param signer: signs each version and pointer that is written.
        :param trusted: public keys; nothing that none of them signed is then read. ``None`` reads all.
        :param access: how a bucket is reached; ``None`` for ``use_access`` or the environment.
        """
        return cls(open_storage(url, access=access), signer=signer, trusted=trusted)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._storage.url

    def models(self) -> list[str]:
        """The models of which a version was ever published, sorted."""
        names = [name for name in self._storage.list_folders() if is_name(name)]
        return [name for name in names if self.model(name).channels()]

    def model(self, name: str) -> ModelStore:
        """One model, published or not yet.

        :raises StorageError: no model can have that name.
        """
        check_name("model", name, where=self._storage.where())
        return ModelStore(self._storage, name, signer=self._signer, trusted=self._trusted)


class ModelStore:
    """One model of a store: its versions, its channels and their history."""

    def __init__(
        self, storage: Storage, name: str, *, signer: Signer | None = None, trusted: Keyring | None = None
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._trusted = trusted
        self._versions = Versions(storage, name)
        self.name = name

    # Reading

    def channels(self) -> list[str]:
        """The channels that have a champion, sorted."""
        return list_channels(self._storage, self.name)

    def pointer(self, channel: str) -> Pointer | None:
        """Where a channel points, in one request; ``None`` while it has no champion.

        :raises IntegrityError: the pointer cannot be read.
        """
        return self._seen(channel).pointer

    def champion(self, channel: str) -> Manifest | None:
        """The manifest of the version that a channel points at, checked; ``None`` while there is none.

        :raises IntegrityError: the pointer, or the manifest that it names, is missing or was altered.
        """
        pointer = self.pointer(channel)
        return self._manifest_of(pointer) if pointer else None

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version, checked against the name of the version.

        :raises NotFoundError: there is no such version.
        :raises IntegrityError: it was altered.
        """
        return self._versions.manifest(version)

    def versions(self, *, limit: int | None = None) -> list[VersionInfo]:
        """The complete versions, newest first, by their first publication or else the time of their upload.

        :param limit: at most so many.
        :raises IntegrityError: a pointer or a history cannot be trusted.
        """
        first: dict[str, str] = {}
        live: dict[str, list[str]] = {}
        for channel in self.channels():
            for entry in self.history(channel):
                first[entry.to_version] = min(first.get(entry.to_version, entry.at), entry.at)
            pointer = self.pointer(channel)
            if pointer is not None:
                live.setdefault(pointer.version, []).append(channel)
        times = {
            version: datetime.fromisoformat(first[version]) if version in first else uploaded
            for version, uploaded in self._versions.completed().items()
        }
        newest = sorted(times, key=lambda version: (times[version], version), reverse=True)
        return [self._info(version, tuple(live.get(version, ())), first.get(version)) for version in newest[:limit]]

    def _info(self, version: str, channels: tuple[str, ...], created_at: str | None) -> VersionInfo:
        try:
            metrics = self.manifest(version).metrics
        except (IntegrityError, NotFoundError) as error:
            return VersionInfo(version, channels, {}, created_at, problem=error.message)
        return VersionInfo(version, channels, metrics, created_at)

    def history(self, channel: str, *, limit: int | None = None) -> list[HistoryEntry]:
        """The moves of a channel, newest first, each checked against the one after it.

        :param limit: only the newest; older ones are not read.
        :raises IntegrityError: an entry is missing, was edited, or does not belong where it stands.
        """
        pointer = self.pointer(channel)
        return list(islice(walk(self._storage, pointer), limit)) if pointer else []

    def champion_at(self, channel: str, time: datetime) -> str | None:
        """The version that a channel pointed at at that time; ``None`` before its first publication.

        :param time: with a time zone.
        :raises ValueError: it has none.
        """
        if time.tzinfo is None:
            raise ValueError("the time needs a time zone")
        pointer = self.pointer(channel)
        entries = walk(self._storage, pointer) if pointer else iter(())
        return next((entry.to_version for entry in entries if datetime.fromisoformat(entry.at) <= time), None)

    def fetch(self, version: str, folder: Path, files: Iterable[str] | None = None) -> Manifest:
        """Copy files of a version into a folder, each checked. What is there already and matches is kept.

        :param files: names within the version; all of them when ``None``.
        :raises NotFoundError: there is no such version, or it has no such file.
        :raises IntegrityError: a file is missing from the store or was altered; nothing of it is left in the folder.
        """
        return self._versions.fetch(version, folder, files)

    # Writing

    def put_version(self, folder: Path, manifest: Manifest) -> str:
        """Upload a version without pointing any channel at it. Again, it changes nothing.

        :param folder: holds every file of the manifest.
        :return: the version.
        :raises IntegrityError: a file of the folder is not what the manifest says.
        """
        if manifest.model != self.name:
            raise StorageError(f"the manifest is of the model '{manifest.model}'", where=self._storage.where(self.name))
        self._versions.put(folder, manifest)
        return manifest.version

    def publish(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        channel: str,
        actor: str,
        reason: str,
        decision: str | None,
        expected: str | None,
    ) -> Published:
        """Upload a version and point a channel at it.

        :param folder: holds every file of the manifest.
        :param actor: who publishes; ``reason``: why, in words.
        :param decision: digest of the decision that allowed it.
        :param expected: the champion that the decision was taken against; ``None`` for none.
        :raises ChampionChanged: the channel points elsewhere by now. Nothing was moved.
        :raises IntegrityError: a file of the folder is not what the manifest says.
        :raises StorageError: the storage cannot be written, or ignores conditional writes.
        """
        seen = self._seen(channel)
        if seen.version not in {manifest.version, expected}:
            raise self._changed(channel, expected, seen.version)
        require_conditional_writes(self._storage, self.name)
        self.put_version(folder, manifest)
        return self._move(seen, channel, manifest.version, "publish", actor, reason, decision)

    def promote(
        self,
        channel: str,
        *,
        version: str | None = None,
        from_channel: str | None = None,
        actor: str,
        reason: str,
        check: Check | None = None,
    ) -> Published:
        """Point a channel at a version that the store holds, or at the champion of another channel.

        :param version: either this or ``from_channel``.
        :param check: called with a folder that holds the version, before the pointer moves; raises to stop it.
        :raises NotFoundError: there is no such version, or that channel has no champion.
        :raises IntegrityError: the version is damaged. Nothing was moved.
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """
        if (version is None) == (from_channel is None):
            raise ValueError("either version or from_channel")
        if from_channel is not None:
            version = self._seen(from_channel).version
        if version is None:
            raise NotFoundError(f"the channel '{from_channel}' has no champion", where=self._storage.where(self.name))
        seen = self._seen(channel)
        require_conditional_writes(self._storage, self.name)
        return self._move(seen, channel, self._verified(version, check), "promote", actor, reason, None)

    def rollback(
        self, channel: str, *, to: str | None = None, actor: str, reason: str, check: Check | None = None
    ) -> Published:
        """Point a channel back at an earlier champion, or at any version that the store holds.

        :param to: a version; ``None`` for the champion before the present one. What was rolled back from is not
            returned to: the next rollback goes further back.
        :param check: called with a folder that holds the version, before the pointer moves; raises to stop it.
        :raises NotFoundError: there is no such version, or no champion before the present one.
        :raises IntegrityError: the version, or the history that names it, is damaged. Nothing was moved.
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """
        seen = self._seen(channel)
        if seen.pointer is None:
            raise NotFoundError(
                f"the channel '{channel}' has no champion to roll back",
                where=self._storage.where(self.name),
                hint=f"channels: {', '.join(self.channels()) or 'none'}",
            )
        require_conditional_writes(self._storage, self.name)
        target = to if to is not None else self._before(seen.pointer)
        return self._move(seen, channel, self._verified(target, check), "rollback", actor, reason, None)

    def _before(self, pointer: Pointer) -> str:
        line = line_of_champions(list(walk(self._storage, pointer)))
        if len(line) < 2:
            raise NotFoundError(
                f"the channel '{pointer.channel}' has no champion before {pointer.version}",
                where=self._storage.where(self.name),
                hint="name the version to go to",
            )
        return line[-2]

    def _verified(self, version: str, check: Check | None) -> str:
        """The version itself, once every file of it was read and matched."""
        with filesystem_errors(tempfile.gettempdir()):
            temporary = tempfile.TemporaryDirectory(prefix="retrainer-verify-")
        with temporary as folder:
            self.fetch(version, Path(folder))
            if check is not None:
                check(Path(folder))
        return version

    def _move(
        self,
        seen: Seen,
        channel: str,
        version: str,
        action: Action,
        actor: str,
        reason: str,
        decision: str | None,
    ) -> Published:
        """History entry, then pointer. The version must be complete."""
        before = seen.pointer
        if before is not None and before.version == version:
            return self._unmoved(before)
        manifest_sha256 = self._versions.manifest_sha256(version)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        sequence = before.sequence + 1 if before else 1
        entry = HistoryEntry(
            previous=before.history if before else None,
            sequence=sequence,
            model=self.name,
            channel=channel,
            action=action,
            from_version=seen.version,
            to_version=version,
            actor=actor,
            reason=reason,
            decision=decision,
            at=now,
        )
        name = write_entry(self._storage, entry)
        pointer = Pointer(
            model=self.name,
            channel=channel,
            version=version,
            manifest_sha256=manifest_sha256,
            sequence=sequence,
            history=name,
            moved_at=now,
        )
        if swap_pointer(self._storage, seen, pointer):
            return Published(version, channel, True, seen.version, sequence, name)
        winner = self._seen(channel).pointer
        if winner is not None and winner.version == version:
            return self._unmoved(winner)  # another publisher of the same content won
        raise self._changed(channel, seen.version, winner.version if winner else None)

    def _unmoved(self, pointer: Pointer) -> Published:
        newest = next(walk(self._storage, pointer))
        return Published(
            pointer.version, pointer.channel, False, newest.from_version, pointer.sequence, pointer.history
        )

    def _seen(self, channel: str) -> Seen:
        check_name("channel", channel, where=self._storage.where(self.name))
        return read_pointer(self._storage, self.name, channel)

    def _manifest_of(self, pointer: Pointer) -> Manifest:
        try:
            return self._versions.manifest(pointer.version, sha256=pointer.manifest_sha256)
        except NotFoundError as error:
            raise IntegrityError(
                f"the channel '{pointer.channel}' points at a version that is not there: {pointer.version}",
                where=error.where,
                hint="roll the channel back to a version that is",
            ) from None

    def _changed(self, channel: str, expected: str | None, found: str | None) -> ChampionChanged:
        return ChampionChanged(
            f"the champion changed: it was {expected or 'none'} and is {found or 'none'} now",
            where=self._storage.where(pointer_key(self.name, channel)),
            hint="evaluate and decide again, against the present champion",
        )
