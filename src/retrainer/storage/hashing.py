"""A file that is hashed as it is read: what is sent is what was meant, whatever happens to the file meanwhile."""

from __future__ import annotations

import base64
import errno
import hashlib
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from retrainer.errors import IntegrityError, StorageError
from retrainer.regular_files import open_regular


class HashedFile:
    """A file to be read once, from its start. Opened by the first read, closed after the last.

    :param sha256: of the content that it must have, and ``size`` in bytes; ``None`` for whatever it holds.
    """

    def __init__(self, path: Path, *, sha256: str | None = None, size: int = 0) -> None:
        self._path = path
        self._sha256 = sha256
        self._size = size
        self._digest = hashlib.sha256()
        self._read = 0
        self._stream: BinaryIO | None = None

    def open(self) -> BinaryIO:
        """Open the file, which the first read does otherwise. Errors are the system's."""
        if self._stream is None:
            self._stream = open_file(self._path)
        return self._stream

    def read(self, amount: int = -1) -> bytes:
        """The next bytes; all that are left for a negative amount.

        :raises IntegrityError: the file is not the one that was named. The bytes that would complete it are not given.
        """
        rest = amount < 0
        if rest and self._sha256 is not None:
            amount = self._size - self._read + 1  # one more tells that it has grown
        data = self.open().read(amount)
        if self._sha256 is None:
            return data
        self._read += len(data)
        self._digest.update(data)
        ended = self._read >= self._size or not data or rest
        if ended and (self._read != self._size or self._digest.hexdigest() != self._sha256):
            raise IntegrityError(
                "the file is not the one that was to be sent",
                where=str(self._path),
                hint="it was changed since it was made; make it again",
            )
        return data

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._stream is not None:
            self._stream.close()


def open_file(path: Path) -> BufferedReader:
    """Open a file to read it, and nothing else: a pipe would be waited for, and a device may have no end.

    :raises StorageError: it is a pipe or a device. Other errors are the system's.
    """
    try:
        return open_regular(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise StorageError(str(error.strerror), where=str(path), hint="move it away") from None


def checksum(digest: bytes) -> str:
    """A SHA-256 as S3 writes it."""
    return base64.b64encode(digest).decode()


def too_large(most: int, *, where: str | None = None) -> IntegrityError:
    """The error for an object that has more bytes than it may have.

    :param where: the object; ``None`` for a caller that adds it.
    """
    return IntegrityError(
        f"the object has more than the {most:,} bytes that it may have",
        where=where,
        hint="it was damaged or replaced; write it again",
    )


def wrong_content(where: str | None) -> IntegrityError:
    """The error for an object that was fetched and is not the one that was named.

    :param where: the object; ``None`` for a caller that adds it.
    """
    return IntegrityError(
        "the object is not the one that was named", where=where, hint="it was damaged or replaced; write it again"
    )
