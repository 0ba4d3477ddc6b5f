"""Lists of a model's versions, newest first.

The newest are found from the channels' histories, so that no list of all versions is read for them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from retrainer.errors import IntegrityError, NotFoundError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.history import HistoryEntry, walk
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


def newest_versions(storage: Storage, versions: Versions, pointers: Sequence[Pointer], limit: int) -> list[VersionInfo]:
    """The complete versions that the channels were last pointed at.

    :raises IntegrityError: a history cannot be trusted.
    """
    moves = latest_moves(walk(storage, pointer) for pointer in pointers)
    infos: list[VersionInfo] = []
    for _ in range(2):  # a second time for those that were removed since
        infos += _infos(versions, pointers, list(islice(moves, limit - len(infos))))
    return infos


def all_versions(storage: Storage, versions: Versions, pointers: Sequence[Pointer]) -> list[VersionInfo]:
    """Every complete version, also those that no channel was ever pointed at.

    :raises IntegrityError: a history cannot be trusted.
    """
    moves = dict(latest_moves(walk(storage, pointer) for pointer in pointers))
    times = {
        version: datetime.fromisoformat(moves[version]) if version in moves else uploaded
        for version, uploaded in versions.completed().items()
    }
    newest = sorted(times, key=lambda version: (times[version], version), reverse=True)
    return _infos(versions, pointers, [(version, moves.get(version)) for version in newest])


def latest_moves(histories: Iterable[Iterator[HistoryEntry]]) -> Iterator[tuple[str, str]]:
    """Each version that a channel was ever pointed at, once, with the time of the newest move to it; newest first.

    :param histories: of each channel, newest first; read only as far as the result is.
    """
    seen: set[str] = set()
    for entry in heapq.merge(*histories, key=lambda entry: datetime.fromisoformat(entry.at), reverse=True):
        if entry.to_version not in seen:
            seen.add(entry.to_version)
            yield entry.to_version, entry.at


def _infos(
    versions: Versions, pointers: Sequence[Pointer], moves: Sequence[tuple[str, str | None]]
) -> list[VersionInfo]:
    def info(move: tuple[str, str | None]) -> VersionInfo | None:
        version, moved_at = move
        channels = tuple(pointer.channel for pointer in pointers if pointer.version == version)
        try:
            metrics = versions.manifest(version).metrics
        except NotFoundError:  # removed since
            return None
        except IntegrityError as error:
            return VersionInfo(version, channels, {}, moved_at, problem=error.message)
        return VersionInfo(version, channels, metrics, moved_at)

    return [found for found in in_parallel(info, moves) if found is not None]
