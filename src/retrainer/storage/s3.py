"""Objects in a bucket of S3, or of a server that speaks its protocol.

Endpoint, region and credentials come from boto3's own chain: environment, profile, role. Small objects are read
and written in one request; files go through boto3's transfer manager, in parts and with S3's own checksums.
"""

from __future__ import annotations

import builtins
import os
import random
import re
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import boto3.session
from botocore.config import Config
from botocore.exceptions import ClientError

from retrainer.errors import NotFoundError, StorageError
from retrainer.storage.access import S3Access
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.keys import RESERVED, check_folder, check_key, check_prefix
from retrainer.storage.protocol import ObjectInfo
from retrainer.storage.s3_errors import error_code, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef

# A dead endpoint fails within some seconds; a slow answer has a minute.
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_ATTEMPTS = 4
# S3 answers 409 while another conditional write of the same key is under way. It is over soon.
_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted", "409"}
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
_DELETE_AT_ONCE = 1000
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


class S3Storage:
    """A ``Storage`` on a bucket, or on a prefix of one.

    :param url: ``s3://bucket/prefix``, taken literally.
    :param access: how it is reached.
    :raises StorageError: it names no bucket.
    """

    def __init__(self, url: str, *, access: S3Access | None = None) -> None:
        self._access = access or S3Access()
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(bucket):
            problem = f"'{bucket}' cannot be a bucket's name" if bucket else "no bucket is named"
            raise StorageError(problem, where=url, hint="s3://bucket/prefix")
        self.bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, without a slash at its end."""
        return self.where().rstrip("/")

    def where(self, key: str = "") -> str:
        """``s3://bucket/prefix/key``."""
        return f"s3://{self.bucket}/{self._prefix}{key}"

    def local_path(self, key: str = "") -> None:
        """``None``: a bucket has no paths."""

    @cached_property
    def _client(self) -> S3Client:
        # One session a storage: boto3's default session is shared by all threads and is not safe to be.
        own_endpoint = any(os.environ.get(name) for name in _ENDPOINTS)
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            s3={"addressing_style": "path" if own_endpoint else "auto"},
        )
        with s3_errors(self.where()):
            try:
                return boto3.session.Session().client("s3", config=config)
            except ValueError as error:  # how botocore says that an endpoint is no URL
                raise StorageError(
                    str(error), where=self.where(), hint="check AWS_ENDPOINT_URL, such as https://s3.example.com"
                ) from error

    def read(self, key: str) -> bytes:
        """See ``Storage.read``."""
        return self.read_with_etag(key)[0]

    def read_with_etag(self, key: str) -> tuple[bytes, str]:
        """See ``Storage.read_with_etag``; the token is S3's own."""
        with s3_errors(self.where(key)):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            with answer["Body"] as body:
                return body.read(), answer["ETag"]

    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        """See ``Storage.write``."""
        if if_match is not None and if_absent:
            raise ValueError("if_match and if_absent exclude each other")
        request: PutObjectRequestTypeDef = {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "Body": data,
            "ChecksumAlgorithm": "SHA256",
        }
        if if_absent:
            request["IfNoneMatch"] = "*"
        if if_match is not None:
            request["IfMatch"] = if_match
        with s3_errors(self.where(key), conditional=if_match is not None):
            for pause in _CONFLICT_PAUSES:
                try:
                    return self._client.put_object(**request)["ETag"]
                except ClientError as error:
                    if error_code(error) not in _CONFLICTS:
                        raise
                time.sleep(pause * random.uniform(0.5, 1.0))
            return self._client.put_object(**request)["ETag"]

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        try:
            self._head(key)
        except NotFoundError:
            return False
        return True

    def _head(self, key: str) -> None:
        try:
            with s3_errors(self.where(key)):
                self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except NotFoundError:
            self._check_bucket()
            raise

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object, which answers without a body do not."""
        with s3_errors(self.where()):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error_code(error) == "404":
                    error.response["Error"]["Code"] = "NoSuchBucket"
                raise

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``; asks for the next thousand as they are needed."""
        start = f"{self._prefix}{check_prefix(prefix, where=self.where())}"
        with s3_errors(self.where(prefix)):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/"):  # what consoles make to show an empty folder
                        yield ObjectInfo(
                            key=key, size=entry["Size"], etag=entry["ETag"], modified=entry["LastModified"]
                        )

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        folder = check_folder(prefix, where=self.where())
        start = f"{self._prefix}{folder}/" if folder else self._prefix
        with s3_errors(self.where(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, Delimiter="/"
            )
            return sorted(
                entry["Prefix"].removeprefix(start).rstrip("/")
                for page in pages
                for entry in page.get("CommonPrefixes", [])
            )

    def upload(self, source: Path, key: str) -> None:
        """See ``Storage.upload``; a large file goes in parts, and appears when the last has arrived."""
        name = self._key(key)
        with s3_errors(self.where(key)), filesystem_errors(str(source)):
            self._client.upload_file(str(source), self.bucket, name, ExtraArgs={"ChecksumAlgorithm": "SHA256"})

    def download(self, key: str, target: Path) -> None:
        """See ``Storage.download``."""
        name = self._key(key)
        with filesystem_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{RESERVED}temporary-{uuid.uuid4().hex}")
        try:
            with s3_errors(self.where(key)), filesystem_errors(str(target)):
                self._client.download_file(self.bucket, name, str(temporary))
                temporary.replace(target)
        except NotFoundError:
            self._check_bucket()
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """See ``Storage.delete``."""
        with s3_errors(self.where(key)):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_tree(self, prefix: str) -> None:
        """See ``Storage.delete_tree``."""
        folder = self._key(prefix.removesuffix("/"))
        with s3_errors(self.where(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{folder}/", PaginationConfig={"PageSize": _DELETE_AT_ONCE}
            )
            for page in pages:
                if not page.get("Contents"):
                    continue
                answer = self._client.delete_objects(
                    Bucket=self.bucket,
                    Delete={"Objects": [{"Key": entry["Key"]} for entry in page["Contents"]], "Quiet": True},
                )
                for error in answer.get("Errors", []):
                    raise StorageError(
                        f"cannot be deleted: {error.get('Message', error.get('Code'))}",
                        where=f"s3://{self.bucket}/{error.get('Key', '')}",
                        hint="the credentials need s3:DeleteObject",
                    )

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key, where=self.where())
