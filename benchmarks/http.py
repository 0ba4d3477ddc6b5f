"""The HTTP server against the client in bulk: rows a second, latency against the bound, processor time.

A real server process, and one process of clients on keep-alive connections, each with one request of one text under
way. Server and bulk take turns in one run, with the same threads and the same rows.
``python -m benchmarks.http [--rows N] [--rounds N] [--clients N]``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "news"
CLIENTS = 32
MAX_WAIT_MS = 500.0
REPOSITORY = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One precision on one kind of rows. Medians over rounds.

    :ivar bulk: rows a second of the client in this process, all rows in one call.
    :ivar http: of the server.
    :ivar bulk_cpu: processor milliseconds of the client for each row. Others on the machine change it least.
    :ivar server_cpu: of the server; ``load_cpu``: of the process that makes the load.
    :ivar p50: milliseconds; ``p99`` and ``worst`` likewise, over all requests of all rounds.
    :ivar refused: requests that were answered with 503.
    """

    precision: str
    rows: str
    bulk: float
    http: float
    bulk_cpu: float
    server_cpu: float
    load_cpu: float
    p50: float
    p99: float
    worst: float
    refused: int

    @property
    def share(self) -> float:
        """Of the bulk throughput."""
        return self.http / self.bulk


def measure(
    bundle: Path,
    texts: dict[str, list[str]],
    *,
    scratch: Path,
    rounds: int = 3,
    clients: int = CLIENTS,
    precisions: Sequence[str] = ("fp32", "int8"),
    options: Sequence[str] = (),
) -> list[Measured]:
    """Measure each precision on each kind of rows.

    :param bundle: an exported bundle that has these precisions.
    :param texts: rows by the name of their kind.
    :param scratch: an empty folder.
    :param options: further ones for ``retrainer serve``.
    """
    store = scratch / "store"
    _publish(bundle, store)
    return [
        measured
        for precision in precisions
        for measured in _measure(precision, store, texts, scratch, rounds, clients, options)
    ]


def _measure(
    precision: str,
    store: Path,
    texts: dict[str, list[str]],
    scratch: Path,
    rounds: int,
    clients: int,
    options: Sequence[str],
) -> Iterator[Measured]:
    from retrainer.serve import Classifier

    classify = Classifier.from_store(store, MODEL, precision=precision, cache_dir=scratch / "cache")
    with _server(store, precision, scratch, options) as (port, process):
        for kind, rows in texts.items():
            classify(rows[:256])
            _load(port, rows[:256], clients)
            bulk, bulk_cpu, loads, server_cpu = [], [], [], []
            for _ in range(rounds):
                started, before = time.perf_counter(), time.process_time()
                classify(rows)
                bulk.append(len(rows) / (time.perf_counter() - started))
                bulk_cpu.append((time.process_time() - before) / len(rows))
                before = _processor_seconds(process.pid)
                loads.append(_load(port, rows, clients))
                server_cpu.append((_processor_seconds(process.pid) - before) / loads[-1]["answered"])
            times = sorted(value for load in loads for value in load["milliseconds"])
            yield Measured(
                precision=precision,
                rows=kind,
                bulk=statistics.median(bulk),
                http=statistics.median(load["answered"] / load["seconds"] for load in loads),
                bulk_cpu=statistics.median(bulk_cpu) * 1000,
                server_cpu=statistics.median(server_cpu) * 1000,
                load_cpu=statistics.median(load["processor_seconds"] / load["answered"] for load in loads) * 1000,
                p50=times[len(times) // 2],
                p99=times[int(len(times) * 0.99)],
                worst=times[-1],
                refused=sum(load["refused"] for load in loads),
            )


def _publish(bundle: Path, store: Path) -> None:
    from benchmarks.bundle import manifest_of
    from retrainer.store import Store

    store.mkdir()
    Store.open(store).model(MODEL).publish(
        bundle,
        manifest_of(bundle, MODEL),
        channel="production",
        actor="benchmark",
        reason="measured",
        decision=None,
        expected=None,
    )


@contextmanager
def _server(
    store: Path, precision: str, scratch: Path, options: Sequence[str]
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "retrainer.cli", "serve", str(store), MODEL, "--port", "0"]
    command += ["--precision", precision, "--cache-dir", str(scratch / "cache"), "--drain-seconds", "0"]
    command += ["--max-wait-ms", str(MAX_WAIT_MS), *options]
    with (scratch / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline())
        if found is None:
            raise RuntimeError((scratch / "server.log").read_text())
        port = int(found[1])
        while not _is_ready(port):
            time.sleep(0.1)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _load(port: int, texts: list[str], clients: int) -> dict[str, Any]:
    """All texts, one a request, by clients in a process of their own."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.http", "--load", str(port), "--clients", str(clients)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def make_load(port: int, texts: list[str], clients: int) -> dict[str, Any]:
    """Ask for each text once. Plain sockets and epoll: what the load costs is missing from what is measured."""
    requests = [_request(text) for text in texts]
    poll = select.epoll()
    connections: dict[int, _Client] = {}
    milliseconds: list[float] = []
    statuses: dict[int, int] = {}
    position = 0
    processor = time.process_time()
    started = time.perf_counter()
    for _ in range(min(clients, len(requests))):
        client = _Client(port)
        connections[client.socket.fileno()] = client
        poll.register(client.socket.fileno(), select.EPOLLIN)
        client.send(requests[position])
        position += 1
    while connections:
        for descriptor, _ in poll.poll():
            client = connections[descriptor]
            status = client.receive()
            if status is None:
                continue
            milliseconds.append((time.perf_counter() - client.sent) * 1000)
            statuses[status] = statuses.get(status, 0) + 1
            if position < len(requests):
                client.send(requests[position])
                position += 1
            else:
                poll.unregister(descriptor)
                del connections[descriptor]
                client.socket.close()
    seconds = time.perf_counter() - started
    unexpected = set(statuses) - {200, 503}
    if unexpected:
        raise RuntimeError(f"answered with {unexpected}")
    return {
        "seconds": seconds,
        "answered": statuses.get(200, 0),
        "refused": statuses.get(503, 0),
        "processor_seconds": time.process_time() - processor,
        "milliseconds": milliseconds,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


class _Client:
    """One connection with one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self._got = b""

    def send(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The status, once the answer is whole."""
        piece = self.socket.recv(65536)
        if not piece:
            raise RuntimeError("the server closed the connection")
        self._got += piece
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return None
        start = head.index(b"content-length: ") + 16
        end = head.find(b"\r\n", start)
        if len(body) < int(head[start : end if end > 0 else None]):
            return None
        self._got = b""
        return int(head[9:12])


def _request(text: str) -> bytes:
    body = json.dumps({"text": text}).encode()
    head = f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def first_sentence(text: str) -> str:
    """A headline of a row of AG News: what comes before the first full stop, dash or bracket."""
    return re.split(r"\. | - | -- |\(|; ", text, maxsplit=1)[0][:120]


def show_measured(measured: Sequence[Measured], title: str) -> None:
    """Print the table."""
    from benchmarks.table import show

    show(
        title,
        [
            "",
            "bulk, rows/s",
            "HTTP, rows/s",
            "of bulk",
            "p50, ms",
            "p99, ms",
            "worst, ms",
            "503",
            "bulk CPU",
            "server CPU",
            "load CPU",
        ],
        [
            [
                f"{row.precision}, {row.rows}",
                f"{row.bulk:.0f}",
                f"{row.http:.0f}",
                f"{row.share:.2f}",
                f"{row.p50:.1f}",
                f"{row.p99:.1f}",
                f"{row.worst:.1f}",
                str(row.refused),
                f"{row.bulk_cpu:.2f}",
                f"{row.server_cpu:.2f}",
                f"{row.load_cpu:.2f}",
            ]
            for row in measured
        ],
        f"stated bound of an answer: {MAX_WAIT_MS * 1.5:g} ms. CPU: processor milliseconds for each row",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--bundle", type=Path, help="an exported bundle, instead of MiniLM")
    parser.add_argument("--precision", action="append")
    parser.add_argument("--load", type=int, metavar="PORT", help="make the load of texts on standard input, and end")
    parser.add_argument("options", nargs="*", help="for retrainer serve, after --")
    options = parser.parse_args()
    if options.load is not None:
        print(json.dumps(make_load(options.load, json.load(sys.stdin), options.clients)))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from benchmarks.bundle import make_bundle
    from benchmarks.data import read_rows

    rows = read_rows(options.rows, "test")
    texts = {rows.name: rows.texts, "headlines": [first_sentence(text) for text in rows.texts]}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle or make_bundle(Path(scratch) / "made")
        (Path(scratch) / "served").mkdir()
        measured = measure(
            bundle,
            texts,
            scratch=Path(scratch) / "served",
            rounds=options.rounds,
            clients=options.clients,
            precisions=options.precision or ("fp32", "int8"),
            options=options.options,
        )
    show_measured(measured, f"HTTP server, {options.clients} clients, one text a request, MiniLM-L6")


if __name__ == "__main__":
    main()
