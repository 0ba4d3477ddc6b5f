"""Objects in a bucket of S3, or of a server that speaks its protocol.

Small objects are read and written in one request; files go through boto3's transfer manager, in parts. S3 compares
all that it is sent with the SHA-256 in the request. No request carries an ACL: buckets without them take every one.
"""

from __future__ import annotations

import builtins
import hashlib
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from retrainer.errors import DamagedTransfer, NotFoundError, StorageError
from retrainer.records import sha256_file
from retrainer.storage.access import S3Access
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.hashing import checksum, too_large, wrong_content
from retrainer.storage.keys import check_folder, check_key, check_prefix
from retrainer.storage.protocol import MOST_BYTES, Leftover, ObjectInfo, Storage, Transfer
from retrainer.storage.s3_client import make_client
from retrainer.storage.s3_errors import ABSENT, error_code, s3_errors
from retrainer.storage.s3_transfers import Download, Upload, fetch, read_range, send
from retrainer.storage.s3_wire import MOST_ANSWER, small_call, whole

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, PutObjectRequestTypeDef

# S3 answers 409 while another conditional write of the same key is under way. It is over soon.
_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted", "409"}
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
_DELETE_AT_ONCE = 1000
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
_LARGEST_COPY = 5 * 1024**3
# S3 answers when it has copied. Slower than any of its disks.
_COPIED_PER_SECOND = 25 * 1024**2
# Answers to a copy after which the bytes can still be sent: there is no source, it is archived (Glacier), only the copy
# is forbidden (a policy, the key of the source), or the server copies nothing. Who may not write hears so then.
_CANNOT_COPY = {"NoSuchKey", "404", "NotImplemented", "501", "AccessDenied", "Forbidden", "403", "InvalidRequest"}
_CANNOT_COPY |= {"InvalidObjectState", "PreconditionFailed", "412", *_CONFLICTS}


class S3Storage(Storage):
    """A ``Storage`` on a bucket, or on a prefix of one.

    :param url: ``s3://bucket/prefix``, taken literally.
    :param access: how it is reached; ``None`` for what the environment says.
    :raises StorageError: it names no bucket.
    """

    def __init__(self, url: str, *, access: S3Access | None = None) -> None:
        self._access = access or S3Access.from_environment()
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
        return make_client(self._access, where=self.where())

    @contextmanager
    def _small(self, where: str, *, most: int = MOST_ANSWER) -> Iterator[None]:
        """Around requests with small answers. Nothing that ``yield``s: the clock runs on between two items."""
        client = self._client  # made outside of the clock
        assert client is not None
        with s3_errors(where), small_call(self._access.timeout, most=most):
            yield

    def read(self, key: str, *, most: int = MOST_BYTES) -> bytes:
        """See ``Storage.read``."""

        def read() -> bytes:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key), ChecksumMode="ENABLED")
            with closing(answer["Body"]) as body:  # entered itself, it would check neither length nor checksum
                return body.read()

        with self._small(self.where(key), most=most):
            data = whole(read)
            if len(data) > most:
                raise too_large(most)
            return data

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """See ``Storage.write``."""
        request: PutObjectRequestTypeDef = {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "Body": data,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": checksum(hashlib.sha256(data).digest()),
        }
        if if_absent:
            request["IfNoneMatch"] = "*"
        with self._small(self.where(key)):
            for pause in _CONFLICT_PAUSES:
                try:
                    self._client.put_object(**request)
                except ClientError as error:
                    if error_code(error) not in _CONFLICTS:
                        raise
                    time.sleep(pause * random.uniform(0.5, 1.0))
                else:
                    return
            self._client.put_object(**request)

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        try:
            self._head(self._key(key), self.where(key))
        except NotFoundError:
            return False
        return True

    def _head(self, name: str, where: str) -> HeadObjectOutputTypeDef:
        try:
            with self._small(where):
                return self._client.head_object(Bucket=self.bucket, Key=name)
        except NotFoundError:
            self._check_bucket()
            raise

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object, which answers without a body do not."""
        with self._small(self.where()):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error_code(error) == "404":
                    error.response["Error"]["Code"] = "NoSuchBucket"
                raise

    def server_time(self) -> datetime | None:
        """See ``Storage.server_time``."""
        answer: Any
        with self._small(self.where()):
            try:
                answer = self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                answer = error.response
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        return parsedate_to_datetime(date) if date else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``; asks for the next thousand as they are needed."""
        start = f"{self._prefix}{check_prefix(prefix, where=self.where())}"
        for page in self._pages("list_objects_v2", prefix, Prefix=start):
            with s3_errors(self.where(prefix)):
                found = [
                    ObjectInfo(
                        entry["Key"].removeprefix(self._prefix),
                        entry["Size"],
                        entry.get("ETag", ""),
                        entry["LastModified"],
                    )
                    for entry in page.get("Contents", [])
                ]
            # Without what consoles make to show an empty folder.
            yield from (info for info in found if info.key and not info.key.endswith("/"))

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        start = self._folder(prefix)
        pages = self._pages("list_objects_v2", prefix, Prefix=start, Delimiter="/")
        with s3_errors(self.where(prefix)):
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return sorted(folder.removeprefix(start).rstrip("/") for folder in found)

    def _pages(self, operation: Any, prefix: str, **params: Any) -> Iterator[dict[str, Any]]:
        """The pages of a list, each in its own time."""
        with s3_errors(self.where(prefix)):
            pages = iter(self._client.get_paginator(operation).paginate(Bucket=self.bucket, **params))
        while True:
            with self._small(self.where(prefix)):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def upload_all(self, transfers: Sequence[Transfer]) -> None:
        """See ``Storage.upload_all``; a server that names no checksum of what arrived is asked for it once.

        A large file goes in parts, and appears when the last has arrived.
        """
        uploads = [self._upload(transfer) for transfer in transfers]
        send(self._client, self.bucket, uploads, self._check_arrival, self._access.patience)

    def _upload(self, transfer: Transfer) -> Upload:
        size = transfer.size
        if transfer.sha256 is None:
            with filesystem_errors(str(transfer.path)):
                size = transfer.path.stat().st_size
        return Upload(transfer.path, self._key(transfer.key), size, transfer.sha256, self.where(transfer.key))

    def _check_arrival(self, upload: Upload, expected: str, found: str | None) -> None:
        """Insist that the object is what was read from the file, also of a server that names no checksum of it."""
        arrived = found == expected
        if found is None:
            with self._small(upload.where):
                head = self._client.head_object(Bucket=self.bucket, Key=upload.key, ChecksumMode="ENABLED")
            found = head.get("ChecksumSHA256", "").partition("-")[0]
            arrived = found == expected if found else self._is(upload, head["ContentLength"])
        if not arrived:
            # A publisher need not be able to delete: nothing names the object then, and the next try replaces it.
            with self._small(upload.where), suppress(ClientError):
                self._client.delete_object(Bucket=self.bucket, Key=upload.key)
            raise DamagedTransfer("other bytes arrived than were sent", where=upload.where, hint="try again")

    def _is(self, upload: Upload, size: int) -> bool:
        """Whether an object is what was named for it, where anything was."""
        if upload.sha256 is None:
            return True
        digest = hashlib.sha256()
        with s3_errors(upload.where):
            read_range(self._client, self.bucket, upload.key, 0, size, digest.update, patience=self._access.patience)
        return digest.hexdigest() == upload.sha256

    def download_all(self, transfers: Sequence[Transfer]) -> None:
        """See ``Storage.download_all``; large files in ranges, hashed when they are complete."""
        downloads = []
        for transfer in transfers:
            where = self.where(transfer.key)
            admit = partial(_admit, transfer, where)
            name = self._prefix + transfer.key if transfer.foreign else self._key(transfer.key)
            size, etag = transfer.size, None
            if transfer.sha256 is None:
                head = self._head(name, where)
                size, etag = head["ContentLength"], head["ETag"]
            downloads.append(Download(name, transfer.path, size, etag, admit, where))
        fetch(self._client, self.bucket, downloads, self._access.patience)

    def copy(self, source: str, key: str, *, sha256: str, size: int) -> bool:
        """See ``Storage.copy``: S3 copies, and names the SHA-256 of what it wrote, which must match.

        "With a copy command, the checksum of the object is a direct checksum of the full object", also where the source
        was sent in parts (S3 user guide, "Checking object integrity"). ``False`` where a server names none or, as
        MinIO does, that of the source's parts; where the copy is refused, though sending may not be; and above 5 GB,
        which S3 copies in parts only.

        What is there already is never touched, for it may be whole: another publisher may have sent it meanwhile.
        """
        if size > _LARGEST_COPY:
            return False
        target = self._key(key)
        seconds = self._access.timeout + size / _COPIED_PER_SECOND
        with s3_errors(self.where(key)), small_call(seconds):
            if not self._is_free(target):
                return False
            try:
                answer = self._client.copy_object(
                    Bucket=self.bucket,
                    Key=target,
                    CopySource={"Bucket": self.bucket, "Key": self._key(source)},
                    ChecksumAlgorithm="SHA256",
                    **self._only_if_free,
                )
            except ClientError as error:
                code = error_code(error)
                if code in _CANNOT_COPY or code.startswith("KMS."):
                    return False
                raise
            copied = answer["CopyObjectResult"]
            if copied.get("ChecksumSHA256") == checksum(bytes.fromhex(sha256)):
                return True
            self._take_back(target, copied.get("ETag", ""))
        return False

    def _is_free(self, name: str) -> bool:
        """Whether nothing is there; ``False`` also where that cannot be asked."""
        try:
            self._client.head_object(Bucket=self.bucket, Key=name)
        except ClientError as error:
            if error_code(error) in ABSENT:
                return True
            if error_code(error) in _CANNOT_COPY:
                return False
            raise
        return False

    @cached_property
    def _only_if_free(self) -> dict[str, Any]:
        """The condition of a copy, where boto3 is new enough to know it. A server that does not ignores it."""
        known = self._client.meta.service_model.operation_model("CopyObject").input_shape
        return {"IfNoneMatch": "*"} if known is not None and "IfNoneMatch" in known.members else {}

    def _take_back(self, name: str, etag: str) -> None:
        """Delete what a copy made, unless somebody wrote over it meanwhile, or nothing may be deleted."""
        with suppress(ClientError):
            if self._client.head_object(Bucket=self.bucket, Key=name)["ETag"] == etag:
                self._client.delete_object(Bucket=self.bucket, Key=name, IfMatch=etag)

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """See ``Storage.leftovers``: uploads in parts that were neither completed nor ended. S3 charges for them."""
        for page in self._pages("list_multipart_uploads", prefix, Prefix=self._folder(prefix)):
            with s3_errors(self.where(prefix)):
                found = [(one["Key"], one["UploadId"], one["Initiated"]) for one in page.get("Uploads", [])]
            for key, name, begun in found:
                yield Leftover(f"s3://{self.bucket}/{key}", (key, name), begun, None)

    def remove_leftover(self, leftover: Leftover) -> None:
        """See ``Storage.remove_leftover``."""
        key, name = leftover.token
        if not key.startswith(self._prefix):
            raise StorageError("lies outside this storage", where=leftover.where)
        with self._small(leftover.where):
            try:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=name)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise

    def delete(self, key: str) -> None:
        """See ``Storage.delete``."""
        with self._small(self.where(key)):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_tree(self, prefix: str) -> None:
        """See ``Storage.delete_tree``."""
        folder = self._key(prefix.removesuffix("/"))
        paging = {"PageSize": _DELETE_AT_ONCE}
        for page in self._pages("list_objects_v2", prefix, Prefix=f"{folder}/", PaginationConfig=paging):
            if not page.get("Contents"):
                continue
            with self._small(self.where(prefix)):
                answer = self._client.delete_objects(
                    Bucket=self.bucket,
                    Delete={"Objects": [{"Key": entry["Key"]} for entry in page["Contents"]], "Quiet": True},
                )
            for error in answer.get("Errors", []):
                code, message = error.get("Code", ""), error.get("Message", "")
                with s3_errors(f"s3://{self.bucket}/{error.get('Key', '')}"):
                    raise ClientError({"Error": {"Code": code, "Message": message}}, "DeleteObjects")

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key, where=self.where())

    def _folder(self, prefix: str) -> str:
        folder = check_folder(prefix, where=self.where())
        return f"{self._prefix}{folder}/" if folder else self._prefix


def _admit(transfer: Transfer, where: str, temporary: Path) -> None:
    """Move what was fetched to its place, once it is what was named."""
    with filesystem_errors(str(transfer.path)):
        if transfer.sha256 is None or (
            temporary.stat().st_size == transfer.size and sha256_file(temporary) == transfer.sha256
        ):
            temporary.replace(transfer.path)
            return
    raise wrong_content(where)
