"""What this host remembers of a channel: the last good version, and how far the channel had moved.

::

    <cache>/<model>/channels/<digest>.json     of one channel of one store

The first is for a start without the store. The second is for refusing an older state of the channel that somebody put
back: its signatures are good, so only a host that saw the newer one can tell. Shared by the processes of the cache.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from retrainer.errors import IntegrityError, ReplayError, ResourceError, SignatureError, StorageError
from retrainer.records import Record, digest_of
from retrainer.serve.file_locks import locked
from retrainer.serve.local_files import write_whole
from retrainer.storage.errors import filesystem_errors
from retrainer.store.move import Move
from retrainer.store.signing import Keyring

log = logging.getLogger(__name__)


class SeenMoves(Record):
    """``channels/<digest>.json``.

    :ivar served: the move to the version that was last loaded from this channel and answered well.
    :ivar newest: the newest move that was ever read, whether or not its version was any good.
    """

    store: str
    served: Move | None
    newest: Move | None = None


def is_later(move: Move, other: Move) -> bool:
    """Whether a move is of the same history as another, and after it."""
    return move.begun_by == other.begun_by and move.sequence > other.sequence


class ChannelMemory:
    """The memory of one channel of one store. Where the cache cannot be written, it lasts as long as the process.

    :param folder: of the model in the cache.
    :param trusted: pinned keys; a move that none of them signed is then not believed to have been seen.
    """

    def __init__(self, folder: Path, store: str, channel: str, trusted: Keyring | None) -> None:
        name = digest_of({"store": store, "channel": channel})[:32]
        self._path = folder / "channels" / f"{name}.json"
        self._lock_path = folder / "locks" / f"channel-{name}"
        self._store = store
        self._channel = channel
        self._trusted = trusted
        self._newest: Move | None = None
        self._lock = threading.Lock()
        self._complained = False

    def last_good(self) -> Move | None:
        """The move to the version that answered last; with pinned keys, only one that they signed."""
        return self._believed(self._read().served)

    def newest(self) -> Move | None:
        """The newest move that was ever admitted, by any process; with pinned keys, only one that they signed.

        Of a channel that was begun anew, what was admitted here.
        """
        with self._lock:
            own, shared = self._newest, self._believed(self._read().newest)
        return shared if own is None or (shared is not None and is_later(shared, own)) else own

    def refuse_older(self, move: Move) -> None:
        """Refuse a move that this host has seen a later one of, without remembering it.

        :raises ReplayError: the channel had moved further before.
        """
        with self._lock:
            for known in (self._newest, self._believed(self._read().newest)):
                if known is not None and move != known:
                    self._continues(known, move)

    def admit(self, move: Move) -> None:
        """Accept a move that was just read from the store, and remember it.

        :raises ReplayError: the channel had moved further before.
        """
        with self._lock:
            if move == self._newest:
                return
            self._update(newest=move)
            self._newest = move

    def served(self, move: Move) -> None:
        """Note that the version answers well."""
        with self._lock:
            self._update(good=move)

    def _update(self, *, newest: Move | None = None, good: Move | None = None) -> None:
        try:
            with locked(self._lock_path):
                seen = self._read()
                changed = self._changed(seen, newest, good)
                if changed != seen:
                    write_whole(self._path, changed.to_json())
        except (ResourceError, StorageError) as error:
            # A cache that was filled beforehand may be read-only. It still serves.
            self._changed(self._read(), newest, good)
            if not self._complained:
                log.warning("cannot note the present version for a start without the store: %s", error)
            self._complained = True

    def _changed(self, seen: SeenMoves, newest: Move | None, good: Move | None) -> SeenMoves:
        if newest is not None:
            for known in (self._newest, self._believed(seen.newest)):
                if known is not None and not self._continues(known, newest):
                    log.warning("the channel '%s' of %s was begun anew; following it", self._channel, self._store)
        return SeenMoves(store=self._store, served=good or seen.served, newest=newest or seen.newest)

    def _continues(self, known: Move, found: Move) -> bool:
        """Whether a move goes on from one that was seen; ``False`` for a channel that was begun anew."""
        if known.begun_by != found.begun_by:
            if self._trusted is not None:
                raise self._replayed("belongs to another history than the one that was seen before")
            return False
        if found.sequence < known.sequence:
            raise self._replayed(f"is at move {found.sequence}, and was at {known.sequence} before")
        if found.sequence == known.sequence and found != known:
            raise self._replayed(f"has another move {found.sequence} than the one that was seen before")
        return True

    def _replayed(self, what: str) -> ReplayError:
        return ReplayError(
            f"the channel '{self._channel}' {what}: an older state of it was put back",
            where=self._store,
            hint=f"run 'retrainer fsck' on the store; if it was restored from a backup on purpose, remove {self._path}",
        )

    def _believed(self, move: Move | None) -> Move | None:
        if move is None or self._trusted is None:
            return move
        try:
            what = f"move {move.sequence}"
            self._trusted.check(move.signature, move.signed_bytes(), what=what, where=str(self._path))
        except SignatureError as error:
            log.warning("what the cache remembers of the channel '%s' is not believed: %s", self._channel, error)
            return None
        return move

    def _read(self) -> SeenMoves:
        empty = SeenMoves(store=self._store, served=None)
        try:
            with filesystem_errors(str(self._path)):
                data = self._path.read_bytes() if self._path.is_file() else None
            return SeenMoves.from_json(data, where=str(self._path)) if data is not None else empty
        except (IntegrityError, ResourceError, StorageError) as error:
            log.warning("what the cache remembers of the channel '%s' cannot be read: %s", self._channel, error)
            return empty
