"""How a channel is moved: the next number of its log is created, then the hint follows.

A move starts from the channel as it was read. Of several publishers one creates the next number, and the others are
told. Not here: what a channel may be moved to (``store.py``, and the gate), and reading and writing moves (``log.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from retrainer.errors import (
    ChampionChanged,
    IntegrityError,
    NotFoundError,
    RetrainerError,
    StorageError,
    StoragePermissionError,
    UserError,
)
from retrainer.store.causes import Cause
from retrainer.store.entry import Entry
from retrainer.store.log import Head, refuse_version_1
from retrainer.store.manifest import Manifest
from retrainer.store.move import STAYS, Action, Move
from retrainer.store.names import LAST_MOVE, MOST_RECORD, check_words
from retrainer.store.own_key import own_keys, told_what_to_do
from retrainer.store.reading import ModelReader
from retrainer.store.signing import Keyring
from retrainer.store.summary import DecayNote, Figure, Judged, figures_of, note_decay, note_decision, note_move
from retrainer.store.versions import Versions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication, promotion or rollback ended.

    :ivar moved: ``False`` when the channel already pointed there.
    :ivar previous: the champion before this version; ``None`` where there was none, or where the channel pointed there
        already and the move that says so is damaged.
    :ivar sequence: number of the move in the channel's log.
    :ivar move: SHA-256 of that move.
    :ivar sent_bytes: of the files that were sent to the store.
    :ivar copied_bytes: of the files that the store held already and copied itself.
    """

    version: str
    channel: str
    moved: bool
    previous: str | None
    sequence: int
    move: str
    sent_bytes: int = 0
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Motive:
    """What a move says beside from where to where. Fields as in ``Move``; ``anchor`` where that is to be another one.

    :raises UserError: actor or reason cannot be written.
    """

    action: Action
    actor: str
    cause: Cause
    reason: str
    decision: str | None = None
    anchor: str | None = None

    def __post_init__(self) -> None:
        check_words(**{"actor of the move": self.actor, "reason of the move": self.reason})


class ModelMover(ModelReader):
    """One model of a store, with what every move of its channels has in common."""

    def note_decision(self, entries: Sequence[Entry], decision: str, judged: Judged) -> None:
        """Tell the model's summary of a verdict that is in the ledger. Never fails; see ``summary.note_decision``."""
        note_decision(self._storage, self.name, entries, decision, judged)

    def note_decay(self, channel: str, note: DecayNote) -> None:
        """Tell the model's summary of a check of what a channel serves. Never fails; see ``summary.note_decay``."""
        note_decay(self._storage, self.name, channel, note)

    def _begin(self, channel: str) -> tuple[Head, Keyring | None]:
        """The channel as a move starts from it, and the keys of which one must have signed what the move signs.

        :raises UserError: the channel is signed, and there is no key here.
        :raises SignatureError: the channel is signed, and not by a key that is trusted, nor by the one that signs.
        :raises IntegrityError: the channel was altered, or it is new and others of the model are of an earlier
            retrainer.
        """
        log = self._log(channel)
        head = log.head()
        if head.move is None:
            refuse_version_1(self._storage, self.name)
        if self._signer is None and head.move is not None and head.move.signature is not None:
            raise UserError(
                f"the channel '{channel}' is signed, and there is no private key to sign the move with",
                where=log.where(head.move.sequence),
                hint="give the key that signs this channel; readers that pinned it would refuse an unsigned move",
            )
        if self._signer is None or self._trusted is not None:
            return head, self._trusted
        own = own_keys(self._storage, self.name, head.move, self._signer)
        if own is not None and head.move is not None:
            with told_what_to_do(own=True):
                log.check_signature(head.move, own)
        return head, own

    def _move(
        self,
        begun: tuple[Head, Keyring | None],
        channel: str,
        version: str,
        manifest_sha256: str,
        motive: Motive,
        scores: Mapping[str, Figure] | None = None,
    ) -> Published:
        """Point a channel at a complete version, from where it was seen by ``_begin``.

        The version is protected from gc: ``Versions.protect`` was called before it was looked at.

        :param begun: what ``_begin`` gave: the move of another publisher needs the signature of the same keys.
        :param manifest_sha256: of the version's manifest, as it was verified.
        :param scores: of the version, for the summary; the metrics of its manifest unless given.
        :raises SignatureError: somebody else moved the channel there meanwhile, and none of those keys signed it.
        :raises ChampionChanged: somebody else moved the channel meanwhile. Nothing was moved.
        :raises StorageError: the version was removed meanwhile, and nothing was moved; or the storage failed.
        :raises IntegrityError: the channel points there already, and names another manifest of the version.

        A publication that fails may have moved; a second try ends where it would have. A rollback that is tried again
        goes back once more: where it has moved, it has succeeded.
        """
        head, trusted = begun
        before = head.move
        if before is not None and before.to_version == version:
            return self._unmoved(head, before, manifest_sha256, motive)
        manifest = self._require(version, manifest_sha256)
        move = self._next(before, channel, version, manifest_sha256, motive)
        if self._create(move, repeatable=motive.action == "publish"):
            self._hint(head.then(move), move)
            note_move(self._storage, move, figures_of(manifest.metrics) if scores is None else scores)
            return Published(version, channel, True, move.from_version, move.sequence, move.sha256)
        winner = self._log(channel).head()
        if winner.move is not None and winner.move.to_version == version:
            # Another publisher of the same content won.
            with told_what_to_do(own=trusted is not self._trusted):
                self._log(channel).check_signature(winner.move, trusted)
            return self._unmoved(winner, winner.move, manifest_sha256, motive)
        raise self._changed(channel, before, winner.move)

    def _next(self, before: Move | None, channel: str, version: str, manifest_sha256: str, motive: Motive) -> Move:
        if before is not None and before.sequence == LAST_MOVE:
            raise StorageError(f"the channel '{channel}' has no more numbers", hint="begin another channel")
        move = Move(
            model=self.name,
            channel=channel,
            sequence=before.sequence + 1 if before else 1,
            action=motive.action,
            from_version=before.to_version if before else None,
            to_version=version,
            manifest_sha256=manifest_sha256,
            actor=motive.actor,
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            cause=motive.cause,
            reason=motive.reason,
            decision=motive.decision,
            anchor=motive.anchor or (before.anchor if before else version),
            ledger=self.ledger.newest(),
            previous=before.sha256 if before else None,
            origin=before.begun_by if before else None,
        )
        if self._signer is not None:
            move = move.model_copy(update={"signature": self._signer.sign(move.signed_bytes())})
        if len(move.written()) > MOST_RECORD:
            raise UserError(f"the move has more than the {MOST_RECORD:,} bytes of one", hint="give a shorter reason")
        return move

    def _create(self, move: Move, *, repeatable: bool) -> bool:
        """Create a move. One that must not be made twice is looked for after an error, in case it took effect."""
        channel_log = self._log(move.channel)
        try:
            return channel_log.create(move)
        except RetrainerError as error:  # of a folder also a full disk; and damaged bytes under that number
            if repeatable:
                raise
            try:
                found = channel_log.read(move.sequence)
            except RetrainerError as second:
                if isinstance(error, IntegrityError) and isinstance(second, IntegrityError):
                    raise  # somebody else's: this move was refused
                raise _uncertain(move, error) from None
            if found is not None:
                return found == move
            if isinstance(error, StoragePermissionError):
                raise
            raise _uncertain(move, error) from None

    def _hint(self, head: Head, move: Move) -> None:
        """The move is made, whatever becomes of the hint: who reads it looks for later moves anyway."""
        try:
            self._log(move.channel).write_hint(head.hashes, move.sequence)
        except RetrainerError as error:
            log.warning("move %d of '%s' is made; its hint is not written: %s", move.sequence, move.channel, error)

    def _unmoved(self, head: Head, newest: Move, manifest_sha256: str, motive: Motive) -> Published:
        """The channel points there already: sign it where it is not signed yet, and complete the hint."""
        self._insist_on_manifest(newest, manifest_sha256)
        if newest.signature is None and self._signer is not None:
            newest = self._stay(newest, head, replace(motive, action="sign", decision=None, anchor=None))
        elif not head.hinted:
            self._hint(head, newest)
        previous = self._replaced_by(newest)
        return Published(newest.to_version, newest.channel, False, previous, newest.sequence, newest.sha256)

    def _replaced_by(self, newest: Move) -> str | None:
        """The champion before the present one, for whoever reads the result: signing anew changed none."""
        moves = self._log(newest.channel).walk(newest)
        try:
            return next(move.from_version for move in moves if move.action not in STAYS)
        except IntegrityError as error:
            log.warning("the champion before %s on '%s' is not known: %s", newest.to_version, newest.channel, error)
            return None

    def _insist_on_manifest(self, move: Move, found: str) -> None:
        """Insist that a move names the manifest that is there: else readers refuse the version that it goes to."""
        if found != move.manifest_sha256:
            raise IntegrityError(
                f"move {move.sequence} of the channel '{move.channel}' has another hash of the manifest than the"
                f" version {move.to_version}",
                where=self._log(move.channel).where(move.sequence),
                hint="one of the two was altered, and readers refuse the version: run 'retrainer fsck --repair'",
            )

    def _require(self, version: str, manifest_sha256: str) -> Manifest:
        try:
            return Versions(self._storage, self.name).manifest(version, sha256=manifest_sha256)
        except NotFoundError as error:
            raise StorageError(
                f"the version {version} was removed while the channel was to be pointed at it",
                where=error.where,
                hint="'retrainer gc' was running; try again when it has ended",
            ) from None

    def sign_channel(self, channel: str, *, actor: str, reason: str, expected: Move | None = None) -> Move:
        """Sign what a channel serves, unless this signer signed its newest move: a move to the same version.

        :param expected: the newest move, as the caller looked at it; ``None`` for whichever there is.
        :return: the newest move then.
        :raises NotFoundError: the channel has no champion, or its version is not there.
        :raises IntegrityError: the manifest is not the one that the newest move names.
        :raises SignatureError: keys are trusted here, and none of them signed it before.
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        :raises UserError: there is no signer.
        """
        if self._signer is None:
            raise UserError("there is no private key to sign with", where=self._log(channel).where(), hint="give one")
        key = self._signer.public
        head = self._log(channel).head()
        newest = head.move
        if newest is None:
            raise NotFoundError(f"the channel '{channel}' has no champion", where=self._log(channel).where())
        if expected is not None and newest != expected:
            raise self._changed(channel, expected, newest)
        present = newest.signature
        if present is not None and present.key_id == key.key_id and key.holds(present, newest.signed_bytes()):
            if not head.hinted:
                self._hint(head, newest)
            return newest
        _, manifest_sha256 = Versions(self._storage, self.name).manifest_with_sha256(newest.to_version)
        self._insist_on_manifest(newest, manifest_sha256)
        return self._stay(newest, head, Motive("sign", actor, Cause.MAINTENANCE, reason))

    def pin_anchor(self, channel: str, version: str, *, actor: str, reason: str, cause: Cause) -> Move:
        """Make a version the channel's anchor, by a move to the same champion.

        :return: the newest move then; the present one where it names that anchor already.
        :raises NotFoundError: the channel has no champion, or there is no such version.
        :raises IntegrityError: the version or the channel was altered.
        :raises SignatureError: one of them is not signed by a key that is trusted.
        :raises ChampionChanged: the channel was moved by somebody else meanwhile.
        :raises UserError: the channel is signed, and there is no key here.
        """
        head, trusted = self._begin(channel)
        newest = head.move
        if newest is None:
            raise NotFoundError(f"the channel '{channel}' has no champion", where=self._log(channel).where())
        self.protect(version)
        Versions(self._storage, self.name, trusted=trusted).manifest(version)
        if newest.anchor == version:
            return newest
        return self._stay(newest, head, Motive("anchor", actor, cause, reason, anchor=version))

    def _stay(self, newest: Move, head: Head, motive: Motive) -> Move:
        """Move the channel to the version that it serves."""
        channel = newest.channel
        move = self._next(newest, channel, newest.to_version, newest.manifest_sha256, motive)
        if not self._create(move, repeatable=True):
            raise self._changed(channel, newest, self._log(channel).head().move)
        self._hint(head.then(move), move)
        note_move(self._storage, move, {})
        return move

    def _changed(self, channel: str, expected: Move | str | None, found: Move | None) -> ChampionChanged:
        """The error for a decision that was taken against another champion."""
        before = expected.to_version if isinstance(expected, Move) else expected
        now = found.to_version if found else None
        return ChampionChanged(
            f"the champion changed: it was {before or 'none'} and is {now or 'none'} now"
            if before != now
            else f"the channel was moved meanwhile, and points at {now or 'none'} again",
            where=self._log(channel).where(found.sequence if found else None),
            hint="evaluate and decide again, against the present champion",
        )


def _uncertain(move: Move, error: RetrainerError) -> RetrainerError:
    return type(error)(
        error.message,
        where=error.where,
        hint="the channel may have moved, or move yet: look at 'retrainer history' before you try again, and repeat a "
        f"rollback with --to {move.to_version}",
    )
