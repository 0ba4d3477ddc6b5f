"""When a watching classifier looks, what it makes of what it finds, and what its status says."""

from __future__ import annotations

import gc
import logging
import random
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import UserError
from retrainer.serve import Classifier, watching
from retrainer.serve.watching import LONGEST_WAIT, Watcher, first_wait, next_wait
from retrainer.store import Store
from tests.serve.conftest import PublishedStore, contradicted, eventually, load, relabelled
from tests.store.conftest import Proxy, proxy  # noqa: F401

INTERVAL = 0.05


@given(interval=st.floats(0.01, 1e5), failures=st.integers(0, 10_000), seed=st.integers())
def test_waits(interval: float, failures: int, seed: int) -> None:
    wait = next_wait(interval, failures, random.Random(seed))
    if failures == 0:
        assert 0.9 * interval <= wait <= 1.1 * interval
    else:
        assert interval <= wait <= max(interval, LONGEST_WAIT)
        assert wait <= interval * 2.0 ** min(failures, 100)


def test_waits_grow_and_differ() -> None:
    source = random.Random(1)
    means = [sum(next_wait(1.0, failures, source) for _ in range(200)) / 200 for failures in (0, 1, 4, 20)]
    assert means == sorted(means)
    assert len({next_wait(60.0, 0, source) for _ in range(10)}) == 10


@settings(max_examples=20, derandomize=True, deadline=None)
@given(seed=st.integers(), outage=st.booleans())
def test_a_fleet_that_starts_together_does_not_ask_together(seed: int, outage: bool) -> None:
    """500 hosts, at their start and, where something brought them together later, once it is over."""
    hosts, interval, intervals = 500, 60.0, 4
    source = random.Random(seed)
    seconds: Counter[int] = Counter()
    for _ in range(hosts):
        at = first_wait(interval, source) if not outage else next_wait(interval, 3, source)
        assert at <= (interval if not outage else LONGEST_WAIT)
        while at < intervals * interval:
            seconds[int(at)] += 1
            before, at = at, at + next_wait(interval, 0, source)
            assert at - before <= 1.1 * interval  # so that a swap is seen by all within two intervals
    # The mean of a fleet whose looks are spread: that of what was asked is lower while some still wait.
    assert max(seconds.values()) <= 3 * hosts / interval


def test_the_first_look_has_a_wait_of_its_own_and_so_has_a_new_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a whole fleet is given another interval at once."""
    asked: list[float] = []

    def at_once(interval: float, source: random.Random) -> float:
        asked.append(interval)
        return 0.0

    monkeypatch.setattr(watching, "first_wait", at_once)
    subject = _Looker()
    watcher = Watcher(subject.look, 3600.0, name="test")
    eventually(lambda: subject.looks == 1, "the first look")
    watcher.interval = 1800.0
    eventually(lambda: subject.looks == 2, "the look after the interval changed")
    watcher.stop()
    assert asked == [3600.0, 1800.0]


class _Looker:
    def __init__(self) -> None:
        self.looks = 0

    def look(self) -> int:
        self.looks += 1
        return 0


def test_a_refresh_takes_over_what_is_new(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    classify = load(store, cache)
    assert not classify.refresh()
    first = classify.status
    assert (first.version, first.channel, first.model) == (classify.version, "production", "trails")
    assert (first.sequence, first.swaps, first.problem, first.watching, first.offline) == (1, 0, None, False, False)
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    assert classify.refresh()
    assert classify.version == second
    assert classify("the trail is open")[0]["label"].endswith("-2")
    assert classify.labels[0].endswith("-2")
    status = classify.status
    assert (status.version, status.sequence, status.swaps) == (second, 2, 1)
    # All of one version, also of one that is no longer served.
    assert (status.labels, first.labels) == (classify.labels, store.model.manifest(first.version).labels)
    assert (status.task, status.max_length) == ("text-classification", store.model.manifest(second).max_length)
    assert status.loaded_at > first.loaded_at
    assert status.checked_at is not None
    assert first.checked_at is not None
    assert status.checked_at > first.checked_at


def test_away_and_back_between_two_looks(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    classify = load(store, cache)
    store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    store.model.rollback("production", actor="test", reason="a test")
    assert not classify.refresh()
    assert (classify.status.sequence, classify.status.swaps) == (3, 0)


def test_a_bad_version_is_refused_and_left_alone(
    store: PublishedStore, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Watching, it is tried again after a while, not at each look; and said once."""
    classify = load(store, cache)
    good = classify.version
    bad = store.publish(bundle=contradicted(store.bundle, tmp_path / "bad"))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert not classify._look(patient=True)
    assert classify.version == good
    assert classify("the trail is open")
    status = classify.status
    assert (status.refused_version, status.refusals, status.failures_in_a_row) == (bad, 1, 1)
    assert status.problem is not None
    assert "does not answer here" in status.problem
    assert not status.offline
    assert caplog.text.count(f"version {bad} is refused") == 1
    assert not classify.refresh()  # asked for, it is tried at once
    assert (classify.status.refusals, classify.status.failures_in_a_row) == (1, 2)
    third = store.publish(bundle=relabelled(store.bundle, tmp_path / "third", "3"))
    assert classify._look(patient=True)
    assert (classify.version, classify.status.problem, classify.status.refused_version) == (third, None, None)


@pytest.mark.parametrize("name", ["manifest.json", "bundle.json"])
def test_a_version_that_was_altered_is_refused(store: PublishedStore, cache: Path, tmp_path: Path, name: str) -> None:
    classify = load(store, cache)
    bad = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    path = store.file(bad, name)
    content = path.read_bytes()
    for damage in (None, b"", bytes([content[0] ^ 1]) + content[1:]):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        assert not classify.refresh()
        assert classify.status.refused_version == bad
        assert classify("the trail is open")
    path.write_bytes(content)
    assert classify.refresh()
    assert (classify.version, classify.status.problem) == (bad, None)


def test_a_store_that_goes_away(store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    classify = load(store, cache)
    away = store.folder.rename(store.folder.with_name("away"))
    for number in range(1, 4):
        assert not classify.refresh()
        assert (classify.status.offline, classify.status.failures_in_a_row) == (True, number)
    assert caplog.text.count("the store cannot be reached") == 1
    assert classify.status.refusals == 0
    assert classify("the trail is open")
    away.rename(store.folder)
    assert not classify.refresh()
    assert (classify.status.offline, classify.status.problem, classify.status.failures_in_a_row) == (False, None, 0)


def test_a_start_without_the_store_says_so_and_catches_up(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    load(store, cache).close()
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    away = store.folder.rename(store.folder.with_name("away"))
    classify = load(store, cache)
    assert classify.status.offline
    assert classify.status.checked_at is None
    away.rename(store.folder)
    assert classify.refresh()
    assert (classify.version, classify.status.offline) == (second, False)


@pytest.mark.parametrize("number", [1, 2])
def test_a_move_that_is_gone_or_damaged(
    store: PublishedStore, cache: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Junk after the present move is seen at once; what became of that move itself, from time to time."""
    monkeypatch.setattr("retrainer.serve.cache.LOOKS_IN_A_ROW", 3)
    classify = load(store, cache)
    path = store.move_path(number)
    content = store.move_path(1).read_bytes()
    for damage in (None, b"", content[:-9]):
        if damage is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(damage)
        for _ in range(3):
            assert not classify.refresh()
            if classify.status.problem or (damage is None and number == 2):
                break
        assert bool(classify.status.problem) is (damage is not None or number == 1)
        assert not classify.status.offline
        assert classify("the trail is open")
    if number == 1:
        path.write_bytes(content)
    else:
        path.unlink()
    assert not classify.refresh()
    assert classify.status.problem is None


def test_a_look_that_finds_nothing_new_is_one_request(
    bundle: Path,
    cache: Path,
    s3_bucket: str,
    proxy: Proxy,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also while what it finds is refused."""
    url = f"s3://{s3_bucket}/models"
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    published.publish()
    classify = load(published, cache)
    requests: list[str] = []
    handler = proxy.RequestHandlerClass
    original = handler.do_GET  # type: ignore[attr-defined]

    def counted(self: object) -> None:
        requests.append(self.path)  # type: ignore[attr-defined]
        original(self)

    monkeypatch.setattr(handler, "do_GET", counted)
    for _ in range(3):
        classify._look(patient=True)
    assert [path.partition("?")[0].rpartition("/")[2] for path in requests] == ["0000000002.json"] * 3
    requests.clear()
    load(published, cache)  # a start, with all files in the cache
    asked = sorted(path.partition("?")[0].rpartition("/")[2] for path in requests)
    assert asked == ["0000000001.json", "0000000002.json", "latest.json"]
    published.publish(bundle=contradicted(bundle, tmp_path / "bad"))
    classify._look(patient=True)
    requests.clear()
    for _ in range(3):
        classify._look(patient=True)
    assert len(requests) == 3


def test_watching_follows_and_stops(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    with load(store, cache) as classify:
        classify.watch(INTERVAL)
        assert classify.status.watching
        classify.watch(INTERVAL)  # again: another interval, still one thread
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("retrainer-watch")]
        assert len(names) == 1
        second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        eventually(lambda: classify.version == second, "the new version never came")
        shutil.rmtree(store.folder)
        eventually(lambda: classify.status.offline, "nobody noticed that the store is gone")
        assert classify("the trail is open")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("retrainer-watch")]
    with pytest.raises(UserError, match="was closed"):
        classify("the trail is open")


def test_watching_survives_what_nobody_foresaw(
    store: PublishedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(store, cache) as classify:
        assert classify._follower is not None
        with monkeypatch.context() as patch:

            def broken(*_: object, **__: object) -> None:
                raise MemoryError("none left")

            patch.setattr(classify._follower, "look", broken)
            classify.watch(INTERVAL)
            eventually(lambda: classify.status.problem == "none left", "the status never said it")
        second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        eventually(lambda: classify.version == second, "the thread did not go on")


def test_a_classifier_that_nobody_holds_stops_watching(store: PublishedStore, cache: Path) -> None:
    classify = load(store, cache)
    classify.watch(3600)
    thread = next(thread for thread in threading.enumerate() if thread.name.startswith("retrainer-watch"))
    del classify
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_watcher_holds_its_subject_only_while_it_looks() -> None:
    class Subject:
        looked = threading.Event()

        def look(self) -> int:
            self.looked.set()
            return 0

    subject = Subject()
    Watcher(subject.look, 0.01, name="test")
    assert subject.looked.wait(60)
    alive = weakref.ref(subject)
    del subject
    eventually(lambda: alive() is None, "the thread still holds it")


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), 1e12, True, "60", None])
def test_intervals_that_make_no_sense(store: PublishedStore, cache: Path, interval: float) -> None:
    with load(store, cache) as classify, pytest.raises(UserError, match="interval"):
        classify.watch(interval)


def test_nothing_to_watch(store: PublishedStore, cache: Path, bundle: Path) -> None:
    version = load(store, cache).version
    for classify in (load(store, cache, version=version), Classifier.from_folder(bundle)):
        assert not classify.refresh()
        assert classify.status.channel is None
        with pytest.raises(UserError, match="no channel to watch"):
            classify.watch()


def test_a_process_that_watches_ends(store: PublishedStore, cache: Path) -> None:
    """While it looks as often as it can, and never closes anything."""
    program = (
        "import sys\n"
        "from retrainer.serve import Classifier\n"
        "classify = Classifier.from_store(sys.argv[1], 'trails', cache_dir=sys.argv[2])\n"
        "classify.watch(0.0001)\n"
        "print(classify('the trail is open')[0]['label'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, store.url, str(cache)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
