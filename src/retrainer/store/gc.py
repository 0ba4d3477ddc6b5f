"""Delete the versions that nobody needs: first a plan to look at, then what it says, looked at again.

A version stays while a channel points at it, while one of the last moves of a channel names it, while anything in its
folder is younger than a day, and while a move of the last day names it. So what a rollback goes to is there, and what
a publisher is about to point at.

A publisher writes its entry of the history, then reads the manifest again, then moves the pointer. Here the manifest
first gives way to a note that holds its bytes (``removal.py``), then pointers and entries are looked at again. One of
the two sees the other: either the publisher misses the manifest and moves nothing, or its entry is seen here, and the
manifest put back. Files go last, under the note, so that nobody ever completes a version that is being deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from retrainer.errors import ResourceError, StorageError, UserError
from retrainer.records import Record
from retrainer.storage import ObjectInfo, Storage
from retrainer.store.leftovers import leftovers_of, unlisted
from retrainer.store.names import MANIFEST, check_name
from retrainer.store.needs import read_needs
from retrainer.store.version_removal import Remover, folders, newest, not_ours

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
    :raises IntegrityError: a pointer or a history cannot be trusted, so that nobody can say what is needed.
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
    needs = read_needs(storage, model, keep=keep, young_since=at - LEAST_AGE)
    delete: list[Doomed] = []
    kept: list[Kept] = []
    for version, objects in sorted(folders(storage, model).items(), key=lambda item: (newest(item[1]), item[0])):
        size = sum(info.size for info in objects.values())
        reasons = needs.reasons.get(version, ())
        if at - newest(objects) < min_age:
            reasons += (f"written {newest(objects):%Y-%m-%d %H:%M} UTC, which is too young",)
        foreign = not_ours(objects.values())
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
                newest=newest(objects).isoformat(timespec="seconds"),
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
    :raises IntegrityError: a pointer or a history cannot be trusted any more. What was deleted before stays so, and
        was told to ``on_outcome``.
    :raises StorageError: the storage failed, or does not allow it. As above.
    :raises UserError: the plan is of another store.
    """
    if plan.store != storage.url:
        raise UserError(f"the plan is of the store {plan.store}", where=storage.url)
    at = now or datetime.now(UTC)
    min_age = max(timedelta(days=plan.min_age), LEAST_AGE)
    needs = read_needs(storage, plan.model, keep=max(plan.keep, 1), young_since=at - LEAST_AGE)
    doomed = {one.version for one in plan.delete}
    remover = Remover(storage, plan.model, needs, doomed, at - min_age, at)
    outcomes = []
    for one in plan.delete:
        outcome = Outcome(version=one.version, bytes=one.bytes, kept=remover.remove(one.version))
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    planned = {leftover.where for leftover in plan.leftovers}
    gone = 0
    for leftover in list(leftovers_of(storage, plan.model)) if planned else ():
        if leftover.where in planned and leftover.modified <= at - min_age:
            storage.remove_leftover(leftover)
            gone += 1
    return Collected(model=plan.model, outcomes=tuple(outcomes), leftovers=gone)
