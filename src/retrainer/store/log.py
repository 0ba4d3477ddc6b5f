"""The log of a channel: its moves, one object each, written only if absent. The newest says what the channel serves.

Whoever creates the next number has moved the channel. So there is one truth, and nothing to reconcile with it: the
newest move is the one whose next number does not exist. ``latest.json`` only says from where to look. It is written
after the move, so it may be behind, and never ahead: a hint above the log tells that the newest moves were deleted.
Not here: who may move a channel, and to what (``moving.py``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from retrainer.errors import (
    IntegrityError,
    NotFoundError,
    PreconditionFailed,
    ReplayError,
    StorageError,
    StoragePermissionError,
)
from retrainer.storage import Storage
from retrainer.store.move import RECENT_MOVES, Hint, Move
from retrainer.store.names import (
    LAST_MOVE,
    MOST_RECORD,
    channel_folder,
    check_name,
    hint_key,
    is_name,
    move_key,
    pointer_key_of_version_1,
)
from retrainer.store.parallel import in_parallel
from retrainer.store.signing import Keyring

# Moves in a listing of one request, told by all but the last three digits of their number.
_BLOCK = 1000
# Moves after the hint that are read one by one before the newest is searched for; and for how long at all: nothing says
# that those that are not the newest were ever made.
_STEPS = 8
_FOLLOWED_SECONDS = 20.0
_MOST_AT_ONCE = 64
_MISSING = "is missing"
_BREAKS = "does not continue the one before it"
# Moves without an anchor began with it.
_OF_VERSION_2, _OPENING = b'"format_version": 2,', 64
_BACKUP = "find out by whom, and restore it from a backup of the bucket (docs/store.md: what to do when)"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log, as it was read.

    :ivar move: the newest; ``None`` for a channel that was never published.
    :ivar hashes: of the newest move and those before it, as far as hint and reading told them; newest first.
    :ivar hinted: whether the hint is of just this move.
    """

    move: Move | None
    hashes: tuple[str, ...] = ()
    hinted: bool = False

    def then(self, move: Move) -> Head:
        """The end of the log once that move was made."""
        return Head(move, (move.sha256, *self.hashes)[:RECENT_MOVES])


class ChannelLog:
    """The moves of one channel. It changes nothing but by ``create`` and ``write_hint``.

    :param trusted: keys of which one must have signed the newest move, when it is read.
    :raises StorageError: no channel can have that name.
    """

    def __init__(self, storage: Storage, model: str, channel: str, *, trusted: Keyring | None = None) -> None:
        self._storage = storage
        self._model = model
        self._channel = check_name("channel", channel, where=storage.where(model))
        self._trusted = trusted

    def where(self, sequence: int | None = None) -> str:
        """A move for people; the hint without a number."""
        return self._storage.where(hint_key(self._model, self._channel) if sequence is None else self._key(sequence))

    def _key(self, sequence: int) -> str:
        return move_key(self._model, self._channel, sequence)

    # The newest move

    def head(self, seen: Move | None = None) -> Head:
        """The newest move. Three requests where the hint is of it; without a hint, or with an old one, as many more as
        the logarithm of the number of moves, which takes the right to list.

        :param seen: a move of this channel that was believed before: the newest must lead back to it, unless it is of
            another origin or farther back than is looked. What the hint lists is not read for that where no keys are
            trusted; where they are, the moves in between are, up to 31.
        :raises ReplayError: the newest moves were deleted.
        :raises IntegrityError: the newest move was altered, or does not follow the one before.
        :raises SignatureError: keys are trusted here, and none of them signed the newest move.
        :raises StoragePermissionError: it cannot be read, or there is no hint and no right to list.
        """
        hint = self._hint()
        if hint is None:
            head = self._found()
            later = self._next(head.move) if head.move else None
        else:
            head, later = self._hinted(hint)
        steps, ends = 0, time.monotonic() + _FOLLOWED_SECONDS
        while later is not None:
            head = head.then(self._following(head.move, later, ends))
            steps += 1
            if steps == _STEPS and head.move is not None:
                with suppress(StoragePermissionError):  # who may not list goes on one by one
                    head = self._found(head.move.sequence)
            later = self._next(head.move) if head.move else None
        if head.move is not None:
            self.check_signature(head.move, self._trusted)
            if seen is not None:
                self._leads_back(head, head.move, seen)
        return head

    def after(self, move: Move) -> Move:
        """The newest move from one on that was read before. One request where there is none later.

        Without the right to list a bucket denies what is absent: that counts as absent once the move itself could be
        read again, with a second request.

        :raises IntegrityError: a later move was altered, or does not follow: the channel may have been begun anew.
        :raises SignatureError: as of ``head``.
        :raises StorageError: there is no end of them.
        :raises ReplayError: without the right to list, the move itself is gone.
        """
        newest, later = move, self._next(move)
        ends = time.monotonic() + _FOLLOWED_SECONDS
        while later is not None:
            newest = self._following(newest, later, ends)
            later = self._next(newest)
        if newest != move:
            self.check_signature(newest, self._trusted)
        return newest

    def check_signature(self, move: Move, trusted: Keyring | None) -> None:
        """Insist that one of these keys signed a move; of no keys, nothing is asked.

        :raises SignatureError: none of them did.
        """
        if trusted is not None:
            where = self.where(move.sequence)
            trusted.check(move.signature, move.signed_bytes(), what=f"move {move.sequence}", where=where)

    def _hint(self) -> Hint | None:
        key = hint_key(self._model, self._channel)
        try:
            data = self._storage.read(key, most=MOST_RECORD)
            return Hint.from_json(data, where=self._storage.where(key))
        except (NotFoundError, IntegrityError):  # nobody has to believe it, nor to read it
            return None

    def _hinted(self, hint: Hint) -> tuple[Head, Move | None]:
        """The move of the hint, and the one after it."""

        def read(sequence: int) -> Move | None:
            try:
                return self.read(sequence)
            except StoragePermissionError:
                if sequence == hint.sequence:
                    raise
                return None  # as what is absent is denied, unless the hint's own move is denied as well

        move, later = in_parallel(read, (hint.sequence, min(hint.sequence + 1, LAST_MOVE)))
        if move is None:
            raise self._deleted(hint.sequence)
        if hint.hashes[0] != move.sha256 or (hint.hashes[1:2] or (move.previous,))[0] != move.previous:
            raise IntegrityError(
                f"move {move.sequence} of the channel '{self._channel}' is another one than was made: its hash is not"
                " that of the hint",
                where=self.where(move.sequence),
                hint=f"one of the two was altered: {self.where()}; run 'retrainer fsck'",
            )
        return Head(move, hint.hashes, hinted=True), later

    def _deleted(self, sequence: int) -> ReplayError:
        return ReplayError(
            f"the newest moves of the channel '{self._channel}' were deleted: its hint is of move {sequence}, which is"
            " not there",
            where=self.where(sequence),
            hint=_BACKUP,
        )

    def _found(self, known: int = 0) -> Head:
        """The newest move as listings tell it, a page of a thousand moves each.

        :param known: a move that was read. Those before it serve nobody: one that is missing there stops no reader.
        """
        low = known // _BLOCK
        high = low + 1
        while high * _BLOCK <= LAST_MOVE and self._any(high):
            low, high = high, min(high * 2, LAST_MOVE // _BLOCK + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._any(middle) else (low, middle)
        numbers = [number for number in self._listed(low) if number >= known]
        if not numbers:
            if known:
                raise self._deleted(known)
            self._refuse_version_1()
            return Head(None)
        first = max(low * _BLOCK, known, 1)
        if numbers != list(range(first, first + len(numbers))):
            missing = next(number for number in range(first, LAST_MOVE) if number not in numbers)
            raise self._damaged(missing, _MISSING)  # nobody searches across a gap
        move = self.read(numbers[-1])
        if move is None:
            raise self._deleted(numbers[-1])
        return Head(move, tuple(each for each in (move.sha256, move.previous) if each))

    def _any(self, block: int) -> bool:
        return next(self._storage.list(self._prefix(block)), None) is not None

    def _listed(self, block: int) -> list[int]:
        found = islice(self._storage.list(self._prefix(block)), 2 * _BLOCK)  # some may be no moves
        names = (info.key.rpartition("/")[2].removesuffix(".json") for info in found)
        return [int(name) for name in names if len(name) == 10 and name.isdigit() and int(name)]

    def _prefix(self, block: int) -> str:
        return f"{channel_folder(self._model, self._channel)}{block:07d}"

    def _refuse_version_1(self) -> None:
        key = pointer_key_of_version_1(self._model, self._channel)
        with suppress(NotFoundError):
            self._storage.read(key, most=MOST_RECORD)
            raise _of_version_1(self._storage, key)

    def _next(self, move: Move) -> Move | None:
        """The move after one that was read."""
        if move.sequence == LAST_MOVE:
            return None
        try:
            return self.read(move.sequence + 1)
        except StoragePermissionError:
            if self.read(move.sequence) is None:
                raise self._deleted(move.sequence) from None
            return None

    def _following(self, before: Move | None, move: Move, ends: float) -> Move:
        if before is None or not move.follows(before):
            raise self._damaged(move.sequence, _BREAKS)
        if time.monotonic() > ends:
            raise StorageError(
                f"the moves of the channel '{self._channel}' have no end: one more was there each time that was read",
                where=self.where(move.sequence),
                hint="whoever serves the store makes them up, or the hint is far behind: run 'retrainer fsck'",
            )
        return move

    def _leads_back(self, head: Head, newest: Move, seen: Move) -> None:
        """Insist that the newest move continues one that was seen. Another origin is for whoever remembers to judge."""
        distance = newest.sequence - seen.sequence
        if distance <= 0 or distance > RECENT_MOVES or newest.begun_by != seen.begun_by:
            return
        # The newest move vouches for its own hash and the one before. The others nobody signed.
        believed = head.hashes if self._trusted is None else head.hashes[:2]
        if distance < len(believed):
            if believed[distance] != seen.sha256:
                raise self._forked(seen)
            return
        moves = list(self.walk(newest, down_to=seen.sequence + 1))
        if not moves[-1].follows(seen):
            raise self._forked(seen)

    def _forked(self, seen: Move) -> ReplayError:
        return ReplayError(
            f"move {seen.sequence} of the channel '{self._channel}' is another one than was seen before: an older state"
            " was put back, and moved from there",
            where=self.where(seen.sequence),
            hint=_BACKUP,
        )

    # Single moves, and those before

    def read(self, sequence: int) -> Move | None:
        """That move, as it is stored; ``None`` where there is none.

        :raises IntegrityError: what is there is not that move of this channel, in the bytes of a publisher.
        """
        try:
            data = self._storage.read(self._key(sequence), most=MOST_RECORD)
        except NotFoundError:
            return None
        return self.parsed(sequence, data)

    def parsed(self, sequence: int, data: bytes) -> Move:
        """The move of that number from its bytes. Errors as of ``read``."""
        where = self.where(sequence)
        if _OF_VERSION_2 in data[:_OPENING]:
            raise _of_earlier(where)
        move = Move.from_json(data, where=where)
        problem = None
        if (move.model, move.channel, move.sequence) != (self._model, self._channel, sequence):
            problem = f"is move {move.sequence} of the channel '{move.channel}' of '{move.model}'"
        elif move.written() != data:
            problem = "was altered: it says the same in other bytes than were written"
        if problem is not None:
            raise IntegrityError(problem, where=where, hint=_BACKUP)
        return move

    def walk(self, newest: Move, *, down_to: int = 1) -> Iterator[Move]:
        """The moves of a channel from that one on, newest first, each checked before it is given out.

        Several are read at a time, few at first: whoever needs two does not wait for a hundred.

        :raises IntegrityError: a move is missing, was altered, or does not lead to the one after it.
        """
        yield newest
        later, size = newest, 2
        while later.sequence > down_to:
            least = max(later.sequence - size, down_to)
            for found in in_parallel(self._tried, range(later.sequence - 1, least - 1, -1)):
                if isinstance(found, IntegrityError):
                    raise found
                if later.previous != found.sha256:
                    raise self._damaged(found.sequence, "was altered: its hash is not the one that the next move names")
                if not later.follows(found):
                    raise self._damaged(later.sequence, _BREAKS)
                yield found
                later = found
            size = min(size * 2, _MOST_AT_ONCE)

    def _tried(self, sequence: int) -> Move | IntegrityError:
        """A move or what is wrong with it, which is raised only when its turn comes."""
        try:
            return self.read(sequence) or self._damaged(sequence, _MISSING)
        except IntegrityError as error:
            return error

    def _damaged(self, sequence: int, what: str) -> IntegrityError:
        text = f"move {sequence} of the channel '{self._channel}' {what}"
        return IntegrityError(text, where=self.where(sequence), hint=_BACKUP)

    # Writing

    def create(self, move: Move) -> bool:
        """Make a move: atomic, once, and only while its number is free.

        :return: whether this is the move of that number. Where the answer was lost, the content tells.
        """
        try:
            self._storage.write(self._key(move.sequence), move.written(), if_absent=True)
        except PreconditionFailed:
            return self.read(move.sequence) == move
        return True

    def write_hint(self, hashes: Sequence[str], sequence: int) -> None:
        """Tell where the newest move is. An older hint that comes late does no harm: readers look further."""
        hint = Hint(sequence=sequence, hashes=tuple(hashes))
        self._storage.write(hint_key(self._model, self._channel), hint.to_pretty_json().encode())


def refuse_version_1(storage: Storage, model: str) -> None:
    """Insist that no channel of a model is in the layout of an earlier retrainer, whose channels are no folders: to
    whoever lists channels such a model looks as if nothing of it were live.

    :raises IntegrityError: one is.
    """
    start = channel_folder(model)
    for info in storage.list(start):
        channel = info.key.removeprefix(start).removesuffix(".json")
        if is_name(channel) and info.key == pointer_key_of_version_1(model, channel):
            raise _of_version_1(storage, info.key)


def _of_version_1(storage: Storage, key: str) -> IntegrityError:
    return _of_earlier(storage.where(key))


def _of_earlier(where: str) -> IntegrityError:
    return IntegrityError(
        "this channel was written by an earlier version of retrainer, which this one does not read",
        where=where,
        hint="publish the model to another store, or with the version that wrote it",
    )
