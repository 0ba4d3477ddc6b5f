"""Publishers that are killed at any point, and publishers that race: readers see the old or the new version."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import ChampionChanged
from retrainer.storage import open_storage
from retrainer.store import Manifest, ModelStore, Published, Store

MakeBundle = Callable[[str], tuple[Path, Manifest]]
FORK = multiprocessing.get_context("fork")
CHANGING = ("upload", "write")


class Deadly:
    """A storage that kills its process at one of its changes, before or after it took effect."""

    def __init__(self, url: str, fatal: int, *, after: bool) -> None:
        self._storage = open_storage(url)
        self._fatal = fatal
        self._after = after
        self.changes = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        return self._counted(method) if name in CHANGING else method

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            self.changes += 1
            deadly = self.changes == self._fatal
            if deadly and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return method(*args, **options)
            finally:
                if deadly:
                    os.kill(os.getpid(), signal.SIGKILL)

        return change


def _publish(model: ModelStore, bundle: tuple[Path, Manifest], expected: str | None) -> Published:
    folder, manifest = bundle
    return model.publish(
        folder,
        manifest,
        channel="production",
        actor="ada",
        reason="a try",
        decision=None,
        expected=expected,
    )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publisher_killed_at_any_change(store_url: str, bundle: MakeBundle, tmp_path: Path, after: bool) -> None:
    def attempt(fatal: int, new: tuple[Path, Manifest], expected: str) -> None:
        _publish(ModelStore(Deadly(store_url, fatal, after=after), "news"), new, expected)

    model = Store.open(store_url).model("news")
    before = _publish(model, bundle("0"), None).version
    for fatal in range(1, 20):
        new = bundle(str(fatal))
        worker = FORK.Process(target=attempt, args=(fatal, new, before))
        worker.start()
        worker.join()
        champion = model.champion("production")
        assert champion is not None
        assert champion.version in {before, new[1].version}
        model.fetch(champion.version, tmp_path / f"copy-{fatal}")  # whole, whichever it is
        moved = champion.version == new[1].version
        assert len(model.history("production")) == fatal + moved
        if worker.exitcode == 0:
            assert moved
            break
        assert worker.exitcode == -signal.SIGKILL
        again = _publish(model, new, before)
        assert (again.version, again.moved, again.previous) == (new[1].version, not moved, before)
        assert len(model.history("production")) == fatal + 1
        before = again.version
    # Two of the probe, three files, the manifest, the entry and the pointer.
    assert fatal == 9
    assert {info.version for info in model.versions()} == {
        bundle(str(number))[1].version for number in range(fatal + 1)
    }


def test_a_first_publisher_killed_before_its_manifest_leaves_no_version(store_url: str, bundle: MakeBundle) -> None:
    one = bundle("one")

    def attempt() -> None:
        model = ModelStore(Deadly(store_url, 5, after=True), "news")
        _publish(model, one, None)

    worker = FORK.Process(target=attempt)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    model = Store.open(store_url).model("news")
    assert Store.open(store_url).models() == []
    assert model.champion("production") is None
    assert model.versions() == []
    assert list(open_storage(store_url).list("news/versions/"))  # something was left
    assert _publish(model, one, None).moved


def _race(url: str, bundles: list[tuple[Path, Manifest]], barrier: Barrier, wins: Path) -> None:
    model = Store.open(url).model("news")
    for number, bundle in enumerate(bundles):
        pointer = model.pointer("production")
        barrier.wait(60)  # all have seen the same champion
        try:
            published = _publish(model, bundle, pointer.version if pointer else None)
        except ChampionChanged:
            continue
        finally:
            barrier.wait(60)
        assert published.moved
        (wins / f"{number}-{published.version}").touch()


def test_racing_publishers_have_one_winner_a_round(store_url: str, bundle: MakeBundle, tmp_path: Path) -> None:
    rounds, publishers = (10, 4) if "://" not in store_url else (4, 3)
    barrier, wins = FORK.Barrier(publishers), tmp_path / "wins"
    wins.mkdir()
    workers = [
        FORK.Process(
            target=_race,
            args=(store_url, [bundle(f"{worker}-{number}") for number in range(rounds)], barrier, wins),
        )
        for worker in range(publishers)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0] * publishers
    won = sorted(wins.iterdir(), key=lambda path: int(path.name.partition("-")[0]))
    assert [int(path.name.partition("-")[0]) for path in won] == list(range(rounds))
    history = Store.open(store_url).model("news").history("production")
    assert [entry.to_version for entry in reversed(history)] == [path.name.partition("-")[2] for path in won]


def _same(url: str, bundle: tuple[Path, Manifest], barrier: Barrier) -> None:
    model = Store.open(url).model("news")
    barrier.wait(60)
    _publish(model, bundle, None)


def test_racing_publishers_of_one_bundle_both_succeed(store_url: str, bundle: MakeBundle) -> None:
    barrier = FORK.Barrier(3)
    workers = [FORK.Process(target=_same, args=(store_url, bundle("one"), barrier)) for _ in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0] * 3
    model = Store.open(store_url).model("news")
    assert len(model.history("production")) == 1
    assert len(model.versions()) == 1
