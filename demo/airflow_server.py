"""A real Airflow for one folder, started and stopped from Python: SQLite, LocalExecutor, every component.

The same as ``airflow standalone`` but for three things: nothing listens beyond the loopback interface (standalone's
log servers do), the ports are free ones, and stopping it takes seconds and leaves no process behind, whatever it
was doing. Not here: talking to it (``rest_client.py``).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from demo.rest_client import RestClient

USER = "admin"
START_SECONDS = 120.0
STOP_SECONDS = 4.0
KILL_SECONDS = 10.0
LOG_LINES = 30
# In the environment of every process of a server, with its home; nobody else sets it.
MARKER = "RETRAINER_DEMO_AIRFLOW"

# The log servers are for logs of other hosts; they would listen on all interfaces.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


@dataclass(frozen=True, slots=True)
class Component:
    """A process of Airflow beside those of every server, such as a Celery worker.

    :ivar arguments: of ``airflow``.
    :ivar environment: variables beside those of the server; ``None`` takes one away.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)


class ServerError(Exception):
    """Airflow did not start, or not do what was waited for. The message is for people."""


class AirflowServer:
    """Airflow in ``home``. A context manager: leaving it stops Airflow and all that it started.

    :param home: AIRFLOW_HOME: configuration, database, logs. Made when absent, kept afterwards.
    :param dags: folder of the DAG files.
    :param plugins: folder of the plugins; none when absent.
    :param environment: more variables for Airflow and its tasks; ``None`` takes one away.
    :param port: the API server's; a free one unless given.
    :param triggerer: also start the triggerer, which deferred tasks need, and watches over new data.
    :param beside: more components, by name.
    :ivar environment: of its processes, and of a command that is run beside them.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        plugins: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        port: int | None = None,
        triggerer: bool = False,
        beside: Mapping[str, Component] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._passwords = self.home / "passwords.json"
        self.environment = self._variables(dags, plugins, environment or {})
        own = {name: Component(said) for name, said in COMPONENTS.items() if triggerer or name != "triggerer"}
        self._components = {**own, **(beside or {})}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._open = ExitStack()

    def _variables(self, dags: Path, plugins: Path | None, more: Mapping[str, str | None]) -> dict[str, str]:
        bin_folder = Path(sys.executable).parent
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "RETRAINER"))}
        own = {
            # So that a task which starts "airflow" or "python" gets those of this environment.
            "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(self.home),
            MARKER: str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.absolute()),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str((plugins or self.home / "plugins").absolute()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "false",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
            "NO_COLOR": "1",
        }
        return _with({**inherited, **own}, more)

    @property
    def password(self) -> str:
        """Of the user ``admin``."""
        return str(json.loads(self._passwords.read_text())[USER])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._prepare()
            stack.callback(self._stop)
            self._start()
            self._wait_until_healthy()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._end_all()  # what a program that was killed has left
        self._passwords.write_text(json.dumps({USER: secrets.token_urlsafe(9)}))
        self._passwords.chmod(0o600)

    def _start(self) -> None:
        migration = self._spawn("db-migrate", Component(("db", "migrate")))
        if migration.wait() != 0:
            raise ServerError(f"Airflow's database cannot be made:\n{self.log_tail('db-migrate')}")
        for name, component in self._components.items():
            self._running[name] = self._spawn(name, component)

    def _spawn(self, name: str, component: Component, *, again: bool = False) -> subprocess.Popen[bytes]:
        with self.log_file(name).open("ab" if again else "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *component.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_with(self.environment, component.environment),
                cwd=self.home,
                start_new_session=True,
            )
        self._sessions.add(process.pid)
        return process

    def log_file(self, name: str) -> Path:
        """What a component itself says, not its tasks."""
        return self.home / f"{name}.log"

    def _wait_until_healthy(self) -> None:
        components = ("metadatabase", "scheduler", "dag_processor")

        def healthy() -> bool:
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
                return all(answer[name]["status"] == "healthy" for name in components)
            return False

        self.wait_for(healthy, "Airflow to answer", seconds=START_SECONDS)

    def wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float) -> None:
        """Wait until a condition holds.

        :raises ServerError: it did not within that time, or Airflow ended; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise ServerError(f"Airflow's {name} ended while waiting for {what}:\n{self.log_tail(name)}")
            if time.monotonic() > deadline:
                tails = "\n\n".join(self.log_tail(name) for name in self._components)
                raise ServerError(f"waited {seconds:.0f} s for {what}:\n{tails}")
            time.sleep(0.3)

    def kill(self, name: str, *, alone: bool = False) -> None:
        """End a component as a crash of its machine would, with all that it started.

        :param alone: only its own process, as the kernel does where memory is short: what it started goes on.
        """
        killed = self._running.pop(name)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        if not alone:
            for process in processes_of_session(killed.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Start a component that was killed."""
        self._running[name] = self._spawn(name, self._components[name], again=True)

    def kill_and_restart(self, name: str, *, alone: bool = False) -> None:
        """Kill a component, and start another."""
        self.kill(name, alone=alone)
        self.restart(name)

    @property
    def running(self) -> dict[str, int]:
        """The process of each component that was not killed, by name."""
        return {name: process.pid for name, process in self._running.items()}

    def client(self) -> RestClient:
        """A client that is logged in."""
        return RestClient.log_in(self.url, USER, self.password)

    def log_tail(self, name: str) -> str:
        """The last lines of a component's own log, and where the rest is."""
        file = self.log_file(name)
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return "\n".join([*lines[-LOG_LINES:], f"(all of it: {file})"])

    def processes(self) -> list[int]:
        """Every process that Airflow in this home started and that still runs, by id, steps included."""
        return processes_of(self.home, self._sessions)

    def _stop(self) -> None:
        """Ask politely, then end whatever is left of it. A task that is running is not waited for."""
        with _uninterrupted():
            for process in self._running.values():
                process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for process in self._running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            self._end_all()

    def _end_all(self) -> None:
        deadline = time.monotonic() + KILL_SECONDS
        while left := self.processes():
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            for process in self._running.values():
                process.poll()  # a killed child stays in the list of processes until it is asked for
            if time.monotonic() > deadline:
                raise ServerError(f"these processes of Airflow do not end: {left}")
            time.sleep(0.05)


def _with(variables: Mapping[str, str], more: Mapping[str, str | None]) -> dict[str, str]:
    """The variables with more, of which ``None`` takes one away."""
    return {name: value for name, value in {**variables, **more}.items() if value is not None}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Who presses Ctrl-C twice must not be left with half an Airflow."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def processes_of(home: Path, sessions: Set[int] = frozenset()) -> list[int]:
    """The processes of this user that an Airflow in that home started.

    They carry a variable that only this module sets. Some of Airflow's processes write their title over their
    environment, so whoever shares a session with one that still has it belongs to it too.

    :param sessions: known to belong to it.
    """
    marker = f"{MARKER}={home.absolute()}".encode()
    session_of: dict[int, int] = {}
    marked: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # ended meanwhile, or another user's
            environment = (entry / "environ").read_bytes().split(b"\0")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            number = int(entry.name)
            session_of[number] = int(fields[3])
            if marker in environment:
                marked.add(number)
    own = {session_of[number] for number in marked} - {os.getsid(0)} | sessions
    return sorted(number for number, session in session_of.items() if number in marked or session in own)


def processes_of_session(session: int) -> list[int]:
    """The processes of a session that still run, whatever their groups."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):  # ended meanwhile, or not a process
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
