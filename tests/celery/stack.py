"""The stack of ``docker/compose.yaml`` without containers: PostgreSQL, Redis, S3, Airflow with two Celery workers.

Settings, secrets, buckets and the workers' command are those of ``docker/``; only addresses and paths are this
machine's, and Airflow's auth manager is its simple one. PostgreSQL and Redis are Debian's, the S3 server is moto's. All
listen on the loopback interface, on free ports, and end with the block. Not here: what is expected of it
(``test_celery.py``), and the servers behind nginx.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from demo.airflow_server import AirflowServer, Component
from demo.rest_client import RestClient
from retrainer.storage import S3Access
from tests.airflow.running import Device, Running, parent_of
from tests.conftest import REPOSITORY
from tests.moto_server import free_port, moto_server

DOCKER = REPOSITORY / "docker"
SERVICES: Mapping[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WORKERS = ("worker-a", "worker-b")
# Of compose.yaml, in containers.
SECRETS = "/run/secrets"
POSTGRES, REDIS, S3, API = "postgres:5432", "redis:6379", "http://s3:8333", "http://api-server:8080"
START_SECONDS = 60.0
# Without a container it would listen on all interfaces; FAB's auth manager wants another Flask than moto.
NOT_HERE: Mapping[str, str | None] = {
    "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "false",
    "AIRFLOW__CORE__AUTH_MANAGER": None,
}


def missing() -> str | None:
    """Why the stack cannot be started here, and what to install."""
    try:
        for program in ("initdb", "postgres", "pg_isready", "createdb", "redis-server"):
            _program(program)
    except FileNotFoundError as error:
        return f"{error} is not here (Debian: apt-get install postgresql redis-server)"
    return None


def _program(name: str) -> str:
    """Debian keeps PostgreSQL's programs off the path, by version.

    :raises FileNotFoundError: it is not installed.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    for folder in reversed(folders):
        if (folder / name).exists():
            return str(folder / name)
    if found := shutil.which(name):
        return found
    raise FileNotFoundError(name)


def install_packages(folder: Path) -> None:
    """What CeleryExecutor takes beside this repository's environment: 60 MB, which no other test needs."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
    pip = [sys.executable, "-m", "pip", "install", *options]
    subprocess.run([*pip, "--target", str(folder), "--requirement", str(REQUIREMENTS)], check=True)


class Stack(Running):
    """Airflow on all of it.

    :ivar access: how the buckets ``artifacts`` and ``models`` are reached.
    """

    def __init__(self, server: AirflowServer, client: RestClient, device: Device, access: S3Access) -> None:
        super().__init__(server, client)
        self.device = device
        self.access = access
        self._starts: dict[str, int] = {}

    def until_ready(self, worker: str) -> None:
        """Wait until a worker takes tasks. Celery says so each time that it starts."""
        said = f"celery@{worker} ready"
        log = self.server.log_file(worker)
        starts = self._starts[worker] = self._starts.get(worker, 0) + 1
        self.until(lambda: log.read_text().count(said) >= starts, said, 90)

    def worker_of(self, process: int) -> str:
        """Which of the workers that run a process descends from."""
        workers = {process: name for name, process in self.server.running.items() if name in WORKERS}
        while process not in workers:
            process = parent_of(process)
            assert process > 1, "its worker is gone"
        return workers[process]


@contextmanager
def stack(root: Path, packages: Path, pipelines: Path, device: Device, changed: Mapping[str, str]) -> Iterator[Stack]:
    """All of it, until the end of the block.

    :param root: an empty folder for what it keeps.
    :param packages: what ``install_packages`` installed.
    :param pipelines: folder of the pipeline files.
    :param device: the GPU of both workers' host.
    :param changed: settings of ``compose.yaml`` that are others here.
    """
    prepare = runpy.run_path(str(DOCKER / "prepare.py"))
    secret = {name: make() for name, make in prepare["MADE"].items()}
    files = list(prepare["handed_out"](secret, "no certificate"))
    with ExitStack() as open_until_end:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        api = free_port()
        here = {
            POSTGRES: open_until_end.enter_context(_postgres(secret["postgres_password"])),
            REDIS: open_until_end.enter_context(_redis(root / "redis", files)),
            S3: open_until_end.enter_context(moto_server(environment)),
            API: f"http://127.0.0.1:{api}",
            SECRETS: str(root / "secrets"),
        }
        for file in files:
            _write(root / "secrets" / file.folder / file.name, _replaced(file.content, here))
        models = (root / "secrets" / "airflow" / "models_connection.json").read_text()
        runpy.run_path(str(DOCKER / "set_up.py"))["set_up_buckets"](models)

        of_server = {**_settings("scheduler", here), **changed}
        of_worker = {**_settings("worker-cpu", here), **changed}
        common = {
            **device.environment,
            "RETRAINER_PIPELINES": str(pipelines),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), str(packages)]),
            # Parallelism is what Airflow has by default.
            "AIRFLOW__CORE__PARALLELISM": None,
            # All share two cores with other tests, where five seconds are not enough for every answer.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }
        for name in ("home", *WORKERS):
            (root / name / "config").mkdir(parents=True)
            shutil.copy(DOCKER / "airflow_local_settings.py", root / name / "config")
        server = AirflowServer(
            root / "home",
            REPOSITORY / "dags",
            plugins=REPOSITORY / "plugins",
            environment={**common, **of_server, **NOT_HERE},
            port=api,
            triggerer=True,
            beside={name: _worker(name, root / name, of_server, of_worker) for name in WORKERS},
        )
        with server:
            client = server.client()
            connection = json.loads(models)
            extra = json.dumps(connection.pop("extra"))
            client.post("/connections", {"connection_id": "models", **connection, "extra": extra})
            slots = SERVICES["set-up"]["environment"]["GPU_POOL_SLOTS"]
            client.ensure_pool("gpu_pool", int(_filled(slots)))
            access = S3Access(
                endpoint_url=here[S3],
                region=prepare["REGION"],
                access_key_id=secret["pipelines_access_key"],
                secret_access_key=secret["pipelines_secret_key"],
            )
            started = Stack(server, client, device, access)
            for name in WORKERS:
                started.until_ready(name)
            yield started
        assert server.processes() == []


def _settings(service: str, here: Mapping[str, str]) -> dict[str, str | None]:
    """The environment of a service, on this machine."""
    said = {name: _replaced(str(value), here) for name, value in SERVICES[service]["environment"].items()}
    # What AirflowServer says of these in plain words would go before the commands.
    return {**{name.removesuffix("_CMD"): None for name in said if name.endswith("_CMD")}, **said}


def _worker(
    name: str, home: Path, of_server: Mapping[str, str | None], settings: Mapping[str, str | None]
) -> Component:
    """A worker in a home and with a cache of its own, which knows nothing that is Airflow's own."""
    program, *arguments = (_filled(word) for word in SERVICES["worker-cpu"]["command"])
    return Component(
        # Its server of logs would listen on all interfaces; the folder of logs is the same.
        (program, *arguments, "--celery-hostname", name, "--skip-serve-logs"),
        {
            **{setting: None for setting in of_server if setting not in settings},
            **settings,
            "AIRFLOW_HOME": str(home),
            "RETRAINER_CACHE": str(home / "cache"),
        },
    )


def _replaced(text: str, here: Mapping[str, str]) -> str:
    text = _filled(text)
    for there, address in here.items():
        text = text.replace(there, address)
    return text


def _filled(text: str) -> str:
    """Settings of Compose as they are by default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@contextmanager
def _running(command: Sequence[str], log: Path, up: Callable[[], bool], **options: Any) -> Iterator[None]:
    """A server, from when it is up until the end of the block."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, **options)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not up():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        process.wait(30)


@contextmanager
def _postgres(password: str) -> Iterator[str]:
    """Its address; the database and the user are called ``airflow``."""
    port = free_port()
    # pytest's folders are only for this user, and PostgreSQL refuses root.
    with tempfile.TemporaryDirectory(prefix="retrainer-postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        identity = _not_root()
        if identity:
            for path in (folder, folder / "password"):
                os.chown(path, identity["user"], identity["group"])
        at = ("-h", "127.0.0.1", "-p", str(port))
        told = {**os.environ, "PGPASSWORD": password, "LC_ALL": "C.UTF-8"}
        initdb = [_program("initdb"), "-D", f"{folder}/data", "-U", "airflow", "-A", "scram-sha-256"]
        subprocess.run(
            [*initdb, "--pwfile", f"{folder}/password", "--no-sync"],
            check=True,
            capture_output=True,
            env=told,
            cwd=folder,
            **identity,
        )
        postgres = [_program("postgres"), "-D", f"{folder}/data", "-k", name, *at, "-F"]

        def up() -> bool:
            return subprocess.run([_program("pg_isready"), *at], check=False, capture_output=True).returncode == 0

        with _running(postgres, folder / "log", up, env=told, cwd=folder, **identity):
            createdb = [_program("createdb"), *at, "-U", "airflow", "airflow"]
            subprocess.run(createdb, check=True, capture_output=True, env=told)
            yield f"127.0.0.1:{port}"


def _not_root() -> dict[str, Any]:
    """Options of ``subprocess`` for another user, where this one is root."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def _redis(folder: Path, files: Sequence[Any]) -> Iterator[str]:
    """Its address; the password is that of the file."""
    port = free_port()
    for file in files:
        if file.folder == "redis":
            _write(folder / file.name, file.content)
    program, configuration, *options = SERVICES["redis"]["command"]
    command = [_program(program), str(folder / Path(configuration).name), *options]
    command += ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with _running(command, folder / "log", up):
        yield f"127.0.0.1:{port}"
