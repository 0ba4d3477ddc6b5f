"""One model of a store as it is read: versions, channels, history. Every byte is checked before it is given out.

With trusted keys a pointer and a version need the signature of one of them. Nothing is written here (``store.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from retrainer.storage import Storage
from retrainer.store.channel_check import check_channel, manifest_of
from retrainer.store.channels import Pointer, list_channels
from retrainer.store.history import HistoryEntry, walk
from retrainer.store.listing import VersionInfo, all_versions, newest_versions
from retrainer.store.manifest import Manifest
from retrainer.store.moves import Moves
from retrainer.store.names import is_name
from retrainer.store.parallel import in_parallel
from retrainer.store.recent_moves import check_recent_moves
from retrainer.store.signing import Keyring, Signer, VersionSignature
from retrainer.store.versions import Versions


class ModelReader:
    """One model of a store: its versions, its channels and their history."""

    def __init__(
        self, storage: Storage, name: str, *, signer: Signer | None = None, trusted: Keyring | None = None
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._trusted = trusted
        self._versions = Versions(storage, name, signer=signer, trusted=trusted)
        self._moves = Moves(storage, name, signer=signer, trusted=trusted)
        self.name = name

    def channels(self) -> list[str]:
        """The channels that have a champion, sorted."""
        return list_channels(self._storage, self.name)

    def lost_channels(self) -> list[str]:
        """The channels whose pointer was deleted: they have a journal and no champion. Sorted."""
        present = set(self.channels())
        names = [name for name in self._storage.list_folders(f"{self.name}/journal") if is_name(name)]
        return sorted(name for name in names if name not in present and not self._moves.journal(name).is_empty())

    def pointer(self, channel: str) -> Pointer | None:
        """Where a channel points, in one request; ``None`` while it has no champion.

        :raises IntegrityError: the pointer cannot be read.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        return self._moves.seen(channel).pointer

    def newest_pointer(self, channel: str) -> Pointer | None:
        """As ``pointer``, once the journal was asked whether it is the newest; ``None`` while there was no move.

        :raises ReplayError: an older pointer was put back.
        :raises IntegrityError: the pointer was deleted or altered.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        return self._moves.newest(channel)

    def champion(self, channel: str) -> Manifest | None:
        """The manifest of the version that a channel points at, checked; ``None`` while there is none.

        :raises IntegrityError: the pointer, or the manifest that it names, is missing or was altered.
        :raises SignatureError: keys are trusted here, and none of them signed the pointer, or the version.
        """
        pointer = self.pointer(channel)
        return manifest_of(self._versions, pointer) if pointer else None

    def newest_champion(self, channel: str) -> Manifest | None:
        """As ``champion``, of ``newest_pointer``. Errors as of both."""
        pointer = self.newest_pointer(channel)
        return manifest_of(self._versions, pointer) if pointer else None

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version, checked against the name of the version.

        :raises NotFoundError: there is no such version.
        :raises IntegrityError: it was altered.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        return self._versions.manifest(version)

    def signatures(self, version: str) -> tuple[VersionSignature, ...]:
        """Who vouches for a version: with trusted keys those of theirs, checked; else all there are, unchecked.

        :raises NotFoundError: there is no such version.
        :raises IntegrityError: a signature cannot be read.
        :raises SignatureError: one of a trusted key does not hold.
        """
        return self._versions.signatures(version)

    def versions(self, *, limit: int | None = None) -> list[VersionInfo]:
        """The complete versions, newest first: by the last move of a channel to them, or else their upload.

        :param limit: at most so many, of those that a channel was ever pointed at. Only the newest part of the
            histories is read then, and no list of all versions.
        :raises IntegrityError: a pointer or a history cannot be trusted.
        """
        found = in_parallel(self.pointer, self.channels())
        pointers = [pointer for pointer in found if pointer is not None]
        if limit is None:
            return all_versions(self._storage, self._versions, pointers)
        return newest_versions(self._storage, self._versions, pointers, limit)

    def history(self, channel: str, *, limit: int | None = None) -> list[HistoryEntry]:
        """The moves of a channel, newest first, each checked against the one after it.

        :param limit: only the newest; older ones are not read.
        :raises IntegrityError: an entry is missing, was edited, or does not belong where it stands; or the pointer
            was deleted.
        :raises ReplayError: an older pointer was put back.
        """
        pointer = self.newest_pointer(channel)
        return list(islice(walk(self._storage, pointer), limit)) if pointer else []

    def champion_at(self, channel: str, time: datetime) -> str | None:
        """The version that a channel pointed at at that time; ``None`` before its first publication.

        :param time: with a time zone.
        :raises ValueError: it has none.
        :raises IntegrityError: the pointer was deleted, or does not lead to a whole history.
        :raises ReplayError: an older pointer was put back.
        """
        if time.tzinfo is None:
            raise ValueError("the time needs a time zone")
        pointer = self.newest_pointer(channel)
        entries = walk(self._storage, pointer) if pointer else iter(())
        return next((entry.to_version for entry in entries if datetime.fromisoformat(entry.at) <= time), None)

    def journal(self, channel: str) -> Iterator[tuple[int, Pointer]]:
        """The number of each move of a channel and its pointer after it, newest first, as they were written down.

        Each is checked for itself only: ``verify_channel`` holds them against the history.

        :raises IntegrityError: one cannot be read.
        """
        return self._moves.journal(channel).newest_first()

    def verify_channel(self, channel: str) -> Pointer | None:
        """Check a channel to its first move: pointer, champion's manifest, history, and the journal against both.

        :return: the pointer; ``None`` for a channel that never had one.
        :raises ReplayError: an older pointer was put back.
        :raises IntegrityError: the first thing that was deleted or altered.
        """
        return check_channel(self._storage, self._moves, self._versions, channel)

    def check_recent(self, pointer: Pointer, *, known: Pointer | None) -> None:
        """What a reader checks before it believes a pointer that is new to it: the moves that led there.

        See ``recent_moves.check_recent_moves``.

        :param known: a pointer of the channel that was checked before.
        :raises IntegrityError: an entry of the history is missing or was altered.
        :raises ReplayError: the journal has a later move. Read the pointer again: it may have moved just now.
        """
        check_recent_moves(self._storage, pointer, known=known)

    def fetch(self, version: str, folder: Path, files: Iterable[str] | None = None) -> Manifest:
        """Copy files of a version into a folder, each checked. What is there already and matches is kept.

        :param files: names within the version; all of them when ``None``.
        :raises NotFoundError: there is no such version, or it has no such file.
        :raises IntegrityError: a file is missing from the store or was altered; nothing of it is left in the folder.
        :raises SignatureError: keys are trusted here, and none of them signed the version.
        """
        return self._versions.fetch(version, folder, files)
