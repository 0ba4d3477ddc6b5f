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
from functools import partial
from typing import Any, TypeVar

from retrainer.errors import NoAnswer, NotFoundError, ResourceError, RetrainerError, StorageError
from retrainer.serve.cache import ModelCache
from retrainer.serve.cached_version import CachedVersion
from retrainer.serve.errands import GivenUp, Patience
from retrainer.serve.loading import Loading, load_checked
from retrainer.serve.served import Served
from retrainer.serve.status import Progress
from retrainer.serve.watching import next_wait
from retrainer.store.move import Move
from retrainer.store.names import check_name

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_INTERVAL = 60.0
# For the store, where something answers meanwhile: at a start, and at each look later on.
START_SECONDS = 5.0
LOOK_SECONDS = 30.0
STAYS = "the last good version stays"


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

    :param store_timeout: seconds that a start waits for the store where this host has a version that answered before.
    :ivar interval: seconds from which the waits for another try of a refused version grow.
    :ivar unreachable: looks in a row that could not read the store, or not take what it holds.
    """

    def __init__(
        self,
        open_cache: Callable[[], ModelCache],
        channel: str,
        loading: Loading,
        *,
        store_timeout: float = START_SECONDS,
    ) -> None:
        self.interval = DEFAULT_INTERVAL
        self.progress = Progress()
        self.unreachable = 0
        self._open_cache = open_cache
        self._cache = open_cache()
        self.channel = check_name("channel", channel, where=self._cache.store_url)
        self._served: Move | None = None
        self._loading = loading
        self._store_timeout = store_timeout
        self._refusal: _Refusal | None = None
        self._random = random.Random()
        self._state = ""

    @property
    def model(self) -> str:
        """Its name."""
        return self._cache.model

    def first(self) -> Served:
        """Load what the channel points at; what answered last on this host, where the store cannot be reached, does not
        answer soon, or has no such channel any more, or this host lacks something that a new version needs, such as
        room in the cache.

        :raises NotFoundError: the channel has no champion, and never had one as far as this host knows.
        :raises IntegrityError: what the channel points at was altered, or does not answer as where it was made.
        :raises StorageError: the store cannot be reached, and nothing of that channel is here.
        :raises ResourceError: this host lacks something, and nothing of that channel is here.
        """
        good = self._cache.last_good(self.channel)
        try:
            return self._newest(None if good is None else Patience(self._store_timeout))
        except (StorageError, ResourceError) as error:
            if good is None:
                raise
            try:
                return self._last_good(good, error)
            except StorageError:
                if not isinstance(error, NoAnswer):
                    raise
        return self._newest(None)  # what is here is damaged: then the store has all the time that it takes

    def _newest(self, patience: Patience | None) -> Served:
        move = self._ask(patience, lambda: self._cache.newest_move(self.channel))
        served = self._load(self._pointed_at(move, patience), patience)
        self._ended_well()
        return served

    def _pointed_at(self, move: Move, patience: Patience | None) -> CachedVersion:
        version = move.to_version
        return self._ask(patience, lambda: self._cache.pointed_at(move, self._loading.precision), version)

    def _ask(self, patience: Patience | None, work: Callable[[], T], version: str | None = None) -> T:
        """What the store says.

        :param patience: ``None`` for as long as the storage waits itself.
        :param version: while more of its files arrives, it is waited.
        """
        if patience is None:
            return work()
        store = self._cache.store_url
        try:
            return patience.wait_for(f"look-{store}", work, lambda: self._cache.arrived(version) if version else None)
        except GivenUp:
            raise NoAnswer(f"the store does not answer within {patience.seconds:g} s", where=store) from None

    def again(self) -> Served:
        """Load the version that answers once more, in a forked child: connections and locks of the parent stay away.

        :raises RetrainerError: the local copy is gone or damaged, and cannot be had from the store.
        """
        self._cache = self._open_cache()
        self.progress = replace(self.progress, looking_since=None)  # the parent's look
        if self._served is None:
            return self.first()
        return self._load(self._cache.pointed_at(self._served, self._loading.precision))

    def look(self, before: Move | None, *, patient: bool) -> Served | Move | None:
        """Look at the store once. Never raises for what is wrong there; ``progress`` says it.

        What answers is not handed in: a look may take long, and would keep a model in memory that nobody needs.

        :param before: the move to the version that answers now.
        :param patient: leave a version that was refused alone until it is time to try it again.
        :return: what shall answer from now on; a move where the channel moved, and to the same version; ``None`` when
            nothing changes.
        """
        self.progress = replace(self.progress, looking_since=_now())
        try:
            return self._look(before, Patience(LOOK_SECONDS), patient=patient)
        finally:
            self.progress = replace(self.progress, looking_since=None)

    def _look(self, before: Move | None, patience: Patience, *, patient: bool) -> Served | Move | None:
        move = None
        try:
            move = self._ask(patience, lambda: self._cache.newest_move(self.channel))
            if before is not None and move.to_version == before.to_version:
                return self._same_version(before, move)
            if patient and self._waits(move):
                self.progress = replace(self.progress, checked_at=_now(), offline=False)
                self.unreachable = 0
                return None
            return self._load(self._pointed_at(move, patience), patience)
        except (StorageError, ResourceError) as error:
            self._failed(error)
        except RetrainerError as error:
            if move is None:
                self._refused_channel(error)
            else:
                self._refused_version(move, error)
        return None

    def took_over(self, found: Served) -> None:
        """Note that a version that a look found takes over."""
        log.info("%s: %s takes over", self._name(), found.version)
        self._ended_well(swaps=self.progress.swaps + 1)

    def _waits(self, move: Move) -> bool:
        refusal = self._refusal
        return refusal is not None and refusal.move == move and time.monotonic() < refusal.retry_at

    def unexpected(self, error: BaseException) -> None:
        """Note an error that a look should not have raised, so that it is seen and not only logged."""
        self._failed(error)

    def _load(
        self,
        cached: CachedVersion,
        patience: Patience | None = None,
        offline: StorageError | ResourceError | None = None,
    ) -> Served:
        def need(precision: str) -> None:
            if not self._cache.has(cached, precision):  # not asked of the store: hashing large files takes its time
                require = partial(self._cache.require, cached, precision, offline)
                self._ask(patience, require, cached.manifest.version)

        served = _load(self._cache, cached, self._loading, need)
        self._served = cached.move
        return served

    def _last_good(self, move: Move, error: StorageError | ResourceError) -> Served:
        served = self._load(self._cache.kept(move, error), offline=error)
        self._failed(error, f"serving version {move.to_version}, the champion when it was last seen")
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
        self.unreachable = 0
        swaps = before.swaps if swaps is None else swaps
        self.progress = Progress(checked_at=_now(), swaps=swaps, refusals=before.refusals)

    def _failed(self, error: BaseException, meanwhile: str = STAYS) -> None:
        """The store cannot be read just now, or this host lacks something. Nothing is said of any version."""
        offline = False
        if isinstance(error, NotFoundError):
            what = "the store has no such channel any more"
        elif isinstance(error, StorageError):
            what, offline = "the store cannot be reached", True
        elif isinstance(error, ResourceError):
            what = "this host cannot take what is in the store"
        else:
            what = "a look failed"
        self.unreachable += 1
        checked_at = self.progress.checked_at if offline else _now()
        state = f"{type(error).__name__} {offline}"
        self._ended_badly(error, f"{what}; {meanwhile}", state=state, checked_at=checked_at, offline=offline)

    def _refused_channel(self, error: RetrainerError) -> None:
        self.unreachable = 0
        refusals = self.progress.refusals + (self.progress.problem != str(error))
        what = f"the channel is refused; {STAYS}"
        self._ended_badly(error, what, state=str(error), refusals=refusals, refused_version=None)

    def _refused_version(self, move: Move, error: RetrainerError) -> None:
        self.unreachable = 0
        version, refusal = move.to_version, self._refusal
        tries = refusal.tries + 1 if refusal is not None and refusal.move == move else 1
        wait = next_wait(self.interval, tries, self._random)
        self._refusal = _Refusal(move, tries, time.monotonic() + wait)
        refusals = self.progress.refusals + (tries == 1)
        what = f"version {version} is refused; {STAYS}"
        self._ended_badly(error, what, state=f"{version} {error}", refusals=refusals, refused_version=version)

    def _ended_badly(self, error: BaseException, what: str, *, state: str, **changed: Any) -> None:
        """Note it, and log it once for each state, not at each look."""
        before = self.progress
        said = {"checked_at": _now(), "offline": False, **changed}
        self.progress = replace(before, problem=str(error), failures_in_a_row=before.failures_in_a_row + 1, **said)
        if state != self._state:
            # As text: a handler that keeps records would keep the frames of the error, and a session in them.
            log.warning("%s: %s: %s", self._name(), what, str(error))
        self._state = state

    def _name(self) -> str:
        return f"{self.model} ({self.channel})"


def _now() -> datetime:
    return datetime.now(UTC)


def load_version(open_cache: Callable[[], ModelCache], version: str, loading: Loading) -> Served:
    """Load a version by its name; no channel is followed. Errors as of ``ModelCache.version`` and ``load_checked``."""
    cache = open_cache()
    cached = cache.version(version, loading.precision)
    return _load(cache, cached, loading, partial(cache.require, cached))


def _load(cache: ModelCache, cached: CachedVersion, loading: Loading, need: Callable[[str], None]) -> Served:
    try:
        predictor = load_checked(cached.folder, loading, need=need)
        cache.remember(cached)
    except BaseException:
        if cached.hold is not None:
            cached.hold.release()  # whoever keeps the error keeps this frame, and would keep the version
        raise
    return Served(cached.manifest.version, cached.manifest, predictor, cached.move, _now(), cached.hold)
