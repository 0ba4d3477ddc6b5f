"""The ledger of a model: every look at test rows, every decision, and what people said to it. One object each, written
only if absent.

It belongs to the model, not to a channel: rows that were looked at for one channel are worn for all. What the rows were
is kept beside it, one object for each set, named by its hash. Each move of a channel names the newest entry of its
time, so that the end of the ledger cannot be cut off unseen. Not here: what follows from it (``chain/accounts.py``).
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, UserError
from retrainer.storage import Storage
from retrainer.store.conditional import require_conditional_writes
from retrainer.store.entry import Entry, Event
from retrainer.store.names import MOST_RECORD, check_words, entry_key, ledger_folder, rows_key
from retrainer.store.parallel import in_parallel

# Eight bytes a row.
_MOST_ROWS = 16_000_000
_ENTRY = re.compile(r"(?!0{10})([0-9]{10})\.json")
_BACKUP = "find out by whom, and restore it from a backup of the bucket (docs/store.md: what to do when)"


class Ledger:
    """The ledger of one model."""

    def __init__(self, storage: Storage, model: str) -> None:
        self._storage = storage
        self._model = model

    def where(self, sequence: int | None = None) -> str:
        """An entry for people; the whole ledger without a number."""
        return self._storage.where(ledger_folder(self._model) if sequence is None else self._key(sequence))

    def _key(self, sequence: int) -> str:
        return entry_key(self._model, sequence)

    def entries(self) -> list[Entry]:
        """All entries, oldest first, each checked against the one before it.

        :raises IntegrityError: one is missing, was altered, or does not continue the one before it.
        """
        numbers = self.numbers()
        entries: list[Entry] = []
        for sequence, entry in enumerate(in_parallel(self.read, numbers), start=1):
            if entry.sequence != sequence:
                raise IntegrityError(
                    f"entry {sequence} of the ledger is missing, and later ones are there",
                    where=self.where(sequence),
                    hint=_BACKUP,
                )
            if not entry.follows(entries[-1] if entries else None):
                raise IntegrityError(
                    f"entry {sequence} of the ledger does not continue the one before it: one of the two was altered",
                    where=self.where(sequence),
                    hint=_BACKUP,
                )
            entries.append(entry)
        return entries

    def numbers(self) -> list[int]:
        """The numbers of the entries that are there, sorted."""
        folder = ledger_folder(self._model)
        found = (_ENTRY.fullmatch(info.key.removeprefix(folder)) for info in self._storage.list(folder))
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> str | None:
        """The hash of the newest entry, for a move that names it; ``None`` for an empty ledger.

        :raises IntegrityError: it was altered.
        """
        numbers = self.numbers()
        return self.read(numbers[-1]).sha256 if numbers else None

    def read(self, sequence: int) -> Entry:
        """One entry, as it is stored.

        :raises NotFoundError: there is none.
        :raises IntegrityError: what is there is not that entry of this model, in the bytes that were written.
        """
        return self.parsed(sequence, self._storage.read(self._key(sequence), most=MOST_RECORD))

    def parsed(self, sequence: int, data: bytes) -> Entry:
        """The entry of that number from its bytes. Errors as of ``read``."""
        where = self.where(sequence)
        entry = Entry.from_json(data, where=where)
        if (entry.model, entry.sequence) != (self._model, sequence):
            problem = f"is entry {entry.sequence} of the ledger of '{entry.model}': a copy of it was put here"
        elif entry.written() != data:
            problem = "was altered: it says the same in other bytes than were written"
        else:
            return entry
        raise IntegrityError(problem, where=where, hint=_BACKUP)

    def append(self, before: Sequence[Entry], event: Event, *, actor: str, run: str) -> Entry | None:
        """Write the next entry.

        :param before: all entries, as they were read: what the event says may follow from them.
        :return: the entry; ``None`` where somebody else wrote one meanwhile, and it has to be thought over again.
        :raises UserError: who runs it cannot be written, or the entry is too large to be read again.
        :raises StorageError: the storage cannot be written, or ignores conditional writes.
        """
        check_words(actor=actor, run=run)
        if not before:
            require_conditional_writes(self._storage, self._model)
        entry = Entry(
            model=self._model,
            sequence=len(before) + 1,
            previous=before[-1].sha256 if before else None,
            actor=actor,
            run=run,
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            event=event,
        )
        if len(entry.written()) > MOST_RECORD:
            raise UserError(
                f"the entry has more than the {MOST_RECORD:,} bytes of one", where=self.where(entry.sequence)
            )
        try:
            self._storage.write(self._key(entry.sequence), entry.written(), if_absent=True)
        except PreconditionFailed:
            return entry if self.read(entry.sequence) == entry else None  # its own answer may have been lost
        return entry

    # Sets of rows

    def put_rows(self, rows: RowSet) -> None:
        """Keep a set of rows. Again, it changes nothing."""
        with suppress(PreconditionFailed):
            self._storage.write(rows_key(self._model, rows.sha256), rows.data, if_absent=True)

    def rows(self, sha256: str) -> RowSet:
        """A set of rows that entries name.

        :raises IntegrityError: it is missing, or was altered.
        """
        key = rows_key(self._model, sha256)
        try:
            found = RowSet(self._storage.read(key, most=8 * _MOST_ROWS))
        except NotFoundError:
            raise IntegrityError(
                "a set of test rows that the ledger names is missing", where=self._storage.where(key), hint=_BACKUP
            ) from None
        if found.sha256 != sha256:
            raise IntegrityError(
                "a set of test rows was altered: its hash is not its name", where=self._storage.where(key), hint=_BACKUP
            )
        return found


class RowSet:
    """Test rows, by the numbers that their ids are in hexadecimal digits.

    :param data: these numbers, sorted, in eight bytes each, the most significant first.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()

    def __len__(self) -> int:
        return len(self.data) // 8

    def numbers(self) -> array[int]:
        """Each row as its number, in order."""
        numbers = array("Q")
        numbers.frombytes(self.data[: 8 * len(self)])
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers
