"""Bytes per second of a storage's checked transfers, over boto3's plain ones of as many bytes in one file.

Both talk to moto's server in a process of its own, which shares this machine's cores: what is compared is the cost of
checking, not the speed of a network. They take turns; each turn starts with an empty bucket.

``python -m benchmarks.transfers [--megabytes N] [--rounds N]``
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import show
from retrainer.records import sha256_file
from retrainer.storage import S3Access, Transfer
from retrainer.storage.s3 import S3Storage

_BUCKET = "transfers"
_MB = 1_000_000
_BLOCK = 10 * _MB
# Of the whole: one large file, four of a tenth, and small ones of a thousandth for the rest.
_SHARES = (0.6, 0.1, 0.1, 0.1, 0.08) + (0.001,) * 20


@dataclass(frozen=True)
class Speeds:
    """Bytes per second, the median of the rounds, and the peak of this process's memory over what it had before.

    :ivar upload_ratio: the median over the rounds of ours over plain.
    """

    server: str
    bytes: int
    files: int
    rounds: int
    upload: float
    plain_upload: float
    upload_ratio: float
    download: float
    plain_download: float
    download_ratio: float
    extra_memory: int


def measure(*, megabytes: int = 1000, rounds: int = 5, folder: Path | None = None) -> Speeds:
    """Send and fetch that much both ways, in turns.

    :param folder: for the files; a temporary one when ``None``. It takes three times the bytes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _server() as access:
        return _measure(Path(scratch), access, megabytes, rounds)


def _measure(folder: Path, access: S3Access, megabytes: int, rounds: int) -> Speeds:
    import boto3

    session = boto3.session.Session(access.access_key_id, access.secret_access_key, region_name=access.region)
    client = session.client("s3", endpoint_url=access.endpoint_url)
    client.create_bucket(Bucket=_BUCKET)
    storage = S3Storage(f"s3://{_BUCKET}", access=access)
    one = _random_file(folder / "one", megabytes * _MB)
    files = [_random_file(folder / "many" / f"{n}", int(share * megabytes * _MB)) for n, share in enumerate(_SHARES)]
    many = [Transfer(path, path.name, sha256_file(path), path.stat().st_size) for path in files]
    fetched = [Transfer(folder / "fetched" / item.key, item.key, item.sha256, item.size) for item in many]

    def empty() -> None:
        for info in list(storage.list()):
            storage.delete(info.key)

    def turn(send: Callable[[], None], fetch: Callable[[], None], size: int) -> tuple[float, float]:
        empty()
        return size / _seconds(send), size / _seconds(fetch)

    def plain() -> tuple[float, float]:
        return turn(
            lambda: client.upload_file(str(one), _BUCKET, "one"),
            lambda: client.download_file(_BUCKET, "one", str(folder / "fetched one")),
            one.stat().st_size,
        )

    def ours() -> tuple[float, float]:
        return turn(
            lambda: storage.upload_all(many), lambda: storage.download_all(fetched), sum(item.size for item in many)
        )

    storage.upload_all(many[-1:])
    turns = []
    with _peak_memory() as peak:
        for number in range(rounds):
            first, second = (plain, ours) if number % 2 else (ours, plain)
            speeds = {first: first()}
            speeds[second] = second()
            turns.append((speeds[ours], speeds[plain]))
    ours_up, ours_down = zip(*(ours for ours, _ in turns), strict=True)
    plain_up, plain_down = zip(*(plain for _, plain in turns), strict=True)
    return Speeds(
        server="moto",
        bytes=sum(item.size for item in many),
        files=len(many),
        rounds=rounds,
        upload=statistics.median(ours_up),
        plain_upload=statistics.median(plain_up),
        upload_ratio=statistics.median(a / b for a, b in zip(ours_up, plain_up, strict=True)),
        download=statistics.median(ours_down),
        plain_download=statistics.median(plain_down),
        download_ratio=statistics.median(a / b for a, b in zip(ours_down, plain_down, strict=True)),
        extra_memory=peak(),
    )


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _random_file(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        while (left := size - stream.tell()) > 0:
            stream.write(os.urandom(min(left, _BLOCK)))
    return path


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """How many resident bytes more this process had at most, looked at 20 times a second."""
    pages = os.sysconf("SC_PAGE_SIZE")
    ended = threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * pages

    before = most = resident()

    def look() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, resident())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield lambda: most - before
    finally:
        ended.set()
        looking.join()


@contextmanager
def _server() -> Iterator[S3Access]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1).read()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError("the S3 server did not start") from None
                time.sleep(0.1)
        yield S3Access(endpoint_url=endpoint, region="us-east-1", access_key_id="key", secret_access_key="secret")
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    speeds = measure(megabytes=options.megabytes, rounds=options.rounds)
    show(
        f"{speeds.bytes / _MB:,.0f} MB to a {speeds.server} server on this machine, median of {speeds.rounds} rounds",
        ("what", f"{speeds.files} files, checked", "1 file, boto3", "ratio"),
        [
            (
                "upload, MB/s",
                f"{speeds.upload / _MB:.0f}",
                f"{speeds.plain_upload / _MB:.0f}",
                f"{speeds.upload_ratio:.2f}",
            ),
            (
                "download, MB/s",
                f"{speeds.download / _MB:.0f}",
                f"{speeds.plain_download / _MB:.0f}",
                f"{speeds.download_ratio:.2f}",
            ),
        ],
        f"resident memory, both together: at most {speeds.extra_memory / _MB:.0f} MB more than before",
    )


if __name__ == "__main__":
    main()
