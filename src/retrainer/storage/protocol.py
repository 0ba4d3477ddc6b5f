"""What the rest of the package asks of a place that holds objects. A folder and a bucket both answer it.

A key is a relative path with ``/`` between its parts. Every error is one of ``retrainer.errors``:
``NotFoundError`` for a key that holds nothing, ``PreconditionFailed`` for a conditional write that lost,
``ResourceError`` for a full disk or a missing permission on a folder, ``StoragePermissionError`` for credentials that a
bucket refuses, ``StorageError`` for the rest.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

# Of what is called small where its format says nothing narrower. It is held in memory, and parsed there.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing.

    :ivar key: relative to the storage.
    :ivar size: bytes.
    :ivar etag: changes when the content does; empty where a server lists none.
    :ivar modified: when it was written, in UTC, by the clock of the storage.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file to send or to fetch.

    :ivar path: on this machine.
    :ivar sha256: of its content, 64 hex digits; ``None`` where it is not known, so that nothing is compared.
    :ivar size: bytes, where the content is known.
    :ivar foreign: to be fetched, and called as somebody else liked: in a bucket any key is taken as it is.
    """

    path: Path
    key: str
    sha256: str | None = None
    size: int = 0
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that a writer left behind when it was killed; no reader ever sees it.

    :ivar where: for people.
    :ivar token: what ``remove_leftover`` needs to find it; only the storage that gave it understands it.
    :ivar modified: when it was begun or last written, in UTC.
    :ivar size: bytes, where that is known without asking for each part.
    """

    where: str
    token: tuple[str, ...]
    modified: datetime
    size: int | None


class Storage(Protocol):
    """Objects below one folder or one prefix of a bucket.

    Readers see an object as a whole or not at all. A key that is written only if absent must never be written without
    that: only then is the write that wins the only one.
    """

    @property
    def url(self) -> str:
        """The place, as ``open_storage`` takes it."""

    def read(self, key: str, *, most: int = MOST_BYTES) -> bytes:
        """The content of a small object; ``download`` is for the others.

        In a bucket all tries together end within ``S3Access.timeout``, and within ``deadline``.

        :param most: bytes that it may have. Of what is larger no more than that is fetched.
        :raises IntegrityError: it is larger.
        """

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write a small object as a whole.

        :param if_absent: only while there is no such object.
        :raises PreconditionFailed: there is one. In a bucket it may be this very write that took effect, where the
            first answer was lost and the request repeated: a caller that cares reads and compares.
        """

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key; a folder is none."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, at any depth, sorted by key."""

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """Names of the folders directly in the folder ``prefix``, sorted."""

    def upload(self, source: Path, key: str) -> None:
        """Copy a local file to that key, replacing what is there."""
        self.upload_all([Transfer(source, key)])

    def download(self, key: str, target: Path) -> None:
        """Copy an object to a local file, which appears as a whole. Missing folders are made."""
        self.download_all([Transfer(target, key)])

    def upload_all(self, transfers: Sequence[Transfer]) -> None:
        """Send files, several at a time, each checked on its way: what arrives has the SHA-256 where one is named.

        Each file appears as a whole. When one fails, no other is begun, those under way are ended or come to their end,
        and the first error is raised.

        :raises IntegrityError: a file is not what was named, or something else arrived.
        """

    def download_all(self, transfers: Sequence[Transfer]) -> None:
        """Fetch files, several at a time, each checked where its SHA-256 is named; each appears as a whole.

        :raises NotFoundError: one is not there; ``where`` names it.
        :raises IntegrityError: one has another content. It does not appear.
        """

    def copy(self, source: str, key: str, *, sha256: str, size: int) -> bool:
        """Copy an object to another key of this storage, without sending its bytes through here where it can.

        :param sha256: of the content that must arrive.
        :return: ``False`` where the source is missing or another content, where the storage will not copy, or cannot
            prove what arrived; in a bucket also where ``key`` holds something already. It then holds nothing new, or
            in a bucket where nothing may be deleted nothing of worth. A caller then sends the file.
        """

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """What killed writers left below a folder: temporary files, uploads in parts that were never completed."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Delete it, if it is still there."""

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""

    def delete_tree(self, prefix: str) -> None:
        """Delete every object in the folder ``prefix``, if it is there."""

    def local_path(self, key: str = "") -> Path | None:
        """The path of that key on this machine, there or not; ``None`` for a bucket."""

    def where(self, key: str = "") -> str:
        """That key in the words of an error message."""

    def server_time(self) -> datetime | None:
        """Now, by the clock of the server; ``None`` where there is no server, or it does not say.

        Whoever is refused is told, too.

        :raises StorageError: it does not answer.
        """
        return None
