"""The secrets of compose.yaml: made once, handed out to whoever needs them, and to nobody else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization

from tests.conftest import REPOSITORY

PROGRAM = REPOSITORY / "docker" / "prepare.py"

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="files are given to other users, which takes root")


class Prepared:
    """What the program left, in a folder of this test.

    :ivar given: where a person puts secrets of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given = folder / "given"
        self.given.mkdir()

    def run(self, *owned: str) -> subprocess.CompletedProcess[str]:
        places = [str(self.folder / name) for name in ("given", "kept", "out")]
        return subprocess.run(
            [sys.executable, str(PROGRAM), *places, *owned], capture_output=True, text=True, check=False
        )

    def out(self, name: str) -> str:
        return (self.folder / "out" / name).read_text()

    def all(self) -> dict[str, str]:
        files = [file for file in (self.folder / "out").rglob("*") if file.is_file()]
        return {str(file.relative_to(self.folder / "out")): file.read_text() for file in files}


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    done = Prepared(tmp_path)
    first = done.run()
    assert first.returncode == 0, first.stderr
    return done


def test_secrets_differ_and_are_long_enough(prepared: Prepared) -> None:
    names = ("postgres/password", "redis/password", "airflow/jwt_secret", "airflow/admin_password", "serve/tokens")
    found = [prepared.out(name) for name in (*names, "celery/api_secret_key")]
    assert len(set(found)) == len(found)
    assert min(map(len, found)) >= 32
    Fernet(prepared.out("airflow/fernet_key"))  # refuses what is not a key


def test_a_second_start_changes_nothing(prepared: Prepared) -> None:
    before = prepared.all()
    assert prepared.run().returncode == 0
    assert prepared.all() == before


def test_urls_lead_to_the_services_with_their_passwords(prepared: Prepared) -> None:
    database = urlsplit(prepared.out("airflow/sql_alchemy_conn"))
    assert (database.hostname, unquote(database.password or "")) == ("postgres", prepared.out("postgres/password"))
    for name in ("broker_url", "result_backend"):
        broker = urlsplit(prepared.out(f"celery/{name}"))
        assert (broker.hostname, unquote(broker.password or "")) == ("redis", prepared.out("redis/password"))
    assert prepared.out("redis/redis.conf") == f"requirepass {prepared.out('redis/password')}\n"


def test_no_file_but_configuration_ends_in_a_line_break(prepared: Prepared) -> None:
    # Airflow takes what a command prints as it is: a database called "airflow\n" does not exist.
    ends = {name for name, content in prepared.all().items() if content.endswith("\n")}
    assert ends == {"redis/redis.conf", "serve/credentials", "nginx/models.crt", "nginx/models.key"}


def test_only_the_consumer_may_read(prepared: Prepared) -> None:
    owners: dict[str, set[int]] = {}
    for file in (prepared.folder / "out").rglob("*"):
        if file.is_file():
            assert stat.S_IMODE(file.stat().st_mode) == 0o400, file
            owners.setdefault(file.parent.name, set()).add(file.stat().st_uid)
    assert owners == {
        "postgres": {999},
        "redis": {999},
        "airflow": {50000},
        "celery": {50000},
        "s3": {1000},
        "serve": {10001},
        "nginx": {101},
    }


def test_servers_read_the_models_and_write_nothing(prepared: Prepared) -> None:
    identities = {one["name"]: one for one in json.loads(prepared.out("s3/s3.json"))["identities"]}
    assert identities["serve"]["actions"] == ["Read:models", "List:models"]
    keys = identities["pipelines"]["credentials"][0]
    connection = json.loads(prepared.out("airflow/models_connection.json"))
    assert (connection["login"], connection["password"]) == (keys["accessKey"], keys["secretKey"])
    assert keys["secretKey"] not in prepared.out("serve/credentials")


def test_the_certificate_is_that_of_the_key(prepared: Prepared) -> None:
    certificate = x509.load_pem_x509_certificate(prepared.out("nginx/models.crt").encode())
    key = serialization.load_pem_private_key(prepared.out("nginx/models.key").encode(), password=None)
    assert certificate.public_key() == key.public_key()


def test_given_secrets_go_first_without_their_line_break(prepared: Prepared) -> None:
    (prepared.given / "postgres_password").write_text("p@ss/word\n")
    assert prepared.run().returncode == 0
    assert prepared.out("postgres/password") == "p@ss/word"
    assert unquote(urlsplit(prepared.out("airflow/sql_alchemy_conn")).password or "") == "p@ss/word"


def test_an_empty_given_secret_is_refused(prepared: Prepared) -> None:
    before = prepared.all()
    (prepared.given / "jwt_secret").write_text("\n")
    refused = prepared.run()
    assert refused.returncode != 0
    assert "jwt_secret is empty" in refused.stderr
    assert prepared.all() == before


def test_folders_are_given_to_their_users(prepared: Prepared) -> None:
    folder = prepared.folder / "data"
    folder.mkdir()
    assert prepared.run(f"1000:{folder}").returncode == 0
    assert folder.stat().st_uid == 1000
