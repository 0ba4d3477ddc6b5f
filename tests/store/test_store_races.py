"""Eight publishers at once: one winner for each champion that was expected, the others told, nothing lost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from retrainer.errors import ChampionChanged
from retrainer.store import Manifest, Store
from tests.store.conftest import publish

MakeBundle = Callable[[str], tuple[Path, Manifest]]
FORK = multiprocessing.get_context("fork")
PUBLISHERS = 8


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int]:
    """An address and a number of rounds. The bucket is reached through the proxy, which keeps conditions strict."""
    if request.param == "folder":
        return str(tmp_path / "store"), 50
    request.getfixturevalue("proxy")
    return f"s3://{request.getfixturevalue('s3_bucket')}/models", 4


def _race(url: str, bundles: list[tuple[Path, Manifest]], barrier: Barrier, outcomes: Path, name: int) -> None:
    model = Store.open(url).model("news")
    for number, bundle in enumerate(bundles):
        newest = model.newest_move("production")
        barrier.wait(60)  # all have seen the same champion
        try:
            published = publish(model, bundle, newest.to_version if newest else None)
        except ChampionChanged:
            (outcomes / f"{number}-{name}-told").touch()
        else:
            assert published.moved
            (outcomes / f"{number}-{name}-{published.version}").touch()
        barrier.wait(60)


def _run(processes: list[multiprocessing.context.ForkProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_one_winner_a_round(place: tuple[str, int], bundle: MakeBundle, tmp_path: Path) -> None:
    url, rounds = place
    barrier, outcomes = FORK.Barrier(PUBLISHERS), tmp_path / "outcomes"
    outcomes.mkdir()
    workers = []
    for name in range(PUBLISHERS):
        bundles = [bundle(f"{number}-{name}") for number in range(rounds)]
        workers.append(FORK.Process(target=_race, args=(url, bundles, barrier, outcomes, name)))
    _run(workers)
    told = [path for path in outcomes.iterdir() if path.name.endswith("told")]
    won = sorted((path.name.split("-") for path in outcomes.iterdir() if path not in told), key=lambda x: int(x[0]))
    assert [int(number) for number, _, _ in won] == list(range(rounds))
    assert len(told) == rounds * (PUBLISHERS - 1)
    model = Store.open(url).model("news")
    history = model.history("production")
    assert [entry.to_version for entry in reversed(history)] == [version for _, _, version in won]
    assert model.verify_channel("production") is not None
    assert [move.sequence for move in history] == list(range(rounds, 0, -1))
    # What the losers uploaded is whole, and theirs to publish after another decision. Who came late uploaded nothing.
    infos = model.versions()
    assert rounds <= len(infos) <= rounds * PUBLISHERS
    assert {info.problem for info in infos} == {None}


def _same(url: str, bundle: tuple[Path, Manifest], barrier: Barrier) -> None:
    model = Store.open(url).model("news")
    barrier.wait(60)
    publish(model, bundle, None)


def test_publishers_of_one_bundle_all_succeed(store_url: str, bundle: MakeBundle) -> None:
    barrier = FORK.Barrier(3)
    _run([FORK.Process(target=_same, args=(store_url, bundle("one"), barrier)) for _ in range(3)])
    model = Store.open(store_url).model("news")
    assert len(model.history("production")) == 1
    assert len(model.versions()) == 1
