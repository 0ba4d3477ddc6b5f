"""Publishers that race for one channel, in processes of their own, on a folder and in a bucket."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.published import CHANNEL, MODEL, make_bundle, publish, server
from benchmarks.table import show
from retrainer.errors import ChampionChanged
from retrainer.store import Manifest, Store

FORK = multiprocessing.get_context("fork")
PUBLISHERS = 8


def _racer(url: str, bundles: list[tuple[Path, Manifest]], barrier: Barrier, outcomes: Path, name: int) -> None:
    model = Store.open(url).model(MODEL)
    for number, bundle in enumerate(bundles):
        newest = model.newest_move(CHANNEL)
        barrier.wait(600)
        try:
            publish(model, bundle, newest.to_version if newest else None)
        except ChampionChanged:
            (outcomes / f"{number}-{name}-told").touch()
        else:
            (outcomes / f"{number}-{name}-won-{bundle[1].version}").touch()
        barrier.wait(600)


def race(url: str, folder: Path, rounds: int) -> list[str]:
    """Eight processes publish at once, in rounds. A row of the table."""
    outcomes = folder / "outcomes"
    outcomes.mkdir(parents=True)
    barrier = FORK.Barrier(PUBLISHERS)
    bundles = [
        [make_bundle(folder / "bundles", f"{number}-{name}") for number in range(rounds)] for name in range(PUBLISHERS)
    ]
    started = time.perf_counter()
    processes = [
        FORK.Process(target=_racer, args=(url, own, barrier, outcomes, name)) for name, own in enumerate(bundles)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    failed = sum(process.exitcode != 0 for process in processes)
    won: dict[int, list[str]] = {}
    told = 0
    for path in outcomes.iterdir():
        number, _, outcome, *version = path.name.split("-")
        told += outcome == "told"
        if outcome == "won":
            won.setdefault(int(number), []).append(version[0])
    model = Store.open(url).model(MODEL)
    newest = model.verify_channel(CHANNEL)
    history = [entry.to_version for entry in reversed(model.history(CHANNEL))]
    one_each = sum(len(winners) == 1 for winners in won.values())
    follows = history == [winner for number in sorted(won) for winner in won[number]]
    kept = sum(info.problem is None for info in model.versions())
    return [
        f"{one_each} of {rounds}",
        f"{told} of {rounds * (PUBLISHERS - 1)}",
        "intact" if newest is not None and follows and newest.sequence == rounds else "BROKEN",
        f"{kept} of {rounds * PUBLISHERS}",
        str(failed),
        f"{seconds / (rounds * PUBLISHERS) * 1000:.0f}",
    ]


def races(folder: Path, rounds: int) -> None:
    """Print who won."""
    rows = [["folder", *race(str(folder / "store"), folder / "on-folder", rounds)]]
    with server() as s3:
        rows.append(["bucket", *race(s3.bucket("races"), folder / "on-bucket", rounds)])
    show(
        f"{PUBLISHERS} processes publish at once, {rounds} rounds",
        ["", "one winner", "losers told", "chain", "whole versions", "crashed", "ms a publish"],
        rows,
        "each loser uploaded its version, which stays whole and unused",
    )
