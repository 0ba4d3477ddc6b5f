"""``gc``: keeps what channels and rollbacks need, and never takes a version away from under a publisher."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import IntegrityError, RetrainerError, StorageError, StoragePermissionError, UserError
from retrainer.storage import ObjectInfo, Storage, Transfer, open_storage
from retrainer.store import Cause, Manifest, ModelStore, Store
from retrainer.store.fsck import check_store, repair
from retrainer.store.gc import Plan, plan_gc, run_gc
from retrainer.store.removal import Removal, read_removal, write_intent

MakeBundle = Callable[[str], tuple[Path, Manifest]]
HINT = "news/channels/production/latest.json"
LATER = timedelta(days=3)


def publish(model: ModelStore, bundle: tuple[Path, Manifest], channel: str = "production") -> str:
    folder, manifest = bundle
    newest = model.newest_move(channel)
    return model.publish(
        folder,
        manifest,
        channel=channel,
        actor="ada",
        reason="a test",
        decision=None,
        expected=newest.to_version if newest else None,
        anchor=True,  # as if each were shown to be better: else the first one stays, too
    ).version


def fill(url: str, sharing: MakeBundle, count: int = 5) -> list[str]:
    """Versions that were live one after the other; the last one is."""
    model = Store.open(url).model("news")
    return [publish(model, sharing(str(number))) for number in range(count)]


def fresh(url: str, number: int, sharing: MakeBundle) -> str:
    """A store of three versions of its own: a copy where that is cheap."""
    if "://" in url:
        fill(f"{url}-{number}", sharing, 3)
    else:
        if not Path(url).exists():
            fill(url, sharing, 3)
        shutil.copytree(url, f"{url}-{number}")
    return f"{url}-{number}"


def three(sharing: MakeBundle) -> list[str]:
    """The versions of such a store, the oldest first."""
    return [sharing(str(number))[1].version for number in range(3)]


class Wrapped:
    """A storage that does something before each request."""

    def __init__(self, storage: Storage, before: Callable[[str], object]) -> None:
        self._storage = storage
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found) or name in {"where", "local_path"}:
            return found

        def request(*args: Any, **options: Any) -> Any:
            self._before(name)
            return found(*args, **options)

        return request


class Aged(Wrapped):
    """A storage in which everything that is there now was written some days ago."""

    def __init__(self, storage: Storage, before: Callable[[str], object] = lambda _: None) -> None:
        super().__init__(storage, before)
        self._old = {info.key: (info.etag, info.modified) for info in storage.list()}

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._before("list")
        for info in self._storage.list(prefix):
            old = self._old.get(info.key) == (info.etag, info.modified)
            yield replace(info, modified=info.modified - LATER) if old else info


def aged(url: str, before: Callable[[str], object] = lambda _: None) -> Storage:
    return Aged(open_storage(url), before)


def move_key(number: int) -> str:
    return f"news/channels/production/{number:010d}.json"


def moves_of(url: str) -> set[str]:
    return {info.key for info in open_storage(url).list("news/channels/")}


def versions_of(plan: Plan) -> list[str]:
    return sorted(doomed.version for doomed in plan.delete)


def in_store(url: str) -> set[str]:
    return {info.version for info in Store.open(url).model("news").versions()}


# What stays and what goes


def test_an_anchor_stays(store_url: str, sharing: MakeBundle) -> None:
    versions = fill(store_url, sharing)
    Store.open(store_url).model("news").pin_anchor(
        "production", versions[1], actor="ada", reason="the best", cause=Cause.OTHER
    )
    plan = plan_gc(aged(store_url), "news", keep=1)
    assert versions_of(plan) == sorted([versions[0], versions[2], versions[3]])
    kept = {kept.version: kept.reasons for kept in plan.kept}
    assert kept[versions[1]] == ("the anchor of production", "among the last 1 moves of production")


def test_what_channels_and_their_last_moves_name_stays(store_url: str, sharing: MakeBundle) -> None:
    versions = fill(store_url, sharing)
    model = Store.open(store_url).model("news")
    model.promote("staging", version=versions[0], actor="ada", reason="old one")
    storage = aged(store_url)
    plan = plan_gc(storage, "news", keep=1)
    assert versions_of(plan) == sorted(versions[1:3])
    assert {kept.version: kept.reasons for kept in plan.kept} == {
        versions[0]: ("staging points at it", "among the last 1 moves of staging"),
        versions[3]: ("among the last 1 moves of production",),
        versions[4]: ("production points at it", "among the last 1 moves of production"),
    }
    assert versions_of(plan_gc(storage, "news", keep=2)) == [versions[1]]
    assert versions_of(plan_gc(storage, "news")) == []
    assert in_store(store_url) == set(versions)  # a plan deletes nothing


def test_what_goes_is_gone_and_the_rest_is_whole(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    versions = fill(store_url, sharing)
    storage = aged(store_url)
    plan = plan_gc(storage, "news", keep=1)
    assert plan.bytes == sum(info.size for v in versions[:3] for info in storage.list(f"news/versions/{v}/"))
    done = run_gc(storage, plan)
    assert [outcome.kept for outcome in done.outcomes] == [None] * 3
    assert done.bytes == plan.bytes
    assert in_store(store_url) == set(versions[3:])
    assert not [info for version in versions[:3] for info in storage.list(f"news/versions/{version}/")]
    assert check_store(open_storage(store_url)).findings == ()
    model = Store.open(store_url).model("news")
    assert model.rollback("production", actor="ada", reason="the one before is there").version == versions[3]
    again = publish(model, sharing("0"))  # what was deleted can be published again
    assert again == versions[0]
    model.fetch(again, tmp_path / "again")
    outcomes = {outcome.version: outcome.kept for outcome in run_gc(storage, plan).outcomes}  # it is looked at again
    assert outcomes[again] == "production points at it"
    assert set(outcomes.values()) == {"production points at it", "it is gone already"}


def test_the_young_stay(store_url: str, sharing: MakeBundle) -> None:
    versions = fill(store_url, sharing)
    now = datetime.now(UTC)
    storage = open_storage(store_url)
    assert versions_of(plan_gc(storage, "news", keep=1, now=now)) == []
    # The newest object of the folder counts: here a signature that was added.
    old = aged(store_url)
    storage.write(f"news/versions/{versions[0]}/signatures/{'0' * 16}.json", b"{}")
    assert versions_of(plan_gc(old, "news", keep=1)) == sorted(versions[1:3])
    assert versions_of(plan_gc(old, "news", keep=1, min_age=timedelta(days=4))) == []
    with pytest.raises(UserError, match="younger than a day"):
        plan_gc(old, "news", min_age=timedelta(hours=23))
    with pytest.raises(UserError, match="at least the last move"):
        plan_gc(old, "news", keep=0)


def test_what_an_intent_of_the_last_day_names_stays(store_url: str, sharing: MakeBundle) -> None:
    """Whether its move took place or not: its publisher may be about to make it."""
    versions = fill(store_url, sharing)
    storage = aged(store_url)
    write_intent(open_storage(store_url), "news", versions[0])
    assert versions_of(plan_gc(storage, "news", keep=1)) == sorted(versions[1:3])
    later = datetime.now(UTC) + LATER
    plan = plan_gc(storage, "news", keep=1, now=later)
    assert versions_of(plan) == sorted(versions[:3])
    assert len(list(storage.list("news/intents/"))) == 6
    run_gc(storage, plan, now=later)
    assert list(storage.list("news/intents/")) == []  # they have done their duty


def test_leftovers_of_killed_writers_go(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    storage = open_storage(url)
    storage.write("news/versions/0123456789abcdef/config.json", b"{}")
    old = tmp_path / "store" / "news" / "versions" / "0123456789abcdef" / ".retrainer-temporary-0"
    young = old.with_name(".retrainer-temporary-1")
    for path in (old, young):
        path.write_bytes(b"half")
    days_ago = datetime.now(UTC).timestamp() - LATER.total_seconds()
    for path in (old, old.with_name("config.json")):
        os.utime(path, (days_ago, days_ago))
    plan = plan_gc(storage, "news")
    assert [(one.version, one.reason) for one in plan.delete] == [
        ("0123456789abcdef", "an upload that was never completed")
    ]
    assert [one.where for one in plan.leftovers] == [str(old)]
    assert run_gc(storage, plan).leftovers == 1
    assert (old.exists(), young.exists()) == (False, True)
    assert not list(storage.list("news/versions/0123456789abcdef/"))


def test_objects_that_are_not_the_stores_keep_a_version(s3_bucket: str, sharing: MakeBundle) -> None:
    """No storage of ours can name such a key, so that the version would stay under its note for ever."""
    url = f"s3://{s3_bucket}/models"
    versions = fill(url, sharing)
    storage = aged(url)
    plan = plan_gc(storage, "news", keep=1)
    stray = f"models/news/versions/{versions[0]}//stray"
    boto3.client("s3").put_object(Bucket=s3_bucket, Key=stray, Body=b"x")
    later = datetime.now(UTC) + LATER
    done = run_gc(storage, plan, now=later)
    assert [(one.version, one.kept is None) for one in done.outcomes] == [
        (version, version != versions[0]) for version in [doomed.version for doomed in plan.delete]
    ]
    Store.open(url).model("news").manifest(versions[0])  # there is no note
    again = plan_gc(storage, "news", keep=1, now=later)
    assert again.delete == ()
    (kept,) = [one for one in again.kept if one.version == versions[0]]
    assert "delete them by hand" in kept.reasons[0]
    assert "//stray" in kept.reasons[0]


def test_an_age_beyond_all_time(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing, 1)
    with pytest.raises(UserError, match="nothing is as old"):
        plan_gc(open_storage(url), "news", min_age=timedelta(days=900_000))


# Failing closed


@pytest.mark.parametrize(
    "damage",
    [
        lambda storage: storage.write(move_key(5), b"{"),
        lambda storage: storage.delete(move_key(5)),
        lambda storage: [storage.delete(move_key(number)) for number in range(1, 6)],
        lambda storage: storage.delete(move_key(1)),
        lambda storage: storage.write(move_key(2), b"{}"),
        lambda storage: storage.write(move_key(6), storage.read(move_key(5))),
    ],
    ids=["unreadable", "newest deleted", "all deleted", "one gone", "one altered", "junk after it"],
)
def test_a_channel_that_cannot_be_trusted_stops_everything(
    tmp_path: Path, sharing: MakeBundle, damage: Callable[[Storage], object]
) -> None:
    url = str(tmp_path / "store")
    versions = fill(url, sharing)
    storage = aged(url)
    plan = plan_gc(storage, "news", keep=1)
    damage(storage)
    for attempt in (lambda: plan_gc(storage, "news", keep=1), lambda: run_gc(storage, plan)):
        with pytest.raises(IntegrityError):
            attempt()
    assert {info.key.split("/")[2] for info in storage.list("news/versions/")} == set(versions)


def test_a_plan_of_another_store(tmp_path: Path, sharing: MakeBundle) -> None:
    fill(str(tmp_path / "one"), sharing)
    plan = plan_gc(open_storage(tmp_path / "one"), "news")
    with pytest.raises(UserError, match="the plan is of the store"):
        run_gc(open_storage(tmp_path / "two"), plan)


# Against publishers


class Paused:
    """Work in a thread of its own that stops before one of its requests, until it is told to go on."""

    def __init__(self, url: str, at: int, work: Callable[[ModelStore], object]) -> None:
        self._left = at
        self._at_pause = threading.Event()
        self._go_on = threading.Event()
        self._work = work
        self.error: BaseException | None = None
        storage: Any = Wrapped(open_storage(url), self._count)
        self._thread = threading.Thread(target=self._run, args=(ModelStore(storage, "news"),))
        self._lock = threading.Lock()

    def _count(self, _: str) -> None:
        with self._lock:
            self._left -= 1
            pause = self._left == -1
        if pause:
            self._at_pause.set()
            self._go_on.wait()

    def _run(self, model: ModelStore) -> None:
        try:
            self._work(model)
        except RetrainerError as error:
            self.error = error
        finally:
            self._at_pause.set()

    def start(self) -> None:
        """Run up to the pause."""
        self._thread.start()
        self._at_pause.wait()

    def finish(self) -> None:
        """Run to the end."""
        self._go_on.set()
        self._thread.join()


def race(
    url: str, plan: Plan, work: Callable[[ModelStore], object], publisher_at: int, gc_at: int
) -> tuple[Paused, int]:
    """A publisher gets to one of its requests, gc to one of its own, the publisher to its end, and so does gc.

    :return: the publisher, and how many requests gc made.
    """
    publisher = Paused(url, publisher_at, work)
    count = 0
    lock = threading.Lock()

    def before(_: str) -> None:
        nonlocal count
        with lock:
            count += 1
            if count == gc_at:
                publisher.finish()

    storage = aged(url, before)
    publisher.start()
    try:
        run_gc(storage, plan)
    finally:
        publisher.finish()
    return publisher, count


def settle(url: str, publisher: Paused, doomed: str, before: set[str], folder: Path) -> bool:
    """What has to hold after a race.

    :return: whether the publisher got through.
    """
    storage = open_storage(url)
    model = Store.open(url).model("news")
    champion = model.champion("production")
    assert champion is not None
    model.fetch(champion.version, folder)
    assert check_store(storage).of("damage") == ()
    if publisher.error is None:
        assert champion.version == doomed
        return True
    assert isinstance(publisher.error, StorageError | IntegrityError)
    assert moves_of(url) == before
    return False


def promoting(version: str) -> Callable[[ModelStore], object]:
    return lambda model: model.promote("production", version=version, actor="eve", reason="a race")


def test_a_promotion_between_any_two_requests_of_gc(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    """No move ever goes to a version that is gone: the promotion wins, or is told and moves nothing."""
    folder = "://" not in store_url
    ended = set()
    versions = three(sharing)
    for gc_at in range(1, 60) if folder else (16,):
        url = fresh(store_url, gc_at, sharing)
        plan = plan_gc(aged(url), "news", keep=1)
        assert versions_of(plan) == [versions[0]]
        before = moves_of(url)
        publisher, count = race(url, plan, promoting(versions[0]), 0, gc_at)
        ended.add(settle(url, publisher, versions[0], before, tmp_path / f"copy-{gc_at}"))
        if count < gc_at:
            break
    if folder:
        assert count < gc_at  # there was no request left to come in between
        assert ended == {True, False}


@pytest.mark.parametrize("kind", ["promote", "publish"])
def test_any_interleaving_with_a_publisher(tmp_path: Path, sharing: MakeBundle, kind: str) -> None:
    numbers = iter(range(1_000_000))
    bundle = sharing("0")
    versions = three(sharing)
    work = promoting(versions[0]) if kind == "promote" else lambda model: publish(model, bundle)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 30), st.integers(1, 30))
    def check(publisher_at: int, gc_at: int) -> None:
        url = fresh(str(tmp_path / "store"), next(numbers), sharing)
        plan = plan_gc(aged(url), "news", keep=1)
        before = moves_of(url)
        publisher, _ = race(url, plan, work, publisher_at, gc_at)
        if settle(url, publisher, versions[0], before, Path(f"{url}-copy")):
            return
        publish(Store.open(url).model("news"), bundle)  # a second try converges
        assert check_store(open_storage(url)).of("damage") == ()

    check()


def test_an_upload_is_completed_while_gc_deletes_an_older_try_of_it(
    store_url: str, bundle: MakeBundle, tmp_path: Path
) -> None:
    """The publisher's new files meet gc's deletions: what went with the old try is sent again."""
    folder, manifest = bundle("new")
    fill(store_url, bundle, 2)
    storage = open_storage(store_url)
    storage.upload_all(
        [
            Transfer(folder / name, f"news/versions/{manifest.version}/{name}", entry.sha256, entry.size)
            for name, entry in manifest.files.items()
        ]
    )
    plan = plan_gc(aged(store_url), "news", keep=5)
    assert versions_of(plan) == [manifest.version]
    at_delete, go_on = threading.Event(), threading.Event()

    def before_gc(name: str) -> None:
        if name == "delete":
            at_delete.set()
            go_on.wait()

    gc = threading.Thread(target=run_gc, args=(aged(store_url, before_gc), plan))

    def before_publisher(name: str) -> None:
        if name == "upload_all" and not at_delete.is_set():
            gc.start()
            assert at_delete.wait(30)  # it has looked for the last time
        elif name == "write" and at_delete.is_set():  # the files are there, and the manifest comes next
            go_on.set()
            gc.join()

    try:
        publish(ModelStore(cast(Storage, Wrapped(storage, before_publisher)), "news"), (folder, manifest))
    finally:
        go_on.set()
    Store.open(store_url).model("news").fetch(manifest.version, tmp_path / "copy")
    assert check_store(open_storage(store_url)).of("damage") == ()


# A gc that is killed


def test_a_gc_that_was_stopped_is_ended_by_the_next(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    folder = "://" not in store_url
    versions = three(sharing)
    for gc_at in range(1, 60, 2) if folder else (18,):
        url = fresh(store_url, gc_at, sharing)
        plan = plan_gc(aged(url), "news", keep=1)
        storage: Any = aged(url)
        dead = False
        left = gc_at

        def before(_: str) -> None:
            # Once it is dead, nothing that it does takes effect: not even what it would clean up.
            nonlocal left, dead
            left -= 1
            if left <= 0:
                dead = True
                raise Stopped

        storage._before = before
        with suppress(Stopped):
            run_gc(storage, plan)
        found = check_store(open_storage(url))
        assert found.sound, found.findings
        if read_removal(open_storage(url), "news", versions[0]) is not None:
            with pytest.raises(RetrainerError):
                Store.open(url).model("news").promote("production", version=versions[0], actor="a", reason="b")
        done = run_gc(aged(url), plan_gc(aged(url), "news", keep=1))
        assert all(outcome.kept is None for outcome in done.outcomes)
        assert in_store(url) == set(versions[1:])
        assert check_store(open_storage(url)).findings == ()
        if not dead:
            break
    assert not dead or not folder


def test_a_version_under_a_note_can_be_put_back(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    """The worst case: gc died after its note, and somebody pointed the channel there by hand."""
    versions = fill(store_url, sharing, 2)
    storage = open_storage(store_url)
    key = f"news/versions/{versions[1]}/removal.json"
    note = Removal(removal_id="0" * 32, at=datetime.now(UTC).isoformat())
    storage.write(key, note.to_pretty_json().encode())
    found = check_store(storage)
    assert [(finding.code, finding.severity) for finding in found.findings] == [("removal-unfinished", "damage")]
    assert [one.problem for one in repair(storage, found)] == [None]
    assert not storage.exists(key)
    Store.open(store_url).model("news").fetch(versions[1], tmp_path / "copy")


def test_a_note_that_fsck_took_away_stops_gc(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    """It was so slow that its note was taken for that of a gc that was killed."""
    versions = three(sharing)
    fill(store_url, sharing, 3)
    storage: Any = aged(store_url)
    plan = plan_gc(storage, "news", keep=1)
    other = open_storage(store_url)
    key = f"news/versions/{versions[0]}/removal.json"

    def before(name: str) -> None:
        if name == "list_folders" and other.exists(key):  # the look at the channels, once the note is there
            other.delete(key)

    storage._before = before
    (outcome,) = run_gc(storage, plan).outcomes
    assert outcome.kept == "somebody put it back meanwhile"
    Store.open(store_url).model("news").fetch(versions[0], tmp_path / "copy")


def test_two_gcs_at_once_delete_nothing_that_is_needed(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    versions = fill(store_url, sharing, 3)
    storage: Any = aged(store_url)
    plan = plan_gc(storage, "news", keep=1)
    other = open_storage(store_url)
    started = False

    def before(name: str) -> None:
        nonlocal started
        if name == "write" and not started:  # the other one is first to write its note
            started = True
            note = Removal(removal_id="another", at=datetime.now(UTC).isoformat())
            other.write(f"news/versions/{versions[0]}/removal.json", note.to_pretty_json().encode())

    storage._before = before
    (outcome,) = run_gc(storage, plan).outcomes
    assert outcome.kept == "somebody else is removing it"
    Store.open(store_url).model("news").fetch(versions[0], tmp_path / "copy")


def test_who_may_not_delete_leaves_the_version_whole(store_url: str, sharing: MakeBundle, tmp_path: Path) -> None:
    """A publisher's policy: it may write the note, and nothing after."""
    versions = fill(store_url, sharing, 3)

    def before(name: str) -> None:
        if name == "delete":
            raise StoragePermissionError("access denied", where=store_url)

    storage = aged(store_url, before)
    with pytest.raises(StoragePermissionError):
        run_gc(storage, plan_gc(storage, "news", keep=1))
    Store.open(store_url).model("news").fetch(versions[0], tmp_path / "copy")
    assert check_store(open_storage(store_url)).of("damage") == ()
