"""Check a store: every move, hint, entry, manifest, signature and file; and put right what is safe to put right.

A check reads and never writes. One finding never hides another: an object that is damaged is a finding, and only a
store that cannot be reached is an error. A publisher who is at work meanwhile is no finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

from retrainer.errors import ResourceError, RetrainerError, StorageError
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.fsck.channels import check_channels
from retrainer.store.fsck.files import CheckedFiles, check_files
from retrainer.store.fsck.findings import Code, Finding, Findings, OnProgress, Problem, Repair, Severity
from retrainer.store.fsck.ledger import check_ledger
from retrainer.store.fsck.listing import models_of
from retrainer.store.fsck.state import ModelState
from retrainer.store.fsck.versions import DAY, check_versions
from retrainer.store.gc import leftovers_of, unlisted
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
    :raises IntegrityError: a model is in the layout of an earlier retrainer, which nothing here reads.
    """
    began = now or datetime.now(UTC)
    chosen = models_of(storage, models)
    findings: list[Finding] = []
    notes: list[str] = []
    channels = versions = files = size = 0
    for model in chosen:
        state = ModelState(storage, model, trusted=trusted, now=began)
        checked = check_files(state, quick=quick, on_progress=on_progress)
        problems = _problems(state, checked)
        findings += [problem.finding for problem in sorted(problems, key=_rank)]
        notes += state.notes
        channels += len(state.logs)
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

    A move is never written, and nothing of a version is ever deleted. What is written over was looked at before. Check
    again afterwards for what remains.

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
        # Whether a version needs a file is said by its manifest, which comes before.
        for of_files in (False, True):
            chosen = [finding for finding in several if (finding.code in _OF_FILES) is of_files]
            if chosen:
                state = ModelState(storage, model, trusted=trusted, now=now or datetime.now(UTC))
                done += _repaired(state, chosen)
    return tuple(done)


def _repaired(state: ModelState, findings: list[Finding]) -> list[Repaired]:
    keys = {finding.key for finding in findings if finding.code in _OF_FILES}
    checked = check_files(state, quick=False, only=keys)
    present = {(one.finding.code, one.finding.key): one for one in _problems(state, checked)}
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


def _problems(state: ModelState, checked: CheckedFiles) -> list[Problem]:
    """Everything that is wrong."""
    unknown = [
        state.problem(
            Code.OBJECT_UNKNOWN,
            "suspect",
            info.key,
            f"an object of {info.size:,} bytes that has no place in a store",
            "nothing reads it; look at it, and delete it by hand",
        )
        for info in state.listing.unknown
    ]
    return [
        *check_channels(state),
        *check_ledger(state),
        *check_versions(state),
        *checked.problems,
        *_leftovers(state),
        *unknown,
    ]


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


def _rank(problem: Problem) -> tuple[int, str, str]:
    finding = problem.finding
    return _ORDER[finding.severity], finding.key, finding.code
