"""Published models: the store, and one model of it with its versions, channels and history.

Order of every publication: files, manifest, signature, content index, history entry, pointer, journal. Readers follow
the pointer, so that a crash at any point leaves them on the old version, and a second try ends at the same new one.
Not here: reading (``reading.py``), how a channel moves (``moves.py``), whether a model deserves to be published
(``gate``), and what is done with it (``serve``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from retrainer.errors import NotFoundError, StorageError, UserError
from retrainer.storage import S3Access, Storage, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store.channels import Pointer, Seen
from retrainer.store.history import Cause, champion_before, walk
from retrainer.store.manifest import Manifest
from retrainer.store.moves import Motive, Moves, Published
from retrainer.store.names import check_name, is_name, pointer_key
from retrainer.store.own_key import own_keys, told_what_to_do
from retrainer.store.probe import require_conditional_writes
from retrainer.store.reading import ModelReader
from retrainer.store.signing import Keyring, Signer, VersionSignature
from retrainer.store.versions import Put, Versions

Check = Callable[[Path], None]


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
        """The models of which a version was ever published, sorted; also those whose pointers were deleted."""
        names = [name for name in self._storage.list_folders() if is_name(name)]
        models = [self.model(name) for name in names]
        return [model.name for model in models if model.channels() or model.lost_channels()]

    def model(self, name: str) -> ModelStore:
        """One model, published or not yet.

        :raises StorageError: no model can have that name.
        """
        check_name("model", name, where=self._storage.where())
        return ModelStore(self._storage, name, signer=self._signer, trusted=self._trusted)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a channel is to move.

    :ivar manifest_sha256: of its manifest, where a pointer says so.
    """

    version: str
    manifest_sha256: str | None = None


class ModelStore(ModelReader):
    """One model of a store, read and written: versions are put, channels are moved."""

    def put_version(self, folder: Path, manifest: Manifest) -> str:
        """Upload a version without pointing any channel at it. Again, it changes nothing.

        :param folder: holds every file of the manifest.
        :return: the version.
        :raises IntegrityError: a file of the folder is not what the manifest says.
        :raises StorageError: the storage cannot be written, or the manifest is of another model.
        """
        self._put(folder, manifest)
        return manifest.version

    def _put(self, folder: Path, manifest: Manifest) -> Put:
        if manifest.model != self.name:
            raise StorageError(f"the manifest is of the model '{manifest.model}'", where=self._storage.where(self.name))
        return self._versions.put(folder, manifest)

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
        cause: Cause = "gate",
    ) -> Published:
        """Upload a version and point a channel at it. With a signer both are signed.

        :param folder: holds every file of the manifest.
        :param actor: who publishes; ``cause``, ``reason``: why, in a word of the list and in words.
        :param decision: digest of the decision that allowed it.
        :param expected: the champion that the decision was taken against; ``None`` for none.
        :raises ChampionChanged: the channel points elsewhere by now. Nothing was moved.
        :raises IntegrityError: a file of the folder is not what the manifest says, or the channel was tampered with.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises StorageError: the storage cannot be written, or ignores conditional writes.
        """
        motive = Motive("publish", actor, cause, reason, decision)
        seen, _ = self._begin(channel)
        if seen.version not in {manifest.version, expected}:
            raise self._moves.changed(channel, expected, seen.version)
        require_conditional_writes(self._storage, self.name)
        put = self._put(folder, manifest)
        published = self._moves.move(seen, channel, manifest.version, put.manifest_sha256, motive)
        return replace(published, sent_bytes=put.sent_bytes, copied_bytes=put.copied_bytes)

    def promote(
        self,
        channel: str,
        *,
        version: str | None = None,
        from_channel: str | None = None,
        actor: str,
        reason: str,
        cause: Cause = "release",
        expected: str | None = None,
        check: Check | None = None,
    ) -> Published:
        """Point a channel at a version that the store holds, or at the champion of another channel.

        Nothing is uploaded. Every file of the version is read and verified before.

        :param version: either this or ``from_channel``.
        :param expected: the present champion as the caller knows it; ``None`` for whichever there is.
        :param check: called with a folder that holds the version, before the pointer moves; raises to stop it.
        :raises NotFoundError: there is no such version, or that channel has no champion.
        :raises IntegrityError: the version is damaged, or the channel was tampered with. Nothing was moved.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """
        if (version is None) == (from_channel is None):
            raise ValueError("either version or from_channel")

        def target(_: Pointer | None, trusted: Keyring | None) -> _Target:
            if version is not None:
                return _Target(version)
            assert from_channel is not None
            return self._champion_of(from_channel, trusted)

        return self._repoint(channel, Motive("promote", actor, cause, reason), expected, check, target)

    def _champion_of(self, channel: str, trusted: Keyring | None) -> _Target:
        """What a channel serves, once its last moves were checked as a reader does who is new to it."""
        moves = Moves(self._storage, self.name, trusted=trusted)
        pointer = moves.newest(channel, lambda pointer: self.check_recent(pointer, known=None))
        if pointer is None:
            raise NotFoundError(f"the channel '{channel}' has no champion", where=self._storage.where(self.name))
        return _Target(pointer.version, pointer.manifest_sha256)

    def rollback(
        self,
        channel: str,
        *,
        to: str | None = None,
        actor: str,
        reason: str,
        cause: Cause = "unspecified",
        expected: str | None = None,
        check: Check | None = None,
    ) -> Published:
        """Point a channel back at an earlier champion, or at any version that the store holds.

        :param to: a version; ``None`` for the champion before the present one. What was rolled back from is not
            returned to: the next rollback goes further back.
        :param expected: the present champion as the caller knows it; ``None`` for whichever there is.
        :param check: called with a folder that holds the version, before the pointer moves; raises to stop it.
        :raises NotFoundError: there is no such version, or no champion before the present one.
        :raises IntegrityError: the version, the history that names it or the channel is damaged. Nothing was moved.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """

        def target(pointer: Pointer | None, _: Keyring | None) -> _Target:
            if pointer is None:
                raise NotFoundError(
                    f"the channel '{channel}' has no champion to roll back",
                    where=self._storage.where(self.name),
                    hint=f"channels: {', '.join(self.channels()) or 'none'}",
                )
            return _Target(to if to is not None else self._before(pointer))

        return self._repoint(channel, Motive("rollback", actor, cause, reason), expected, check, target)

    def _repoint(
        self,
        channel: str,
        motive: Motive,
        expected: str | None,
        check: Check | None,
        choose: Callable[[Pointer | None, Keyring | None], _Target],
    ) -> Published:
        """Move a channel to a version that is there, once every file of it was read, matched and checked.

        :param choose: the version, from the present pointer and the keys that are trusted.
        """
        seen, trusted = self._begin(channel)
        with told_what_to_do(own=trusted is not self._trusted):
            target = choose(seen.pointer, trusted)
        version = target.version
        if expected is not None and seen.version != expected:
            raise self._moves.changed(channel, expected, seen.version)
        require_conditional_writes(self._storage, self.name)
        with told_what_to_do(own=trusted is not self._trusted):
            checked = Versions(self._storage, self.name, trusted=trusted)
            _, sha256 = checked.manifest_with_sha256(version, sha256=target.manifest_sha256)
        with filesystem_errors(tempfile.gettempdir()):
            temporary = tempfile.TemporaryDirectory(prefix="retrainer-verify-")
        with temporary as folder:
            self._versions.fetch(version, Path(folder), sha256=sha256)
            if check is not None:
                check(Path(folder))
        if self._signer is not None:
            self._versions.sign(version, self._signer, sha256=sha256)
        return self._moves.move(seen, channel, version, sha256, motive)

    def _begin(self, channel: str) -> tuple[Seen, Keyring | None]:
        """The channel as a move starts from it, and the keys of which one must have signed what the move signs.

        :raises SignatureError: the channel is signed, and not by a key that is trusted, nor by the one that signs.
        """
        seen = self._moves.begin(channel)
        if self._signer is None or self._trusted is not None:
            return seen, self._trusted
        own = own_keys(self._storage, self.name, channel, seen.pointer, self._signer)
        if own is not None and seen.pointer is not None:
            where = self._storage.where(pointer_key(self.name, channel))
            with told_what_to_do(own=True):
                own.check(seen.pointer.signature, seen.pointer.signed_bytes(), what="the pointer", where=where)
        return seen, own

    def _before(self, pointer: Pointer) -> str:
        version = champion_before(walk(self._storage, pointer))
        if version is None:
            raise NotFoundError(
                f"the channel '{pointer.channel}' has no champion before {pointer.version}",
                where=self._storage.where(self.name),
                hint="name the version to go to",
            )
        return version

    # Signing what is there

    def sign_version(self, version: str) -> VersionSignature:
        """Add this signer's signature to a version, unless it is there.

        :raises NotFoundError: there is no such version.
        :raises SignatureError: keys are trusted here, and none of them signed it before.
        :raises UserError: there is no signer.
        """
        if self._signer is None:
            raise UserError("there is no private key to sign with", where=self._storage.where(self.name))
        return self._versions.sign(version, self._signer)

    def sign_pointer(self, channel: str) -> Pointer:
        """Put this signer's signature on a channel's pointer as it stands, unless it is there. No move.

        :raises NotFoundError: the channel has no champion.
        :raises SignatureError: keys are trusted here, and none of them signed it before.
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        :raises UserError: there is no signer.
        """
        return self._moves.sign(channel)
