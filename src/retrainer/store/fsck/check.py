"""Check a store: every pointer, chain, manifest, signature and file; and put right what is safe to put right.

A check reads and never writes. One finding never hides another: an object that is damaged is a finding, and only a
store that cannot be reached is an error. A publisher who is at work meanwhile is no finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

from retrainer.errors import NotFoundError, RetrainerError
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.fsck.files import CheckedFiles, check_files
from retrainer.store.fsck.findings import Code, Finding, Findings, OnProgress, Problem, Severity
from retrainer.store.fsck.listing import find_models, no_models
from retrainer.store.fsck.moves import check_channels
from retrainer.store.fsck.remains import check_remains
from retrainer.store.fsck.state import ModelState
from retrainer.store.fsck.versions import check_versions
from retrainer.store.names import check_name, version_key
from retrainer.store.signing import Keyring

_ORDER: dict[Severity, int] = {"damage": 0, "suspect": 1, "leftover": 2}
_OF_FILES = {Code.FILE_MISSING, Code.FILE_ALTERED, Code.OBJECT_UNREADABLE}


class Repaired(Record):
    """What became of one finding.

    :ivar problem: why it could not be repaired; ``None`` for done.
    """

    finding: Finding
    problem: str | None = None


def check_store(
    storage: Storage,
    *,
    models: Iterable[str] | None = None,
    trusted: Keyring | None = None,
    quick: bool = False,
    now: datetime | None = None,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Look at everything in a store, or in some of its models.

    :param trusted: public keys; what none of them signed is then found. Without, signatures are only looked at for
        being there, and for saying what they should.
    :param quick: of files only that they are there and their size. Else every byte is read, in bounded memory.
    :param now: what ages are counted from; the present unless given.
    :param on_progress: called with how far a model is, from this thread.
    :raises NotFoundError: a model that is named is not there, or there is none at all: a mistyped address and a store
        that was emptied must not look sound.
    :raises StorageError: the store cannot be reached.
    """
    began = now or datetime.now(UTC)
    chosen = _chosen(storage, models)
    findings: list[Finding] = []
    notes: list[str] = []
    channels = versions = files = size = 0
    for model in chosen:
        state = ModelState(storage, model, trusted=trusted, now=began)
        checked = check_files(state, quick=quick, on_progress=on_progress)
        problems = _problems(state, checked)
        findings += [problem.finding for problem in sorted(problems, key=_rank)]
        notes += state.notes
        channels += len(state.listing.pointers)
        versions += sum(found.manifest is not None for found in state.versions.values())
        files, size = files + checked.count, size + checked.size
    return Findings(
        store=storage.url,
        quick=quick,
        at=began.isoformat(timespec="microseconds"),
        models=tuple(chosen),
        channels=channels,
        versions=versions,
        files=files,
        bytes=size,
        findings=tuple(findings),
        notes=tuple(notes),
    )


def repair(
    storage: Storage, findings: Findings, *, trusted: Keyring | None = None, now: datetime | None = None
) -> tuple[Repaired, ...]:
    """Put right what a check found and offered to repair. Each is looked at again first, and proved.

    History entries are never written, and nothing of a version is ever deleted. What is written over was looked at
    before: a publisher who came in between wins. Check again afterwards for what remains.

    :param trusted: as for the check.
    :return: each finding that the check had offered to repair, or that became possible, and what became of it.
    """
    wanted: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings.findings:
        # A file may be found in a version whose own manifest is put right first.
        if finding.repair is not None or finding.code in _OF_FILES:
            wanted[finding.model].append(finding)
    done: list[Repaired] = []
    for model, several in wanted.items():
        for turn in range(3):
            chosen = [finding for finding in several if _turn(finding) == turn]
            if chosen:
                state = ModelState(storage, model, trusted=trusted, now=now or datetime.now(UTC))
                done += _repaired(state, chosen)
    return tuple(done)


def _turn(finding: Finding) -> int:
    """When a finding is repaired. Whether a version needs a file is said by its manifest, which comes before.

    A pointer that is older than it should be serves something sound: it is only moved on to a version that is whole.
    """
    if finding.code is Code.POINTER_REPLAYED:
        return 2
    return 1 if finding.code in _OF_FILES else 0


def _repaired(state: ModelState, findings: list[Finding]) -> list[Repaired]:
    keys = {finding.key for finding in findings if finding.code in _OF_FILES}
    for finding in findings:
        if finding.code is Code.POINTER_REPLAYED:
            keys |= _files_of_newest(state, finding.channels)
    checked = check_files(state, quick=False, only=keys)
    present = {(one.finding.code, one.finding.key): one for one in _problems(state, checked, repairable=False)}
    done = []
    for finding in findings:
        problem = present.get((finding.code, finding.key))
        if finding.repair is None and (problem is None or problem.repair is None):
            continue
        if problem is None:
            done.append(Repaired(finding=finding, problem="it is not found any more"))
        elif problem.repair is None:
            done.append(Repaired(finding=problem.finding, problem=problem.finding.hint))
        else:
            try:
                problem.repair.act()
            except RetrainerError as error:
                done.append(Repaired(finding=problem.finding, problem=str(error)))
            else:
                done.append(Repaired(finding=problem.finding))
    return done


def _files_of_newest(state: ModelState, channels: Iterable[str]) -> set[str]:
    """The files of the versions to which the journals of some channels lead, whether the check had read them or not."""
    keys = set()
    for channel in channels:
        entries = state.journal.get(channel, {})
        pointer = entries[max(entries)].pointer if entries else None
        found = state.version(pointer.version) if pointer else None
        if found is not None and found.manifest is not None:
            keys |= {version_key(state.model, found.version, name) for name in found.manifest.files}
    return keys


def _problems(state: ModelState, checked: CheckedFiles, *, repairable: bool = True) -> list[Problem]:
    """Everything that is wrong.

    :param repairable: files that another version holds too will be repaired before pointers are.
    """
    state.unsound = {
        problem.finding.version
        for problem in checked.problems
        if problem.finding.version is not None and not (repairable and problem.repair)
    }
    return [*check_channels(state), *check_versions(state), *checked.problems, *check_remains(state)]


def _rank(problem: Problem) -> tuple[int, str, str]:
    finding = problem.finding
    return _ORDER[finding.severity], finding.key, finding.code


def _chosen(storage: Storage, models: Iterable[str] | None) -> list[str]:
    present = find_models(storage)
    if not present:
        raise no_models(storage)
    if models is None:
        return present
    chosen = [check_name("model", model, where=storage.where()) for model in models]
    for model in chosen:
        if model not in present:
            raise NotFoundError(
                f"no model '{model}'",
                where=storage.url,
                hint=f"it holds {', '.join(present)}",
            )
    return chosen
