"""The log of a channel: who creates the next number has moved it, the newest is found fast, and nothing hides a gap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import (
    ChampionChanged,
    IntegrityError,
    NotFoundError,
    PreconditionFailed,
    ReplayError,
    StorageError,
    StoragePermissionError,
)
from retrainer.storage import ObjectInfo, Storage
from retrainer.store import Manifest, ModelStore, Move
from retrainer.store.fsck import check_store
from retrainer.store.gc import plan_gc, run_gc
from retrainer.store.log import ChannelLog
from retrainer.store.move import RECENT_MOVES
from tests.store.conftest import publish

MakeBundle = Callable[[str], tuple[Path, Manifest]]
HINT = "news/channels/production/latest.json"


def key(number: int) -> str:
    return f"news/channels/production/{number:010d}.json"


@pytest.fixture
def model(storage: Storage) -> ModelStore:
    return ModelStore(storage, "news")


def moves(model: ModelStore) -> list[int]:
    assert model.verify_channel("production") is not None
    return [move.sequence for move in model.history("production")]


class Between:
    """A storage on which somebody else acts just before a write."""

    def __init__(self, storage: Storage, key: str, act: Callable[[], object]) -> None:
        self._storage = storage
        self._key = key
        self._act: Callable[[], object] | None = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write(self, key: str, data: bytes, **options: Any) -> None:
        if self._key in key and self._act is not None:
            act, self._act = self._act, None
            act()
        self._storage.write(key, data, **options)


def test_a_publisher_that_is_overtaken(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    one = publish(model, bundle("one")).version

    def overtake() -> None:
        publish(model, bundle("two"), one)

    slow: Any = Between(storage, "news/channels/", overtake)
    with pytest.raises(ChampionChanged, match=f"it was {one} and is {bundle('two')[1].version} now"):
        publish(ModelStore(slow, "news"), bundle("three"), one)
    assert moves(model) == [2, 1]

    def there_and_back() -> None:
        model.rollback("production", to=one, actor="bob", reason="")
        publish(model, bundle("two"), one)

    slow = Between(storage, "news/channels/", there_and_back)
    with pytest.raises(ChampionChanged, match="was moved meanwhile"):
        publish(ModelStore(slow, "news"), bundle("three"), bundle("two")[1].version)
    assert moves(model) == [4, 3, 2, 1]


def test_a_publisher_that_is_overtaken_by_the_same_content(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    slow: Any = Between(storage, "news/channels/", lambda: publish(model, bundle("one")))
    published = publish(ModelStore(slow, "news"), bundle("one"))
    assert (published.moved, published.sequence) == (False, 1)
    assert moves(model) == [1]


def test_a_create_whose_answer_is_lost_and_that_others_build_on(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    """It took effect, and its publisher is told so, though the channel went on by now."""
    one = publish(model, bundle("one")).version

    class LostAnswer(Between):
        def write(self, key: str, data: bytes, **options: Any) -> None:
            if self._key in key and self._act is not None:
                self._storage.write(key, data, **options)
                act, self._act = self._act, None
                act()
            self._storage.write(key, data, **options)  # the request is repeated

    two = bundle("two")[1].version
    slow: Any = LostAnswer(storage, "news/channels/", lambda: publish(model, bundle("three"), two))
    published = publish(ModelStore(slow, "news"), bundle("two"), one)
    assert (published.moved, published.previous, published.sequence) == (True, one, 2)
    assert moves(model) == [3, 2, 1]
    assert [move.to_version for move in model.history("production")] == [bundle("three")[1].version, two, one]


def test_a_hint_that_cannot_be_written_is_completed_later(
    storage: Storage, model: ModelStore, bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise StorageError("the disk went away")

    one = publish(model, bundle("one")).version
    broken: Any = Between(storage, HINT, fail)
    assert publish(ModelStore(broken, "news"), bundle("two"), one).moved
    assert "move 2 of 'production' is made; its hint is not written" in caplog.text
    assert json.loads(storage.read(HINT))["sequence"] == 1
    assert moves(model) == [2, 1]
    assert publish(model, bundle("two")).moved is False
    assert json.loads(storage.read(HINT))["sequence"] == 2
    storage.delete(HINT)
    assert moves(model) == [2, 1]
    assert publish(model, bundle("two")).moved is False
    assert json.loads(storage.read(HINT)) == {
        "format_version": 1,
        "sequence": 2,
        "hashes": [move.sha256 for move in model.history("production")],
    }


def test_a_store_of_an_earlier_version_is_refused(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    folder, manifest = bundle("one")
    model.put_version(folder, manifest)
    much_later = datetime.now(UTC) + timedelta(days=30)
    plan = plan_gc(storage, "news", now=much_later)
    assert [doomed.version for doomed in plan.delete] == [manifest.version]
    attempts: list[Callable[[], object]] = [
        lambda: model.champion("production"),
        lambda: publish(model, bundle("one")),
        lambda: model.promote("canary", version=manifest.version, actor="ada", reason=""),
        lambda: plan_gc(storage, "news", now=much_later),
        lambda: run_gc(storage, plan, now=much_later),
        lambda: check_store(storage),
    ]
    storage.write("news/channels/production.json", b"{}")
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="written by an earlier version of retrainer"):
            attempt()
    assert model.manifest(manifest.version) == manifest


# The log alone, on a storage that counts and forbids


@dataclass
class Counting:
    """Objects in memory, with S3's answers.

    :ivar lists: whether listing is allowed: where it is not, what is absent is denied.
    :ivar requests: what was asked for.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    lists: bool = True
    denied: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def where(self, key: str = "") -> str:
        return f"memory/{key}"

    def read(self, key: str, **bound: int) -> bytes:
        self.requests.append(f"GET {key.rpartition('/')[2]}")
        if key in self.denied or (key not in self.objects and not self.lists):
            raise StoragePermissionError("access denied", where=key)
        if key not in self.objects:
            raise NotFoundError("nothing is there", where=key)
        return self.objects[key]

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent and key in self.objects:
            raise PreconditionFailed("is there already", where=key)
        self.objects[key] = data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.requests.append(f"LIST {prefix.rpartition('/')[2]}")
        if not self.lists:
            raise StoragePermissionError("access denied", where=prefix)
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key=key, size=1, etag="", modified=None)  # type: ignore[arg-type]


def chain(count: int) -> list[Move]:
    """So many moves, the oldest first."""
    found: list[Move] = []
    for number in range(1, count + 1):
        before = found[-1] if found else None
        found.append(
            Move(
                model="news",
                channel="production",
                sequence=number,
                action="publish",
                from_version=before.to_version if before else None,
                to_version=f"{number:016x}",
                manifest_sha256="1" * 64,
                actor="ada",
                at="2030-01-01T00:00:00.000000+00:00",
                reason="",
                decision=None,
                anchor=f"{1:016x}",
                ledger=None,
                previous=before.sha256 if before else None,
                origin=before.begun_by if before else None,
            )
        )
    return found


ALL = chain(2500)


def filled(count: int, *, hint: int | None = None, **how: Any) -> tuple[Counting, ChannelLog]:
    storage = Counting({key(move.sequence): move.written() for move in ALL[:count]}, **how)
    log = ChannelLog(storage, "news", "production")  # type: ignore[arg-type]
    if hint:
        log.write_hint([move.sha256 for move in reversed(ALL[max(hint - RECENT_MOVES, 0) : hint])], hint)
    return storage, log


@pytest.mark.parametrize("lists", [True, False])
def test_what_a_reader_asks(lists: bool) -> None:
    storage, log = filled(2000, hint=2000, lists=lists)
    newest = log.head(ALL[1990]).move  # seen before: the hashes of the hint lead back there
    assert newest == ALL[1999]
    assert sorted(storage.requests) == ["GET 0000002000.json", "GET 0000002001.json", "GET latest.json"]
    storage.requests.clear()
    assert log.after(newest) == newest
    again = [] if lists else ["GET 0000002000.json"]
    assert storage.requests == ["GET 0000002001.json", *again]
    storage.objects[key(2001)] = ALL[2000].written()
    storage.objects[key(2002)] = ALL[2001].written()
    assert log.after(newest) == ALL[2001]
    assert log.head().move == ALL[2001]  # the hint is behind


def test_what_is_denied_is_absent_only_where_the_present_move_can_be_read() -> None:
    storage, log = filled(5, hint=5, lists=False)
    storage.denied = {key(5)}
    with pytest.raises(StoragePermissionError):
        log.head()
    with pytest.raises(StoragePermissionError):
        log.after(ALL[4])
    storage.denied = {HINT}
    with pytest.raises(StoragePermissionError):
        log.head()


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2001, 2500])
def test_without_a_hint_the_newest_is_found_by_few_listings(count: int) -> None:
    for junk in (False, True):
        storage, log = filled(count)
        if junk:
            storage.objects[HINT] = b"nobody has to believe it"
        assert log.head().move == (ALL[count - 1] if count else None)
        assert len(storage.requests) <= 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2500), st.data())
def test_a_hint_that_is_behind_leads_to_the_newest(count: int, data: st.DataObject) -> None:
    hint = data.draw(st.integers(1, count))
    lists = data.draw(st.booleans()) or count - hint > 50  # who may not list goes on one by one
    storage, log = filled(count, hint=hint, lists=lists)
    head = log.head()
    assert head.move == ALL[count - 1]
    assert head.hinted == (hint == count)
    assert list(head.hashes) == [move.sha256 for move in reversed(ALL[count - len(head.hashes) : count])]
    assert len(storage.requests) <= 20 or not lists


def test_newest_moves_that_were_deleted_are_damage() -> None:
    for lists, error in ((True, ReplayError), (False, StoragePermissionError)):  # who may not list cannot tell
        _, log = filled(20, hint=22, lists=lists)
        with pytest.raises(error):
            log.head()
    storage, log = filled(20)
    del storage.objects[key(20)]
    assert log.after(ALL[19]) == ALL[19]  # one request tells that nothing is new, and no more
    storage.denied = {key(21)}
    with pytest.raises(ReplayError, match="were deleted"):
        log.after(ALL[19])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 1200), st.data())
def test_nobody_searches_across_a_gap(count: int, data: st.DataObject) -> None:
    gap = data.draw(st.integers(max(count // 1000 * 1000, 1), count))
    storage, log = filled(count)
    del storage.objects[key(gap)]
    if gap == count:  # then that is where the log ends, for whoever saw no more of it
        assert log.head().move == (ALL[count - 2] if count > 1 else None)
        with pytest.raises(ReplayError, match=r"another one|were deleted"):
            log.write_hint([ALL[count - 1].sha256], count)
            log.head()
        return
    with pytest.raises(IntegrityError, match=f"move {gap} of the channel 'production' is missing"):
        log.head()


@pytest.mark.parametrize(("hint", "count"), [(10, 30), (1500, 1520), (1010, 2500)])
def test_a_gap_before_a_hint_that_is_behind_stops_no_reader(hint: int, count: int) -> None:
    """One after it does: nobody searches across that."""
    storage, log = filled(count, hint=hint)
    del storage.objects[key(hint - 3)]
    head = log.head()
    assert head.move == ALL[count - 1]
    del storage.objects[key(count - 2)]
    with pytest.raises(IntegrityError, match=f"move {count - 2} of the channel 'production' is missing"):
        log.head()


def test_a_move_that_was_seen_has_to_lead_to_the_newest() -> None:
    seen = ALL[9]
    other = seen.model_copy(update={"reason": "of another history after the same beginning"})
    for hint in (30, None):
        _, log = filled(30, hint=hint)
        assert log.head(seen).move == ALL[29]
        with pytest.raises(ReplayError, match="move 10 of the channel 'production' is another one than was seen"):
            log.head(other)
    _, log = filled(300, hint=300)
    assert log.head(other).move == ALL[299]  # too far back to look
    begun_anew = ALL[0].model_copy(update={"reason": "another beginning"})
    _, log = filled(2, hint=2)
    assert log.head(begun_anew).move == ALL[1]  # for whoever remembers to judge


def test_a_walk_reads_no_more_than_it_needs_and_misses_nothing() -> None:
    storage, log = filled(300)
    assert [move.sequence for _, move in zip(range(3), log.walk(ALL[299]), strict=False)] == [300, 299, 298]
    assert len(storage.requests) <= 2
    assert [move.sequence for move in log.walk(ALL[299])] == list(range(300, 0, -1))
    changed = ALL[99].model_copy(update={"actor": "eve"})
    for harm in (lambda: storage.objects.pop(key(100)), lambda: storage.objects.update({key(100): changed.written()})):
        harm()
        found: list[int] = []
        with pytest.raises(IntegrityError, match="move 100 of the channel 'production'"):
            for move in log.walk(ALL[299]):
                found.append(move.sequence)
        assert found == list(range(300, 100, -1))


class Endless(Counting):
    """Makes up the next move whenever one is asked for, and lists whatever is looked for."""

    def read(self, key: str, **bound: int) -> bytes:
        stem = key.rpartition("/")[2].removesuffix(".json")
        if key not in self.objects and stem.isdigit():
            before, number = Move.from_json(self.objects[max(self.objects)], where=""), int(stem)
            if number == before.sequence + 1:
                values = {"sequence": number, "from_version": before.to_version, "previous": before.sha256}
                move = before.model_copy(update=values | {"origin": before.begun_by})
                self.objects = {key: move.written()}
        return super().read(key, **bound)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if not self.lists:
            yield from super().list(prefix)
        for number in count():
            yield ObjectInfo(key=f"{prefix}{number:03d}.json", size=1, etag="", modified=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("lists", [True, False])
def test_moves_without_end_do_not_hold_a_reader_for_ever(lists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrainer.store.log._FOLLOWED_SECONDS", 0.2)
    [first] = chain(1)
    storage: Any = Endless({key(1): first.written()}, lists=lists)
    log = ChannelLog(storage, "news", "production")
    with pytest.raises(StorageError, match="have no end"):
        log.after(first)
    with pytest.raises((StorageError, IntegrityError)):
        log.head()
