"""Checks of a model's ledger of decisions: each entry, the chain, what moves say of it, and the sets of test rows."""

from __future__ import annotations

from itertools import pairwise

from retrainer.errors import IntegrityError, NotFoundError, ResourceError, StorageError
from retrainer.store.entry import Answer, Entry, Look, Spent, Verdict
from retrainer.store.fsck.findings import Code, Problem
from retrainer.store.fsck.listing import as_unreadable, read_objects
from retrainer.store.fsck.state import ModelState
from retrainer.store.ledger import Ledger
from retrainer.store.names import entry_key, rows_key

_BACKUP = "restore it from a backup, or find out what happened before you go on (docs/store.md: what to do when)"


def check_ledger(state: ModelState) -> list[Problem]:
    """Everything that is wrong with the ledger of a model."""
    entries, problems = _entries(state)
    return [
        *problems,
        *_chain(state, entries),
        *_moves(state, entries),
        *_references(state, entries),
        *_rows(state, entries),
    ]


def _entries(state: ModelState) -> tuple[dict[int, Entry], list[Problem]]:
    """The entries that can be read, by number, and what is wrong with the others."""
    ledger = Ledger(state.storage, state.model)
    keys = {entry_key(state.model, number): number for number in state.listing.entries}
    entries: dict[int, Entry] = {}
    problems = []
    for key, content in read_objects(state.storage, keys).items():
        number = keys[key]
        try:
            if isinstance(content, NotFoundError):  # deleted since it was listed
                continue
            if isinstance(content, IntegrityError):
                raise content
            entries[number] = ledger.parsed(number, content)
        except IntegrityError as error:
            code = Code.ENTRY_ALTERED if isinstance(content, bytes) else Code.OBJECT_UNREADABLE
            text = f"entry {number} of the ledger {error.message}"
            problems.append(_problem(state, code, number, text, error.hint or _BACKUP))
    return dict(sorted(entries.items())), problems


def _chain(state: ModelState, entries: dict[int, Entry]) -> list[Problem]:
    present = sorted({*entries, *state.listing.entries})
    problems = []
    for last, following in pairwise([0, *present]):  # by runs: a forged number may be ten digits away
        if following - last > 1:
            first, end = last + 1, following - 1
            named = f"entry {first} of the ledger is" if first == end else f"entries {first} to {end} of the ledger are"
            text = f"{named} missing, and later ones are there"
            problems.append(_problem(state, Code.ENTRY_MISSING, first, text))
    for number, entry in entries.items():
        before = entries.get(number - 1)
        if before is not None and entry.previous != before.sha256:
            text = (
                f"entry {before.sequence} of the ledger was altered: its hash is not the one that the next entry names"
            )
            problems.append(_problem(state, Code.ENTRY_ALTERED, before.sequence, text))
    return problems


def _moves(state: ModelState, entries: dict[int, Entry]) -> list[Problem]:
    """Moves that name an entry which is not there: the end of the ledger was cut off, or an older one put back."""
    # What a move names may also have been written since the entries were listed.
    known = {entry.sha256 for entry in entries.values()} | {entry.previous for entry in entries.values()}
    problems = []
    for channel, log in sorted(state.logs.items()):
        for sequence, found in sorted(log.moves.items()):
            if found.move is None or found.move.ledger is None or found.move.ledger in known:
                continue
            newest = max(entries, default=0)
            since = _made_since(state, newest)
            if found.move.ledger in {entry.sha256 for entry in since}:
                continue
            text = (
                f"move {sequence} of '{channel}' names an entry of the ledger that is not there: its end was cut off,"
                " or an older state was put back"
            )
            problems.append(_problem(state, Code.ENTRY_MISSING, newest + 1, text, channels=(channel,)))
            break
    return problems


def _made_since(state: ModelState, newest: int) -> list[Entry]:
    ledger = Ledger(state.storage, state.model)
    made = []
    for number in ledger.numbers():
        if number > newest:
            try:
                made.append(ledger.read(number))
            except (IntegrityError, NotFoundError):
                break
    return made


def _references(state: ModelState, entries: dict[int, Entry]) -> list[Problem]:
    """Entries that name another one, of another kind than they should."""
    problems = []
    for number, entry in entries.items():
        match entry.event:
            case Spent(look=named):
                fits = isinstance(getattr(entries.get(named), "event", None), Look)
            case Verdict(spent=named, channel=channel):
                spent = getattr(entries.get(named), "event", None)
                fits = isinstance(spent, Spent) and spent.channel == channel
            case Answer(to=named, channel=channel, decision=decision):
                said = getattr(entries.get(named), "event", None)
                fits = isinstance(said, Verdict) and (said.channel, said.decision) == (channel, decision)
            case _:
                continue
        if not fits and named in entries:
            text = f"entry {number} of the ledger names entry {named}, which is of another kind or channel"
            problems.append(_problem(state, Code.ENTRY_ALTERED, number, text))
    return problems


def _rows(state: ModelState, entries: dict[int, Entry]) -> list[Problem]:
    named = {entry.event.rows: number for number, entry in entries.items() if isinstance(entry.event, Look)}
    keys = {rows_key(state.model, sha256): sha256 for sha256 in named}
    problems = []
    for key, sha256 in keys.items():
        try:
            Ledger(state.storage, state.model).rows(sha256)
        except (StorageError, ResourceError) as error:
            unreadable = as_unreadable(state.storage, key, error)
            hint = unreadable.hint or "look at its permissions"
            problems.append(state.problem(Code.OBJECT_UNREADABLE, "damage", key, unreadable.message, hint))
        except IntegrityError as error:
            missing = not state.storage.exists(key)
            code = Code.ROWS_MISSING if missing else Code.ROWS_ALTERED
            text = f"{error.message} (entry {named[sha256]})"
            problems.append(state.problem(code, "damage", key, text, _BACKUP))
    return problems


def _problem(
    state: ModelState, code: Code, number: int, text: str, hint: str = _BACKUP, *, channels: tuple[str, ...] = ()
) -> Problem:
    return state.problem(code, "damage", entry_key(state.model, number), text, hint, channels=channels)
