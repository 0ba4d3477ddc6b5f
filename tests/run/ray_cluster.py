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

from retrainer.chain.jobs import Job

SOURCE = Path(__file__).resolve().parents[2] / "src"

START_SECONDS = 900.0
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
            "RAY_raylet_start_wait_time_s": str(int(START_SECONDS)),
            "RAY_agent_register_timeout_ms": str(int(1000 * START_SECONDS)),
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
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []


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
        self._started: list[Node] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.head = Node(
                self._folder,
                "head",
                "127.0.0.1",
                "--head",
                f"--port={self._gcs}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={self._dashboard}",
                f"--ray-client-server-port={free_port()}",
                f"--temp-dir={self._folder / 'h'}",
                cpus=self._cpus,
            )
            self._started = [self.head]
            stack.callback(self.head.end)
            self._await("head", lambda: self.nodes() >= 1)
            self._open = stack
            self.worker = self.add_node()
            self._started.append(self.worker)
            self._await("worker node", lambda: self.nodes() >= 2)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def add_node(self) -> Node:
        """A node that alone has some of the resource FAR."""
        node = Node(
            self._folder,
            "worker",
            "127.0.0.2",
            f"--address=127.0.0.1:{self._gcs}",
            f'--resources={{"{FAR}": 1}}',
            cpus=self._cpus,
        )
        self._open.callback(node.end)
        return node

    def nodes(self) -> int:
        """How many are alive, as the cluster knows."""
        summary = json.loads(self._get("/nodes?view=summary"))["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in summary)

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

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError, KeyError):  # it is not all there yet
                if condition():
                    return
            ended = [node for node in self._started if node.process.poll() is not None]
            if ended or time.monotonic() > until:
                said = "\n".join(node.log.read_text()[-2000:] for node in ended or self._started)
                raise AssertionError(f"the {what} of Ray does not start: {said}")
            time.sleep(0.2)

    def log_of(self, job: Job) -> str:
        """What a job's driver and workers said."""
        return "\n".join(path.read_text() for path in self._folder.rglob(f"job-driver-{job.name}.log"))
