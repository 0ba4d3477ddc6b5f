"""Checks of versions, contents of their files aside: manifests, signatures, and what is in their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from retrainer.errors import IntegrityError, SignatureError
from retrainer.store.fsck.files import require_files
from retrainer.store.fsck.findings import Code, Problem, Repair, Severity
from retrainer.store.fsck.state import FoundVersion, ModelState
from retrainer.store.names import MANIFEST, MOST_MANIFEST, REMOVAL, SIGNATURES, signature_key, version_key
from retrainer.store.signing import VersionSignature

DAY = timedelta(days=1)
# Between its note and the end gc lists, reads what is new, and deletes one version: seconds, minutes at most.
HOUR = timedelta(hours=1)
_PUBLISH = "roll the channel back; to repair the version, remove its manifest and publish the same bundle again"
_REPAIR = "run 'retrainer fsck --repair'"


def check_versions(state: ModelState) -> list[Problem]:
    """Everything that is wrong with the folders of a model's versions."""
    # Whoever signs a move signs its version as well: that tells, too, where no version has a signature any more.
    signed = any(found.signatures for found in state.versions.values()) or state.somebody_signs()
    problems: list[Problem] = []
    for _, found in sorted(state.versions.items()):
        if found.removal is not None:
            problems.append(_removed(state, found))
        if MANIFEST not in found.objects:
            problems += _incomplete(state, found)
            continue
        problems += _manifest(state, found)
        problems += _signatures(state, found, signed=signed)
        problems += _unlisted(state, found)
    return problems


def _incomplete(state: ModelState, found: FoundVersion) -> list[Problem]:
    served = found.version in state.serving
    if not found.objects or (found.removal is not None and not served):
        return []
    count = len(found.objects)
    files = f"{count} object" if count == 1 else f"{count} objects"
    repair = _from_copy(state, found) if served else None
    severity: Severity = "damage" if served else "leftover"
    if served:
        hint = _REPAIR if repair else "roll the channel back, or publish the same bundle again"
        text = f"the version {found.version} has lost its manifest, and a channel points at it"
    elif state.now - found.newest < DAY:
        text = f"{files} and no manifest: an upload that is under way, or was cut short"
        hint = "nothing to do; 'retrainer gc' takes it after a day"
    else:
        text = f"{files} and no manifest: an upload or a removal that was cut short"
        hint = "'retrainer gc' removes it; publishing the same bundle completes it"
    key = version_key(state.model, found.version, "")
    return [state.problem(Code.VERSION_INCOMPLETE, severity, key, text, hint, version=found.version, repair=repair)]


def _removed(state: ModelState, found: FoundVersion) -> Problem:
    """A note of a removal: harmless, unless a channel points there since."""
    assert found.removal is not None
    served = found.version in state.serving
    old = state.now - found.removal.modified >= HOUR
    repair = None
    if (served or old) and _looks_whole(found):
        text = "take the note away, if every file is still what was published"
        repair = Repair(text, partial(_keep, state, found))
    hint = "the next 'retrainer gc' ends it, when the note is a day old"
    if not served and not old:
        hint = "nothing to do while gc runs; where it was killed, check again when the note is an hour old"
    return state.problem(
        Code.REMOVAL_UNFINISHED,
        "damage" if served else "leftover",
        found.removal.key,
        "gc removes this version, or was stopped while it did" + (", and a channel points at it" if served else ""),
        _REPAIR if repair else hint,
        version=found.version,
        repair=repair,
    )


def _looks_whole(found: FoundVersion) -> bool:
    """Whether gc had not begun to delete anything, or has deleted all but its note."""
    sizes = {name: info.size for name, info in found.objects.items()}
    if found.manifest is None:
        return len(found.objects) == 1
    return all(sizes.get(name) == entry.size for name, entry in found.manifest.files.items())


def _keep(state: ModelState, found: FoundVersion) -> None:
    """End the removal of a gc that was killed: none runs for an hour."""
    if found.manifest is not None:
        require_files(state, found.manifest)
    state.storage.delete(version_key(state.model, found.version, REMOVAL))


def _manifest(state: ModelState, found: FoundVersion) -> list[Problem]:
    """At most one finding: unreadable, altered, another's, or the same content in other bytes."""
    known = state.known_hashes(found.version)
    if found.manifest is not None and (found.sha256 in known or (found.as_written and not known)):
        return []
    if found.as_written:
        return []  # then the move or the signature that names another hash is at fault
    key = version_key(state.model, found.version)
    if found.sha256 is None:
        text = f"the manifest {found.fault}"
        return [state.problem(Code.OBJECT_UNREADABLE, "damage", key, text, _PUBLISH, version=found.version)]
    repair = _from_copy(state, found)
    fault = found.fault or "says the same in other bytes than were published"
    severity: Severity = "damage" if found.manifest is None or known else "suspect"
    hint = _REPAIR if repair else _PUBLISH
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
    """The manifest itself, where another place holds it and a move or a signature proves its hash."""
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


def _put(state: ModelState, found: FoundVersion, data: bytes) -> None:
    key = version_key(state.model, found.version)
    if MANIFEST not in found.objects:
        state.storage.write(key, data, if_absent=True)
        return
    if hashlib.sha256(state.storage.read(key, most=MOST_MANIFEST)).hexdigest() != found.sha256:
        raise IntegrityError("somebody else changed it meanwhile", where=state.storage.where(key), hint="check again")
    state.storage.write(key, data)  # of a publisher there is nothing else to come: these are the bytes that it writes


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
    """Damage, where a signed move named it: whoever moved it there signed the version as well."""
    naming = state.naming.get(found.version, [])
    severity: Severity = "suspect" if naming else "leftover"  # a publisher may have been stopped before it signed
    if not found.signatures and any(move.signature is not None for move in naming):
        severity, text = "damage", "the signature of the version was removed: a signed move named it"
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
        expected = name in {MANIFEST, REMOVAL} or name in manifest.files
        if expected or (name.startswith(f"{SIGNATURES}/") and name.endswith(".json")):
            continue
        text = f"a file of {info.size:,} bytes that the manifest of {found.version} does not list"
        hint = "no reader ever looks at it, and no publisher leaves it; look at it, and delete it by hand"
        problems.append(state.problem(Code.FILE_UNLISTED, "suspect", info.key, text, hint, version=found.version))
    return problems
