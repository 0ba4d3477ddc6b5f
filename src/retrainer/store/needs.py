"""Which versions of a model are needed, and by what. It fails closed: where a channel cannot be trusted, it says so.

Not here: deleting (``gc.py``), and naming everything that is wrong (``fsck``).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from retrainer.errors import IntegrityError, NotFoundError, ReplayError
from retrainer.storage import ObjectInfo, Storage
from retrainer.store.channels import Pointer, list_channels, read_pointer
from retrainer.store.history import HistoryEntry, walk_named
from retrainer.store.journal import Journal
from retrainer.store.names import entry_key, is_name, pointer_key
from retrainer.store.parallel import in_parallel

_FSCK = "nothing is deleted while that is so; run 'retrainer fsck'"


@dataclass(frozen=True, slots=True)
class Needs:
    """What is needed.

    :ivar reasons: version -> why, for people.
    :ivar entries: names of all entries of the history that were there.
    """

    reasons: dict[str, tuple[str, ...]]
    entries: frozenset[str]


def read_needs(storage: Storage, model: str, *, keep: int, young_since: datetime) -> Needs:
    """What the channels of a model need: where they point, their last moves, and moves that are just being made.

    :param keep: moves of each channel whose versions, from and to, are needed.
    :param young_since: an entry of the history written since then needs its versions, whether a channel has it or not.
    :raises IntegrityError: a pointer or a history is missing, was altered, or was put back.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    history = _history(storage, model)  # first: what is written from here on is new to whoever looks again
    entries: dict[str, HistoryEntry] = {}
    channels: set[str] = set()
    for pointer in _pointers(storage, model):
        channels.add(pointer.channel)
        reasons[pointer.version].append(f"{pointer.channel} points at it")
        for number, (name, entry) in enumerate(walk_named(storage, pointer)):
            entries[name] = entry
            if number < keep:
                for version in _named(entry):
                    reasons[version].append(f"among the last {keep} moves of {pointer.channel}")
    lost = _read(storage, model, history.keys() - entries.keys())
    _check_lost(storage, model, lost, entries, channels)
    entries |= lost
    for name, info in history.items():
        if info.modified > young_since:
            for version in _named(entries[name]):
                reasons[version].append("named by a move of the last day")
    unique = {version: tuple(dict.fromkeys(several)) for version, several in reasons.items()}
    return Needs(unique, frozenset(history))


def needed_since(storage: Storage, model: str, known: Collection[str]) -> set[str]:
    """What became needed: versions that a pointer names, or an entry of the history that was not known.

    :param known: names of entries.
    :raises IntegrityError: a pointer or a new entry cannot be trusted.
    """
    new = _read(storage, model, _history(storage, model).keys() - set(known))
    return {
        *(version for entry in new.values() for version in _named(entry)),
        *(pointer.version for pointer in _pointers(storage, model)),
    }


def _history(storage: Storage, model: str) -> dict[str, ObjectInfo]:
    start = f"{model}/history/"
    found = {info.key.removeprefix(start): info for info in storage.list(start)}
    return {name.removesuffix(".json"): info for name, info in found.items() if name.endswith(".json")}


def _pointers(storage: Storage, model: str) -> Iterator[Pointer]:
    """The pointers of a model, each held against its journal."""
    folders = storage.list_folders(f"{model}/journal")
    for channel in sorted({*list_channels(storage, model), *(name for name in folders if is_name(name))}):
        # A move is written down after its swap: the journal as it is now cannot be ahead of a pointer read later.
        newest = max(Journal(storage, model, channel).sequences(), default=0)
        pointer = read_pointer(storage, model, channel).pointer
        where = storage.where(pointer_key(model, channel))
        if pointer is None and newest:
            raise IntegrityError(f"the pointer of the channel '{channel}' was deleted", where=where, hint=_FSCK)
        if pointer is not None and pointer.sequence < newest:
            raise ReplayError("an older pointer was put back", where=where, hint=_FSCK)
        if pointer is not None:
            yield pointer


def _read(storage: Storage, model: str, names: Collection[str]) -> dict[str, HistoryEntry]:
    """Entries, each checked against its name."""
    chosen = sorted(names)
    return dict(zip(chosen, in_parallel(lambda name: _entry(storage, model, name), chosen), strict=True))


def _entry(storage: Storage, model: str, name: str) -> HistoryEntry:
    key = entry_key(model, name)
    where = storage.where(key)
    try:
        data = storage.read(key)
    except NotFoundError:
        raise IntegrityError("an entry of the history was deleted", where=where, hint=_FSCK) from None
    if hashlib.sha256(data).hexdigest() != name:
        raise IntegrityError("an entry of the history was altered", where=where, hint=_FSCK)
    return HistoryEntry.from_json(data, where=where)


def _check_lost(
    storage: Storage, model: str, lost: dict[str, HistoryEntry], reached: Collection[str], channels: Collection[str]
) -> None:
    """Insist that entries that no channel has are those of moves that never took place.

    :raises IntegrityError: others followed them, so that a channel once pointed there.
    """
    for entry in lost.values():
        where = storage.where(pointer_key(model, entry.channel))
        if entry.channel not in channels and entry.sequence > 1:
            text = f"the channel '{entry.channel}' has a history and no pointer"
            raise IntegrityError(text, where=where, hint=_FSCK)
        before = entry.previous
        if before not in lost:
            continue
        while before in lost:
            before = lost[before].previous
        if before in reached:
            text = f"the history of '{entry.channel}' goes on after its pointer: an older pointer was put back"
            raise ReplayError(text, where=where, hint=_FSCK)


def _named(entry: HistoryEntry) -> tuple[str, ...]:
    return (entry.to_version,) if entry.from_version is None else (entry.to_version, entry.from_version)
