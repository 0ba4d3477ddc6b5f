"""Locks between the processes of a host: ``flock`` on files of the cache, released when the holder ends, however.

A lock file can be removed by whoever holds it exclusively, so that versions that are gone leave none behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from retrainer.serve import forks
from retrainer.storage.errors import filesystem_errors

_KINDS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}


class Hold:
    """A lock file that is open, and locked until it is released, or nobody refers to it any more.

    A forked child has a copy of the descriptor, and the lock lasts as long as any copy: for as long as the child lives,
    whatever the parent does. So the child closes its copy. That gives nothing back that the parent holds.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        forks.tell_in_children(self)

    def lock(self, operation: int) -> None:
        """Lock the file.

        :raises BlockingIOError: somebody holds it, and the operation says not to wait.
        """
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, operation)

    def is_of(self, path: Path) -> bool:
        """Whether the open file is the one that is there now."""
        return self._descriptor is not None and _same_file(path, self._descriptor)

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Unlocked before it is closed: a fork at this moment may leave a child a copy that it does not know of.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def after_fork(self) -> None:
        """Called in a forked child: closes its copy, without unlocking what is the parent's."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def take(path: Path, kind: Literal["shared", "exclusive"], *, wait: bool = True) -> Hold | None:
    """Lock a file, which is made where it is missing.

    :param wait: for whoever holds it; else ``None`` where somebody does.
    :raises ResourceError: the file cannot be made: the cache is read-only.
    """
    operation = _KINDS[kind] | (0 if wait else fcntl.LOCK_NB)
    while True:
        with filesystem_errors(str(path)):
            hold = Hold(_open(path))
            try:
                hold.lock(operation)
                # Its last holder may have removed it, and somebody else made it anew.
                if hold.is_of(path):
                    return hold
            except BlockingIOError:  # an OSError, too: caught before it becomes an error of this package
                hold.release()
                return None
            except BaseException:
                hold.release()
                raise
        hold.release()


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
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in its place would wait for a writer
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
