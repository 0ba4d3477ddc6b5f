"""All that the small objects of a model say, read once: what the checks look at, and what a repair acts on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from retrainer.errors import IntegrityError, NotFoundError
from retrainer.storage import ObjectInfo, Storage
from retrainer.store.fsck.findings import Code, Finding, Problem, Repair, Severity
from retrainer.store.fsck.listing import Content, Listing, read_objects
from retrainer.store.log import ChannelLog, refuse_version_1
from retrainer.store.manifest import Manifest
from retrainer.store.move import Hint, Move
from retrainer.store.names import MANIFEST, REMOVAL, SIGNATURES, hint_key, move_key, version_key
from retrainer.store.signing import Keyring, VersionSignature

# Moves that publishers make while a check is under way: fewer. A server that makes them up has no end of them.
_MADE_MEANWHILE = 100


@dataclass(frozen=True, slots=True)
class FoundMove:
    """An object of a log; ``move`` is ``None`` where it is not that move, and ``fault`` says why."""

    move: Move | None
    fault: str = ""
    unreadable: bool = False


@dataclass
class FoundLog:
    """A channel as it is stored.

    :ivar moves: number -> the object.
    :ivar hint: ``None`` where there is none that can be read; ``hint_fault`` then says why, and nothing for no hint.
    """

    moves: dict[int, FoundMove]
    hint: Hint | None = None
    hint_fault: str = ""

    @property
    def newest(self) -> Move | None:
        """The last move; ``None`` where it is not one."""
        return self.moves[max(self.moves)].move if self.moves else None


@dataclass
class FoundVersion:
    """A folder of a version.

    :ivar objects: name within it -> the object.
    :ivar manifest: of this very version; ``None`` where there is none, and ``fault`` says why.
    :ivar sha256: of the bytes of ``manifest.json``, whatever they are; ``None`` where there are none.
    :ivar parsed: the manifest in ``manifest.json``, also where it is that of another version.
    :ivar as_written: the manifest has just the bytes that a publisher writes.
    :ivar signatures: key id in the name -> the signature, or why it cannot be read.
    """

    version: str
    objects: dict[str, ObjectInfo]
    manifest: Manifest | None = None
    sha256: str | None = None
    parsed: Manifest | None = None
    as_written: bool = False
    fault: str = ""
    signatures: dict[str, VersionSignature | str] = field(default_factory=dict)

    @property
    def removal(self) -> ObjectInfo | None:
        """The note that gc is removing it."""
        return self.objects.get(REMOVAL)

    @property
    def newest(self) -> datetime:
        """When anything in it was last written."""
        return max((info.modified for info in self.objects.values()), default=datetime.max.replace(tzinfo=UTC))


class ModelState:
    """A model as it is stored, files of versions aside.

    Hints and the moves after the listed ones are read after the listing, and what a move names is read again where the
    listing lacks it: so a publisher who is at work meanwhile is not taken for damage.

    :raises IntegrityError: the model is in the layout of an earlier retrainer.
    """

    def __init__(self, storage: Storage, model: str, *, trusted: Keyring | None, now: datetime) -> None:
        self.storage = storage
        self.model = model
        self.trusted = trusted
        self.now = now
        self.notes: list[str] = []  # what could not be looked at
        refuse_version_1(storage, model)
        self.listing = Listing.of(storage, model)
        self.logs = {channel: self._log(channel, numbers) for channel, numbers in self.listing.channels.items()}
        self.versions = self._versions(self.listing.versions)
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
    def naming(self) -> dict[str, list[Move]]:
        """Version -> the moves to it."""
        naming: dict[str, list[Move]] = defaultdict(list)
        for log in self.logs.values():
            for found in log.moves.values():
                if found.move is not None:
                    naming[found.move.to_version].append(found.move)
        return dict(naming)

    def somebody_signs(self) -> bool:
        """Whether any move of the model is signed."""
        return any(move.signature is not None for moves in self.naming.values() for move in moves)

    def known_hashes(self, version: str) -> set[str]:
        """What moves and signatures say that the SHA-256 of a version's manifest is."""
        found = self.versions.get(version)
        statements = [
            signature.statement
            for signature in (found.signatures.values() if found else ())
            if isinstance(signature, VersionSignature)
        ]
        return {
            *(move.manifest_sha256 for move in self.naming.get(version, ())),
            *(one.manifest_sha256 for one in statements if (one.model, one.version) == (self.model, version)),
        }

    def _serving(self) -> dict[str, tuple[str, ...]]:
        serving: dict[str, list[str]] = defaultdict(list)
        for channel, log in sorted(self.logs.items()):
            if log.newest is not None:
                serving[log.newest.to_version].append(channel)
        return {version: tuple(channels) for version, channels in serving.items()}

    def _log(self, channel: str, numbers: list[int]) -> FoundLog:
        key = hint_key(self.model, channel)
        hint: Hint | None = None
        fault = ""
        match read_objects(self.storage, [key])[key]:
            case bytes() as data:
                try:
                    hint = Hint.from_json(data, where=key)
                except IntegrityError as error:
                    fault = f"cannot be used: {error.message}"
            case IntegrityError() as error:
                fault = error.message
        keys = {move_key(self.model, channel, number): number for number in numbers}
        contents = {keys[key]: content for key, content in read_objects(self.storage, keys).items()}
        contents |= self._made_since(channel, max(numbers, default=0))
        return FoundLog(
            {
                number: self._move(channel, number, content)
                for number, content in sorted(contents.items())
                if not isinstance(content, NotFoundError)
            },
            hint,
            fault,
        )

    def _made_since(self, channel: str, listed: int) -> dict[int, bytes]:
        """The moves after the last that was listed. What cannot be read there may be no move: it ends them."""
        contents: dict[int, bytes] = {}
        while len(contents) < _MADE_MEANWHILE:
            number = listed + len(contents) + 1
            key = move_key(self.model, channel, number)
            content = read_objects(self.storage, [key])[key]
            if not isinstance(content, bytes):
                break
            contents[number] = content
        return contents

    def _move(self, channel: str, sequence: int, content: bytes | IntegrityError) -> FoundMove:
        if isinstance(content, IntegrityError):
            return FoundMove(None, content.message, unreadable=True)
        try:
            return FoundMove(ChannelLog(self.storage, self.model, channel).parsed(sequence, content))
        except IntegrityError as error:
            return FoundMove(None, error.message)

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


def _signature(content: Content) -> VersionSignature | str:
    if not isinstance(content, bytes):
        return content.message
    try:
        return VersionSignature.from_json(content, where=SIGNATURES)
    except IntegrityError as error:
        return error.message
