"""The versions of one model: written once, manifest last; read only with every byte checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed
from retrainer.records import sha256_file
from retrainer.storage import Storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.names import MANIFEST, check_version, version_key


class Versions:
    """The folder ``versions`` of a model."""

    def __init__(self, storage: Storage, model: str) -> None:
        self._storage = storage
        self._model = model

    def manifest(self, version: str, *, sha256: str | None = None) -> Manifest:
        """The manifest, checked against the version that it names.

        :param sha256: what a pointer says of its bytes.
        :raises NotFoundError: there is no such version; an upload that was never completed is none.
        :raises IntegrityError: it was altered.
        """
        manifest, found = self._read(version)
        if sha256 is not None and found != sha256:
            raise self._altered(version)
        return manifest

    def manifest_sha256(self, version: str) -> str:
        """The hash of the manifest's bytes as they are stored, for a pointer. Errors as of ``manifest``."""
        return self._read(version)[1]

    def _read(self, version: str) -> tuple[Manifest, str]:
        where = self._where(check_version(version, where=self._storage.where(self._model)))
        try:
            data = self._storage.read(self._key(version))
        except NotFoundError:
            raise NotFoundError(
                f"the model '{self._model}' has no version '{version}'",
                where=where,
                hint="it was never published here, or its upload was not completed",
            ) from None
        manifest = Manifest.from_json(data, where=where)
        if manifest.version != version or manifest.model != self._model:
            raise self._altered(version)
        return manifest, hashlib.sha256(data).hexdigest()

    def _altered(self, version: str) -> IntegrityError:
        return IntegrityError(
            "the manifest is not the one that was published",
            where=self._where(version),
            hint="roll the channel back; to repair the version, remove its manifest and publish it again",
        )

    def put(self, folder: Path, manifest: Manifest) -> None:
        """Make the version complete: files that are missing, then the manifest. A complete one stays as it is.

        :param folder: holds every file of the manifest.
        :raises IntegrityError: a file of the folder is not what the manifest says.
        """
        for name, entry in manifest.files.items():
            check_file(folder / name, entry)
        version = manifest.version
        stored = self._stored(version)
        for name, entry in manifest.files.items():
            if stored.get(name) != entry.size:
                self._storage.upload(folder / name, self._key(version, name))
        if stored:
            return
        try:
            self._storage.write(self._key(version), manifest.to_pretty_json().encode(), if_absent=True)
        except PreconditionFailed:
            self.manifest(version)  # somebody else completed the same content, or a request was repeated

    def _stored(self, version: str) -> dict[str, int]:
        """Sizes of the files of a complete version; empty while it is not complete.

        Without a manifest nothing tells whether a file came to its end, so everything is sent again.
        """
        try:
            self.manifest(version)
        except NotFoundError:
            return {}
        start = self._key(version, "")
        return {info.key.removeprefix(start): info.size for info in self._storage.list(start)}

    def fetch(self, version: str, folder: Path, files: Iterable[str] | None = None) -> Manifest:
        """Copy files of a version into a folder, each checked. What is there already and matches is kept.

        :param files: names within the version; all of them when ``None``.
        :raises NotFoundError: there is no such version, or it has no such file.
        :raises IntegrityError: a file is missing from the store or was altered.
        """
        manifest = self.manifest(version)
        for name in manifest.files if files is None else files:
            if name not in manifest.files:
                raise NotFoundError(f"the version has no file '{name}'", where=self._where(version, ""))
            self._fetch_file(version, name, manifest.files[name], folder / name)
        return manifest

    def _fetch_file(self, version: str, name: str, entry: FileEntry, target: Path) -> None:
        if matches(target, entry):
            return
        where = self._where(version, name)
        try:
            self._storage.download(self._key(version, name), target)
        except NotFoundError:
            raise IntegrityError(
                "a file of the version is missing", where=where, hint="publish the version again"
            ) from None
        if not matches(target, entry):
            target.unlink(missing_ok=True)
            raise IntegrityError(
                "the file is not the one that was published",
                where=where,
                hint="roll the channel back; to repair the version, remove the file and publish it again",
            )

    def completed(self) -> dict[str, datetime]:
        """Every complete version -> when its manifest was written, by the clock of the storage."""
        start = f"{self._model}/versions/"
        found: dict[str, datetime] = {}
        for info in self._storage.list(start):
            version, _, name = info.key.removeprefix(start).partition("/")
            if name == MANIFEST:
                found[version] = info.modified
        return found

    def _key(self, version: str, name: str = MANIFEST) -> str:
        return version_key(self._model, version, name)

    def _where(self, version: str, name: str = MANIFEST) -> str:
        return self._storage.where(self._key(version, name))


def matches(path: Path, entry: FileEntry) -> bool:
    """Whether a local file is there and has that size and hash."""
    with filesystem_errors(str(path)):
        return path.is_file() and path.stat().st_size == entry.size and sha256_file(path) == entry.sha256


def check_file(path: Path, entry: FileEntry) -> None:
    """Insist that a local file is what a manifest says.

    :raises IntegrityError: it is missing, or another.
    """
    if not matches(path, entry):
        state = "does not match its manifest" if path.exists() else "is missing"
        raise IntegrityError(f"a file of the bundle {state}", where=str(path), hint="export the model again")
