"""Published models: the store, and one model of it with its versions and channels.

Order of every publication: intent, files, manifest, signature, move, hint. Readers follow the moves, so that a crash at
any point leaves them on the old version, and a second try ends at the same new one.
Here is also to which version a rollback goes.
Not here: reading (``reading.py``), how a channel moves (``moving.py``), whether a model deserves to be published
(``gate``), and what is done with it (``serve``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

from retrainer.errors import ChampionChanged, IntegrityError, NotFoundError, StorageError
from retrainer.storage import S3Access, Storage, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store.causes import Cause
from retrainer.store.conditional import require_conditional_writes
from retrainer.store.log import ChannelLog
from retrainer.store.manifest import Manifest
from retrainer.store.move import RECENT_MOVES, STAYS, Move
from retrainer.store.moving import ModelMover, Motive, Published
from retrainer.store.names import check_name, is_name
from retrainer.store.own_key import told_what_to_do
from retrainer.store.reading import list_channels
from retrainer.store.signing import Keyring, Signer
from retrainer.store.summary import Figure
from retrainer.store.versions import Put, Versions

Check = Callable[[Path], None]


class Target(NamedTuple):
    """Where a channel is to move.

    :ivar sha256: of the version's manifest, where a move says so.
    :ivar anchor: of the channel since then; ``None`` for the one that it has.
    """

    version: str
    sha256: str | None = None
    anchor: str | None = None


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

        :param signer: signs each version and move that is written.
        :param trusted: public keys; nothing that none of them signed is then read. ``None`` reads all.
        :param access: how a bucket is reached; ``None`` for ``use_access`` or the environment.
        """
        return cls(open_storage(url, access=access), signer=signer, trusted=trusted)

    def models(self) -> list[str]:
        """The models of which a version was ever published, sorted; also those whose moves were deleted."""
        names = [name for name in self._storage.list_folders() if is_name(name)]
        return [name for name in names if list_channels(self._storage, name)]

    def model(self, name: str) -> ModelStore:
        """One model, published or not yet.

        :raises StorageError: no model can have that name.
        """
        check_name("model", name, where=self._storage.where())
        return ModelStore(self._storage, name, signer=self._signer, trusted=self._trusted)


class ModelStore(ModelMover):
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

    def _put(self, folder: Path, manifest: Manifest, champion: Move | None = None) -> Put:
        if manifest.model != self.name:
            raise StorageError(f"the manifest is of the model '{manifest.model}'", where=self._storage.where(self.name))
        like = None
        if champion is not None and champion.to_version != manifest.version:
            with suppress(IntegrityError, NotFoundError):  # it only saves sending what both have
                like = Versions(self._storage, self.name).manifest(champion.to_version)
        served = champion if champion is not None and champion.to_version == manifest.version else None
        return self.put(folder, manifest, like=like, served=served.manifest_sha256 if served else None)

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
        cause: Cause = Cause.GATE,
        anchor: bool = False,
        held_against: str | None = None,
        scores: Mapping[str, Figure] | None = None,
    ) -> Published:
        """Upload a version and point a channel at it. With a signer both are signed.

        :param folder: holds every file of the manifest.
        :param actor: who publishes; ``cause``, ``reason``: why, in a word of the list and in words.
        :param decision: digest of the decision that allowed it.
        :param expected: the champion that the decision was taken against; ``None`` for none.
        :param anchor: it was shown to be better than the channel's anchor, and takes its place.
        :param held_against: the anchor that the decision was taken against; ``None`` for whichever there is.
        :param scores: its metrics with their intervals, for the summary that pages show.
        :raises ChampionChanged: the channel points elsewhere by now, or has another anchor. Nothing was moved.
        :raises IntegrityError: a file of the folder is not what the manifest says, or the channel was tampered with.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises StorageError: the storage cannot be written, or ignores conditional writes.
        """
        motive = Motive("publish", actor, cause, reason, decision, manifest.version if anchor else None)
        begun = self._begin(channel)
        head, _ = begun
        champion = head.move.to_version if head.move else None
        if champion not in {manifest.version, expected}:
            raise self._changed(channel, expected, head.move)
        if head.move is not None and champion != manifest.version and held_against not in {None, head.move.anchor}:
            raise ChampionChanged(
                f"the anchor changed: it was {held_against} and is {head.move.anchor} now",
                where=self._log(channel).where(head.move.sequence),
                hint="evaluate and decide again, against the present anchor",
            )
        require_conditional_writes(self._storage, self.name)
        put = self._put(folder, manifest, head.move)
        published = self._move(begun, channel, manifest.version, put.manifest_sha256, motive, scores)
        return replace(published, sent_bytes=put.sent_bytes, copied_bytes=put.copied_bytes)

    def promote(
        self,
        channel: str,
        *,
        version: str | None = None,
        from_channel: str | None = None,
        actor: str,
        reason: str,
        cause: Cause = Cause.RELEASE,
        expected: str | None = None,
        check: Check | None = None,
    ) -> Published:
        """Point a channel at a version that the store holds, or at the champion of another channel.

        Nothing is uploaded. Every file of the version is read and verified before.

        :param version: either this or ``from_channel``.
        :param expected: the present champion as the caller knows it; ``None`` for whichever there is.
        :param check: called with a folder that holds the version, before the channel moves; raises to stop it.
        :raises NotFoundError: there is no such version, or that channel has no champion.
        :raises IntegrityError: the version is damaged, or the channel was tampered with. Nothing was moved.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """
        if (version is None) == (from_channel is None):
            raise ValueError("either version or from_channel")

        def target(_: Move | None, trusted: Keyring | None) -> Target:
            if version is not None:
                return Target(version)
            assert from_channel is not None
            return self._champion_of(from_channel, trusted)

        return self._repoint(channel, Motive("promote", actor, cause, reason), expected, check, target)

    def _champion_of(self, channel: str, trusted: Keyring | None) -> Target:
        """What a channel serves, once its last moves were read and checked."""
        newest = ChannelLog(self._storage, self.name, channel, trusted=trusted).head().move
        if newest is None:
            raise NotFoundError(f"the channel '{channel}' has no champion", where=self._storage.where(self.name))
        for _ in islice(self._log(channel).walk(newest), RECENT_MOVES):
            pass
        return Target(newest.to_version, newest.manifest_sha256)

    def rollback(
        self,
        channel: str,
        *,
        to: str | None = None,
        actor: str,
        reason: str,
        cause: Cause = Cause.UNSPECIFIED,
        expected: str | None = None,
        check: Check | None = None,
    ) -> Published:
        """Point a channel back at an earlier champion, or at any version that the store holds.

        :param to: a version; ``None`` for the champion before the present one. What was rolled back from is not
            returned to: the next rollback goes further back.
        :param expected: the present champion as the caller knows it; ``None`` for whichever there is.
        :param check: called with a folder that holds the version, before the channel moves; raises to stop it.
        :raises NotFoundError: there is no such version, or no champion before the present one.
        :raises IntegrityError: the version, the history that names it or the channel is damaged. Nothing was moved.
        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: what is moved from or to is not signed by a key that is trusted; where none is named
            and the channel was signed before, by the one that signs (``own_key.py``).
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        """

        def target(newest: Move | None, _: Keyring | None) -> Target:
            if newest is None:
                raise NotFoundError(
                    f"the channel '{channel}' has no champion to roll back",
                    where=self._storage.where(self.name),
                    hint=f"channels: {', '.join(self.channels()) or 'none'}",
                )
            version = to if to is not None else self._before(newest)
            return Target(version, anchor=self._anchor_of(newest, version))

        return self._repoint(channel, Motive("rollback", actor, cause, reason), expected, check, target)

    def _repoint(
        self,
        channel: str,
        motive: Motive,
        expected: str | None,
        check: Check | None,
        choose: Callable[[Move | None, Keyring | None], Target],
    ) -> Published:
        """Move a channel to a version that is there, once every file of it was read, matched and checked.

        :param choose: the version, from the newest move and the keys that are trusted.
        """
        begun = self._begin(channel)
        head, trusted = begun
        with told_what_to_do(own=trusted is not self._trusted):
            version, said, anchor = choose(head.move, trusted)
        if expected is not None and (head.move is None or head.move.to_version != expected):
            raise self._changed(channel, expected, head.move)
        require_conditional_writes(self._storage, self.name)
        with told_what_to_do(own=trusted is not self._trusted):
            checked = Versions(self._storage, self.name, trusted=trusted)
            _, sha256 = checked.manifest_with_sha256(version, sha256=said)
        if head.move is not None and head.move.to_version == version:
            self._insist_on_manifest(head.move, sha256)  # before it is signed
        self.protect(version)
        with filesystem_errors(tempfile.gettempdir()):
            temporary = tempfile.TemporaryDirectory(prefix="retrainer-verify-")
        with temporary as folder:
            self.fetch(version, Path(folder), sha256=sha256)
            if check is not None:
                check(Path(folder))
        if self._signer is not None:
            self.sign_version(version, sha256=sha256)
        return self._move(begun, channel, version, sha256, replace(motive, anchor=anchor))

    def _before(self, newest: Move) -> str:
        version = champion_before(self._log(newest.channel).walk(newest))
        if version is None:
            raise NotFoundError(
                f"the channel '{newest.channel}' has no champion before {newest.to_version}",
                where=self._storage.where(self.name),
                hint="name the version to go to",
            )
        return version

    def _anchor_of(self, newest: Move, version: str) -> str | None:
        """The anchor of the time when a version went live, for what was rolled back from must not stay the anchor; one
        that a person pinned since.

        Of a version that the channel never served: the anchor before the present champion went live. ``None``, for the
        present one, where none of that is known.
        """
        with suppress(IntegrityError):  # a damaged history stops no rollback to a version that is named
            other = None
            for move in self._log(newest.channel).walk(newest):
                # A person pinned it, or the version went live with it.
                if move.action == "anchor" or (move.to_version == version and move.action not in STAYS):
                    return self._still_there(move.anchor, version)
                if other is None and move.to_version != newest.to_version:
                    other = move.anchor
            return self._still_there(other, version) if other is not None else None
        return None

    def _still_there(self, anchor: str, version: str) -> str:
        """The anchor, kept from gc; the version that is gone back to where the anchor was removed."""
        self.protect(anchor)
        try:
            self.manifest(anchor)
        except NotFoundError:
            return version
        return anchor


# To which version a rollback goes


def line_of_champions(moves: Sequence[Move]) -> list[str]:
    """The versions that rollbacks go back through: oldest first, the present champion last.

    A publication or promotion adds a version; signing changes nothing. A rollback takes away what was added since its
    target, so that the next one goes further back, and never returns to what was rolled back from. One to a version
    that is not among them goes forward, or aside: it adds it, so that the next one goes back to what was served just
    before.

    :param moves: newest first, as ``ChannelLog.walk`` gives them.
    """
    line = _line(moves)
    assert line is not None  # the oldest move is among them
    return line


def champion_before(moves: Iterator[Move]) -> str | None:
    """The last but one of the line of champions; ``None`` where there is but one.

    :param moves: newest first. Only as many are read as it takes, however long the history is.
    """
    newest: list[Move] = []
    enough = 2
    for move in moves:
        newest.append(move)
        if len(newest) >= enough:
            line = _line(newest)
            if line is not None and len(line) > 1:
                return line[-2]
            enough *= 2
    line = line_of_champions(newest)
    return line[-2] if len(line) > 1 else None


def _line(moves: Sequence[Move]) -> list[str] | None:
    """The upper end of the line of champions, as far as these moves tell; ``None`` where they do not.

    :param moves: newest first; where the oldest is missing, what lies below its champion is unknown.
    """
    base = moves[-1].from_version if moves else None
    line = [base] if base is not None else []
    for move in reversed(moves):
        if move.action in STAYS:
            continue
        if move.action != "rollback":
            line.append(move.to_version)
            continue
        below = line[:-1]
        if move.to_version in below:
            while below[-1] != move.to_version:
                below.pop()
            line = below
        elif base is not None:
            return None
        elif line[-1:] != [move.to_version]:
            line.append(move.to_version)
    return line
