"""Files to and from a bucket, several at a time, in parts: as much as boto3's manager does, within bounds.

That manager believes the server about how large a file is, and its parts cannot be given a time. Here at most ten parts
of 8 MB are under way, whatever the files. What is sent is read once, in order, and hashed on the way: what S3 is asked
to check is what was read, and what was read is what was named, or the object never appears.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar

from retrainer.daemon_pool import DaemonPool
from retrainer.errors import IntegrityError, RetrainerError
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.hashing import HashedFile, checksum, too_large, wrong_content
from retrainer.storage.keys import RESERVED
from retrainer.storage.s3_errors import s3_errors
from retrainer.storage.s3_wire import MOST_ANSWER, large_call, whole

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 * 1024 * 1024
# S3 takes 10,000 parts. https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000
# It puts them together before it answers.
_PARTS_PER_SECOND = 4
_AT_ONCE = 10
_BLOCK = 256 * 1024

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to send. ``sha256`` is ``None`` where it is not known; ``where`` names the object in errors."""

    path: Path
    key: str
    size: int
    sha256: str | None
    where: str


@dataclass(frozen=True, slots=True)
class Download:
    """An object to fetch.

    :ivar size: bytes that it must have; ``etag`` where it is known.
    :ivar admit: is given the temporary file, and moves it to its place.
    """

    key: str
    path: Path
    size: int
    etag: str | None
    admit: Callable[[Path], None]
    where: str


Arrived = Callable[[Upload, str, str | None], None]


def send(client: S3Client, bucket: str, uploads: Sequence[Upload], arrived: Arrived, patience: float) -> None:
    """Send all; ``arrived`` is called for each that has. The first error ends the others.

    :param arrived: takes the checksum that the object must have, and the one that the server named if it did.
    :param patience: seconds for which a part may stand still.
    :raises IntegrityError: a file is not the one that was named; there is no object of it then.
    """
    largest = max((upload.size for upload in uploads), default=0)
    part = max(PART, -(-largest // _MOST_PARTS))
    sending = [_Sending(client, bucket, upload, part, patience) for upload in uploads]
    try:
        _run({one: range(one.parts) for one in sending}, _Sending.send_part, lambda one: one.complete(arrived))
    finally:
        for one in sending:
            one.close()


class _Sending:
    """A file on its way. Whichever thread is to send its next part reads that from it.

    For an object that was sent in parts S3 keeps the SHA-256 of the parts' SHA-256 values, followed by their number
    ("checking object integrity" in the S3 user guide): so the parts' digests tell whether it is the one that was meant.
    """

    def __init__(self, client: S3Client, bucket: str, upload: Upload, part: int, patience: float) -> None:
        self._client: Any = client
        self._upload = upload
        self._target = {"Bucket": bucket, "Key": upload.key}
        self._part = part
        self._patience = patience
        self.parts = max(-(-upload.size // part), 1)
        self._stream = HashedFile(upload.path, sha256=upload.sha256, size=upload.size)
        self._lock = Lock()
        self._id: str | None = None
        self._read = 0
        self._digests: dict[int, bytes] = {}
        self._answers: dict[int, dict[str, Any]] = {}

    def send_part(self, _: int) -> None:
        """Send the next part, or a small file as a whole."""
        where, path = self._upload.where, str(self._upload.path)
        with s3_errors(where, file=path), large_call(self._patience, most=MOST_ANSWER):
            with self._lock:
                if self.parts > 1 and self._id is None:
                    begun = self._client.create_multipart_upload(**self._target, ChecksumAlgorithm="SHA256")
                    self._id = begun["UploadId"]
                data = self._stream.read(self._part if self.parts > 1 else -1)
                self._read += 1
                number = self._read
            digest = self._digests[number] = hashlib.sha256(data).digest()
            # A stream, of which each piece has its time; of bytes all together would have to go within that.
            request = {"Body": BytesIO(data), "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum(digest)}
            if self._id is None:
                self._answers[number] = self._client.put_object(**self._target, **request)
            else:
                part = {"UploadId": self._id, "PartNumber": number}
                self._answers[number] = self._client.upload_part(**self._target, **part, **request)

    def complete(self, arrived: Arrived) -> None:
        """Have the object appear, where it was sent in parts, once all were sent."""
        if self._id is None:
            arrived(self._upload, checksum(self._digests[1]), self._answers[1].get("ChecksumSHA256"))
            return
        parts = [
            {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum(self._digests[number])}
            for number, answer in sorted(self._answers.items())
        ]
        patience = self._patience + len(parts) / _PARTS_PER_SECOND
        with s3_errors(self._upload.where), large_call(patience, most=MOST_ANSWER):
            answer = self._client.complete_multipart_upload(
                **self._target, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        self._id = None
        of_all = hashlib.sha256(b"".join(digest for _, digest in sorted(self._digests.items()))).digest()
        arrived(self._upload, checksum(of_all), answer.get("ChecksumSHA256", "").partition("-")[0] or None)

    def close(self) -> None:
        """Let go of the file, and of the parts of an object that did not come to be."""
        self._stream.close()
        if self._id is not None:
            with suppress(RetrainerError), s3_errors(self._upload.where), large_call(self._patience, most=MOST_ANSWER):
                self._client.abort_multipart_upload(**self._target, UploadId=self._id)


def fetch(client: S3Client, bucket: str, downloads: Sequence[Download], patience: float) -> None:
    """Fetch all, large ones in ranges. The first error ends the others; nothing temporary is left.

    :param patience: seconds for which one may stand still.
    """
    temporary = {one: one.path.with_name(f"{RESERVED}temporary-{uuid.uuid4().hex}") for one in downloads}
    stopped = Event()

    def fetch_range(one: Download, start: int) -> None:
        def take(block: bytes) -> None:
            if stopped.is_set():
                raise CancelledError
            stream.write(block)

        try:
            with s3_errors(one.where, file=str(one.path)), temporary[one].open("r+b") as stream:
                stream.seek(start)
                end = min(start + PART, one.size)
                read_range(client, bucket, one.key, start, end, take, patience=patience, etag=one.etag)
        except IntegrityError:  # too short or too long
            raise wrong_content(one.where) from None

    try:
        for one, path in temporary.items():
            with filesystem_errors(str(one.path)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        ranges = {one: range(0, one.size, PART) or range(1) for one in downloads}
        _run(ranges, fetch_range, lambda one: one.admit(temporary[one]), stopped=stopped)
    finally:
        for path in temporary.values():
            with suppress(OSError):  # one error is enough, and a leftover is found again
                path.unlink(missing_ok=True)


def _run(
    parts: Mapping[_Item, Iterable[int]],
    act: Callable[[_Item, int], None],
    finish: Callable[[_Item], None],
    *,
    stopped: Event | None = None,
) -> None:
    """Do the parts of all, in the context of the caller, and finish each whose parts are done.

    After an error nothing more is begun, what is under way comes to its end, and the error is raised.

    :param stopped: is set then, for parts that can end at once.
    """
    with DaemonPool(_AT_ONCE, "retrainer-transfer") as pool:
        try:
            jobs = {pool.submit(act, item, at): item for item in parts for at in parts[item]}
            left = Counter(jobs.values())
            finishing: list[Future[None]] = []
            for ended in as_completed(jobs):
                ended.result()
                item = jobs[ended]
                left[item] -= 1
                if not left[item]:
                    finishing.append(pool.submit(finish, item))
                for one in finishing:
                    if one.done():
                        one.result()
            for one in finishing:
                one.result()
        finally:
            if stopped is not None:
                stopped.set()


def read_range(
    client: S3Client,
    bucket: str,
    key: str,
    start: int,
    end: int,
    take: Callable[[bytes], object],
    *,
    patience: float,
    etag: str | None = None,
) -> None:
    """Read an object from one position to before another, in order; where it is cut, on from there.

    :param take: is given each block.
    :param patience: as of ``fetch``.
    :param etag: of the object that is meant, where that is known.
    :raises IntegrityError: it has fewer bytes, or where all are asked for also more.
    """
    extra: dict[str, Any] = {"IfMatch": etag} if etag else {}
    at = start

    def read() -> None:
        nonlocal at
        if end >= PART or at:  # else without: no range of an object without bytes can be had
            extra["Range"] = f"bytes={at}-{end - 1}"
        with closing(client.get_object(Bucket=bucket, Key=key, **extra)["Body"]) as body:
            while block := body.read(_BLOCK):
                if at + len(block) > end:
                    raise too_large(end)
                take(block)
                at += len(block)

    with large_call(patience, most=end - start):
        whole(read)
    if at != end:
        raise wrong_content(None)
