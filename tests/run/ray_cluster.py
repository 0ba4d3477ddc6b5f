"""A real Ray cluster of two nodes on this host, for tests: each node with its own ports, folder and address."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

SOURCE = Path(__file__).resolve().parents[2] / "src"

START_SECONDS = 600.0
# A node whose agents take more than 15 s to start ends itself.
TRIES = 6
OBJECT_STORE_BYTES = 80_000_000
FAR = "far"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Node:
    """``ray start --block``: all of a node are children of one process in a session of its own."""

    def __init__(self, folder: Path, name: str, ip: str, *options: str, cpus: int) -> None:
        self.log = folder / f"{name}.log"
        here = str(Path(sys.executable).parent)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AIRFLOW"))},
            "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCE),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A busy machine is slow to start a node, and Ray waits for 30 s. Fewer processes are started in advance.
            "RAY_raylet_start_wait_time_s": "60",
            "RAY_agent_register_timeout_ms": "100000",
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "node-manager-port")
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(here) / "ray"),
                    "start",
                    "--block",
                    "--disable-usage-stats",
                    "--include-log-monitor=false",
                    f"--node-ip-address={ip}",
                    f"--num-cpus={cpus}",
                    "--num-gpus=0",
                    f"--object-store-memory={OBJECT_STORE_BYTES}",
                    *(f"--{name}={free_port()}" for name in ports),
                    *options,
                ],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """As a power cut does: SIGKILL to every process of the node."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """All of its session, which outlive ``ray start`` if that fails, and what those have started."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid:
                    found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return list(found.values())


class RayCluster:
    """A head and a worker node. A context manager.

    :ivar address: of its dashboard.
    """

    def __init__(self, *, cpus: int = 2) -> None:
        # Sockets lie in it, whose paths may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="rr-", dir="/tmp"))
        self._cpus = cpus
        self._gcs, self._dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open = stack
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.head = self._start(
                lambda: Node(
                    self._folder,
                    "head",
                    "127.0.0.1",
                    "--head",
                    f"--port={self._gcs}",
                    "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={self._dashboard}",
                    f"--ray-client-server-port={free_port()}",
                    f"--temp-dir={self._folder / 'h'}",
                    "--no-monitor",
                    cpus=self._cpus,
                )
            )
            self.worker = self.add_node()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def add_node(self) -> Node:
        """A node that alone has some of the resource FAR; once it is there."""
        return self._start(
            lambda: Node(
                self._folder,
                "worker",
                "127.0.0.2",
                f"--address=127.0.0.1:{self._gcs}",
                f'--resources={{"{FAR}": 1}}',
                cpus=self._cpus,
            )
        )

    def _start(self, make: Callable[[], Node]) -> Node:
        """Start a node, and wait until the cluster knows it."""
        before: set[str] = set()
        until = time.monotonic() + START_SECONDS
        with suppress(OSError):
            before = self.nodes()
        for _ in range(TRIES):
            node = make()
            self._open.callback(node.end)
            while node.process.poll() is None and time.monotonic() < until:
                with suppress(OSError, KeyError):  # it is not all there yet
                    if self.nodes() - before:
                        return node
                time.sleep(0.2)
            node.kill()
        raise AssertionError(f"a node of Ray does not start: {node.log.read_text()[-3000:]}")

    def nodes(self) -> set[str]:
        """Those that are alive, as far as the cluster knows."""
        summary = json.loads(self._get("/nodes?view=summary"))["data"]["summary"]
        return {node["raylet"]["nodeId"] for node in summary if node["raylet"].get("state") == "ALIVE"}

    def jobs(self) -> list[str]:
        """The names of all jobs that were ever handed in."""
        return sorted(job["submission_id"] for job in json.loads(self._get("/api/jobs/")) if job["submission_id"])

    def processes(self, *marks: str) -> list[psutil.Process]:
        """What runs on its nodes and has one of these in its command line."""
        found = []
        for process in (*self.head.processes(), *self.worker.processes()):
            with suppress(psutil.Error):
                if any(mark in " ".join(process.cmdline()) for mark in marks):
                    found.append(process)
        return found

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=5) as answer:
            return bytes(answer.read())
