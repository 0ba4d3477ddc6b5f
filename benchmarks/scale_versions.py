"""What a model of ten thousand versions costs: whoever publishes, starts, looks, lists, resolves, collects garbage, and
the console's first page. Requests in a bucket, milliseconds on a folder.

Stores are filled past their front door with what publications leave (``store_growth``, ``console``). The bucket is
moto's, whose requests count and whose times do not: its listings look at every key. So what reads a whole log is
counted there up to a thousand versions, and drawn out by a line. Part of ``python -m benchmarks.scale``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from benchmarks.console import client_of, deployment
from benchmarks.deployment import Deployment
from benchmarks.published import CHANNEL, MODEL, Server, server
from benchmarks.store_growth import NEWEST, Filled, costs, write_object
from benchmarks.table import show
from retrainer.storage import Storage, open_storage
from retrainer.storage.access import TIMEOUT
from retrainer.store import Store
from retrainer.store.gc import Plan, plan_gc, run_gc

# Until then nothing of a store that was just filled is too young to go.
LATER = timedelta(days=30)
# Versions that are deleted to learn what one takes.
DELETED = 5
CHECKS_SECONDS = 2.0
MOST_IN_MOTO = 1000
FIRST_PAGE = "the console's first page, one such model, cold"


@dataclass
class Table:
    """Name of an operation to size to figure."""

    figures: dict[str, dict[int, float]] = field(default_factory=dict)

    def note(self, name: str, size: int, figure: float) -> None:
        """One figure."""
        self.figures.setdefault(name, {})[size] = figure

    def print(self, title: str, sizes: list[int], digits: int, closing: str = "") -> None:
        """All, with how much the last is of the first."""
        rows = []
        for name, by_size in self.figures.items():
            drawn = {size: by_size.get(size, _on_the_line(by_size, size)) for size in sizes}
            first, last = drawn[sizes[0]], drawn[sizes[-1]]
            cells = [f"{'' if size in by_size else '~'}{drawn[size]:,.{digits}f}" for size in sizes]
            rows.append([name, *cells, f"{last / first:,.1f}" if first else "-"])
        show(title, ["", *(f"{size:,} versions" for size in sizes), "last / first"], rows, closing)


def _on_the_line(figures: dict[int, float], size: int) -> float:
    """Through the last two."""
    (low, at_low), (high, at_high) = sorted(figures.items())[-2:]
    return at_high + (at_high - at_low) * (size - high) / (high - low)


def further(storage: Storage, table: Table, size: int, measure: Callable[[Callable[[], object]], float]) -> None:
    """What ``store_growth`` does not do.

    :param measure: what an act takes.
    """
    model = Store(storage).model(MODEL)
    newest = model.newest_move(CHANNEL)
    assert newest is not None
    table.note("resolve a version by its name", size, measure(lambda: model.manifest(newest.to_version)))
    table.note(f"history, the newest {NEWEST}", size, measure(lambda: model.history(CHANNEL, limit=NEWEST)))
    table.note("history, all of it", size, measure(lambda: model.history(CHANNEL)))
    table.note("list all versions", size, measure(model.versions))
    plans: list[Plan] = []
    now = datetime.now(UTC) + LATER
    table.note("gc, the plan", size, measure(lambda: plans.append(plan_gc(storage, MODEL, now=now))))
    plan = plans[0]
    none = measure(lambda: run_gc(storage, plan.model_copy(update={"delete": ()}), now=now))
    some = measure(lambda: run_gc(storage, plan.model_copy(update={"delete": plan.delete[:DELETED]}), now=now))
    table.note("gc, before it deletes", size, none)
    table.note("gc, each version that it deletes", size, (some - none) / min(DELETED, len(plan.delete)))


def _milliseconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def _requests(s3: Server, act: Callable[[], object]) -> float:
    before = s3.requests
    act()
    return s3.requests - before


def _ask(made: Deployment, checks: float = 0.0) -> None:
    """Have the first page drawn by a console that nobody asked yet.

    :param checks: seconds that those of the champions have, which are made after the page was sent.
    """
    assert client_of(made).get("/").status_code == 200
    time.sleep(checks)


def on_folders(folder: Path, sizes: list[int]) -> Table:
    """Milliseconds on folders, printed."""
    table = Table()
    storages: dict[int, Storage] = {}
    for size in sizes:
        root = folder / f"store-{size}"
        Filled(partial(write_object, root)).grow(size)
        storages[size] = open_storage(root)
    stores = {size: Store(storage).model(MODEL) for size, storage in storages.items()}
    for name, by_size in costs(stores, lambda: 0, 4, folder / "bundles").items():
        for size, found in by_size.items():
            table.note(name, size, found.milliseconds)
    for size, storage in storages.items():
        further(storage, table, size, _milliseconds)
        made = deployment(folder / f"deployment-{size}", str(folder / f"console-{size}"), 1, size)
        pages = [_milliseconds(partial(_ask, made)) for _ in range(3)]
        table.note(FIRST_PAGE, size, statistics.median(pages))
    table.print("Milliseconds on a folder", sizes, 1)
    return table


def in_buckets(folder: Path, sizes: list[int]) -> Table:
    """Requests in buckets, printed."""
    table = Table()
    os.environ[TIMEOUT] = "300"  # moto's listings of ten thousand versions
    with server() as s3:
        storages: dict[int, Storage] = {}
        for size in sizes:
            url = s3.bucket(f"growth-{size}")
            Filled(partial(s3.put, f"growth-{size}")).grow(size)
            storages[size] = open_storage(url)
        stores = {size: Store(storage).model(MODEL) for size, storage in storages.items()}
        for name, by_size in costs(stores, lambda: s3.requests, 2, folder / "bundles-in-bucket").items():
            for size, found in by_size.items():
                table.note(name, size, max(found.requests))
        for size, storage in storages.items():
            if size <= MOST_IN_MOTO:
                further(storage, table, size, partial(_requests, s3))
                page = partial(_ask, _in_bucket(folder, s3, size), checks=CHECKS_SECONDS)
                table.note(FIRST_PAGE, size, _requests(s3, page))
    closing = "publishing includes the reading of the newest move before it; ~ by the line through the other two"
    table.print("Requests in a bucket", sizes, 0, closing)
    return table


def _in_bucket(folder: Path, s3: Server, size: int) -> Deployment:
    """A deployment of one model of so many versions, whose store is in a bucket."""
    filled = folder / f"filled-{size}"
    deployment(folder / f"filling-{size}", str(filled), 1, size)
    url = s3.bucket(f"console-{size}")
    for path in filled.rglob("*.json"):
        s3.put(f"console-{size}", path.relative_to(filled).as_posix(), path.read_bytes())
    made = Deployment(folder / f"in-bucket-{size}")
    made.add("model-000", publish={"store": url})
    return made


def report(folder: Path, sizes: list[int]) -> tuple[Table, Table]:
    """Measure and print; milliseconds and requests."""
    return on_folders(folder / "folders", sizes), in_buckets(folder / "buckets", sizes)
