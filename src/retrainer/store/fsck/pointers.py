"""Checks of a channel's pointer: against its journal, the version that it names, and its signature."""

from __future__ import annotations

from retrainer.store.channels import Pointer
from retrainer.store.fsck.channel_state import BACKUP, ChannelState
from retrainer.store.fsck.findings import Code, Problem, Repair
from retrainer.store.names import MANIFEST


def check_pointer(channel: ChannelState) -> list[Problem]:
    """Everything that is wrong with the pointer of a channel, or with the journal's entry of the same move."""
    pointer, newest = channel.pointer, channel.newest
    if pointer is None:
        return [_lost(channel)]
    if newest is not None and newest.sequence > pointer.sequence:
        problems = _journal_is_ahead(channel, pointer, newest)
    elif newest is not None and newest.sequence == pointer.sequence:
        problems = _compared(channel, pointer, newest)
    else:
        problems = _journal_is_behind(channel, pointer)
    problems += _target(channel, pointer)
    if not any(problem.finding.code in {Code.POINTER_UNSIGNED, Code.POINTER_SIGNATURE} for problem in problems):
        problems += _signature(channel, pointer)
    return problems


def damaged(
    channel: ChannelState,
    code: Code,
    message: str,
    *,
    hint: str | None = None,
    needs_version: bool = False,
    only_newest: bool = False,
) -> Problem:
    """A damaged pointer, with the way back where the journal has one."""
    way = channel.restoration(needs_version=needs_version, only_newest=only_newest)
    if isinstance(way, Repair):
        return channel.problem(code, "damage", channel.key, message, "run 'retrainer fsck --repair'", repair=way)
    return channel.problem(code, "damage", channel.key, message, hint or way)


def mismatch(channel: ChannelState, sequence: int, message: str) -> Problem:
    """A journal's entry that is not the pointer of its move."""
    channel.blamed.add(sequence)
    is_present = channel.pointer is not None and channel.pointer.sequence == sequence
    repair = channel.writing_down() if is_present else None
    return channel.problem(
        Code.JOURNAL_MISMATCH,
        "damage",
        channel.journal_key(sequence),
        f"move {sequence} in the journal {message}",
        "run 'retrainer fsck --repair'" if repair else BACKUP,
        repair=repair,
    )


def unreadable(channel: ChannelState, sequence: int) -> Problem:
    """A journal's entry that is none."""
    channel.blamed.add(sequence)
    is_present = channel.pointer is not None and channel.pointer.sequence == sequence
    repair = channel.writing_down() if is_present else None
    return channel.problem(
        Code.JOURNAL_UNREADABLE,
        "damage",
        channel.journal_key(sequence),
        f"move {sequence} in the journal: {channel.entries[sequence].fault}",
        "run 'retrainer fsck --repair'" if repair else BACKUP,
        repair=repair,
    )


def _lost(channel: ChannelState) -> Problem:
    if not channel.is_gone:
        return damaged(channel, Code.POINTER_UNREADABLE, f"the pointer cannot be used: {channel.found.fault}")
    moves = len(channel.entries)
    text = f"the pointer was deleted: its journal holds {moves} {'move' if moves == 1 else 'moves'}"
    return damaged(channel, Code.POINTER_DELETED, text)


def _journal_is_ahead(channel: ChannelState, pointer: Pointer, newest: Pointer) -> list[Problem]:
    if not channel.faults(newest):
        return [
            damaged(
                channel,
                Code.POINTER_REPLAYED,
                f"an older pointer was put back: it says move {pointer.sequence}, to {pointer.version}; the journal"
                f" goes on to move {newest.sequence}, to {newest.version}",
                needs_version=True,
            )
        ]
    return [
        mismatch(channel, sequence, "is of a move that the history does not have")
        for sequence, entry in sorted(channel.entries.items())
        if sequence > pointer.sequence and entry.pointer is not None
    ]


def _compared(channel: ChannelState, pointer: Pointer, written: Pointer) -> list[Problem]:
    sequence = pointer.sequence
    if channel.found.data == channel.entries[sequence].data:
        return [
            damaged(channel, Code.POINTER_ALTERED, f"pointer and journal were altered: {fault}")
            for fault in channel.faults(pointer, history=False)
        ]
    if pointer.model_copy(update={"signature": None}) == written.model_copy(update={"signature": None}):
        return [_compared_signatures(channel, pointer, written)]
    wrong, wrong_entry = channel.faults(pointer), channel.faults(written)
    if not wrong and not wrong_entry:
        channel.blamed.add(sequence)
        return [
            channel.problem(
                Code.CHANNEL_FORKED,
                "damage",
                channel.key,
                f"there are two moves {sequence}: the pointer says {pointer.version}, the journal {written.version}",
                "an older pointer was put back and then moved; decide which is right (docs/store.md: how to keep it)",
            )
        ]
    problems = []
    if wrong:
        problems.append(damaged(channel, Code.POINTER_ALTERED, f"the pointer was altered: {wrong[0]}"))
    if wrong_entry:
        problems.append(mismatch(channel, sequence, f"is not the pointer of that move: {wrong_entry[0]}"))
    return problems


def _compared_signatures(channel: ChannelState, pointer: Pointer, written: Pointer) -> Problem:
    """The same move in other bytes: signed again, or robbed of its signature."""
    if pointer.signature == written.signature:
        text = "the pointer says the same as its journal in other bytes"
        return damaged(channel, Code.POINTER_ALTERED, text)
    if pointer.signature is None:
        return damaged(channel, Code.POINTER_UNSIGNED, "the signature of the pointer was removed: its journal has one")
    if written.signature is None or pointer.signature.key_id != written.signature.key_id:
        channel.blamed.add(pointer.sequence)
        return channel.problem(
            Code.JOURNAL_BEHIND,
            "leftover",
            channel.journal_key(pointer.sequence),
            f"the pointer is signed by {pointer.signature.key_id}, and its journal is not",
            "harmless: it was signed again, and whoever did was stopped before the journal",
            repair=channel.writing_down(),
        )
    fault = channel.signature_fault(pointer)
    if fault is not None:
        return damaged(channel, Code.POINTER_SIGNATURE, fault.message)
    return mismatch(channel, pointer.sequence, "has another signature by the same key than the pointer")


def _journal_is_behind(channel: ChannelState, pointer: Pointer) -> list[Problem]:
    faults = channel.faults(pointer, history=bool(channel.entries))
    if faults:
        return [damaged(channel, Code.POINTER_ALTERED, f"the pointer was altered: {faults[0]}", only_newest=True)]
    if pointer.sequence in channel.entries:
        return [unreadable(channel, pointer.sequence)]
    return [
        channel.problem(
            Code.JOURNAL_BEHIND,
            "leftover",
            channel.journal_key(pointer.sequence),
            f"move {pointer.sequence} of '{channel.name}' is not in the journal",
            "harmless: its publisher was stopped before the journal, or the channel is older than journals",
            repair=channel.writing_down(),
        )
    ]


def _target(channel: ChannelState, pointer: Pointer) -> list[Problem]:
    version = channel.state.version(pointer.version)
    if version is not None and MANIFEST in version.objects:
        return []  # whether it is the right one is for the checks of versions
    return [
        channel.problem(
            Code.POINTER_DANGLING,
            "damage",
            channel.key,
            f"the channel points at the version {pointer.version}, which has no manifest"
            if version is not None
            else f"the channel points at the version {pointer.version}, which is not there",
            "roll the channel back, or publish the same bundle again",
            version=pointer.version,
        )
    ]


def _signature(channel: ChannelState, pointer: Pointer) -> list[Problem]:
    fault = channel.signature_fault(pointer)
    if fault is not None:
        code = Code.POINTER_SIGNATURE if pointer.signature else Code.POINTER_UNSIGNED
        return [channel.problem(code, "damage", channel.key, fault.message, fault.hint or BACKUP)]
    if pointer.signature is None and channel.somebody_signs():
        text = f"the pointer of '{channel.name}' is not signed, and others of this model are"
        hint = "move the channel with the private key, if it should be"
        return [channel.problem(Code.POINTER_UNSIGNED, "suspect", channel.key, text, hint)]
    return []
