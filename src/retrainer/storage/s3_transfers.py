"""Files to and from a bucket, several at a time, through one transfer manager of boto3.

Files are read once, in order, into parts in memory, hashed on the way, and sent in parallel: what S3 is asked to check
is what was read, and what was read is what was named, or the object never appears. At most ten parts wait or are under
way, and five files are being read: with parts of 8 MB that is 120 MB, whatever the files.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.futures import TransferFuture
from s3transfer.manager import TransferManager
from s3transfer.subscribers import BaseSubscriber

from retrainer.storage.errors import filesystem_errors
from retrainer.storage.hashing import HashedFile
from retrainer.storage.keys import RESERVED
from retrainer.storage.s3_errors import s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 * 1024 * 1024
# S3 takes 10,000 parts. https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000
_HASHERS = 4
_EXTRA = {"ChecksumAlgorithm": "SHA256"}

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
    """An object to fetch; ``admit`` is given the temporary file and moves it to its place."""

    key: str
    path: Path
    admit: Callable[[Path], None]
    where: str


def send(client: S3Client, bucket: str, uploads: Sequence[Upload], arrived: Callable[[Upload], None]) -> None:
    """Send all; ``arrived`` is called for each that has. The first error ends the others.

    :raises IntegrityError: a file is not the one that was named; there is no object of it then.
    """
    largest = max((upload.size for upload in uploads), default=0)
    opened = [(upload, HashedFile(upload.path, sha256=upload.sha256, size=upload.size)) for upload in uploads]

    def start(manager: TransferManager, item: tuple[Upload, HashedFile], ended: BaseSubscriber) -> None:
        upload, stream = item
        fileobj = cast(IO[bytes], stream)  # all that the manager does with a stream is to read it
        manager.upload(fileobj, bucket, upload.key, extra_args=_EXTRA, subscribers=[_Size(upload.size), ended])

    def finish(item: tuple[Upload, HashedFile], future: TransferFuture) -> None:
        upload, stream = item
        stream.close()
        with s3_errors(upload.where, file=str(upload.path)):
            future.result()
        arrived(upload)

    try:
        _run(client, max(PART, -(-largest // _MOST_PARTS)), opened, start, finish)
    finally:
        for _, stream in opened:
            stream.close()


def fetch(client: S3Client, bucket: str, downloads: Sequence[Download]) -> None:
    """Fetch all. The first error ends the others; nothing temporary is left."""
    named = [(one, one.path.with_name(f"{RESERVED}temporary-{uuid.uuid4().hex}")) for one in downloads]
    admitted: list[Future[None]] = []

    def start(manager: TransferManager, item: tuple[Download, Path], ended: BaseSubscriber) -> None:
        download, temporary = item
        manager.download(bucket, download.key, str(temporary), subscribers=[ended])

    def finish(item: tuple[Download, Path], future: TransferFuture) -> None:
        download, temporary = item
        with s3_errors(download.where, file=str(download.path)):
            future.result()
        admitted.append(pool.submit(download.admit, temporary))
        _raise_errors(check for check in admitted if check.done())

    for folder in {download.path.parent for download in downloads}:
        with filesystem_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_HASHERS, thread_name_prefix="retrainer-hash") as pool:
        try:
            _run(client, PART, named, start, finish)
            _raise_errors(admitted)
        finally:
            pool.shutdown(cancel_futures=True)
            for _, temporary in named:
                with suppress(OSError):  # one error is enough, and a leftover is found again
                    temporary.unlink(missing_ok=True)


def _raise_errors(checks: Iterable[Future[None]]) -> None:
    for check in checks:
        check.result()


def _run(
    client: S3Client,
    part: int,
    items: Sequence[_Item],
    start: Callable[[TransferManager, _Item, BaseSubscriber], None],
    finish: Callable[[_Item, TransferFuture], None],
) -> None:
    """Start all, and finish each as it ends. An error leaves the manager, which cancels the others and waits."""
    ended: SimpleQueue[tuple[_Item, TransferFuture]] = SimpleQueue()
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=part, preferred_transfer_client="classic")
    with create_transfer_manager(client, config) as manager:
        for item in items:
            start(manager, item, _Ended(ended, item))
        for _ in items:
            finish(*ended.get())


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
