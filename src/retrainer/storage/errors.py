"""Errors of the operating system about files, in the words of this package. One function knows them all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from retrainer.errors import NotFoundError, ResourceError, StorageError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FORBIDDEN = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
}


@contextmanager
def filesystem_errors(where: str) -> Iterator[None]:
    """Turn every ``OSError`` of the block into an error of this package.

    :param where: the file or folder that the block is about.
    """
    try:
        yield
    except OSError as error:
        raise translate(error, where) from error


def translate(error: OSError, where: str) -> StorageError | ResourceError:
    """The error of this package for an error of the operating system."""
    # The path that failed can be another than the one that was asked for, such as a folder above it.
    place = f" at {error.filename}" if error.filename and str(error.filename) not in where else ""
    code = error.errno
    if code in _FULL:
        return ResourceError(f"{_FULL[code]}{place}", where=where, hint="free some space, or choose another place")
    if code in _FORBIDDEN:
        return ResourceError(
            f"{_FORBIDDEN[code]}{place}",
            where=where,
            hint="check owner and mode of the file and of the folders above it",
        )
    if code == errno.ENOENT:
        return NotFoundError(f"nothing is there{place}", where=where)
    if code in {errno.ENOTDIR, errno.EEXIST}:
        return StorageError(f"a file stands where a folder should be{place}", where=where, hint="move it away")
    if code in {errno.EISDIR, errno.ENOTEMPTY}:
        return StorageError(f"a folder stands where a file should be{place}", where=where, hint="move it away")
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(f"cannot be read or written{place}: {reason}", where=where)
