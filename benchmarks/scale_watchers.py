"""Many hosts that follow one channel: the client's own watching, in one process, against one S3 endpoint over HTTP.

Each host is a ``Classifier`` with a cache, connections and a key of its own, and a tiny model. All begin to watch at
once; after some intervals a version is published, of which graphs and papers are new. What the day costs follows from
the requests that were counted. With the real waits, but without hosts, the same is drawn for a fleet of any size.
Part of ``python -m benchmarks.scale``.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bundle import make_bundle, manifest_of
from benchmarks.read_only_s3 import Endpoint, Request, endpoint
from benchmarks.table import show
from retrainer.serve import Classifier
from retrainer.serve.watching import first_wait, next_wait
from retrainer.storage import S3Access
from retrainer.store import Store

BUCKET, MODEL, CHANNEL = "models", "news", "production"
# Beside what an export makes: what a person reads of a version, all of it new in each.
PAPERS = ("README.md", "receipt.json", "report.html", "confusion.png")
DAY = 86_400.0
# Amazon S3 Standard, us-east-1, list price in USD for 1,000 requests; a 304 and a 404 are billed as the GET that they
# answer. Transfer in the same region is free, out to the internet in the first step of its price 0.09 USD a GB.
GET_PRICE, PUT_PRICE, OUT_PRICE = 0.0004, 0.005, 0.09
# Amazon CloudFront, USA and Europe, USD for 1,000 HTTPS requests, above what is free.
CDN_PRICE = 0.001
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html: a second and prefix.
S3_GETS_PER_SECOND = 5500
# MB that change with a version of MiniLM-L6: fp32 and int8, and int8 alone (``python -m benchmarks.bundle``).
ALL_MB, SERVED_MB = 114.0, 23.0
GIGABITS = (1, 10, 25)
# Looks that count what a look takes: one in 64 begins at the hint.
LOOKS = 128


@dataclass(frozen=True, slots=True)
class Run:
    """What a fleet did.

    :ivar requests: all of them, in order.
    :ivar watching_since: when all hosts began to watch; ``swapped_at`` when the version was published; ``ended_at`` two
        intervals later, or when the last host followed if that was later. Seconds since the epoch.
    :ivar followed: seconds from the publication until each host answered with it.
    """

    interval: float
    requests: Sequence[Request]
    watching_since: float
    swapped_at: float
    ended_at: float
    followed: Sequence[float]

    def rates(self, start: float, end: float) -> tuple[float, float]:
        """Mean requests a second, and those of the busiest second."""
        return rates([request.at for request in self.requests], start, end)


def rates(times: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """Mean a second, and the most in one second."""
    seconds = Counter(int(at - start) for at in times if start <= at < end)
    return sum(seconds.values()) / (end - start), max(seconds.values(), default=0)


class Shelf:
    """Versions of a tiny model in a folder that the endpoint gives out."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder = folder
        self._bundle = bundle
        self._model = Store.open(folder / "buckets" / BUCKET).model(MODEL)
        self._made: list[str] = []

    def publish(self) -> str:
        """A version whose graphs, labels and papers no other has."""
        import onnx

        number = len(self._made)
        bundle = shutil.copytree(self._bundle, self._folder / f"bundle-{number}")
        for graph in bundle.glob("onnx/*.onnx"):
            model = onnx.load(graph)
            model.metadata_props.add(key="version", value=str(number))
            onnx.save(model, graph)
        info = json.loads((bundle / "bundle.json").read_text())
        labels = [f"{label}-{number}" for label in info["labels"]]
        (bundle / "bundle.json").write_text(json.dumps(info | {"labels": labels}))
        for paper in PAPERS:
            (bundle / paper).write_text(f"{paper} of {number}")
        published = self._model.publish(
            bundle,
            manifest_of(bundle, MODEL),
            channel=CHANNEL,
            actor="benchmark",
            reason=f"version {number}",
            decision=None,
            expected=self._made[-1] if self._made else None,
        )
        self._made.append(published.version)
        return published.version


def open_host(s3: Endpoint, folder: Path, name: str) -> Classifier:
    """A host with a cache of that name."""
    access = S3Access(
        endpoint_url=s3.url,
        region="us-east-1",
        access_key_id=name,
        secret_access_key="secret",
        timeout=60.0,  # hundreds of hosts share the cores of one machine, perhaps with others
    )
    return Classifier.from_store(
        f"s3://{BUCKET}", MODEL, channel=CHANNEL, cache_dir=folder / "hosts" / name, threads=1, access=access
    )


def requests_of_one(s3: Endpoint, shelf: Shelf, folder: Path) -> dict[str, int]:
    """What each thing that a host does takes: starts without and with a cache, looks, a swap."""
    counted: dict[str, int] = {}

    def count(name: str, act: Callable[[], object]) -> None:
        before = len(s3.requests())
        act()
        counted[name] = len(s3.requests()) - before

    def start() -> None:
        open_host(s3, folder, "alone").close()

    count("a start, nothing in the cache", start)
    count("a start from the cache", start)
    with open_host(s3, folder, "alone") as host:
        count(f"{LOOKS} looks, nothing new", lambda: [host.refresh() for _ in range(LOOKS)])
        shelf.publish()
        count("a swap, with the look that finds it", host.refresh)
    return counted


def follow(s3: Endpoint, shelf: Shelf, folder: Path, hosts: int, interval: float, intervals: int) -> Run:
    """Start so many hosts, let them watch from one moment on, publish after some intervals, and wait for all."""
    with ThreadPoolExecutor(4) as pool:
        fleet = list(pool.map(partial(open_host, s3, folder), (f"host-{number}" for number in range(hosts))))
    watching_since = time.time()
    for host in fleet:
        host.watch(interval)
    time.sleep(max(0.0, watching_since + intervals * interval - time.time()))
    new = shelf.publish()
    swapped_at = time.time()
    while any(host.version != new for host in fleet) and time.time() < swapped_at + 10 * interval:
        time.sleep(0.2)
    late = [host.status for host in fleet if host.version != new]
    if late:
        raise SystemExit(f"{len(late)} hosts do not follow; the first says: {late[0].problem}")
    followed = [host.status.loaded_at.timestamp() - swapped_at for host in fleet]
    time.sleep(max(0.0, swapped_at + 2 * interval - time.time()))
    run = Run(interval, s3.requests(), watching_since, swapped_at, time.time(), followed)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(Classifier.close, fleet))
    return run


def drawn(hosts: int, interval: float, intervals: int, burst: int, seed: int, *, spread: bool) -> list[float]:
    """When a fleet asks that begins to watch at 0 and finds something new after some intervals, by the real waits.

    :param burst: requests of the look that finds it.
    :param spread: whether the first wait is as it is; else as the ones that follow.
    """
    source = random.Random(seed)
    times: list[float] = []
    for _ in range(hosts):
        at = first_wait(interval, source) if spread else next_wait(interval, 0, source)
        found = False
        while at < (intervals + 2) * interval:
            new = not found and at >= intervals * interval
            times += [at] * (burst if new else 1)
            found |= new
            at += next_wait(interval, 0, source)
    return times


def origin_of(requests: Sequence[Request], seconds: float) -> tuple[int, int]:
    """Requests and bytes that reach the bucket behind a cache which keeps objects that never change for ever, and what
    is absent, or the hint, for some seconds.
    """
    until: dict[str, float] = {}
    count = sent = 0
    for request in requests:
        if request.at < until.get(request.key, 0.0):
            continue
        count, sent = count + 1, sent + request.sent
        lasting = request.status in {200, 206} and not request.key.endswith("/latest.json")
        until[request.key] = request.at + (DAY if lasting else seconds)
    return count, sent


def report_requests(one: dict[str, int], hosts: int) -> None:
    """What a host asks, and what a fleet of them costs."""
    show("Requests of one host", ["", "requests"], [[name, str(count)] for name, count in one.items()])
    a_look = one[f"{LOOKS} looks, nothing new"] / LOOKS
    rows = []
    for interval in (10.0, 60.0, 600.0):
        a_day = DAY / interval * a_look
        fleet = a_day * hosts
        dollars = fleet / 1000 * GET_PRICE
        rows.append(
            [
                f"{interval:g} s",
                f"{a_day:,.0f}",
                f"{fleet:,.0f}",
                f"{fleet / DAY:.1f}",
                f"{dollars:.2f}",
                f"{dollars * 365:,.0f}",
                f"{fleet / 1000 * CDN_PRICE:.2f}",
            ]
        )
    show(
        f"Looks of {hosts} hosts",
        ["interval", "a host and day", "all, a day", "a second", "USD a day", "USD a year", "by a CDN, USD a day"],
        rows,
        f"GET {GET_PRICE} USD for 1,000; a CDN {CDN_PRICE} for 1,000",
    )
    swap = one["a swap, with the look that finds it"] * hosts
    print(f"A swap: {swap:,} requests, {swap / 1000 * GET_PRICE:.4f} USD.")
    start = one["a start, nothing in the cache"] * hosts
    print(
        f"All {hosts} hosts started in the same second: {start:,} requests, with a cache "
        f"{one['a start from the cache'] * hosts:,}; S3 answers {S3_GETS_PER_SECOND:,} GETs a second and prefix."
    )


def report_bytes(hosts: int) -> None:
    """What a swap moves."""
    rows = []
    for name, size in (("verify all", ALL_MB), ("verify served, int8", SERVED_MB)):
        gigabytes = hosts * size / 1000
        minutes = [f"{gigabytes * 8 / speed / 60:.1f}" for speed in GIGABITS]
        rows.append(
            [
                f"{name}, {size:g} MB",
                f"{gigabytes:.1f}",
                *minutes,
                f"{gigabytes * 8 / 60:.1f}",
                f"{gigabytes * OUT_PRICE:.2f}",
            ]
        )
    show(
        f"Bytes of a swap, {hosts} hosts",
        ["", "GB", *(f"minutes at {speed} Gbit/s" for speed in GIGABITS), "Gbit/s within 60 s", "USD to the internet"],
        rows,
        "MiniLM-L6; in the same region S3 charges nothing for them",
    )


def report_run(run: Run, hosts: int, memory_mb: float) -> None:
    """How a fleet followed."""
    begun, swapped, interval = run.watching_since, run.swapped_at, run.interval
    spans = {
        "from the start of all to the swap": (begun, swapped),
        "the interval after the swap": (swapped, swapped + interval),
        "two intervals after the swap": (swapped, swapped + 2 * interval),
        "all": (begun, run.ended_at),
    }
    rows = []
    for name, (start, end) in spans.items():
        mean, peak = run.rates(start, end)
        rows.append([name, f"{mean:.1f}", f"{peak:.0f}", f"{peak / mean:.2f}"])
    followed = sorted(run.followed)
    show(
        f"{hosts} hosts in one process, a look each {interval:g} s",
        ["requests a second", "mean", "busiest second", "of the mean"],
        rows,
        f"followed within {followed[-1] / interval:.2f} intervals (median "
        f"{statistics.median(followed) / interval:.2f}); {len(run.requests):,} requests; {memory_mb:,.0f} MB in all",
    )
    watched = [request for request in run.requests if request.at >= begun]
    lines = [["straight to the bucket", f"{len(watched):,}", f"{sum(one.sent for one in watched) / 1e6:.2f}"]]
    for seconds in (interval / 6, interval):
        count, sent = origin_of(watched, seconds)
        lines.append([f"a cache that keeps what is absent for {seconds:g} s", f"{count:,}", f"{sent / 1e6:.2f}"])
    show("What reaches the bucket, of what these hosts asked", ["", "requests", "MB"], lines)


def report_drawn(hosts: int, burst: int, seeds: int) -> None:
    """The busiest second of a fleet by the waits alone."""
    intervals, rows = 5, []
    for interval in (10.0, 30.0, 60.0):
        for spread in (False, True):
            drawings = [drawn(hosts, interval, intervals, burst, seed, spread=spread) for seed in range(seeds)]
            swap = intervals * interval
            row = [f"{interval:g} s, first wait {'spread over it' if spread else 'with jitter only'}"]
            for start, end in ((0.0, swap), (swap, swap + interval), (0.0, swap + 2 * interval)):
                found = [rates(times, start, end) for times in drawings]
                row.append(f"{statistics.median(peak / mean for mean, peak in found):.1f}")
            row.append(f"{max(rates(times, swap, swap + interval)[1] for times in drawings):,.0f}")
            rows.append(row)
    show(
        f"Busiest second of {hosts} hosts over the mean, by the waits alone, median of {seeds} seeds",
        ["", "looks only", "in the interval of a swap", "of the whole", "most requests in a second"],
        rows,
        f"a look that finds a version is {burst} requests; the whole: {intervals} intervals, a swap, and 2 more",
    )


def report(folder: Path, *, hosts: int, interval: float, intervals: int, seeds: int) -> Run:
    """Measure and print all of it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    shelf = Shelf(folder, make_bundle(folder / "made", tiny=True))
    shelf.publish()
    with endpoint(folder / "buckets") as s3:
        one = requests_of_one(s3, shelf, folder)
        report_requests(one, 500)
        report_bytes(500)
        report_drawn(500, one["a swap, with the look that finds it"], seeds)
        run = follow(s3, shelf, folder, hosts, interval, intervals)
    report_run(run, hosts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    return run
