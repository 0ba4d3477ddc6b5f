"""Objects as files below a folder.

A file appears by a rename from a temporary one in the same folder, so that a reader sees it whole or not at all,
whenever the writer is killed. Conditional writes hold an exclusive ``flock`` while they compare and rename; the
system releases it when its holder ends, however it ends.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from retrainer.daemon_pool import DaemonPool
from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError
from retrainer.records import sha256_file
from retrainer.storage.errors import filesystem_errors, translate
from retrainer.storage.hashing import HashedFile, open_file, too_large, wrong_content
from retrainer.storage.keys import RESERVED, check_folder, check_key, check_prefix
from retrainer.storage.protocol import MOST_BYTES, Leftover, ObjectInfo, Storage, Transfer

_LOCK = f"{RESERVED}lock"
_TEMPORARY = f"{RESERVED}temporary-"
# It is held while one small file is written.
_LOCK_SECONDS = 20.0
_LOCK_PAUSE = 0.005
_THREADS = 4
_BLOCK = 1 << 20
# Between two file systems, or on one that cannot: the bytes then go through this process.
_CANNOT_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


class FileStorage(Storage):
    """A ``Storage`` on a folder. The folder is made by the first write.

    :param root: the folder; a relative one is taken from the working directory, now.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - links stay as they are

    @property
    def url(self) -> str:
        """The folder as a ``file://`` URL."""
        return self.root.as_uri()

    def where(self, key: str = "") -> str:
        """The path, as text."""
        return str(self.root / key)

    def local_path(self, key: str = "") -> Path:
        """The path of that key."""
        return self._path(key) if key else self.root

    def read(self, key: str, *, most: int = MOST_BYTES) -> bytes:
        """See ``Storage.read``."""
        with self._open(key) as stream, filesystem_errors(self.where(key)):
            data = stream.read(most + 1)
        if len(data) > most:
            raise too_large(most, where=self.where(key))
        return data

    def _open(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            return open_file(path)
        except (IsADirectoryError, NotADirectoryError) as error:
            # As in a bucket, a folder is no object and nothing lies below one. But a storage that is itself a
            # file is a mistake.
            if self.root.is_dir():
                raise NotFoundError("nothing is there", where=str(path)) from None
            raise translate(error, str(path)) from error
        except OSError as error:
            raise translate(error, str(path)) from error

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """See ``Storage.write``."""
        path = self._path(key)
        with filesystem_errors(str(path)):
            if not if_absent:
                _replace(path, lambda stream: stream.write(data))
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                try:
                    self._open(key).close()
                except NotFoundError:
                    _replace(path, lambda stream: stream.write(data))
                else:
                    raise PreconditionFailed("another writer came first: the object is there", where=str(path))

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        path = self._path(key)
        with filesystem_errors(str(path)):
            return path.is_file()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``; the token is made of size, time of change and inode."""
        folder = self.root / check_prefix(prefix, where=str(self.root)).rpartition("/")[0]
        found = [
            ObjectInfo(key, info.st_size, _state(info), _modified(info))
            for key, info in self._walk(folder)
            if key.startswith(prefix) and not _name(key).startswith(RESERVED)
        ]
        return iter(sorted(found, key=lambda info: info.key))

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Every file below a folder, by its key; none where there is no such folder."""
        with filesystem_errors(str(folder)):
            for parent, _, names in os.walk(folder, onerror=_unless_missing):
                for path in (Path(parent, name) for name in names):
                    # Deleted since it was listed, or a link to nothing.
                    with suppress(FileNotFoundError):
                        yield path.relative_to(self.root).as_posix(), path.stat()

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        folder = self.root / check_folder(prefix, where=str(self.root))
        with filesystem_errors(str(folder)), suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        return []

    def upload_all(self, transfers: Sequence[Transfer]) -> None:
        """See ``Storage.upload_all``."""
        _all(self._upload, transfers)

    def _upload(self, transfer: Transfer) -> None:
        stream = HashedFile(transfer.path, sha256=transfer.sha256, size=transfer.size)
        _copy(stream, transfer.path, self._path(transfer.key))

    def download_all(self, transfers: Sequence[Transfer]) -> None:
        """See ``Storage.download_all``."""
        _all(self._download, transfers)

    def _download(self, transfer: Transfer) -> None:
        self._open(transfer.key).close()  # what is missing is named in the words of a read
        source = self._path(transfer.key)
        try:
            _copy(HashedFile(source, sha256=transfer.sha256, size=transfer.size), source, transfer.path)
        except IntegrityError:
            raise wrong_content(self.where(transfer.key)) from None

    def copy(self, source: str, key: str, *, sha256: str, size: int) -> bool:
        """See ``Storage.copy``: the kernel copies, sharing blocks where the file system can; what arrived is read.

        Never a hard link: a byte that is damaged would be damaged in both.
        """
        target = self._path(key)
        try:
            stream = self._open(source)
        except NotFoundError:
            return False
        with stream, filesystem_errors(str(target)):
            if os.fstat(stream.fileno()).st_size != size:
                return False
            try:
                _replace(target, lambda copy: _copy_in_kernel(stream, copy, size), sha256=sha256)
            except _Mismatch:
                return False
        return True

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """See ``Storage.leftovers``: temporary files."""
        folder = self.root / check_folder(prefix, where=str(self.root))
        found = [
            Leftover(self.where(key), (key,), _modified(info), info.st_size)
            for key, info in self._walk(folder)
            if _name(key).startswith(_TEMPORARY)
        ]
        return iter(sorted(found, key=lambda leftover: leftover.where))

    def remove_leftover(self, leftover: Leftover) -> None:
        """See ``Storage.remove_leftover``."""
        folder, _, name = leftover.token[0].rpartition("/")
        if not name.startswith(_TEMPORARY):
            raise StorageError("is not a leftover", where=leftover.where)
        path = self.root / check_folder(folder, where=str(self.root)) / name
        with filesystem_errors(str(path)):
            path.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """See ``Storage.delete``."""
        path = self._path(key)
        with filesystem_errors(str(path)), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()

    def delete_tree(self, prefix: str) -> None:
        """See ``Storage.delete_tree``."""
        folder = self._path(prefix.removesuffix("/"))
        with filesystem_errors(str(folder)), suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(folder)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key, where=str(self.root))


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _state(info: os.stat_result) -> str:
    return f"{info.st_size:x}-{info.st_mtime_ns:x}-{info.st_ino:x}"


def _modified(info: os.stat_result) -> datetime:
    return datetime.fromtimestamp(info.st_mtime, UTC)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _all(transfer: Callable[[Transfer], None], transfers: Sequence[Transfer]) -> None:
    """Do all, several at a time. After an error nothing new is begun."""
    with DaemonPool(_THREADS, "retrainer-copy") as pool:
        for copy in as_completed([pool.submit(transfer, one) for one in transfers]):
            copy.result()


def _copy(stream: HashedFile, source: Path, target: Path) -> None:
    """Copy a file, in the words of an error about its source while that is opened."""
    with filesystem_errors(str(source)):
        stream.open()
    try:
        with filesystem_errors(str(target)):
            _replace(target, lambda copy: shutil.copyfileobj(stream, copy, _BLOCK))
    finally:
        stream.close()


class _Mismatch(Exception):
    """What was written is not what it was to be."""


def _insist(path: Path, sha256: str) -> None:
    if sha256_file(path) != sha256:
        raise _Mismatch


def _copy_in_kernel(source: BinaryIO, target: BinaryIO, size: int) -> None:
    try:
        while os.copy_file_range(source.fileno(), target.fileno(), size):
            pass
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
        shutil.copyfileobj(source, target, _BLOCK)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of that folder. The lock file stays: deleting it would let two writers hold two locks.

    :raises StorageError: another process does not let go of it.
    """
    ends = time.monotonic() + _LOCK_SECONDS
    with (folder / _LOCK).open("a+b") as lock:  # to read as well: a pipe is then refused, and not waited for
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise StorageError(
                        f"another process has held the lock for {_LOCK_SECONDS:.0f} s",
                        where=lock.name,
                        hint="find it, for example with lsof: it was stopped, or its disk does not answer",
                    ) from None
                time.sleep(_LOCK_PAUSE)
            else:
                break
        yield


def _replace(path: Path, fill: Callable[[BinaryIO], object], *, sha256: str | None = None) -> None:
    """Make a file appear with the content that ``fill`` writes, on disk before anybody sees it.

    :param sha256: what must have been written, or it does not appear.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if sha256 is not None:
            _insist(temporary, sha256)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
