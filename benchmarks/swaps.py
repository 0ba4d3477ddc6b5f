"""A hundred swaps under load: errors, answers that mix versions, memory.

A real MiniLM is published in versions whose labels tell which one answered. Eight threads ask without a pause, single
texts and small lists, while the channel moves between the versions and the classifier follows.
``python -m benchmarks.swaps [--swaps N] [--threads N] [--precision NAME]``
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.bundle import make_bundle, manifest_of
from benchmarks.data import read_rows
from benchmarks.table import show
from retrainer.errors import RetrainerError
from retrainer.serve import Classifier, Response
from retrainer.store import Store

VERSIONS = 4
SIZES = (1, 1, 1, 8)
# Answers of a new version before memory is read: by then its buffers have the size that eight threads ask for.
SETTLED = 120


@dataclass
class Load:
    """Threads that ask, and what they saw."""

    classify: Classifier
    texts: list[str]
    endings: dict[str, str]
    stop: threading.Event = field(default_factory=threading.Event)
    calls: int = 0
    mixed: int = 0
    errors: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, number: int) -> None:
        """Ask until it is over."""
        position = number
        while not self.stop.is_set():
            count = SIZES[position % len(SIZES)]
            start = (position * 37) % (len(self.texts) - count)
            try:
                response = self.classify.respond(self.texts[start : start + count])
            except (RetrainerError, RuntimeError, ValueError, OSError) as error:
                with self.lock:
                    self.errors.append(error)
                continue
            with self.lock:
                self.calls += 1
                self.mixed += not self._pure(response, count)
            position += 1

    def _pure(self, response: Response, count: int) -> bool:
        seen = {label["label"].rpartition("#")[2] for labels in response.predictions for label in labels}
        return seen == {self.endings[response.version]} and len(response.predictions) == count


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def publish_versions(bundle: Path, scratch: Path) -> tuple[str, dict[str, str]]:
    """A store with versions of other label names; version -> how its labels end."""
    url = (scratch / "store").as_uri()
    store = Store.open(url).model("ag-news")
    endings: dict[str, str] = {}
    before = None
    for number in range(VERSIONS):
        folder = shutil.copytree(bundle, scratch / f"bundle{number}")
        path = folder / "bundle.json"
        info = json.loads(path.read_text())
        path.write_text(json.dumps(info | {"labels": [f"{label}#{number}" for label in info["labels"]]}))
        before = store.publish(
            folder,
            manifest_of(folder, "ag-news"),
            channel="production",
            actor="benchmark",
            reason=f"version {number}",
            decision=None,
            expected=before,
        ).version
        endings[before] = str(number)
    return url, endings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    rows = read_rows(400, "test")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # In a process of its own: torch would be a part of what is measured.
        bundle = make_bundle(scratch / "made")
        url, endings = publish_versions(bundle, scratch)
        store = Store.open(url).model("ag-news")
        started = time.perf_counter()
        memory: list[float] = []
        seconds: list[float] = []
        with Classifier.from_store(
            url, "ag-news", cache_dir=scratch / "cache", precision=options.precision
        ) as classify:
            load = Load(classify, rows.texts, endings)
            threads = [threading.Thread(target=load.ask, args=(number,)) for number in range(options.threads)]
            for thread in threads:
                thread.start()
            order = list(endings)
            for number in range(options.swaps):
                store.promote("production", version=order[number % VERSIONS], actor="benchmark", reason="swap")
                before = weakref.ref(classify._served)
                begun = time.perf_counter()
                swapped = classify.refresh()
                seconds.append(time.perf_counter() - begun)
                if not swapped:
                    raise SystemExit(f"no swap: {classify.status.problem}")
                calls = load.calls
                while (before() is not None or load.calls < calls + SETTLED) and not load.errors:
                    time.sleep(0.01)
                memory.append(resident_mb())
                if (number + 1) % 10 == 0:
                    print(f"{number + 1} swaps, {load.calls} calls, {memory[-1]:.0f} MB", flush=True)
            load.stop.set()
            for thread in threads:
                thread.join()
            status = classify.status
        elapsed = time.perf_counter() - started
    early = statistics.median(memory[2:12])
    resident = [["resident after swaps 3 to 12", f"{early:.0f} MB"]]
    for first, last in ((46, 55), (options.swaps - 9, options.swaps)):
        if first > 10 and last <= options.swaps:
            found = statistics.median(memory[first - 1 : last])
            resident.append([f"resident after swaps {first} to {last}", f"{found:.0f} MB ({found / early - 1:+.1%})"])
    show(
        f"{status.swaps} swaps under load from {options.threads} threads, MiniLM-L6 {status.precision}",
        ["", ""],
        [
            ["calls answered", f"{load.calls} ({load.calls / elapsed:.0f}/s)"],
            ["errors", str(len(load.errors))],
            ["answers that mix versions", str(load.mixed)],
            ["a swap, verified and loaded, median", f"{statistics.median(seconds):.2f} s"],
            *resident,
        ],
    )
    for error in load.errors[:3]:
        print(repr(error))


if __name__ == "__main__":
    main()
