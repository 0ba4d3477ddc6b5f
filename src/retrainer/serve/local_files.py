"""Small files of the cache: each appears as a whole."""

from __future__ import annotations

import uuid
from pathlib import Path

from retrainer.storage.errors import filesystem_errors


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
