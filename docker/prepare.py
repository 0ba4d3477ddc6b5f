"""Secrets of compose.yaml: each is made once, at random, and handed to those who need it, in a volume of their own.

    prepare.py GIVEN KEPT OUT

A file of that name in GIVEN (``./secrets`` beside compose.yaml) goes first; else what an earlier start left in KEPT;
else one is made. OUT has a folder for each consumer, which is a volume that only its services mount: none sees the
secrets of another. Files have no line break at their end, for Airflow takes what is in them as it is.

Not here: what is done with them (``set_up.py``, compose.yaml).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# The users of the images.
POSTGRES, REDIS, AIRFLOW, STORAGE, SERVE, NGINX = 999, 999, 50000, 1000, 10001, 101
ENDPOINT = "http://s3:8333"
REGION = "us-east-1"
YEAR = timedelta(days=365)


def _word() -> str:
    return secrets.token_hex(24)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _private_key() -> str:
    plain = serialization.NoEncryption()
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


# What is made where nothing is given: the name of the file, and how.
MADE: dict[str, Callable[[], str]] = {
    "postgres_password": _word,
    "redis_password": _word,
    "fernet_key": _fernet_key,
    "jwt_secret": _word,
    "api_secret_key": _word,
    "admin_password": _word,
    "pipelines_access_key": lambda: secrets.token_hex(10),
    "pipelines_secret_key": _word,
    "serve_access_key": lambda: secrets.token_hex(10),
    "serve_secret_key": _word,
    "serve_token": _word,
    "models.key": _private_key,
}


@dataclass(frozen=True)
class HandedOut:
    """A file for one consumer.

    :ivar folder: of the consumer.
    :ivar owner: the number of the user that reads it.
    """

    folder: str
    name: str
    content: str
    owner: int


def values(given: Path, kept: Path) -> dict[str, str]:
    """Each secret, made where there is none yet, and kept.

    :raises SystemExit: a given one is empty.
    """
    found = {}
    for name, make in MADE.items():
        own, earlier = given / name, kept / name
        if own.is_file():
            found[name] = own.read_text(encoding="utf-8").strip()
            if not found[name]:
                sys.exit(f"{own} is empty: write the secret into it, or remove it and one is made")
        else:
            found[name] = earlier.read_text(encoding="utf-8") if earlier.exists() else make()
        _write(earlier, found[name], owner=os.getuid())
    return found


def certificate(given: Path, kept: Path, key: str) -> str:
    """That of nginx: the given one, else one that signs itself, for this machine's name, made anew when it is late."""
    own, earlier = given / "models.crt", kept / "models.crt"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    private = serialization.load_pem_private_key(key.encode(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey), "a given models.key goes with a given models.crt"
    now = datetime.now(UTC)
    if earlier.exists():
        text = earlier.read_text(encoding="utf-8")
        made = x509.load_pem_x509_certificate(text.encode())
        if made.public_key() == private.public_key() and made.not_valid_after_utc - now > YEAR / 12:
            return text
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + YEAR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("nginx")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    text = signed.public_bytes(serialization.Encoding.PEM).decode()
    _write(earlier, text, owner=os.getuid())
    return text


def handed_out(secret: dict[str, str], crt: str) -> Iterable[HandedOut]:
    """Which service reads what."""
    postgres = f"postgresql+psycopg2://airflow:{quote(secret['postgres_password'], safe='')}@postgres:5432/airflow"
    redis = f"redis://:{quote(secret['redis_password'], safe='')}@redis:6379"
    yield HandedOut("postgres", "password", secret["postgres_password"], POSTGRES)
    yield HandedOut("redis", "redis.conf", f"requirepass {secret['redis_password']}\n", REDIS)
    yield HandedOut("redis", "password", secret["redis_password"], REDIS)
    # Whoever holds these is Airflow itself. Workers run other people's code, and have none of them.
    for name in ("fernet_key", "jwt_secret", "admin_password"):
        yield HandedOut("airflow", name, secret[name], AIRFLOW)
    yield HandedOut("airflow", "sql_alchemy_conn", postgres, AIRFLOW)
    yield HandedOut("airflow", "models_connection.json", json.dumps(_connection(secret)), AIRFLOW)
    yield HandedOut("celery", "broker_url", f"{redis}/0", AIRFLOW)
    yield HandedOut("celery", "result_backend", f"{redis}/1", AIRFLOW)
    yield HandedOut("celery", "api_secret_key", secret["api_secret_key"], AIRFLOW)
    yield HandedOut("s3", "s3.json", json.dumps(_identities(secret)), STORAGE)
    credentials = "[default]\naws_access_key_id = {serve_access_key}\naws_secret_access_key = {serve_secret_key}\n"
    yield HandedOut("serve", "credentials", credentials.format(**secret), SERVE)
    yield HandedOut("serve", "tokens", secret["serve_token"], SERVE)
    yield HandedOut("nginx", "models.crt", crt, NGINX)
    yield HandedOut("nginx", "models.key", secret["models.key"], NGINX)


def _connection(secret: dict[str, str]) -> dict[str, object]:
    return {
        "conn_type": "aws",
        "login": secret["pipelines_access_key"],
        "password": secret["pipelines_secret_key"],
        "extra": {"endpoint_url": ENDPOINT, "region_name": REGION},
    }


def _identities(secret: dict[str, str]) -> dict[str, object]:
    """SeaweedFS's users: pipelines write both buckets, servers read the models."""

    def identity(name: str, *actions: str) -> dict[str, object]:
        keys = {"accessKey": secret[f"{name}_access_key"], "secretKey": secret[f"{name}_secret_key"]}
        return {"name": name, "credentials": [keys], "actions": list(actions)}

    return {
        "identities": [
            identity("pipelines", "Admin", "Read", "Write", "List", "Tagging"),
            identity("serve", "Read:models", "List:models"),
        ]
    }


def _write(path: Path, content: str, *, owner: int) -> None:
    """In one step, so that a service that reads meanwhile reads the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
        file.write(content)
    os.chown(beside, owner, 0)
    beside.replace(path)


def main(given: str, kept: str, out: str, *folders: str) -> None:
    """Hand out all secrets, and give each of ``folders`` to the user named before it: ``1000:/data``."""
    secret = values(Path(given), Path(kept))
    for file in handed_out(secret, certificate(Path(given), Path(kept), secret["models.key"])):
        _write(Path(out) / file.folder / file.name, file.content, owner=file.owner)
    for folder in folders:
        owner, _, path = folder.partition(":")
        os.chown(path, int(owner), 0)
    print("secrets are in place")


if __name__ == "__main__":
    main(*sys.argv[1:])
