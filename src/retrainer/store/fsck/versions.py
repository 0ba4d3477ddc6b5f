"""Checks of versions, contents of their files aside: manifests, signatures, and what lies in their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from retrainer.errors import IntegrityError, SignatureError
from retrainer.store.fsck.files import require_files
from retrainer.store.fsck.findings import Code, Problem, Repair, Severity
from retrainer.store.fsck.state import FoundVersion, ModelState
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST, SIGNATURES, signature_key, version_key
from retrainer.store.signing import VersionSignature
from retrainer.store.swapping import write_over

DAY = timedelta(days=1)
# Between its note and the end gc lists, reads what is new, and deletes one version: seconds, minutes at most.
HOUR = timedelta(hours=1)
_PUBLISH = "roll the channel back; to repair the version, remove its manifest and publish the same bundle again"


def check_versions(state: ModelState) -> list[Problem]:
    """Everything that is wrong with the folders of a model's versions."""
    pointers = (pointer for several in state.naming.values() for pointer in several)
    # Whoever signs a pointer signs its version as well: that tells, too, where no version has a signature any more.
    signed = any(found.signatures for found in state.versions.values()) or any(one.signature for one in pointers)
    problems: list[Problem] = []
    for _, found in sorted(state.versions.items()):
        if MANIFEST not in found.objects:
            problems += _incomplete(state, found)
            continue
        if found.removal is not None:
            problems.append(_removed(state, found))
            continue
        problems += _manifest(state, found)
        problems += _signatures(state, found, signed=signed)
        problems += _unlisted(state, found)
    return problems


def _incomplete(state: ModelState, found: FoundVersion) -> list[Problem]:
    if not found.objects:
        return []
    count = len(found.objects)
    files = f"{count} object" if count == 1 else f"{count} objects"
    if found.version in state.serving:
        repair = _from_copy(state, found)
        hint = "run 'retrainer fsck --repair'" if repair else "roll the channel back, or publish the same bundle again"
        text = f"the version {found.version} has lost its manifest, and a channel points at it"
        severity: Severity = "damage"
    elif state.now - found.newest < DAY:
        repair, severity = None, "leftover"
        text = f"{files} and no manifest: an upload that is under way, or was cut short"
        hint = "nothing to do; 'retrainer gc' takes it after a day"
    else:
        repair, severity = None, "leftover"
        text = f"{files} and no manifest: an upload or a removal that was cut short"
        hint = "'retrainer gc' removes it; publishing the same bundle completes it"
    key = version_key(state.model, found.version, "")
    return [state.problem(Code.VERSION_INCOMPLETE, severity, key, text, hint, version=found.version, repair=repair)]


def _removed(state: ModelState, found: FoundVersion) -> Problem:
    """A note of a removal: harmless, unless a channel points there since."""
    served = found.version in state.serving
    repair = _from_copy(state, found) if served else _undone(state, found)
    return state.problem(
        Code.REMOVAL_UNFINISHED,
        "damage" if served else "leftover",
        version_key(state.model, found.version),
        "gc removes this version, or was stopped while it did" + (", and a channel points at it" if served else ""),
        _hint_of_removal(state, found, repair),
        version=found.version,
        repair=repair,
    )


def _hint_of_removal(state: ModelState, found: FoundVersion, repair: Repair | None) -> str:
    if repair:
        return "run 'retrainer fsck --repair'"
    if found.version not in state.serving and state.now - found.objects[MANIFEST].modified < HOUR:
        return "nothing to do while gc runs; where it was killed, check again when the note is an hour old"
    return "the next 'retrainer gc' ends it, when the note is a day old"


def _undone(state: ModelState, found: FoundVersion) -> Repair | None:
    """The manifest from the note of a gc that was killed before it deleted anything: none runs for an hour."""
    if found.removal is None or found.removal.manifest is None:
        return None
    if state.now - found.objects[MANIFEST].modified < HOUR:
        return None
    data = found.removal.manifest.encode()
    try:
        manifest = Manifest.from_json(data, where=found.version)
    except IntegrityError:
        return None
    known = state.known_hashes(found.version)
    as_published = hashlib.sha256(data).hexdigest() in known if known else data == manifest.to_pretty_json().encode()
    sizes = {name: info.size for name, info in found.objects.items()}
    if (
        not as_published
        or (manifest.model, manifest.version) != (state.model, found.version)
        or any(sizes.get(name) != entry.size for name, entry in manifest.files.items())
    ):
        return None
    text = "put the manifest back from the note of the removal, if every file is still what was published"
    return Repair(text, partial(_undo, state, found, manifest, data))


def _undo(state: ModelState, found: FoundVersion, manifest: Manifest, data: bytes) -> None:
    require_files(state, manifest)
    _put(state, found, data)


def _manifest(state: ModelState, found: FoundVersion) -> list[Problem]:
    """At most one finding: unreadable, altered, another's, or the same content in other bytes."""
    known = state.known_hashes(found.version)
    if found.manifest is not None and (found.sha256 in known or (found.as_written and not known)):
        return []
    if found.as_written:
        return []  # then the pointer or the signature that names another hash is at fault
    key = version_key(state.model, found.version)
    if found.sha256 is None:
        text = f"the manifest {found.fault}"
        return [state.problem(Code.OBJECT_UNREADABLE, "damage", key, text, _PUBLISH, version=found.version)]
    repair = _from_copy(state, found)
    fault = found.fault or "says the same in other bytes than were published"
    severity: Severity = "damage" if found.manifest is None or known else "suspect"
    hint = "run 'retrainer fsck --repair'" if repair else _PUBLISH
    return [
        state.problem(
            Code.MANIFEST_ALTERED,
            severity,
            key,
            f"the manifest was altered: {fault}",
            hint,
            version=found.version,
            repair=repair,
        )
    ]


def _from_copy(state: ModelState, found: FoundVersion) -> Repair | None:
    """The manifest itself, where another place holds it and a pointer or a signature proves its hash."""
    known = state.known_hashes(found.version)
    for data, place in _copies(state, found.version):
        if hashlib.sha256(data).hexdigest() in known:
            return Repair(f"put the manifest back {place}, whose hash proves it", partial(_put, state, found, data))
    return None


def _copies(state: ModelState, version: str) -> Iterator[tuple[bytes, str]]:
    """Bytes that may be the manifest of a version, and where they come from."""
    for other in state.versions.values():
        if other.parsed is not None and (other.parsed.model, other.parsed.version) == (state.model, version):
            place = "in its own bytes" if other.version == version else f"from the folder of {other.version}"
            yield other.parsed.to_pretty_json().encode(), place
        if other.version == version and other.removal is not None and other.removal.manifest is not None:
            yield other.removal.manifest.encode(), "from the note of the removal"


def _put(state: ModelState, found: FoundVersion, data: bytes) -> None:
    key = version_key(state.model, found.version)
    if MANIFEST not in found.objects:
        write_over(state.storage, key, data, None)
        return
    present, etag = state.storage.read_with_etag(key)
    if hashlib.sha256(present).hexdigest() != found.sha256:
        raise IntegrityError("somebody else changed it meanwhile", where=state.storage.where(key), hint="check again")
    write_over(state.storage, key, data, etag)


def _signatures(state: ModelState, found: FoundVersion, *, signed: bool) -> list[Problem]:
    if found.sha256 is None:
        return []
    problems: list[Problem] = []
    trusted = 0
    for key_id, signature in sorted(found.signatures.items()):
        fault = _fault(state, found, key_id, signature)
        if fault is not None:
            key = signature_key(state.model, found.version, key_id)
            text = f"a signature of the version {found.version}: {fault}"
            hint = "sign the version again: 'retrainer sign', or any move of a channel to it with the private key"
            problems.append(state.problem(Code.VERSION_SIGNATURE, "damage", key, text, hint, version=found.version))
        elif state.trusted is not None and key_id in state.trusted.key_ids():
            trusted += 1
    if state.trusted is not None and not trusted:
        problems.append(_unsigned(state, found, "no key that was given signed this version"))
    elif not found.signatures and signed:
        problems.append(_unsigned(state, found, "the version is not signed, and others of this model are"))
    return problems


def _unsigned(state: ModelState, found: FoundVersion, text: str) -> Problem:
    """Damage, where a signed pointer named it: whoever moved it there signed the version as well."""
    naming = state.naming.get(found.version, [])
    severity: Severity = "suspect" if naming else "leftover"  # a publisher may have been stopped before it signed
    if not found.signatures and any(pointer.signature is not None for pointer in naming):
        severity, text = "damage", "the signature of the version was removed: a signed pointer named it"
    elif state.trusted is not None and found.version in state.serving:
        severity = "damage"
    return state.problem(
        Code.VERSION_UNSIGNED,
        severity,
        version_key(state.model, found.version, SIGNATURES),
        text,
        "readers with a pinned key refuse it; sign it, or move a channel to it with the private key",
        version=found.version,
    )


def _fault(state: ModelState, found: FoundVersion, key_id: str, signature: VersionSignature | str) -> str | None:
    """Why a signature of a version does not hold; of a key that was not given, only what it says is looked at."""
    if isinstance(signature, str):
        return signature
    if signature.signature.key_id != key_id:
        return f"it is by the key {signature.signature.key_id}, not by the one in its name"
    statement = signature.statement
    if (statement.model, statement.version) != (state.model, found.version):
        return f"it is of another version: {statement.model} {statement.version}"
    if found.manifest is not None and statement.manifest_sha256 != found.sha256:
        return "it is of another manifest"
    if state.trusted is None or key_id not in state.trusted.key_ids():
        return None
    where = state.storage.where(signature_key(state.model, found.version, key_id))
    try:
        state.trusted.check(signature.signature, statement.signed_bytes(), what="the version", where=where)
    except SignatureError as error:
        return error.message
    return None


def _unlisted(state: ModelState, found: FoundVersion) -> list[Problem]:
    manifest = found.manifest
    if manifest is None:
        return []
    problems = []
    for name, info in sorted(found.objects.items()):
        expected = name == MANIFEST or name in manifest.files
        if expected or (name.startswith(f"{SIGNATURES}/") and name.endswith(".json")):
            continue
        text = f"a file of {info.size:,} bytes that the manifest of {found.version} does not list"
        hint = "no reader ever looks at it, and no publisher leaves it; look at it, and delete it by hand"
        problems.append(state.problem(Code.FILE_UNLISTED, "suspect", info.key, text, hint, version=found.version))
    return problems
