"""One channel as it is stored, and what speaks for or against its pointer. The checks ask here; nothing is reported.

Three places say where a channel went, and each move writes them in one order: history, pointer, journal. What differs
from the other two is what was altered.
"""

from __future__ import annotations

from functools import partial

from retrainer.errors import IntegrityError, SignatureError
from retrainer.store.channels import Pointer
from retrainer.store.fsck.findings import Code, Problem, Repair, Severity
from retrainer.store.fsck.state import FoundEntry, FoundPointer, ModelState
from retrainer.store.journal import Journal
from retrainer.store.names import journal_key, pointer_key
from retrainer.store.swapping import write_over

BACKUP = "the store was altered; restore it from a backup, or find out what happened before you go on"


class ChannelState:
    """A channel while it is checked.

    :ivar found: the object of the pointer; ``pointer`` what it says, ``None`` where it is lost.
    :ivar entries: of the journal, by move.
    :ivar blamed: moves whose journal entry has its finding already.
    """

    def __init__(self, state: ModelState, channel: str) -> None:
        self.state = state
        self.name = channel
        self.key = pointer_key(state.model, channel)
        self.found = state.pointers.get(channel, FoundPointer(None, fault="is not there"))
        self.pointer = self.found.pointer
        self.entries: dict[int, FoundEntry] = state.entries(channel, self.pointer)
        self.blamed: set[int] = set()

    @property
    def newest(self) -> Pointer | None:
        """The newest move of the journal that can be read."""
        return next((one.pointer for _, one in sorted(self.entries.items(), reverse=True) if one.pointer), None)

    @property
    def is_gone(self) -> bool:
        """Whether there is no pointer at all."""
        return self.found.etag is None and self.found.fault == "is not there"

    def journal_key(self, sequence: int) -> str:
        """Where a move is written down."""
        return journal_key(self.state.model, self.name, sequence)

    def problem(
        self,
        code: Code,
        severity: Severity,
        key: str,
        message: str,
        hint: str,
        *,
        version: str | None = None,
        repair: Repair | None = None,
    ) -> Problem:
        """A finding about this channel."""
        return self.state.problem(
            code, severity, key, message, hint, version=version, channels=(self.name,), repair=repair
        )

    def faults(self, pointer: Pointer, *, history: bool = True) -> list[str]:
        """What of a pointer is not what the history and the version say.

        :param history: also that it names no move at all; else that is for the history's own findings.
        """
        found = []
        chain = self.state.history.chain(pointer)
        if not chain.entries:
            if history and chain.end is not None:
                found.append(f"the history's entry that it names {chain.end.message}")
        elif pointer.moved_at != chain.entries[0][1].at:
            found.append("its time is not that of the move")
        if chain.origin is not None and pointer.origin not in {None, chain.origin}:
            found.append("its origin is not the channel's first move")
        if self.state.version(pointer.version) and self.has_other_hash(pointer):
            found.append("its hash of the manifest is not that of the version")
        return found

    def has_other_hash(self, pointer: Pointer) -> bool:
        """Whether a pointer names another hash than that of a manifest about which there is no doubt."""
        version = self.state.versions.get(pointer.version)
        return version is not None and version.as_written and version.sha256 != pointer.manifest_sha256

    def signature_fault(self, pointer: Pointer, *, key: str | None = None) -> SignatureError | None:
        """Why the signature of a pointer does not hold; ``None`` where it does, or no key was given."""
        if self.state.trusted is None:
            return None
        where = self.state.storage.where(key or self.key)
        try:
            self.state.trusted.check(pointer.signature, pointer.signed_bytes(), what="the pointer", where=where)
        except SignatureError as error:
            return error
        return None

    def somebody_signs(self) -> bool:
        """Whether any pointer of the model, or a move of this channel, is signed."""
        pointers = [found.pointer for found in self.state.pointers.values()]
        pointers += [one.pointer for one in self.entries.values()]
        return any(pointer is not None and pointer.signature is not None for pointer in pointers)

    # The way back

    def restoration(self, *, needs_version: bool = False, only_newest: bool = False) -> Repair | str:
        """How the pointer is restored from the journal; or why it is not, and what to do then.

        :param needs_version: only to a version that is there and whole: readers have an older pointer to go by
            meanwhile. Where there is no pointer, they have nothing, and no way on leads past the one that was lost.
        :param only_newest: only where no move can have followed the journal's newest.
        """
        newest = max(self.entries, default=None)
        pointer = self.entries[newest].pointer if newest is not None else None
        if pointer is None:
            return f"no journal proves where the channel pointed; {BACKUP}"
        if self.found.etag is None and not self.is_gone:
            return "make the object readable first; then the journal can restore it"
        if self.state.history.chain(pointer).end is not None or self.faults(pointer):
            return f"the journal's newest entry does not hold against the history; {BACKUP}"
        later = any(entry.previous == pointer.history for entry in self.state.history.entries.values())
        if only_newest and later:
            return f"there may have been a move after the journal's newest entry; {BACKUP}"
        if needs_version and not self._is_sound(pointer):
            # Nobody can move a channel whose journal goes on after its pointer. One that is deleted is restored.
            return (
                f"the version {pointer.version} is not sound: put its files back and repair again; or delete the"
                " pointer, repair again, and roll back to a version by its name"
            )
        refusal = self._signature_refusal(pointer)
        if refusal is not None:
            return refusal
        text = f"restore the pointer of move {pointer.sequence}, to {pointer.version}, from the journal"
        return Repair(text, partial(self._restore, pointer.sequence))

    def _is_sound(self, pointer: Pointer) -> bool:
        """Whether a reader would get the version that a pointer names."""
        version = self.state.version(pointer.version)
        whole = pointer.version not in self.state.unsound
        return version is not None and version.sha256 == pointer.manifest_sha256 and whole

    def _signature_refusal(self, pointer: Pointer) -> str | None:
        if pointer.signature is not None and self.state.trusted is None:
            return "the journal's newest entry is signed: give --public-key, so that it can be proved"
        if pointer.signature is None and self.somebody_signs():
            return f"the journal's newest entry is not signed, and others are; {BACKUP}"
        fault = self.signature_fault(pointer, key=self.journal_key(pointer.sequence))
        return f"{fault.message}; {BACKUP}" if fault else None

    def _restore(self, sequence: int) -> None:
        write_over(self.state.storage, self.key, self.entries[sequence].data, self.found.etag)

    def writing_down(self) -> Repair | None:
        """How the present move gets into the journal; ``None`` where the pointer itself is in doubt."""
        pointer = self.pointer
        if pointer is None or self.state.history.chain(pointer).end is not None or self.faults(pointer):
            return None
        if self.signature_fault(pointer):
            return None
        return Repair(f"write move {pointer.sequence} down from the pointer", partial(self._write_down, pointer))

    def _write_down(self, pointer: Pointer) -> None:
        if self.state.storage.read(self.key) != self.found.data:
            raise IntegrityError(
                "the channel was moved meanwhile", where=self.state.storage.where(self.key), hint="check again"
            )
        Journal(self.state.storage, self.state.model, self.name).replace(pointer)
