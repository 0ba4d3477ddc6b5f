"""The journal of a channel: its pointer as it was after each move, one object a move, written after the swap.

The pointer itself is the only object that is replaced, so that whoever put an older one back, or deleted it, would
leave no trace. The journal is the trace: an entry of a later move proves that the pointer went further. Its newest
entry is what a lost pointer is restored from.

Before a move, the entry of the pointer that it replaces is completed, so that only the newest can be missing:
where its publisher was killed between swap and journal, or the channel is older than the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.names import journal_key

_TRIES = 3
_UNREADABLE = (
    "run 'retrainer fsck'; --repair writes the entry of the present move anew. One that is still refused then is of a "
    "move that the channel never made: look at it, and delete it"
)
_FORKED = (
    "run 'retrainer fsck'. Where it names a fork somebody has to decide: to keep the pointer, delete this entry of the "
    "journal, which the next move writes anew; to keep the entry, copy it over the pointer (docs/store.md)"
)


class Journal:
    """The journal of one channel."""

    def __init__(self, storage: Storage, model: str, channel: str) -> None:
        self._storage = storage
        self._model = model
        self._channel = channel

    def is_empty(self) -> bool:
        """Whether no move was ever written down, in one request."""
        return next(iter(self._storage.list(self._start)), None) is None

    def read(self, sequence: int) -> Pointer | None:
        """The pointer as it was after a move; ``None`` where that was not written down.

        :raises IntegrityError: what lies there is no pointer of this channel after that move.
        """
        try:
            data = self._storage.read(self.key(sequence))
        except NotFoundError:
            return None
        return self._parsed(data, sequence)

    def _parsed(self, data: bytes, sequence: int) -> Pointer:
        where = self._storage.where(self.key(sequence))
        try:
            pointer = Pointer.from_json(data, where=where)
        except IntegrityError as error:
            raise IntegrityError(error.message, where=error.where, hint=_UNREADABLE) from None
        if (pointer.model, pointer.channel, pointer.sequence) != (self._model, self._channel, sequence):
            raise IntegrityError(
                f"is the pointer of channel '{pointer.channel}' of '{pointer.model}' after move {pointer.sequence}",
                where=where,
                hint=_UNREADABLE,
            )
        return pointer

    def add(self, pointer: Pointer) -> None:
        """Write a move down, once. Signed by another key it is the same move.

        :raises IntegrityError: something else is written there.
        """
        data = pointer.to_pretty_json().encode()
        try:
            self._storage.write(self.key(pointer.sequence), data, if_absent=True)
        except PreconditionFailed:
            self.agree(pointer, self.read(pointer.sequence))

    def replace(self, pointer: Pointer) -> None:
        """Write a move down over what is there: the same pointer in another signature, or a repair.

        :raises StorageError: somebody else changes it all the time.
        """
        key, data = self.key(pointer.sequence), pointer.to_pretty_json().encode()
        for _ in range(_TRIES):
            try:
                found, etag = self._storage.read_with_etag(key)
            except NotFoundError:
                found, etag = None, None
            if found == data:
                return
            # A write that lost may have lost against itself, when its answer was lost: look again.
            with suppress(PreconditionFailed):
                self._storage.write(key, data, if_match=etag, if_absent=etag is None)
                return
        raise StorageError("somebody else writes this entry", where=self._storage.where(key), hint="try again")

    def agree(self, pointer: Pointer, written: Pointer | None) -> None:
        """Insist that a pointer is what was written down of its move, signatures aside.

        :raises IntegrityError: it is another.
        """
        if written is None or not same_move(pointer, written):
            raise IntegrityError(
                f"move {pointer.sequence} of the channel '{pointer.channel}' is another in the journal",
                where=self._storage.where(self.key(pointer.sequence)),
                hint=_FORKED,
            )

    def sequences(self) -> list[int]:
        """The moves that are written down, newest first. Lists the whole journal."""
        names = (info.key.removeprefix(self._start).removesuffix(".json") for info in self._storage.list(self._start))
        return sorted((int(name) for name in names if len(name) == 10 and name.isdigit()), reverse=True)

    def newest_first(self) -> Iterator[tuple[int, Pointer]]:
        """The moves that are written down and the pointer after each.

        :raises IntegrityError: one cannot be read.
        """
        for sequence in self.sequences():
            pointer = self.read(sequence)
            if pointer is not None:
                yield sequence, pointer

    def key(self, sequence: int) -> str:
        """Where a move is written down."""
        return journal_key(self._model, self._channel, sequence)

    @property
    def _start(self) -> str:
        return f"{self._model}/journal/{self._channel}/"


def same_move(one: Pointer, other: Pointer) -> bool:
    """Whether two pointers say the same, whoever signed them."""
    return one.model_copy(update={"signature": None}) == other.model_copy(update={"signature": None})
