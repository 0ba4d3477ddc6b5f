"""Moves of a channel: history entry, pointer, journal, in this order, each step repeatable.

A move starts from the channel as it was seen and ends with a compare-and-swap of the pointer, so that of several
publishers one wins and the others are told. What a killed publisher left undone after its swap is completed by the
next one. Not here: what a channel may be moved to (``store.py``, and the gate), and the objects themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from retrainer.errors import (
    ChampionChanged,
    IntegrityError,
    NotFoundError,
    ReplayError,
    StorageError,
    StoragePermissionError,
    UserError,
)
from retrainer.storage import Storage
from retrainer.store.channels import Pointer, Seen, read_pointer, swap_pointer
from retrainer.store.history import Action, Cause, HistoryEntry, walk, write_entry
from retrainer.store.journal import Journal, same_move
from retrainer.store.names import check_name, pointer_key
from retrainer.store.parallel import in_parallel
from retrainer.store.recent_moves import check_journal
from retrainer.store.signing import Keyring, Signer
from retrainer.store.versions import Versions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication, promotion or rollback ended.

    :ivar moved: ``False`` when the channel already pointed there.
    :ivar previous: the champion before this version.
    :ivar sequence: number of the move in the channel's history.
    :ivar history: SHA-256 of its entry.
    :ivar sent_bytes: of the files that were sent to the store.
    :ivar copied_bytes: of the files that the store held already and copied itself.
    """

    version: str
    channel: str
    moved: bool
    previous: str | None
    sequence: int
    history: str
    sent_bytes: int = 0
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Motive:
    """What a history entry says of a move beside from where to where. Fields as in ``HistoryEntry``.

    :raises UserError: actor or reason cannot be written as UTF-8; so are arguments that are not in the locale's code.
    """

    action: Action
    actor: str
    cause: Cause
    reason: str
    decision: str | None = None

    def __post_init__(self) -> None:
        for name, text in (("actor", self.actor), ("reason", self.reason)):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"the {name} of the move is not text: it holds bytes that are no UTF-8", hint="write it in UTF-8"
                ) from None


class Moves:
    """The channels of one model, and how they move.

    :param signer: signs each pointer that is written.
    :param trusted: keys of which one must have signed each pointer that is read.
    """

    def __init__(
        self, storage: Storage, model: str, *, signer: Signer | None = None, trusted: Keyring | None = None
    ) -> None:
        self._storage = storage
        self._model = model
        self._signer = signer
        self._trusted = trusted
        self._versions = Versions(storage, model)

    def seen(self, channel: str) -> Seen:
        """The channel as it stands, in one request.

        :raises IntegrityError: what lies there is no pointer of that channel.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        seen = read_pointer(self._storage, self._model, self._named(channel))
        if seen.pointer is not None and self._trusted is not None:
            pointer = seen.pointer
            self._trusted.check(
                pointer.signature, pointer.signed_bytes(), what="the pointer", where=self._where(channel)
            )
        return seen

    def newest(self, channel: str, check: Callable[[Pointer], None] | None = None) -> Pointer | None:
        """The pointer as somebody can believe it who does not follow the channel; ``None`` for one without moves.

        Two requests more than ``seen``, at once.

        :param check: takes the place of the look into the journal, and raises as that does.
        :raises ReplayError: an older pointer was put back.
        :raises IntegrityError: the pointer was deleted or altered.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        check = check or self._check_journal
        pointer = self.seen(channel).pointer
        if pointer is None and not self.journal(channel).is_empty():
            pointer = self.seen(channel).pointer  # it may just have been published for the first time
            if pointer is None:
                raise self.deleted(channel)
        while pointer is not None:
            try:
                check(pointer)
            except ReplayError:
                again = self.seen(channel).pointer
                if again == pointer:
                    raise
                pointer = again  # it just moved on
            else:
                break
        return pointer

    def _check_journal(self, pointer: Pointer) -> None:
        check_journal(self._storage, pointer)

    def journal(self, channel: str) -> Journal:
        """The journal of a channel."""
        return Journal(self._storage, self._model, self._named(channel))

    def begin(self, channel: str) -> Seen:
        """The channel as a move starts from it, its journal completed.

        :raises ReplayError: an older pointer was put back.
        :raises IntegrityError: the pointer was deleted or altered.
        :raises UserError: the channel is signed, and there is no key here.
        """
        journal = self.journal(channel)
        seen = self.seen(channel)
        while True:
            if seen.pointer is None:
                if journal.is_empty():
                    return seen
                seen = self.seen(channel)  # it may just have been published for the first time
                if seen.pointer is None:
                    raise self.deleted(channel)
            if seen.pointer.signature is not None and self._signer is None:
                raise UserError(
                    f"the channel '{channel}' is signed, and there is no private key to sign the move with",
                    where=self._where(channel),
                    hint="give the key that signs this channel; readers that pinned it would refuse an unsigned move",
                )
            later = self._written_down(seen.pointer)
            if later is None:
                return seen
            again = self.seen(channel)
            if again.etag == seen.etag:
                raise ReplayError(
                    f"an older pointer was put back: move {later.sequence} of the channel '{channel}' was made already",
                    where=self._where(channel),
                    hint="find out by whom; 'retrainer fsck --repair' restores the newest pointer from the journal",
                )
            seen = again

    def _written_down(self, pointer: Pointer) -> Pointer | None:
        """Complete the journal up to that pointer.

        :return: the move after it, where there was one.
        """
        journal = self.journal(pointer.channel)
        own, later = in_parallel(journal.read, (pointer.sequence, pointer.sequence + 1))
        if own is None:
            journal.add(pointer)
        else:
            journal.agree(pointer, own)
        return later

    def move(self, seen: Seen, channel: str, version: str, manifest_sha256: str, motive: Motive) -> Published:
        """Point a channel at a complete version, from where it was seen by ``begin``.

        :param manifest_sha256: of the version's manifest, as it was verified.
        :raises ChampionChanged: somebody else moved the channel meanwhile. Nothing was moved.
        :raises StorageError: the version was removed meanwhile, and nothing was moved; or the storage failed.

        A publication that fails after its swap says so, since a second try ends where it would have. A rollback that
        is tried again goes back once more: where it has moved, it has succeeded.
        """
        before = seen.pointer
        if before is not None and before.version == version:
            return self._unmoved(seen, before)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        entry = HistoryEntry(
            previous=before.history if before else None,
            sequence=before.sequence + 1 if before else 1,
            model=self._model,
            channel=channel,
            action=motive.action,
            from_version=seen.version,
            to_version=version,
            actor=motive.actor,
            cause=motive.cause,
            reason=motive.reason,
            decision=motive.decision,
            at=now,
        )
        name = write_entry(self._storage, entry)
        # From here on gc sees that the version is needed. What it took away before, it took away for good.
        self._require(version, manifest_sha256)
        pointer = self._signed(
            Pointer(
                model=self._model,
                channel=channel,
                version=version,
                manifest_sha256=manifest_sha256,
                sequence=entry.sequence,
                history=name,
                moved_at=now,
                origin=before.origin if before else name,
            )
        )
        repeatable = motive.action == "publish"
        if swap_pointer(self._storage, seen, pointer) if repeatable else self._swap_once(seen, pointer):
            try:
                self.journal(channel).add(pointer)
            except StorageError as error:
                if repeatable:
                    raise
                log.warning("move %d of '%s' is made; the next move notes it: %s", entry.sequence, channel, error)
        elif not self._was_made(pointer):
            winner = self.seen(channel)
            if winner.pointer is not None and winner.version == version:
                return self._unmoved(winner, winner.pointer)  # another publisher of the same content won
            raise self.changed(channel, seen.version, winner.version)
        return Published(version, channel, True, seen.version, entry.sequence, name)

    def _swap_once(self, seen: Seen, pointer: Pointer) -> bool:
        """``swap_pointer`` for a move that must not be made twice: after an error it looks whether it took effect."""
        try:
            return swap_pointer(self._storage, seen, pointer)
        except StorageError as error:
            try:
                found = read_pointer(self._storage, self._model, pointer.channel)
            except StorageError:
                raise self._uncertain(pointer, error) from None
            if found.pointer == pointer:
                return True
            if found.etag != seen.etag:
                return False  # somebody else's move, or one that came after this
            if isinstance(error, StoragePermissionError):
                raise
            raise self._uncertain(pointer, error) from None

    def _uncertain(self, pointer: Pointer, error: StorageError) -> StorageError:
        return type(error)(
            error.message,
            where=error.where,
            hint="the channel may have moved, or move yet: look at 'retrainer history' before you try again, and "
            f"repeat a rollback with --to {pointer.version}",
        )

    def _was_made(self, pointer: Pointer) -> bool:
        """Whether that swap took effect, its answer was lost, and somebody else moved on from there already."""
        try:
            written = self.journal(pointer.channel).read(pointer.sequence)
        except StorageError as error:
            raise self._uncertain(pointer, error) from None
        return written is not None and same_move(pointer, written)

    def _unmoved(self, seen: Seen, pointer: Pointer) -> Published:
        """The channel points there already: complete what is missing."""
        if pointer.signature is None and self._signer is not None:
            pointer = self._sign(seen, pointer)
        self._written_down(pointer)
        newest = next(walk(self._storage, pointer))
        return Published(
            pointer.version, pointer.channel, False, newest.from_version, pointer.sequence, pointer.history
        )

    def _require(self, version: str, manifest_sha256: str) -> None:
        try:
            self._versions.manifest(version, sha256=manifest_sha256)
        except NotFoundError as error:
            raise StorageError(
                f"the version {version} was removed while the channel was to be pointed at it",
                where=error.where,
                hint="'retrainer gc' was running; try again when it has ended",
            ) from None

    def sign(self, channel: str) -> Pointer:
        """Sign the pointer as it stands, unless this key did so already.

        :raises NotFoundError: the channel has no champion.
        :raises ChampionChanged: it moved meanwhile.
        """
        signer = self._signer
        if signer is None:
            raise UserError("there is no private key to sign with", where=self._where(channel), hint="give one")
        seen = self.begin(channel)
        if seen.pointer is None:
            raise NotFoundError(f"the channel '{channel}' has no champion", where=self._where(channel))
        present = seen.pointer.signature
        if (
            present is not None
            and present.key_id == signer.public.key_id
            and signer.public.holds(present, seen.pointer.signed_bytes())
        ):
            self.journal(channel).replace(seen.pointer)
            return seen.pointer
        return self._sign(seen, seen.pointer)

    def _sign(self, seen: Seen, pointer: Pointer) -> Pointer:
        signed = self._signed(pointer)
        if not swap_pointer(self._storage, seen, signed):
            raise self.changed(pointer.channel, pointer.version, self.seen(pointer.channel).version)
        self.journal(pointer.channel).replace(signed)
        return signed

    def _signed(self, pointer: Pointer) -> Pointer:
        if self._signer is None:
            return pointer
        return pointer.model_copy(update={"signature": self._signer.sign(pointer.signed_bytes())})

    def changed(self, channel: str, expected: str | None, found: str | None) -> ChampionChanged:
        """The error for a decision that was taken against another champion."""
        return ChampionChanged(
            f"the champion changed: it was {expected or 'none'} and is {found or 'none'} now"
            if expected != found
            else f"the channel was moved meanwhile, and points at {found or 'none'} again",
            where=self._where(channel),
            hint="evaluate and decide again, against the present champion",
        )

    def deleted(self, channel: str) -> IntegrityError:
        """The error for a channel without a pointer whose journal has entries."""
        return IntegrityError(
            f"the pointer of the channel '{channel}' was deleted: its journal shows earlier moves",
            where=self._where(channel),
            hint="find out by whom; 'retrainer fsck --repair' restores it from the journal",
        )

    def _named(self, channel: str) -> str:
        return check_name("channel", channel, where=self._storage.where(self._model))

    def _where(self, channel: str) -> str:
        return self._storage.where(pointer_key(self._model, channel))
