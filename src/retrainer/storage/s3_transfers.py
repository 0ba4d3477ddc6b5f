"""Files to and from a bucket, several at a time, in parts.

To a bucket they go through a transfer manager of boto3. Files are read once, in order, into parts in memory, hashed on
the way, and sent in parallel: what S3 is asked to check is what was read, and what was read is what was named, or the
object never appears. At most ten parts wait or are under way, and five files are being read: with parts of 8 MB that is
120 MB, whatever the files.

From a bucket they are fetched here: boto3's manager believes the server about how large a file is.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import IO, TYPE_CHECKING, Any, cast

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.futures import TransferFuture
from s3transfer.subscribers import BaseSubscriber

from retrainer.errors import IntegrityError
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.hashing import HashedFile, too_large, wrong_content
from retrainer.storage.keys import RESERVED
from retrainer.storage.s3_errors import s3_errors
from retrainer.storage.s3_wire import large_call, whole

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 * 1024 * 1024
# S3 takes 10,000 parts. https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000
_AT_ONCE = 10
_BLOCK = 256 * 1024
_EXTRA = {"ChecksumAlgorithm": "SHA256"}


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


def send(client: S3Client, bucket: str, uploads: Sequence[Upload], arrived: Callable[[Upload], None]) -> None:
    """Send all; ``arrived`` is called for each that has. An error ends the others: the manager cancels them, and waits.

    :raises IntegrityError: a file is not the one that was named; there is no object of it then.
    """
    largest = max((upload.size for upload in uploads), default=0)
    part = max(PART, -(-largest // _MOST_PARTS))
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=part, preferred_transfer_client="classic")
    streams = {one: HashedFile(one.path, sha256=one.sha256, size=one.size) for one in uploads}
    ended: SimpleQueue[tuple[Upload, TransferFuture]] = SimpleQueue()
    try:
        with create_transfer_manager(client, config) as manager:
            for upload, stream in streams.items():
                fileobj = cast(IO[bytes], stream)  # all that the manager does with a stream is to read it
                subscribers = [_Size(upload.size), _Ended(ended, upload)]
                manager.upload(fileobj, bucket, upload.key, extra_args=_EXTRA, subscribers=subscribers)
            for _ in streams:
                upload, future = ended.get()
                streams[upload].close()
                with s3_errors(upload.where, file=str(upload.path)):
                    future.result()
                arrived(upload)
    finally:
        for stream in streams.values():
            stream.close()


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

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="retrainer-fetch") as pool:
        try:
            for one, path in temporary.items():
                with filesystem_errors(str(one.path)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
            ranges = {
                pool.submit(copy_context().run, fetch_range, one, start): one
                for one in downloads
                for start in range(0, one.size, PART) or (0,)
            }
            left = Counter(ranges.values())
            admitted: list[Future[None]] = []
            for ended in as_completed(ranges):
                ended.result()
                one = ranges[ended]
                left[one] -= 1
                if not left[one]:
                    admitted.append(pool.submit(one.admit, temporary[one]))
                _raise_errors(check for check in admitted if check.done())
            _raise_errors(admitted)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            for path in temporary.values():
                with suppress(OSError):  # one error is enough, and a leftover is found again
                    path.unlink(missing_ok=True)


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


def _raise_errors(checks: Iterable[Future[None]]) -> None:
    for check in checks:
        check.result()


class _Ended(BaseSubscriber):
    """Tells that a transfer has ended, well or not."""

    def __init__(self, queue: SimpleQueue[Any], item: object) -> None:
        self._queue = queue
        self._item = item

    def on_done(self, future: TransferFuture, **_: Any) -> None:
        self._queue.put((self._item, future))


class _Size(BaseSubscriber):
    """Tells the manager how large a stream is, so that it need not read ahead to choose."""

    def __init__(self, size: int) -> None:
        self._size = size

    def on_queued(self, future: TransferFuture, **_: Any) -> None:
        future.meta.provide_transfer_size(self._size)
