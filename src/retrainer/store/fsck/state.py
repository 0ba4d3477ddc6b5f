"""All that the small objects of a model say, read once: what the checks look at, and what a repair acts on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from retrainer.errors import IntegrityError, NotFoundError, RetrainerError
from retrainer.storage import ObjectInfo, Storage
from retrainer.store.channels import Pointer
from retrainer.store.content import Place
from retrainer.store.fsck.chain import History
from retrainer.store.fsck.findings import Code, Finding, Problem, Repair, Severity
from retrainer.store.fsck.listing import Content, Listing, as_unreadable, read_objects
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST, SIGNATURES, content_key, journal_key, pointer_key, version_key
from retrainer.store.removal import Removal, read_removal
from retrainer.store.signing import Keyring, VersionSignature


@dataclass(frozen=True, slots=True)
class FoundPointer:
    """The object of a channel's pointer.

    :ivar pointer: ``None`` where it is none of this channel; ``fault`` then says why.
    :ivar etag: the token that a compare-and-swap takes; ``None`` where the object cannot be read.
    """

    pointer: Pointer | None
    data: bytes = b""
    etag: str | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """An object of a journal; ``pointer`` is ``None`` where it is not the pointer after that move."""

    pointer: Pointer | None
    data: bytes = b""
    fault: str = ""


@dataclass
class FoundVersion:
    """A folder of a version.

    :ivar objects: name within it -> the object.
    :ivar manifest: of this very version; ``None`` where there is none, and ``fault`` says why.
    :ivar sha256: of the bytes of ``manifest.json``, whatever they are; ``None`` where there are none.
    :ivar parsed: the manifest in ``manifest.json``, also where it is that of another version.
    :ivar as_written: the manifest has just the bytes that a publisher writes.
    :ivar removal: the note of a removal that stands in its place.
    :ivar signatures: key id in the name -> the signature, or why it cannot be read.
    """

    version: str
    objects: dict[str, ObjectInfo]
    manifest: Manifest | None = None
    sha256: str | None = None
    parsed: Manifest | None = None
    as_written: bool = False
    removal: Removal | None = None
    fault: str = ""
    signatures: dict[str, VersionSignature | str] = field(default_factory=dict)

    @property
    def newest(self) -> datetime:
        """When anything in it was last written."""
        return max((info.modified for info in self.objects.values()), default=datetime.max.replace(tzinfo=UTC))


class ModelState:
    """A model as it is stored, files of versions aside.

    Pointers are read after the listing, and what a pointer names is read again where the listing lacks it: so a
    publisher who is at work meanwhile is not taken for damage.
    """

    def __init__(self, storage: Storage, model: str, *, trusted: Keyring | None, now: datetime) -> None:
        self.storage = storage
        self.model = model
        self.trusted = trusted
        self.now = now
        self.notes: list[str] = []  # what could not be looked at
        self.unsound: set[str] = set()  # versions with files that are damaged, and not repaired before pointers are
        self.listing = Listing.of(storage, model)
        self.pointers = {channel: self._pointer(channel) for channel in self.listing.pointers}
        self.journal = self._journal()
        self.history = History(storage, model, self.listing.history)
        self.versions = self._versions(self.listing.versions)
        self.places = self._places()
        self.serving = self._serving()

    def problem(
        self,
        code: Code,
        severity: Severity,
        key: str,
        message: str,
        hint: str,
        *,
        version: str | None = None,
        channels: tuple[str, ...] = (),
        repair: Repair | None = None,
    ) -> Problem:
        """A finding about an object of this model.

        :param channels: those that serve the version unless given.
        """
        finding = Finding(
            code=code,
            severity=severity,
            model=self.model,
            version=version,
            channels=channels or (self.serving.get(version, ()) if version else ()),
            key=key,
            where=self.storage.where(key),
            message=message,
            hint=hint,
            repair=repair.text if repair else None,
        )
        return Problem(finding, repair)

    def entries(self, channel: str, pointer: Pointer | None) -> dict[int, FoundEntry]:
        """The journal of a channel. The entry of the present move is looked for again where the listing lacks it."""
        entries = self.journal.get(channel, {})
        if pointer is not None and pointer.sequence not in entries:
            key = journal_key(self.model, channel, pointer.sequence)
            content = read_objects(self.storage, [key])[key]
            if not isinstance(content, NotFoundError):
                entries = entries | {pointer.sequence: self._entry(channel, pointer.sequence, content)}
                self.journal[channel] = entries
        return entries

    def version(self, version: str) -> FoundVersion | None:
        """A version that something names; where the listing does not have it complete, it is looked at again."""
        found = self.versions.get(version)
        if found is None or MANIFEST not in found.objects:
            start = version_key(self.model, version, "")
            objects = {info.key.removeprefix(start): info for info in self.storage.list(start)}
            if objects:
                self.versions |= self._versions({version: objects})
        return self.versions.get(version)

    @cached_property
    def naming(self) -> dict[str, list[Pointer]]:
        """Version -> the pointers, present and in journals, that name it."""
        naming: dict[str, list[Pointer]] = defaultdict(list)
        pointers = [found.pointer for found in self.pointers.values()]
        pointers += [entry.pointer for entries in self.journal.values() for entry in entries.values()]
        for pointer in pointers:
            if pointer is not None:
                naming[pointer.version].append(pointer)
        return dict(naming)

    def known_hashes(self, version: str) -> set[str]:
        """What pointers, journal and signatures say that the SHA-256 of a version's manifest is."""
        found = self.versions.get(version)
        statements = [
            signature.statement
            for signature in (found.signatures.values() if found else ())
            if isinstance(signature, VersionSignature)
        ]
        return {
            *(pointer.manifest_sha256 for pointer in self.naming.get(version, ())),
            *(one.manifest_sha256 for one in statements if (one.model, one.version) == (self.model, version)),
        }

    def _serving(self) -> dict[str, tuple[str, ...]]:
        serving: dict[str, list[str]] = defaultdict(list)
        for channel, found in sorted(self.pointers.items()):
            if found.pointer is not None:
                serving[found.pointer.version].append(channel)
        return {version: tuple(channels) for version, channels in serving.items()}

    def _pointer(self, channel: str) -> FoundPointer:
        key = pointer_key(self.model, channel)
        try:
            data, etag = self.storage.read_with_etag(key)
        except NotFoundError:
            return FoundPointer(None, fault="is not there")
        except RetrainerError as error:
            return FoundPointer(None, fault=as_unreadable(self.storage, key, error).message)
        try:
            pointer = Pointer.from_json(data, where=key)
        except IntegrityError as error:
            return FoundPointer(None, data, etag, error.message)
        if (pointer.model, pointer.channel) != (self.model, channel):
            return FoundPointer(None, data, etag, f"is the pointer of channel '{pointer.channel}' of '{pointer.model}'")
        return FoundPointer(pointer, data, etag)

    def _journal(self) -> dict[str, dict[int, FoundEntry]]:
        keys = {
            journal_key(self.model, channel, sequence): (channel, sequence)
            for channel, entries in self.listing.journal.items()
            for sequence in entries
        }
        journal: dict[str, dict[int, FoundEntry]] = defaultdict(dict)
        for key, content in read_objects(self.storage, keys).items():
            channel, sequence = keys[key]
            journal[channel][sequence] = self._entry(channel, sequence, content)
        return dict(journal)

    def _entry(self, channel: str, sequence: int, content: Content) -> FoundEntry:
        if not isinstance(content, bytes):
            return FoundEntry(None, fault=content.message)
        try:
            pointer = Pointer.from_json(content, where=channel)
        except IntegrityError as error:
            return FoundEntry(None, content, error.message)
        if (pointer.model, pointer.channel, pointer.sequence) != (self.model, channel, sequence):
            return FoundEntry(
                None,
                content,
                f"is the pointer of channel '{pointer.channel}' of '{pointer.model}' after move {pointer.sequence}",
            )
        return FoundEntry(pointer, content)

    def _versions(self, folders: dict[str, dict[str, ObjectInfo]]) -> dict[str, FoundVersion]:
        versions = {version: FoundVersion(version, objects) for version, objects in folders.items()}
        keys = {
            info.key: (found, name)
            for found in versions.values()
            for name, info in found.objects.items()
            if name == MANIFEST or name.startswith(f"{SIGNATURES}/")
        }
        for key, content in read_objects(self.storage, keys).items():
            found, name = keys[key]
            if name == MANIFEST:
                self._take_manifest(found, content)
            else:
                found.signatures[name.removeprefix(f"{SIGNATURES}/").removesuffix(".json")] = _signature(content)
        return versions

    def _take_manifest(self, found: FoundVersion, content: Content) -> None:
        if isinstance(content, NotFoundError):  # deleted since it was listed
            del found.objects[MANIFEST]
            return
        if isinstance(content, IntegrityError):
            found.fault = content.message
            return
        found.sha256 = hashlib.sha256(content).hexdigest()
        found.removal = read_removal(content)
        if found.removal is not None:
            found.fault = "is the note of a removal"
            return
        try:
            found.parsed = Manifest.from_json(content, where=found.version)
        except IntegrityError as error:
            found.fault = error.message
            return
        if (found.parsed.model, found.parsed.version) != (self.model, found.version):
            found.fault = f"is the manifest of another content: {found.parsed.model} {found.parsed.version}"
            return
        found.manifest = found.parsed
        found.as_written = content == found.parsed.to_pretty_json().encode()

    def _places(self) -> dict[str, Place | str]:
        keys = {content_key(self.model, sha256): sha256 for sha256 in self.listing.contents}
        places: dict[str, Place | str] = {}
        for key, content in read_objects(self.storage, keys).items():
            match content:
                case NotFoundError():
                    continue
                case IntegrityError():
                    places[keys[key]] = content.message
                case bytes():
                    try:
                        places[keys[key]] = Place.from_json(content, where=key)
                    except IntegrityError as error:
                        places[keys[key]] = error.message
        return places


def _signature(content: Content) -> VersionSignature | str:
    if not isinstance(content, bytes):
        return content.message
    try:
        return VersionSignature.from_json(content, where=SIGNATURES)
    except IntegrityError as error:
        return error.message
