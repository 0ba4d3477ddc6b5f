"""The history of a channel: a chain of entries, each named by the hash of its bytes and naming the one before.

The pointer names the newest entry, so nobody can edit, drop or reorder one without breaking the chain. An entry
that no chain reaches was written by a publisher that was killed, or lost a race, before the pointer moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal

from pydantic import Field

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.channels import Moment, Pointer
from retrainer.store.names import Sha256, Version, entry_key, pointer_key

Action = Literal["publish", "rollback", "promote"]
# Why a channel moved, in a word that can be counted. The text beside it says it in full.
Cause = Literal[
    "gate",  # the statistics promoted it
    "approval",  # a person approved what the gate promoted
    "release",  # it goes on to the next channel
    "regression",  # the one before answers better
    "incident",  # a service broke
    "maintenance",  # a drill, a move of stores, keys rotated
    "other",
    "unspecified",
]


class HistoryEntry(Record):
    """``history/<sha256 of its canonical JSON>.json``: one move of one channel's pointer.

    :ivar previous: SHA-256 of the entry before; ``None`` for the first.
    :ivar sequence: 1 for the first.
    :ivar from_version: the champion that was replaced.
    :ivar to_version: the champion since.
    :ivar actor: who moved it.
    :ivar cause: why, in one word of a list.
    :ivar reason: why, in words.
    :ivar decision: digest of the decide artifact, for what the gate promoted.
    :ivar at: ISO 8601 in UTC.
    """

    format_version: Literal[1] = 1
    previous: Sha256 | None
    sequence: int = Field(ge=1)
    model: str
    channel: str
    action: Action
    from_version: Version | None
    to_version: Version
    actor: str
    cause: Cause = "unspecified"
    reason: str
    decision: str | None
    at: Moment


def write_entry(storage: Storage, entry: HistoryEntry) -> str:
    """Add an entry; it counts from the moment that a pointer names it.

    :return: its name, the SHA-256 of its bytes.
    """
    data = entry.to_json()
    name = hashlib.sha256(data).hexdigest()
    with suppress(PreconditionFailed):  # the name is the content, so what is there is the same
        storage.write(entry_key(entry.model, name), data, if_absent=True)
    return name


def walk(storage: Storage, pointer: Pointer) -> Iterator[HistoryEntry]:
    """The entries of a channel, newest first, each checked before it is given out.

    :raises IntegrityError: an entry is missing, was edited, or does not belong where it stands.
    """
    return (entry for _, entry in walk_named(storage, pointer))


def walk_named(
    storage: Storage, pointer: Pointer, *, known: Pointer | None = None
) -> Iterator[tuple[str, HistoryEntry]]:
    """As ``walk``, each entry with its name.

    :param known: a pointer of the channel that was checked before. The walk ends where its newest entry would come,
        which is not read again: names are hashes, so that one that was checked stands for all before it.
    """
    name: str | None = pointer.history
    sequence = pointer.sequence
    to_version: str | None = pointer.version
    while name is not None:
        if known is not None and name == known.history:
            if (known.sequence, known.version) != (sequence, to_version):
                raise _breaks(storage, pointer, sequence, name)
            if name == pointer.history and known.moved_at != pointer.moved_at:
                raise _other_time(storage, pointer, known.moved_at)
            return
        entry = _read(storage, pointer.model, name)
        belongs = (entry.model, entry.channel) == (pointer.model, pointer.channel)
        continues = (entry.sequence, entry.to_version) == (sequence, to_version)
        is_first = {sequence == 1, entry.previous is None, entry.from_version is None}
        begins = entry.previous is not None or pointer.origin in {None, name}
        if not belongs or not continues or len(is_first) != 1 or not begins:
            raise _breaks(storage, pointer, sequence, name)
        if name == pointer.history and entry.at != pointer.moved_at:
            raise _other_time(storage, pointer, entry.at)
        yield name, entry
        name, sequence, to_version = entry.previous, sequence - 1, entry.from_version


def _breaks(storage: Storage, pointer: Pointer, sequence: int, name: str) -> IntegrityError:
    return IntegrityError(
        f"entry {sequence} of the history of '{pointer.channel}' does not continue the one after it",
        where=storage.where(entry_key(pointer.model, name)),
        hint="the store was altered; restore the history or the pointer from a backup",
    )


def _other_time(storage: Storage, pointer: Pointer, at: str) -> IntegrityError:
    return IntegrityError(
        f"the pointer was altered: it says that it was moved at {pointer.moved_at}, and its history at {at}",
        where=storage.where(pointer_key(pointer.model, pointer.channel)),
        hint="find out by whom; 'retrainer fsck --repair' restores it from the journal",
    )


def _read(storage: Storage, model: str, name: str) -> HistoryEntry:
    key = entry_key(model, name)
    try:
        data = storage.read(key)
    except NotFoundError:
        raise IntegrityError(
            "an entry of the history is missing",
            where=storage.where(key),
            hint="restore it from a backup: the name is the SHA-256 of its bytes; until then publishing works, and "
            "'rollback --to', but readers that start anew refuse the channel (docs/store.md)",
        ) from None
    if hashlib.sha256(data).hexdigest() != name:
        raise IntegrityError(
            "an entry of the history was altered: its content does not match its name",
            where=storage.where(key),
            hint="restore it from a backup",
        )
    return HistoryEntry.from_json(data, where=storage.where(key))


def line_of_champions(entries: Sequence[HistoryEntry]) -> list[str]:
    """The versions that rollbacks go back through: oldest first, the present champion last.

    A publish or promotion adds a version. A rollback takes away what was added since its target, so that the
    next one goes further back, and never returns to what was rolled back from. One to a version that is not among
    them goes forward, or aside: it adds it, so that the next one goes back to what was served just before.

    :param entries: newest first, as ``walk`` gives them.
    """
    line = _line(entries)
    assert line is not None  # the oldest entry is among them
    return line


def champion_before(entries: Iterator[HistoryEntry]) -> str | None:
    """The last but one of the line of champions; ``None`` where there is but one.

    :param entries: newest first. Only as many are read as it takes, however long the history is.
    """
    newest: list[HistoryEntry] = []
    enough = 2
    for entry in entries:
        newest.append(entry)
        if len(newest) >= enough:
            line = _line(newest)
            if line is not None and len(line) > 1:
                return line[-2]
            enough *= 2
    line = line_of_champions(newest)
    return line[-2] if len(line) > 1 else None


def _line(entries: Sequence[HistoryEntry]) -> list[str] | None:
    """The upper end of the line of champions, as far as these entries tell; ``None`` where they do not.

    :param entries: newest first; where the oldest is missing, what lies below its champion is unknown.
    """
    base = entries[-1].from_version if entries else None
    line = [base] if base is not None else []
    for entry in reversed(entries):
        if entry.action != "rollback":
            line.append(entry.to_version)
            continue
        below = line[:-1]
        if entry.to_version in below:
            while below[-1] != entry.to_version:
                below.pop()
            line = below
        elif base is not None:
            return None
        elif line[-1:] != [entry.to_version]:
            line.append(entry.to_version)
    return line
