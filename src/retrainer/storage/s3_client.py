"""The client that reaches a bucket: endpoint, credentials, encryption, retries. Nothing is asked of it here."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.httpsession import get_cert_path
from botocore.loaders import Loader

from retrainer.errors import StorageError
from retrainer.storage.access import AddressingStyle, S3Access
from retrainer.storage.s3_errors import s3_errors
from retrainer.storage.s3_wire import Parsers, Wire

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ATTEMPTS = 4
_PASSWORD = re.compile(r"//[^/@\s]*@")
_ENCRYPTED = ("PutObject", "CopyObject", "CreateMultipartUpload")


def make_client(access: S3Access, *, where: str) -> S3Client:
    """A client with a session of its own: boto3's default session is shared by all threads and is not safe to be.

    :param where: the storage, for errors.
    :raises StorageError: the settings cannot be used.
    """
    if access.verify and not Path(access.verify).exists():
        raise StorageError(f"no certificates at {access.verify}", where=where, hint="give the path of a PEM file")
    style = access.addressing_style or ("path" if access.endpoint_url else None)
    with s3_errors(where):
        try:
            client = _client(access, style)
            if style is None and _wants_path(client):
                client = _client(access, "path")
        except ValueError as error:  # how botocore says that an endpoint is no URL
            raise StorageError(
                _PASSWORD.sub("//", str(error)), where=where, hint="give an endpoint like https://s3.example.com"
            ) from None
    if _PASSWORD.search(client.meta.endpoint_url):  # it would stand in every message
        raise StorageError("the endpoint holds a password", where=where, hint="give keys, and an endpoint without it")
    _ask_for_encryption(client, access)
    return client


def _client(access: S3Access, addressing_style: AddressingStyle | None) -> S3Client:
    session = botocore.session.Session(profile=access.profile)
    session.register_component("data_loader", _descriptions())
    session.register_component("response_parser_factory", Parsers())
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # Whoever fetches a file compares its SHA-256; the transfer manager then spares a request for each file.
        response_checksum_validation="when_required",
        # Without a word here, what the profile says holds.
        s3={"addressing_style": addressing_style} if addressing_style else None,
    )
    client: Any = session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint_url,
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        aws_session_token=access.session_token,
        config=config,
    )
    configured = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    wire = Wire(client.meta.endpoint_url, access.verify or configured or str(get_cert_path(verify=True)))
    client.meta.events.register("before-send.s3", wire.send)
    return cast("S3Client", client)


@cache
def _descriptions() -> Loader:
    """botocore's descriptions of services, which take longest to read. They never change; all clients share them."""
    return Loader()


def _wants_path(client: S3Client) -> bool:
    """Whether boto3's chain led to another server than Amazon's, which seldom has a name for each bucket."""
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    said = getattr(client.meta.config, "s3", None) or {}
    return "addressing_style" not in said and not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _ask_for_encryption(client: S3Client, access: S3Access) -> None:
    """Add the encryption to every request that makes an object.

    Here rather than in each call: the transfer manager takes no ``BucketKeyEnabled``.
    """
    asked: dict[str, Any] = {
        "ServerSideEncryption": access.sse,
        "SSEKMSKeyId": access.sse_kms_key_id,
        "BucketKeyEnabled": access.bucket_key,
    }
    asked = {name: value for name, value in asked.items() if value is not None}

    def add(params: dict[str, Any], **_: object) -> None:
        params.update(asked)

    if asked:
        for operation in _ENCRYPTED:
            client.meta.events.register(f"before-parameter-build.s3.{operation}", add)
