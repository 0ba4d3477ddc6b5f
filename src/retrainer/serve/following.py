"""Keeping up with a channel: looks at the store, loads what is new, and refuses what cannot be used.

Holds what a status says about it. Not here: when to look (``watching.py``), and who answers meanwhile
(``classifier.py``).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from retrainer.errors import IntegrityError, NotFoundError, ResourceError, RetrainerError, StorageError
from retrainer.serve.cache import ModelCache
from retrainer.serve.cached_version import CachedVersion
from retrainer.serve.loading import load_checked
from retrainer.serve.served import Served
from retrainer.serve.watching import next_wait
from retrainer.store.move import Move

log = logging.getLogger(__name__)

DEFAULT_INTERVAL = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What looking at the store has come to. Fields as those of ``Status``.

    :ivar unreachable: looks in a row that could not read the store, or not take what it holds.
    """

    checked_at: datetime | None = None
    swaps: int = 0
    refusals: int = 0
    failures_in_a_row: int = 0
    unreachable: int = 0
    problem: str | None = None
    refused_version: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A move to a version that cannot be used.

    :ivar retry_at: on the monotonic clock.
    """

    move: Move
    tries: int
    retry_at: float


class Follower:
    """Follows one channel. Not thread-safe, but for reading ``progress``: one look at a time.

    :param precision: ``fp32``, ``int8`` or ``auto``.
    :param threads: threads of one call; the usable cores when ``None``.
    :ivar interval: seconds from which the waits for another try of a refused version grow.
    """

    def __init__(
        self, open_cache: Callable[[], ModelCache], channel: str, *, precision: str, threads: int | None
    ) -> None:
        self.channel = channel
        self.interval = DEFAULT_INTERVAL
        self.progress = Progress()
        self._open_cache = open_cache
        self._cache = open_cache()
        self._served: Move | None = None
        self._precision = precision
        self._threads = threads
        self._refusal: _Refusal | None = None
        self._random = random.Random()
        self._state = ""

    @property
    def model(self) -> str:
        """Its name."""
        return self._cache.model

    def first(self) -> Served:
        """Load what the channel points at; what answered last on this host, where the store cannot be reached, or this
        host lacks something that a new version needs, such as room in the cache.

        :raises NotFoundError: the channel has no champion.
        :raises IntegrityError: what the channel points at was altered, or does not answer as where it was made.
        :raises StorageError: the store cannot be reached, and nothing of that channel is here.
        :raises ResourceError: this host lacks something, and nothing of that channel is here.
        """
        try:
            move = self._cache.newest_move(self.channel)
            served = self._load(self._cache.pointed_at(move, self._precision))
        except NotFoundError:
            raise
        except (StorageError, ResourceError) as error:
            served = self._last_good(error)
        else:
            self._ended_well()
        return served

    def again(self) -> Served:
        """Load the version that answers once more, in a forked child: connections and locks of the parent stay away.

        :raises RetrainerError: the local copy is gone or damaged, and cannot be had from the store.
        """
        self._cache = self._open_cache()
        if self._served is None:
            return self.first()
        return self._load(self._cache.pointed_at(self._served, self._precision))

    def look(self, before: Move | None, *, patient: bool) -> Served | Move | None:
        """Look at the store once. Never raises for what is wrong there; ``progress`` says it.

        What answers is not handed in: a look may take long, and would keep a model in memory that nobody needs.

        :param before: the move to the version that answers now.
        :param patient: leave a version that was refused alone until it is time to try it again.
        :return: what shall answer from now on; a move where the channel moved, and to the same version; ``None`` when
            nothing changes.
        """
        try:
            move = self._cache.newest_move(self.channel)
        except IntegrityError as error:
            self._refused_channel(error)
            return None
        except RetrainerError as error:
            self._failed(error, "the store cannot be read", offline=not isinstance(error, NotFoundError))
            return None
        if before is not None and move.to_version == before.to_version:
            return self._same_version(before, move)
        if patient and self._waits(move):
            self.progress = replace(self.progress, checked_at=_now(), unreachable=0, offline=False)
            return None
        try:
            found = self._load(self._cache.pointed_at(move, self._precision))
        except StorageError as error:
            self._failed(error, "the store cannot be read", offline=True)
            return None
        except ResourceError as error:
            self._failed(error, f"this host cannot take version {move.to_version}", offline=False)
            return None
        except RetrainerError as error:
            self._refused_version(move, error)
            return None
        return found

    def took_over(self, found: Served) -> None:
        """Note that a version that a look found takes over."""
        log.info("%s: %s takes over", self._name(), found.version)
        self._ended_well(swaps=self.progress.swaps + 1)

    def _waits(self, move: Move) -> bool:
        refusal = self._refusal
        return refusal is not None and refusal.move == move and time.monotonic() < refusal.retry_at

    def unexpected(self, error: BaseException) -> None:
        """Note an error that a look should not have raised, so that it is seen and not only logged."""
        self._failed(error, "a look failed", offline=False)

    def _load(self, cached: CachedVersion, offline: StorageError | ResourceError | None = None) -> Served:
        served = _load(self._cache, cached, self._precision, self._threads, offline)
        self._served = cached.move
        return served

    def _last_good(self, error: StorageError | ResourceError) -> Served:
        offline = isinstance(error, StorageError)
        move = self._cache.last_good(self.channel)
        if move is None:
            raise error
        served = self._load(self._cache.kept(move, error), error)
        what = "the store cannot be reached" if offline else "this host cannot take what is in the store"
        self._failed(error, what, offline=offline)
        log.warning(
            "%s; serving %s %s, the champion of '%s' when it was last seen: %s",
            what,
            self.model,
            move.to_version,
            self.channel,
            error,
        )
        return served

    def _same_version(self, before: Move, move: Move) -> Move | None:
        self._ended_well()
        if move == before:
            return None
        self._cache.seen_again(move)  # signed anew, or away and back again between two looks
        return move

    def _ended_well(self, *, swaps: int | None = None) -> None:
        before = self.progress
        if before.problem is not None:
            log.info("%s: recovered; it was: %s", self._name(), before.problem)
        self._refusal = None
        self._state = ""
        self.progress = Progress(_now(), before.swaps if swaps is None else swaps, before.refusals)

    def _failed(self, error: BaseException, what: str, *, offline: bool) -> None:
        """The store cannot be read just now, or this host lacks something. Nothing is said of any version."""
        before = self.progress
        self.progress = replace(
            before,
            checked_at=before.checked_at if offline else _now(),
            failures_in_a_row=before.failures_in_a_row + 1,
            unreachable=before.unreachable + 1,
            problem=str(error),
            offline=offline,
        )
        self._log(f"{type(error).__name__} {offline}", what, error)

    def _refused_channel(self, error: IntegrityError) -> None:
        before = self.progress
        again = before.problem == str(error)
        self.progress = replace(
            before,
            checked_at=_now(),
            refusals=before.refusals + (not again),
            failures_in_a_row=before.failures_in_a_row + 1,
            unreachable=0,
            problem=str(error),
            refused_version=None,
            offline=False,
        )
        self._log(str(error), "the channel is refused", error)

    def _refused_version(self, move: Move, error: RetrainerError) -> None:
        before, refusal = self.progress, self._refusal
        tries = refusal.tries + 1 if refusal is not None and refusal.move == move else 1
        wait = next_wait(self.interval, tries, self._random)
        self._refusal = _Refusal(move, tries, time.monotonic() + wait)
        self.progress = replace(
            before,
            checked_at=_now(),
            refusals=before.refusals + (tries == 1),
            failures_in_a_row=before.failures_in_a_row + 1,
            unreachable=0,
            problem=str(error),
            refused_version=move.to_version,
            offline=False,
        )
        self._log(f"{move.to_version} {error}", f"version {move.to_version} is refused", error)

    def _log(self, state: str, what: str, error: BaseException) -> None:
        """Once for each state, not at each look."""
        if state != self._state:
            # As text: a handler that keeps records would keep the frames of the error, and a session in them.
            log.warning("%s: %s, the last good version stays: %s", self._name(), what, str(error))
        self._state = state

    def _name(self) -> str:
        return f"{self.model} ({self.channel})"


def _now() -> datetime:
    return datetime.now(UTC)


def load_version(open_cache: Callable[[], ModelCache], version: str, *, precision: str, threads: int | None) -> Served:
    """Load a version by its name; no channel is followed. Errors as of ``ModelCache.version`` and ``load_checked``."""
    cache = open_cache()
    return _load(cache, cache.version(version, precision), precision, threads, None)


def _load(
    cache: ModelCache,
    cached: CachedVersion,
    precision: str,
    threads: int | None,
    offline: StorageError | ResourceError | None,
) -> Served:
    try:
        predictor = load_checked(
            cached.folder,
            precision=precision,
            threads=threads,
            need=lambda name: cache.require(cached, name, offline),
        )
        cache.remember(cached)
    except BaseException:
        if cached.hold is not None:
            cached.hold.release()  # whoever keeps the error keeps this frame, and would keep the version
        raise
    return Served(cached.manifest.version, cached.manifest, predictor, cached.move, _now(), cached.hold)
