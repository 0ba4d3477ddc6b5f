"""Small files of the cache and of bundles: each is a regular file, and appears as a whole."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

from retrainer.storage.errors import filesystem_errors


def read_regular(path: Path) -> bytes:
    """The content of a file. A pipe in its place would be waited for, and a device may have no end.

    :raises OSError: it cannot be read, or is something else than a file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a folder, a pipe or a device is in its place", str(path))
    return path.read_bytes()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by one rename.

    :raises ResourceError: the disk is full, or the cache is read-only.
    """
    with filesystem_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
