"""An S3 server that lets nobody in without the right keys, and a search for secrets where none may be."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import boto3

from retrainer.storage.access import S3Access
from tests.moto_server import moto_server

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class GuardedBucket:
    """A bucket, and the only keys that open it."""

    name: str
    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)

    @property
    def access(self) -> S3Access:
        return S3Access(
            endpoint_url=self.endpoint,
            region="us-east-1",
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
        )

    def connection(self, secret: str | None = None) -> dict[str, str]:
        """What a person enters in Airflow."""
        return {
            "conn_type": "aws",
            "login": self.access_key_id,
            "password": secret or self.secret_access_key,
            "extra": json.dumps(
                {"region_name": "us-east-1", "service_config": {"s3": {"endpoint_url": self.endpoint}}}
            ),
        }


@contextmanager
def guarded_bucket(policy: Mapping[str, object] = POLICY) -> Iterator[GuardedBucket]:
    """A server of its own, which checks each signature against its users and their policies.

    :param policy: of the one user.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with moto_server(environment) as endpoint:
        session = boto3.session.Session("nobody", "asks yet", region_name="us-east-1")
        session.client("s3", endpoint_url=endpoint).create_bucket(Bucket="models")
        iam = session.client("iam", endpoint_url=endpoint)
        iam.create_user(UserName="retrainer")
        iam.put_user_policy(UserName="retrainer", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="retrainer")["AccessKey"]
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
        connection.request("POST", "/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        assert connection.getresponse().status == http.HTTPStatus.OK
        connection.close()
        yield GuardedBucket("models", endpoint, key["AccessKeyId"], key["SecretAccessKey"])


class Watch:
    """Looks for secrets while the block lasts: in every command line of this machine, and in requests of steps.

    :param temporary: where the requests lie while their steps run.
    :ivar found: the command lines and requests that hold a secret.
    :ivar commands: steps whose command lines were seen, to know that there was something to find.
    :ivar requests: steps whose requests were seen.
    """

    def __init__(self, *secrets: str, temporary: Path) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self._temporary = temporary
        self.found: set[bytes] = set()
        self.commands: set[str] = set()
        self.requests: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # ended meanwhile
                    words = self._searched(process / "cmdline").split(b"\0")
                    if b"retrainer.work" in words:
                        self.commands.add(words[words.index(b"retrainer.work") + 1].decode())
            for request in self._temporary.glob("retrainer-*/request.json"):
                with suppress(OSError, ValueError):  # its step ended, or it is being written
                    self.requests.add(json.loads(self._searched(request))["step"])

    def _searched(self, file: Path) -> bytes:
        data = file.read_bytes()
        if any(secret in data for secret in self._secrets):
            self.found.add(data)
        return data


def files_with(words: str, *folders: Path) -> list[Path]:
    """The files below folders that hold those words, whatever kind of file they are."""
    sought = words.encode()
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            with suppress(OSError):
                if path.is_file() and sought in path.read_bytes():
                    found.append(path)
    return found
