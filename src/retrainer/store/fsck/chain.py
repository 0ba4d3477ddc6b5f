"""The history of a model as it is stored, and how far a chain of it holds. It names breaks, and repairs none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from retrainer.errors import IntegrityError, NotFoundError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.fsck.listing import Content, read_object, read_objects
from retrainer.store.history import HistoryEntry
from retrainer.store.names import entry_key

Fault = Literal["missing", "altered", "does not continue"]


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain ends too early.

    :ivar name: of the entry that is at fault.
    :ivar sequence: that it has to have.
    """

    name: str
    sequence: int
    fault: Fault
    message: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The moves of a channel behind a pointer.

    :ivar entries: name and entry, newest first, as far as they hold.
    :ivar end: why there are no more; ``None`` when the last is the channel's first move.
    """

    entries: tuple[tuple[str, HistoryEntry], ...]
    end: Break | None

    @property
    def origin(self) -> str | None:
        """The name of the channel's first move; ``None`` where the chain does not reach it."""
        return self.entries[-1][0] if self.entries and self.end is None else None

    def by_sequence(self) -> dict[int, tuple[str, HistoryEntry]]:
        """Its moves by their number."""
        return {entry.sequence: (name, entry) for name, entry in self.entries}


class History:
    """Every entry of a model's history.

    :ivar entries: name -> the entry, for those whose content is what their name says.
    :ivar altered: name -> what is wrong, for the others that are there.
    """

    def __init__(self, storage: Storage, model: str, names: Iterable[str]) -> None:
        self._storage = storage
        self._model = model
        self.entries: dict[str, HistoryEntry] = {}
        self.altered: dict[str, str] = {}
        self._missing: set[str] = set()
        keys = {entry_key(model, name): name for name in names}
        for key, content in read_objects(storage, keys).items():
            self._take(keys[key], content)

    def _take(self, name: str, content: Content) -> None:
        match content:
            case NotFoundError():
                self._missing.add(name)
            case IntegrityError():
                self.altered[name] = content.message
            case bytes() if hashlib.sha256(content).hexdigest() != name:
                self.altered[name] = "was altered: its content does not match its name"
            case bytes():
                try:
                    self.entries[name] = HistoryEntry.from_json(content, where=name)
                except IntegrityError as error:
                    self.altered[name] = error.message

    def get(self, name: str) -> HistoryEntry | None:
        """An entry that is sound; one that was written since the listing is read now."""
        if name not in self.entries and name not in self.altered and name not in self._missing:
            try:
                self._take(name, read_object(self._storage, entry_key(self._model, name)))
            except (NotFoundError, IntegrityError) as error:
                self._take(name, error)
        return self.entries.get(name)

    def chain(self, pointer: Pointer) -> Chain:
        """The moves behind a pointer, as far as they hold."""
        found: list[tuple[str, HistoryEntry]] = []
        name: str | None = pointer.history
        sequence, version = pointer.sequence, pointer.version
        while name is not None:
            entry = self.get(name)
            if entry is None:
                altered = self.altered.get(name)
                fault: Fault = "missing" if altered is None else "altered"
                return Chain(tuple(found), Break(name, sequence, fault, altered or "is missing"))
            first = {sequence == 1, entry.previous is None, entry.from_version is None}
            belongs = (entry.model, entry.channel) == (pointer.model, pointer.channel)
            if not belongs or (entry.sequence, entry.to_version) != (sequence, version) or len(first) != 1:
                text = f"is no move {sequence} of the channel '{pointer.channel}' to {version}"
                return Chain(tuple(found), Break(name, sequence, "does not continue", text))
            found.append((name, entry))
            name, sequence, version = entry.previous, sequence - 1, entry.from_version or ""
        return Chain(tuple(found), None)


def times_that_go_back(chain: Chain) -> list[tuple[str, HistoryEntry, HistoryEntry]]:
    """Moves that say that they were made before the move that they follow: name, move, the one before."""
    found = []
    for (name, entry), (_, before) in zip(chain.entries, chain.entries[1:], strict=False):
        if _time(entry.at) < _time(before.at):
            found.append((name, entry, before))
    return found


def _time(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return float("inf")
