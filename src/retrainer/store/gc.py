"""Delete the versions that nobody needs: first a plan to look at, then what it says, looked at again.

A version stays while a channel points at it or has it as its anchor, while one of the last moves of a channel names it,
while anything in its folder is younger than a day, and while an intent of the last day names it. So what a rollback
goes to is there, and what a publisher is about to point at. How the two keep out of each other's way: ``removal.py``.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrainer.errors import IntegrityError, PreconditionFailed, ResourceError, StorageError, UserError
from retrainer.records import Record
from retrainer.storage import Leftover, ObjectInfo, Storage
from retrainer.storage.keys import check_key
from retrainer.store.log import ChannelLog, refuse_version_1
from retrainer.store.move import Move
from retrainer.store.names import FOLDERS, MANIFEST, REMOVAL, check_name, version_key
from retrainer.store.parallel import in_parallel
from retrainer.store.reading import list_channels
from retrainer.store.removal import Removal, intents, read_removal
from retrainer.store.versions import version_folders

LEAST_AGE = timedelta(days=1)
MOST_AGE = timedelta(days=36_500)


class Doomed(Record):
    """A version that can go.

    :ivar bytes: of everything in its folder.
    :ivar newest: when anything of it was last written, ISO 8601 in UTC.
    :ivar reason: why nobody needs it.
    """

    version: str
    objects: int
    bytes: int
    newest: str
    reason: str


class Kept(Record):
    """A version that stays, and why."""

    version: str
    bytes: int
    reasons: tuple[str, ...]


class Remnant(Record):
    """What a killed writer left, old enough to go."""

    where: str
    bytes: int | None
    begun: str


class Plan(Record):
    """What would be deleted of a model, and what would stay. Oldest first.

    :ivar keep: moves of each channel whose versions stay.
    :ivar min_age: days.
    :ivar at: when it was made, ISO 8601 in UTC.
    :ivar notes: what could not be looked at, and why.
    """

    store: str
    model: str
    keep: int
    min_age: float
    at: str
    delete: tuple[Doomed, ...]
    kept: tuple[Kept, ...]
    leftovers: tuple[Remnant, ...]
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What the versions to delete take."""
        return sum(doomed.bytes for doomed in self.delete)


class Outcome(Record):
    """What became of one version.

    :ivar kept: why it stays after all; ``None`` for deleted.
    """

    version: str
    bytes: int
    kept: str | None = None


class Collected(Record):
    """What was deleted."""

    model: str
    outcomes: tuple[Outcome, ...]
    leftovers: int

    @property
    def bytes(self) -> int:
        """What was freed."""
        return sum(outcome.bytes for outcome in self.outcomes if outcome.kept is None)


OnOutcome = Callable[[Outcome], None]


def plan_gc(
    storage: Storage, model: str, *, keep: int = 10, min_age: timedelta = LEAST_AGE, now: datetime | None = None
) -> Plan:
    """Find what can go. Nothing is deleted.

    :param keep: moves of each channel whose versions stay.
    :param min_age: what is younger stays.
    :param now: what ages are counted from; the present unless given.
    :raises UserError: ``keep`` is below 1, or ``min_age`` below a day or above a hundred years.
    :raises IntegrityError: a channel's log cannot be trusted, so that nobody can say what is needed.
    """
    if keep < 1:
        raise UserError("at least the last move of each channel has to be kept", where="keep", hint="1 or more")
    if min_age < LEAST_AGE:
        raise UserError(
            "what is younger than a day is never deleted", where="min age", hint="a publisher may be about to use it"
        )
    if min_age > MOST_AGE:
        raise UserError("nothing is as old as that", where="min age", hint=f"at most {MOST_AGE.days:,} days")
    check_name("model", model, where=storage.where())
    at = now or datetime.now(UTC)
    reasons_to_stay, _ = _needs(storage, model, keep, at - LEAST_AGE)
    delete: list[Doomed] = []
    kept: list[Kept] = []
    for version, objects in sorted(
        version_folders(storage, model).items(), key=lambda item: (_newest(item[1]), item[0])
    ):
        size = sum(info.size for info in objects.values())
        reasons = tuple(dict.fromkeys(reasons_to_stay.get(version, ())))
        if at - _newest(objects) < min_age:
            reasons += (f"written {_newest(objects):%Y-%m-%d %H:%M} UTC, which is too young",)
        foreign = _not_ours(objects.values())
        if foreign is not None:
            reasons += (foreign,)
        if reasons:
            kept.append(Kept(version=version, bytes=size, reasons=reasons))
            continue
        delete.append(
            Doomed(
                version=version,
                objects=len(objects),
                bytes=size,
                newest=_newest(objects).isoformat(timespec="seconds"),
                reason=_why(objects, keep),
            )
        )
    leftovers, notes = _leftovers(storage, model, at - min_age)
    return Plan(
        store=storage.url,
        model=model,
        keep=keep,
        min_age=min_age / timedelta(days=1),
        at=at.isoformat(timespec="microseconds"),
        delete=tuple(delete),
        kept=tuple(kept),
        leftovers=leftovers,
        notes=notes,
    )


def _leftovers(storage: Storage, model: str, old_before: datetime) -> tuple[tuple[Remnant, ...], tuple[str, ...]]:
    """What is old enough to go; and a note, where that cannot be listed."""
    try:
        found = list(leftovers_of(storage, model))
    except (StorageError, ResourceError) as error:
        return (), (f"{model}: {unlisted(error)}",)
    return tuple(
        Remnant(where=one.where, bytes=one.size, begun=one.modified.isoformat(timespec="seconds"))
        for one in found
        if one.modified <= old_before
    ), ()


def _why(objects: dict[str, ObjectInfo], keep: int) -> str:
    if MANIFEST not in objects:
        return "an upload that was never completed"
    return f"no channel points at it, and it is not among the last {keep} {'move' if keep == 1 else 'moves'} of any"


def run_gc(
    storage: Storage, plan: Plan, *, now: datetime | None = None, on_outcome: OnOutcome | None = None
) -> Collected:
    """Delete what a plan says, each version only while still nobody needs it.

    :param now: as for the plan.
    :param on_outcome: called after each version.
    :raises IntegrityError: a channel's log cannot be trusted any more. What was deleted before stays so, and
        was told to ``on_outcome``.
    :raises StorageError: the storage failed, or does not allow it. As above.
    :raises UserError: the plan is of another store.
    """
    if plan.store != storage.url:
        raise UserError(f"the plan is of the store {plan.store}", where=storage.url)
    at = now or datetime.now(UTC)
    min_age = max(timedelta(days=plan.min_age), LEAST_AGE)
    young_since = at - LEAST_AGE
    needed, newest = _needs(storage, plan.model, max(plan.keep, 1), young_since)
    run = uuid.uuid4().hex
    remover = _Remover(storage, plan.model, needed, newest, at - min_age, young_since, run)
    if plan.delete:  # what is not there: who may not delete is told here, with every version still whole
        storage.delete(f"{plan.model}/intents/{run}.json")
    outcomes = []
    for one in plan.delete:
        outcome = Outcome(version=one.version, bytes=one.bytes, kept=remover.remove(one.version))
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    in_parallel(
        storage.delete, [key for key, (_, written) in intents(storage, plan.model).items() if written < young_since]
    )
    planned = {leftover.where for leftover in plan.leftovers}
    gone = 0
    for leftover in list(leftovers_of(storage, plan.model)) if planned else ():
        if leftover.where in planned and leftover.modified <= at - min_age:
            storage.remove_leftover(leftover)
            gone += 1
    return Collected(model=plan.model, outcomes=tuple(outcomes), leftovers=gone)


# What is needed, and what there is


def _needs(
    storage: Storage, model: str, keep: int, young_since: datetime
) -> tuple[dict[str, list[str]], dict[str, Move]]:
    """Version -> why it is needed, for people; and the newest move of each channel, whose whole log was checked.

    :raises IntegrityError: a move is missing or was altered, or a channel is of an earlier retrainer.
    """
    refuse_version_1(storage, model)
    needed: dict[str, list[str]] = defaultdict(list)
    newest: dict[str, Move] = {}
    for channel in list_channels(storage, model):
        moves = _moves(storage, model, channel)
        if not moves:
            continue
        newest[channel] = moves[0]
        needed[moves[0].to_version].append(f"{channel} points at it")
        if moves[0].anchor != moves[0].to_version:
            needed[moves[0].anchor].append(f"the anchor of {channel}")
        for version in [version for move in moves[:keep] for version in _named(move)]:
            needed[version].append(f"among the last {keep} moves of {channel}")
    for version, written in intents(storage, model).values():
        if written > young_since:
            needed[version].append("needed by a move of the last day")
    return needed, newest


def _moves(storage: Storage, model: str, channel: str) -> list[Move]:
    log = ChannelLog(storage, model, channel)
    try:
        newest = log.head().move
        return list(log.walk(newest)) if newest else []
    except IntegrityError as error:
        hint = "nothing is deleted while that is so; run 'retrainer fsck'"
        raise type(error)(error.message, where=error.where, hint=hint) from None


def _named(move: Move) -> set[str]:
    return {version for version in (move.to_version, move.from_version, move.anchor) if version is not None}


def _not_ours(objects: Iterable[ObjectInfo]) -> str | None:
    """Why a folder cannot be removed: keys that no storage of ours can name, so that they would stay for ever."""
    for info in objects:
        try:
            check_key(info.key, where=info.key)
        except StorageError:
            return f"it holds objects that are not the store's, such as '{info.key}'; delete them by hand"
    return None


def _newest(objects: dict[str, ObjectInfo]) -> datetime:
    """When anything of a folder was last written."""
    return max(info.modified for info in objects.values())


def leftovers_of(storage: Storage, model: str) -> Iterator[Leftover]:
    """Temporary files, and uploads in parts that were never completed.

    Other applications may upload to the same bucket, below a folder that looks like a model, too: only the folders of
    the layout are looked at. On a folder their names tell whose they are.

    :raises StorageError: they cannot be listed. Some servers cannot, and a publisher's policy does not allow it.
    """
    if storage.local_path() is not None:
        yield from storage.leftovers(model)
        return
    for folder in FOLDERS:
        yield from storage.leftovers(f"{model}/{folder}")


def unlisted(error: Exception) -> str:
    """What to tell people where they cannot be listed; everything else goes on without."""
    return f"unfinished uploads could not be listed: {error}"


# Deleting


@dataclass(frozen=True, slots=True)
class _Remover:
    """Deletes versions of a model, each only while nobody needs it.

    :ivar needed: what was needed when the run began; ``newest`` of each channel then.
    :ivar old_before: a version of which something was written since then stays.
    :ivar young_since: intents written since then count.
    :ivar id: of this run.
    """

    storage: Storage
    model: str
    needed: dict[str, list[str]]
    newest: dict[str, Move]
    old_before: datetime
    young_since: datetime
    id: str

    def remove(self, version: str) -> str | None:
        """Delete a version; or say why it stays."""
        if version in self.needed:
            return self.needed[version][0]
        start = version_key(self.model, version, "")
        objects = {info.key.removeprefix(start): info for info in self.storage.list(start)}
        if not objects:
            return "it is gone already"
        if _newest(objects) > self.old_before:
            return "something was written to it meanwhile"
        foreign = _not_ours(objects.values())  # before the note, which would stay with them
        if foreign is not None:
            return foreign
        removal_id = self._note(version, begun=REMOVAL in objects)
        if removal_id is None:
            return "somebody else is removing it"
        key = version_key(self.model, version, REMOVAL)
        try:
            why = self._needed_after_all(version)
        except BaseException:  # also Ctrl-C
            self.storage.delete(key)
            raise
        if why is not None:
            self.storage.delete(key)
            return why
        note = read_removal(self.storage, self.model, version)
        if note is None or note.removal_id != removal_id:  # fsck takes a note that is old for that of a killed gc
            return "somebody put it back meanwhile"
        self.storage.delete(version_key(self.model, version, MANIFEST))
        in_parallel(
            self.storage.delete, [info.key for name, info in objects.items() if name not in {MANIFEST, REMOVAL}]
        )
        self.storage.delete(key)
        return None

    def _note(self, version: str, *, begun: bool) -> str | None:
        """Say that the version is being removed.

        :param begun: by a gc that was killed long ago, whose note then is ours.
        :return: the id of the note that stands now; ``None`` where another gc has just written one.
        """
        note = Removal(removal_id=self.id, at=datetime.now(UTC).isoformat(timespec="microseconds"))
        key = version_key(self.model, version, REMOVAL)
        try:
            self.storage.write(key, note.to_pretty_json().encode(), if_absent=True)
        except PreconditionFailed:  # another's, or this request was repeated
            found = read_removal(self.storage, self.model, version)
            return found.removal_id if found is not None and (begun or found.removal_id == self.id) else None
        return self.id

    def _needed_after_all(self, version: str) -> str | None:
        """Look at intents and channels anew, new ones included."""
        for named, written in intents(self.storage, self.model).values():
            if named == version and written > self.young_since:
                return "a channel is about to be moved to it"
        for channel in list_channels(self.storage, self.model):
            log, known = ChannelLog(self.storage, self.model, channel), self.newest.get(channel)
            newest = log.after(known) if known else log.head().move
            for move in log.walk(newest, down_to=known.sequence if known else 1) if newest else ():
                if move != known and version in _named(move):
                    return "a channel was moved to it"
        return None
