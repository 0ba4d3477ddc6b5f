"""Checks of what no reader depends on: the content index, what killed writers left, and what has no place here."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from retrainer.errors import ResourceError, StorageError
from retrainer.store.content import Place, note_content
from retrainer.store.fsck.findings import Code, Problem, Repair
from retrainer.store.fsck.state import ModelState
from retrainer.store.fsck.versions import DAY
from retrainer.store.leftovers import leftovers_of, unlisted
from retrainer.store.names import content_key


def check_remains(state: ModelState) -> list[Problem]:
    """Everything of a model that is neither pointer, history nor version, and is not right."""
    return [*_index(state), *_leftovers(state), *_unknown(state)]


def _index(state: ModelState) -> list[Problem]:
    holders: dict[str, list[Place]] = defaultdict(list)
    for version, found in sorted(state.versions.items()):
        for name, entry in (found.manifest.files if found.manifest else {}).items():
            info = found.objects.get(name)
            if info is not None and info.size == entry.size:
                holders[entry.sha256].append(Place(version=version, file=name))
    problems = []
    for sha256, place in sorted(state.places.items()):
        fault = _fault(state, sha256, place)
        if fault is None:
            continue
        code, text = fault
        problems.append(
            state.problem(
                code,
                "suspect" if code is Code.INDEX_ALTERED else "leftover",
                content_key(state.model, sha256),
                f"the content index {text}",
                "harmless: what is copied by the index has to prove its content",
                repair=_repair(state, sha256, holders[sha256]),
            )
        )
    return problems


def _fault(state: ModelState, sha256: str, place: Place | str) -> tuple[Code, str] | None:
    if isinstance(place, str):
        return Code.INDEX_ALTERED, f"has an entry that cannot be read: {place}"
    found = state.version(place.version)
    if found is None or not found.objects:
        return Code.INDEX_STALE, f"names the version {place.version}, which is not there"
    if found.manifest is None:
        # An altered manifest has its own finding, and the file may well be there.
        return (
            None
            if found.parsed or found.fault
            else (
                Code.INDEX_STALE,
                f"names the version {place.version}, which is not complete",
            )
        )
    entry = found.manifest.files.get(place.file)
    if entry is None or entry.sha256 != sha256:
        return Code.INDEX_ALTERED, f"names {place.file} of {place.version}, which has another content"
    if place.file not in found.objects:
        return Code.INDEX_STALE, f"names {place.file} of {place.version}, which is missing"
    return None


def _repair(state: ModelState, sha256: str, holders: list[Place]) -> Repair:
    if holders:
        text = f"name {holders[0].file} of {holders[0].version} instead"
        return Repair(text, partial(note_content, state.storage, state.model, sha256, holders[0]))
    return Repair("delete the entry", partial(state.storage.delete, content_key(state.model, sha256)))


def _leftovers(state: ModelState) -> list[Problem]:
    problems = []
    try:
        leftovers = list(leftovers_of(state.storage, state.model))
    except (StorageError, ResourceError) as error:
        state.notes.append(f"{state.model}: {unlisted(error)}")
        return []
    for leftover in leftovers:
        old = state.now - leftover.modified >= DAY
        repair = Repair("delete it", partial(state.storage.remove_leftover, leftover)) if old else None
        size = "" if leftover.size is None else f" of {leftover.size:,} bytes"
        found = state.problem(
            Code.TEMPORARY,
            "leftover",
            state.model,
            f"a write{size} that was never completed, begun {leftover.modified:%Y-%m-%d %H:%M} UTC",
            "'retrainer gc' or 'fsck --repair' deletes it" if old else "it may be under way; after a day it may go",
            repair=repair,
        )
        named = found.finding.model_copy(update={"where": leftover.where, "key": "/".join(leftover.token)})
        problems.append(Problem(named, repair))
    return problems


def _unknown(state: ModelState) -> list[Problem]:
    return [
        state.problem(
            Code.OBJECT_UNKNOWN,
            "suspect",
            info.key,
            f"an object of {info.size:,} bytes that has no place in a store",
            "nothing reads it; look at it, and delete it by hand",
        )
        for info in state.listing.unknown
    ]
