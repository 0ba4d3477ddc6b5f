"""What reading, publishing and listing cost while a model has ever more versions.

Time in a bucket is that of moto, whose listings look at every key there is; what a long history costs in S3 is told
by the requests, and in time by the folder.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.published import CHANNEL, GRAPH, MODEL, make_bundle, make_manifest, publish, server
from benchmarks.table import show
from retrainer.storage import Storage
from retrainer.store import Cause, FileEntry, Manifest, ModelStore, Move, Store
from retrainer.store.move import RECENT_MOVES, Hint
from retrainer.store.names import hint_key, move_key, version_key

NEWEST = 20


@dataclass
class Filled:
    """A store that is filled past its front door, with a log as publications leave it.

    :ivar put: writes one object.
    :ivar hashes: of the moves, the newest first.
    """

    put: Callable[[str, bytes], object]
    count: int = 0
    newest: Move | None = None
    hashes: tuple[str, ...] = ()
    graph: FileEntry = field(
        default_factory=lambda: FileEntry(size=len(GRAPH), sha256=hashlib.sha256(GRAPH).hexdigest())
    )

    def grow(self, count: int) -> None:
        """Add versions, each published on the channel, until there are so many."""
        while self.count < count:
            self._add()
            self.count += 1
        self.put(hint_key(MODEL, CHANNEL), _pretty(Hint(sequence=count, hashes=self.hashes)))

    def _add(self) -> None:
        name = f"grown-{self.count}"
        content = name.encode()
        files = {
            "onnx/model.onnx": self.graph,
            "config.json": FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest()),
        }
        manifest = make_manifest(name, files)
        version, data = manifest.version, _pretty(manifest)
        self.put(version_key(MODEL, version, "config.json"), content)
        self.put(version_key(MODEL, version), data)
        before = self.newest
        self.newest = Move(
            model=MODEL,
            channel=CHANNEL,
            sequence=before.sequence + 1 if before else 1,
            action="publish",
            from_version=before.to_version if before else None,
            to_version=version,
            manifest_sha256=hashlib.sha256(data).hexdigest(),
            actor="ada",
            at=f"2026-01-01T{self.count // 3600:02d}:{self.count // 60 % 60:02d}:{self.count % 60:02d}.000000+00:00",
            cause=Cause.GATE,
            reason="benchmark",
            decision=None,
            anchor=before.anchor if before else version,
            ledger=None,
            previous=before.sha256 if before else None,
            origin=before.begun_by if before else None,
        )
        self.hashes = (self.newest.sha256, *self.hashes)[:RECENT_MOVES]
        self.put(move_key(MODEL, CHANNEL, self.newest.sequence), self.newest.written())


def _pretty(record: Manifest | Hint) -> bytes:
    return record.to_pretty_json().encode()


@dataclass
class Costs:
    """Of one action on one store, each time it was done.

    :ivar requests: to the server.
    """

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """The median."""
        return statistics.median(self.seconds) * 1000


def costs(
    stores: dict[int, ModelStore], requests: Callable[[], int], rounds: int, folder: Path
) -> dict[str, dict[int, Costs]]:
    """What each action takes on stores of several sizes, which take turns."""
    actions: dict[str, Callable[[ModelStore, tuple[Path, Manifest]], object]] = {
        "start: read the newest move": lambda model, _: model.newest_move(CHANNEL),
        "look: nothing new": lambda model, _: model.move_after(newest[model]),
        "publish": _publish_next,
        f"list the newest {NEWEST}": lambda model, _: model.versions(limit=NEWEST),
        "start without a hint": _start_without_hint,
    }
    newest: dict[ModelStore, Move] = {}
    found = {name: {size: Costs() for size in stores} for name in actions}
    for number in range(rounds):
        for size, model in stores.items():
            bundle = make_bundle(folder, f"{size}-{number}")
            for name, action in actions.items():
                newest[model] = _newest(model)
                before, started = requests(), time.perf_counter()
                action(model, bundle)
                if number:  # the first time it connects
                    found[name][size].seconds.append(time.perf_counter() - started)
                    found[name][size].requests.append(requests() - before)
    return found


def _newest(model: ModelStore) -> Move:
    newest = model.newest_move(CHANNEL)
    assert newest is not None
    return newest


def _publish_next(model: ModelStore, bundle: tuple[Path, Manifest]) -> None:
    publish(model, bundle, _newest(model).to_version)


def _start_without_hint(model: ModelStore, _: tuple[Path, Manifest]) -> None:
    """Find the newest move by listing, as after a hint that was deleted."""
    _WithoutHints(model).newest_move(CHANNEL)


class _WithoutHints(ModelStore):
    """The same model where no hint can be found."""

    def __init__(self, model: ModelStore) -> None:
        super().__init__(cast(Storage, _Hintless(model._storage)), model.name)


class _Hintless:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, key: str, **bound: int) -> bytes:
        """A hint is asked for elsewhere."""
        return self._storage.read(key.replace("latest.json", "missing.json"), **bound)


def growth(folder: Path, most: int) -> None:
    """Print what 20, 1,000 and 10,000 versions cost."""
    sizes = sorted({NEWEST, min(1000, most), most})
    on_folder: dict[int, ModelStore] = {}
    for size in sizes:
        root = folder / f"store-{size}"
        Filled(partial(write_object, root)).grow(size)
        on_folder[size] = Store.open(root).model(MODEL)
    found = {"On a folder": costs(on_folder, lambda: 0, 30, folder / "bundles")}
    with server() as s3:
        in_bucket: dict[int, ModelStore] = {}
        for size in sizes:
            url = s3.bucket(f"growth-{size}")
            Filled(partial(s3.put, f"growth-{size}")).grow(size)
            in_bucket[size] = Store.open(url).model(MODEL)
        found["In a bucket"] = costs(in_bucket, lambda: s3.requests, 10, folder / "bundles")
    heads = ["", *(f"at {size:,}" for size in sizes), f"{sizes[-1]:,} / {sizes[0]:,}"]
    for where, measured in found.items():
        show(
            f"{where}: ms, while a model has so many versions",
            heads,
            [[name, *_row([by_size[size].milliseconds for size in sizes], 2)] for name, by_size in measured.items()],
            "publishing includes the reading of the newest move before it",
        )
    show(
        "In a bucket: requests, at most",
        heads,
        [
            [name, *_row([float(max(by_size[size].requests)) for size in sizes], 0)]
            for name, by_size in found["In a bucket"].items()
        ],
        "the server is moto, whose listings look at every key there is",
    )


def write_object(root: Path, key: str, data: bytes) -> None:
    """Put an object into a folder past the storage."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _row(values: list[float], digits: int) -> list[str]:
    return [*(f"{value:.{digits}f}" for value in values), f"{values[-1] / values[0]:.2f}"]
