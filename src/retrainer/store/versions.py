"""The versions of one model: written once, manifest last; read only with every byte checked."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError, UserError
from retrainer.records import sha256_file
from retrainer.storage import ObjectInfo, Storage, Transfer
from retrainer.storage.errors import filesystem_errors
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.names import MANIFEST, MOST_MANIFEST, check_version, is_version, version_key
from retrainer.store.parallel import in_parallel
from retrainer.store.removal import read_removal, write_intent
from retrainer.store.signing import Keyring, Signer, VersionSignature, VersionStatement
from retrainer.store.version_signatures import add_signature, list_signatures, require_trusted, trusted_signatures

# An upload that takes longer says once more that the version is needed: an intent counts for a day.
_INTENT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Put:
    """What it took to make a version complete.

    :ivar manifest_sha256: of the manifest as it is stored, byte for byte.
    :ivar sent_bytes: of the files that went from here to the store.
    :ivar copied_bytes: of the files that the store held already and copied itself.
    """

    manifest_sha256: str
    sent_bytes: int
    copied_bytes: int


class Versions:
    """The folder ``versions`` of a model.

    :ivar name: of the model.
    :param signer: signs each version that is put.
    :param trusted: keys of which one must have signed each version that is read.
    """

    def __init__(
        self, storage: Storage, name: str, *, signer: Signer | None = None, trusted: Keyring | None = None
    ) -> None:
        self._storage = storage
        self.name = name
        self._signer = signer
        self._trusted = trusted

    # Reading

    def manifest(self, version: str, *, sha256: str | None = None) -> Manifest:
        """The manifest, checked against the version that it names.

        :param sha256: what a move says of its bytes.
        :raises NotFoundError: there is no such version; an upload that was never completed is none.
        :raises IntegrityError: it was altered.
        :raises SignatureError: keys are trusted here, and none of them signed it.
        """
        return self.manifest_with_sha256(version, sha256=sha256)[0]

    def manifest_with_sha256(self, version: str, *, sha256: str | None = None) -> tuple[Manifest, str]:
        """As ``manifest``, with the hash of its bytes as they are stored, for a move."""
        manifest, found = self._read(version, sha256)
        if self._trusted is not None:
            require_trusted(self._storage, self._trusted, self._statement(version, found))
        return manifest, found

    def _read(self, version: str, sha256: str | None = None) -> tuple[Manifest, str]:
        where = self._where(check_version(version, where=self._storage.where(self.name)))
        try:
            data = self._storage.read(self._key(version), most=MOST_MANIFEST)
        except NotFoundError:
            raise NotFoundError(
                f"the model '{self.name}' has no version '{version}'",
                where=where,
                hint="it was never published here, its upload was not completed, or it was removed",
            ) from None
        return self._parsed(version, data, sha256)

    def _parsed(self, version: str, data: bytes, sha256: str | None = None) -> tuple[Manifest, str]:
        found = hashlib.sha256(data).hexdigest()
        if sha256 not in {None, found}:  # before anything of it is read
            raise self._altered(version)
        manifest = Manifest.from_json(data, where=self._where(version))
        if manifest.version != version or manifest.model != self.name:
            raise self._altered(version)
        return manifest, found

    def _altered(self, version: str) -> IntegrityError:
        return IntegrityError(
            "the manifest is not the one that was published",
            where=self._where(version),
            hint="run 'retrainer fsck --repair'; where it cannot put the manifest back, roll the channel back, or"
            " remove the manifest and publish the version again",
        )

    def fetch(
        self, version: str, folder: Path, files: Iterable[str] | None = None, *, sha256: str | None = None
    ) -> Manifest:
        """Copy files of a version into a folder, each checked. What is there already and matches is kept.

        :param files: names within the version; all of them when ``None``.
        :param sha256: of the manifest's bytes, where it is known.
        :raises NotFoundError: there is no such version, or it has no such file.
        :raises IntegrityError: a file is missing from the store or was altered; nothing of it is left in the folder.
        :raises SignatureError: keys are trusted here, and none of them signed the version.
        """
        manifest = self.manifest(version, sha256=sha256)
        names = list(manifest.files if files is None else files)
        for name in names:
            if name not in manifest.files:
                raise NotFoundError(f"the version has no file '{name}'", where=self._where(version, ""))
        here = in_parallel(lambda name: matches(folder / name, manifest.files[name]), names)
        transfers = [
            self._transfer(version, name, manifest.files[name], folder)
            for name, present in zip(names, here, strict=True)
            if not present
        ]
        try:
            self._storage.download_all(transfers)
        except NotFoundError as error:
            raise IntegrityError(
                "a file of the version is missing", where=error.where, hint="publish the version again"
            ) from None
        except IntegrityError as error:
            raise IntegrityError(
                "the file is not the one that was published",
                where=error.where,
                hint="roll the channel back; to repair the version, remove the file and publish it again",
            ) from None
        return manifest

    def completed(self) -> dict[str, datetime]:
        """Every complete version -> when its manifest was written, by the clock of the storage."""
        folders = version_folders(self._storage, self.name)
        return {version: objects[MANIFEST].modified for version, objects in folders.items() if MANIFEST in objects}

    def signatures(self, version: str) -> tuple[VersionSignature, ...]:
        """Who vouches for a version: with trusted keys those of theirs, checked; else all there are, unchecked.

        :raises NotFoundError: there is no such version.
        :raises IntegrityError: a signature cannot be read.
        :raises SignatureError: one of a trusted key does not hold.
        """
        _, sha256 = self._read(version)
        if self._trusted is None:
            return list_signatures(self._storage, self.name, version)
        return trusted_signatures(self._storage, self._trusted, self._statement(version, sha256))

    # Writing

    def sign_version(self, version: str, *, sha256: str | None = None) -> VersionSignature:
        """Vouch for a version that is there, unless this key did so already.

        :param sha256: of the manifest's bytes, where it is known.
        :raises NotFoundError: there is no such version.
        :raises SignatureError: keys are trusted here, and none of them signed it before.
        :raises UserError: there is no signer.
        """
        if self._signer is None:
            raise UserError("there is no private key to sign with", where=self._storage.where(self.name))
        _, found = self.manifest_with_sha256(version, sha256=sha256)
        return add_signature(self._storage, self._signer, self._statement(version, found))

    def protect(self, version: str) -> None:
        """Keep a version from gc for a day, whether it is complete or not. From here on it may be moved to.

        :raises StorageError: gc is removing it.
        """
        write_intent(self._storage, self.name, version)
        if read_removal(self._storage, self.name, version) is not None:
            raise StorageError(
                f"the version '{version}' is being removed",
                where=self._where(version),
                hint="try again when 'retrainer gc' has ended; where it was killed, run 'retrainer fsck --repair' an"
                " hour later, or 'retrainer gc' a day later",
            )

    def put(self, folder: Path, manifest: Manifest, *, like: Manifest | None = None, served: str | None = None) -> Put:
        """Make the version complete: files that are missing, manifest, signature. It is protected from gc.

        A complete version stays as it is.

        :param folder: holds every file of the manifest.
        :param like: of a version of this model that may have files in common; they are copied there instead of sent.
        :param served: where a channel points at it already, so that gc leaves it alone anyway: the SHA-256 of the
            manifest's bytes that its move names.
        :raises IntegrityError: a file of the folder is not what the manifest says, or the manifest that is there is not
            the one that is served.
        :raises StorageError: gc is removing this version.
        """
        if len(manifest.to_pretty_json().encode()) > MOST_MANIFEST:
            raise UserError(
                f"the manifest of the bundle has more than the {MOST_MANIFEST:,} bytes of one",
                where=str(folder),
                hint="publish fewer files, or fewer labels",
            )
        in_parallel(lambda name: check_file(folder / name, manifest.files[name]), manifest.files)
        version, began = manifest.version, time.monotonic()
        if served is None:
            self.protect(version)
        sha256 = self._present(version, manifest)
        if served is not None and sha256 not in {served, None}:
            raise self._altered(version)  # before it is signed
        missing = self._missing(version, manifest) if sha256 else list(manifest.files)
        places = {entry.sha256: self._key(like.version, name) for name, entry in like.files.items()} if like else {}
        done = in_parallel(lambda name: self._copied(version, name, manifest.files[name], places), missing)
        copied = {name for name, is_done in zip(missing, done, strict=True) if is_done}
        sent = [name for name in missing if name not in copied]
        self._send(version, manifest, folder, sent)
        if time.monotonic() - began > _INTENT_SECONDS:
            self.protect(version)
            self._send(version, manifest, folder, self._missing(version, manifest))
        if sha256 is None:
            sha256 = self._put_manifest(version, manifest)
        if self._signer is not None:
            add_signature(self._storage, self._signer, self._statement(version, sha256))
        return Put(
            sha256,
            sent_bytes=sum(manifest.files[name].size for name in sent),
            copied_bytes=sum(manifest.files[name].size for name in copied),
        )

    def _present(self, version: str, manifest: Manifest) -> str | None:
        """The hash of the version's manifest; ``None`` while it is not complete.

        Without a manifest nothing tells whether a file came to its end, so everything is sent again.

        :raises IntegrityError: what is stored says something else. A version's name is a part of a digest only.
        """
        try:
            data = self._storage.read(self._key(version), most=MOST_MANIFEST)
        except NotFoundError:
            return None
        found, sha256 = self._parsed(version, data)
        if found != manifest:
            raise self._altered(version)
        return sha256

    def _missing(self, version: str, manifest: Manifest) -> list[str]:
        """The files that are not there in their size."""
        start = self._key(version, "")
        stored = {info.key.removeprefix(start): info.size for info in self._storage.list(start)}
        return [name for name, entry in manifest.files.items() if stored.get(name) != entry.size]

    def _send(self, version: str, manifest: Manifest, folder: Path, names: list[str]) -> None:
        self._storage.upload_all([self._transfer(version, name, manifest.files[name], folder) for name in names])

    def _copied(self, version: str, name: str, entry: FileEntry, places: dict[str, str]) -> bool:
        """Whether the store could copy the file from somewhere else, with proof of what arrived."""
        place, key = places.get(entry.sha256), self._key(version, name)
        return place not in {None, key} and self._storage.copy(place, key, sha256=entry.sha256, size=entry.size)

    def _put_manifest(self, version: str, manifest: Manifest) -> str:
        data = manifest.to_pretty_json().encode()
        try:
            self._storage.write(self._key(version), data, if_absent=True)
        except PreconditionFailed:  # somebody else completed the same content, or a request was repeated
            present = self._present(version, manifest)
            if present is None:
                raise
            return present
        return hashlib.sha256(data).hexdigest()

    def _transfer(self, version: str, name: str, entry: FileEntry, folder: Path) -> Transfer:
        return Transfer(folder / name, self._key(version, name), entry.sha256, entry.size)

    def _statement(self, version: str, sha256: str) -> VersionStatement:
        return VersionStatement(model=self.name, version=version, manifest_sha256=sha256)

    def _key(self, version: str, name: str = MANIFEST) -> str:
        return version_key(self.name, version, name)

    def _where(self, version: str, name: str = MANIFEST) -> str:
        return self._storage.where(self._key(version, name))


def version_folders(storage: Storage, model: str) -> dict[str, dict[str, ObjectInfo]]:
    """Version -> name within its folder -> the object, complete or not."""
    start = f"{model}/versions/"
    folders: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
    for info in storage.list(start):
        version, slash, name = info.key.removeprefix(start).partition("/")
        if slash and is_version(version):
            folders[version][name] = info
    return folders


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
