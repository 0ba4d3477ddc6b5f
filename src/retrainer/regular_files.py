"""Reading what is a file, and nothing else: a pipe would be waited for, and a device may have no end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read it.

    :raises OSError: it cannot be opened, or is something else than a file.
    """
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "a pipe or a device is there, not a file", str(path))
    return stream


def read_regular(path: Path, most: int = -1) -> bytes:
    """What a file holds; no more than so many bytes of it, unless that is negative.

    :raises OSError: it cannot be read, or is something else than a file.
    """
    with open_regular(path) as stream:
        return stream.read(most)
