"""Locks between the processes of a host: ``flock`` on files of the cache, released when the holder ends, however.

A lock file can be removed by whoever holds it exclusively, so that versions that are gone leave none behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from retrainer.storage.errors import filesystem_errors

_KINDS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}


class Hold:
    """A lock that is held until it is released, or nobody refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def take(path: Path, kind: Literal["shared", "exclusive"], *, wait: bool = True) -> Hold | None:
    """Lock a file, which is made where it is missing.

    :param wait: for whoever holds it; else ``None`` where somebody does.
    :raises ResourceError: the file cannot be made: the cache is read-only.
    """
    while True:
        with filesystem_errors(str(path)):
            descriptor = _open(path)
        try:
            with filesystem_errors(str(path)):
                fcntl.flock(descriptor, _KINDS[kind] | (0 if wait else fcntl.LOCK_NB))
                # Its last holder may have removed it, and somebody else made it anew.
                held = _same_file(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if held:
            return Hold(descriptor)
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file exclusively for a block, waiting for whoever has it."""
    hold = take(path, "exclusive")
    try:
        yield
    finally:
        if hold is not None:
            hold.release()


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags)  # in a read-only cache that has it, this is all that can be had
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags | os.O_CREAT, 0o666)


def _same_file(path: Path, descriptor: int) -> bool:
    mine = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
