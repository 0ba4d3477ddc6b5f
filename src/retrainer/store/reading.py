"""One model of a store as it is read: versions, channels, their moves. Every byte is checked before it is given out.

With trusted keys the newest move of a channel and a version need the signature of one of them. Nothing is written here
(``moving.py``, ``store.py``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from retrainer.errors import IntegrityError, NotFoundError
from retrainer.storage import Storage
from retrainer.store.ledger import Ledger
from retrainer.store.log import ChannelLog
from retrainer.store.manifest import Manifest
from retrainer.store.move import Move
from retrainer.store.names import channel_folder, is_name
from retrainer.store.parallel import in_parallel
from retrainer.store.versions import Versions


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One line of a list of versions.

    :ivar channels: those that point at it now.
    :ivar moved_at: when a channel was last pointed at it, ISO 8601 in UTC; ``None`` when none ever was.
    :ivar problem: why its manifest cannot be trusted; ``None`` for a sound one.
    """

    version: str
    channels: tuple[str, ...]
    metrics: dict[str, float]
    moved_at: str | None
    problem: str | None = None


class ModelReader(Versions):
    """One model of a store: its versions, its channels and their moves."""

    def _log(self, channel: str) -> ChannelLog:
        return ChannelLog(self._storage, self.name, channel, trusted=self._trusted)

    @property
    def ledger(self) -> Ledger:
        """What is known of looks at test rows, and of decisions."""
        return Ledger(self._storage, self.name)

    def channels(self) -> list[str]:
        """The channels that were ever published on, sorted; also those whose moves were deleted and left a hint."""
        return list_channels(self._storage, self.name)

    def newest_move(self, channel: str, *, seen: Move | None = None) -> Move | None:
        """The move that says what a channel serves, in three requests; ``None`` while there was none.

        :param seen: a move of this channel that was believed before. Where the newest is of the same origin and within
            32 moves, it must lead back to that one.
        :raises ReplayError: the newest moves were deleted, or an older state was put back and moved from there.
        :raises IntegrityError: the move was altered.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        return self._log(channel).head(seen).move

    def move_after(self, move: Move) -> Move:
        """The newest move of a channel from one on that was believed, each checked against the one before.

        One request where the channel stays. It does not look at what was: a channel that was begun anew is told by
        ``newest_move`` only, until it has more moves.

        :raises IntegrityError: a later move was altered, or does not continue that one.
        :raises SignatureError: keys are trusted here, and none of them signed the newest.
        """
        return self._log(move.channel).after(move)

    def champion(self, channel: str) -> Manifest | None:
        """The manifest of the version that a channel points at, checked; ``None`` while there is none.

        :raises IntegrityError: the newest move, or the manifest that it names, is missing or was altered.
        :raises SignatureError: keys are trusted here, and none of them signed the move, or the version.
        """
        move = self.newest_move(channel)
        return self.champion_of(move) if move else None

    def champion_of(self, move: Move) -> Manifest:
        """The manifest of the version that a move points at, checked. Errors as of ``champion``."""
        try:
            return self.manifest(move.to_version, sha256=move.manifest_sha256)
        except NotFoundError as error:
            raise IntegrityError(
                f"the channel '{move.channel}' points at a version that is not there: {move.to_version}",
                where=error.where,
                hint="roll the channel back to a version that is",
            ) from None

    def history(self, channel: str, *, limit: int | None = None) -> list[Move]:
        """The moves of a channel, newest first, each checked against the one after it.

        :param limit: only the newest; older ones are not read.
        :raises IntegrityError: a move is missing, was edited, or does not belong where it is.
        :raises ReplayError: the newest moves were deleted.
        """
        return list(islice(self._walk(channel), limit))

    def move_at(self, channel: str, time: datetime) -> Move | None:
        """The move that made the champion of that time; ``None`` before the first publication.

        :param time: with a time zone.
        :raises ValueError: it has none.
        :raises IntegrityError: as of ``history``.
        """
        if time.tzinfo is None:
            raise ValueError("the time needs a time zone")
        moves = self._walk(channel)
        return next((move for move in moves if datetime.fromisoformat(move.at) <= time), None)

    def _walk(self, channel: str) -> Iterator[Move]:
        newest = self.newest_move(channel)
        return self._log(channel).walk(newest) if newest else iter(())

    def verify_channel(self, channel: str) -> Move | None:
        """Check a channel to its first move, and the champion's manifest.

        :return: the newest move; ``None`` for a channel that never had one.
        :raises ReplayError: the newest moves were deleted.
        :raises IntegrityError: the first thing that is missing or was altered.
        """
        moves = list(self._walk(channel))
        if moves:
            self.champion_of(moves[0])
        return moves[0] if moves else None

    def versions(self, *, limit: int | None = None) -> list[VersionInfo]:
        """The complete versions, newest first: by the last move of a channel to them, or else their upload.

        :param limit: at most so many, of those that a channel was ever pointed at. Only the newest part of the logs is
            read then, and no list of all versions.
        :raises IntegrityError: a log cannot be trusted.
        """
        newest = [move for move in in_parallel(self.newest_move, self.channels()) if move is not None]
        moved = _last_moved(self._log(move.channel).walk(move) for move in newest)
        if limit is not None:
            infos: list[VersionInfo] = []
            for _ in range(2):  # a second time for those that were removed since
                infos += self._infos(newest, list(islice(moved, limit - len(infos))))
            return infos
        moves = dict(moved)
        times = {
            version: datetime.fromisoformat(moves[version]) if version in moves else uploaded
            for version, uploaded in self.completed().items()
        }
        in_order = sorted(times, key=lambda version: (times[version], version), reverse=True)
        return self._infos(newest, [(version, moves.get(version)) for version in in_order])

    def _infos(self, newest: Sequence[Move], moved: Sequence[tuple[str, str | None]]) -> list[VersionInfo]:
        def info(one: tuple[str, str | None]) -> VersionInfo | None:
            version, moved_at = one
            channels = tuple(move.channel for move in newest if move.to_version == version)
            try:
                metrics = self.manifest(version).metrics
            except NotFoundError:  # removed since
                return None
            except IntegrityError as error:
                return VersionInfo(version, channels, {}, moved_at, problem=error.message)
            return VersionInfo(version, channels, metrics, moved_at)

        return [found for found in in_parallel(info, moved) if found is not None]


def list_channels(storage: Storage, model: str) -> list[str]:
    """The channels of a model of which there is anything, sorted."""
    return [name for name in storage.list_folders(channel_folder(model).rstrip("/")) if is_name(name)]


def _last_moved(logs: Iterable[Iterator[Move]]) -> Iterator[tuple[str, str]]:
    """Each version that a channel was ever pointed at, once, with the time of the newest move to it; newest first.

    :param logs: of each channel, newest first; read only as far as the result is.
    """
    seen: set[str] = set()
    for move in heapq.merge(*logs, key=lambda move: datetime.fromisoformat(move.at), reverse=True):
        if move.to_version not in seen:
            seen.add(move.to_version)
            yield move.to_version, move.at
