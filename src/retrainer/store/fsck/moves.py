"""Checks of the moves of a model's channels: the chain of each history, its journal, and entries that no chain has."""

from __future__ import annotations

import sys
from collections import defaultdict

from retrainer.store.channels import Pointer
from retrainer.store.fsck.chain import Break, Chain, times_that_go_back
from retrainer.store.fsck.channel_state import BACKUP, ChannelState
from retrainer.store.fsck.findings import Code, Problem
from retrainer.store.fsck.pointers import check_pointer, damaged, mismatch, unreadable
from retrainer.store.fsck.state import ModelState
from retrainer.store.history import HistoryEntry
from retrainer.store.names import entry_key, pointer_key

_BREAKS = {
    "missing": Code.HISTORY_MISSING,
    "altered": Code.HISTORY_ALTERED,
    "does not continue": Code.HISTORY_BROKEN,
}
# A move's name and entry, by its number.
Moves = dict[int, tuple[str, HistoryEntry]]


def check_channels(state: ModelState) -> list[Problem]:
    """Everything that is wrong with the channels of a model and their moves."""
    problems: list[Problem] = []
    reached: set[str] = set()
    unknown_below: dict[str, int] = {}
    for name in state.listing.channels():
        channel = ChannelState(state, name)
        problems += check_pointer(channel)
        moves, faults, end = _chain(channel)
        problems += faults
        problems += _journal(channel, moves)
        reached |= {entry for entry, _ in moves.values()} | {fault.finding.key for fault in faults}
        reached |= {one.pointer.history for one in channel.entries.values() if one.pointer}
        if end is not None or not moves:
            unknown_below[name] = end.sequence if end else sys.maxsize
    return problems + _unreached(state, reached, unknown_below)


def _chain(channel: ChannelState) -> tuple[Moves, list[Problem], Break | None]:
    """The moves of a channel as far as they are known, a finding for each break, and the last break."""
    moves: Moves = {}
    problems: list[Problem] = []
    head, end = _head(channel), None
    while head is not None:
        chain = channel.state.history.chain(head)
        moves |= chain.by_sequence()
        problems += _times(channel, chain)
        end = chain.end
        if end is None:
            break
        problems.append(
            channel.problem(
                _BREAKS[end.fault],
                "damage",
                entry_key(channel.state.model, end.name),
                f"move {end.sequence} in the history of '{channel.name}' {end.message}",
                "restore it from a backup: readers that start refuse the channel until then, though it can be moved",
            )
        )
        # The journal names the entries of the moves below, too.
        below = [number for number, one in channel.entries.items() if number < end.sequence and one.pointer]
        head = channel.entries[max(below)].pointer if below else None
    return moves, problems, end


def _head(channel: ChannelState) -> Pointer | None:
    """From where the history is followed: the pointer, unless the journal knows better."""
    pointer, newest = channel.pointer, channel.newest
    if pointer is None or newest is None:
        return pointer or newest
    if not channel.faults(pointer) and newest.sequence <= pointer.sequence:
        return pointer
    return newest if not channel.faults(newest) else pointer


def _times(channel: ChannelState, chain: Chain) -> list[Problem]:
    return [
        channel.problem(
            Code.HISTORY_TIMES,
            "suspect",
            entry_key(channel.state.model, name),
            f"move {entry.sequence} of '{channel.name}' is dated {entry.at}, before move {before.sequence},"
            f" which is dated {before.at}",
            "the clock of a publisher was wrong; 'retrainer history --at' goes by these times",
        )
        for name, entry, before in times_that_go_back(chain)
    ]


def _journal(channel: ChannelState, moves: Moves) -> list[Problem]:
    problems: list[Problem] = []
    for sequence, one in sorted(channel.entries.items()):
        if sequence in channel.blamed:
            continue
        if one.pointer is None:
            problems.append(unreadable(channel, sequence))
            continue
        fault = _fault_of_entry(channel, one.pointer, moves)
        if fault is not None:
            problems.append(mismatch(channel, sequence, fault))
        else:
            problems += _signature_of_entry(channel, one.pointer)
    return problems + _gaps(channel)


def _fault_of_entry(channel: ChannelState, pointer: Pointer, moves: Moves) -> str | None:
    if pointer == channel.pointer:
        return None  # what is wrong with it was said of the pointer
    move, first = moves.get(pointer.sequence), moves.get(1)
    if move is not None and (pointer.history, pointer.version, pointer.moved_at) != (
        move[0],
        move[1].to_version,
        move[1].at,
    ):
        return "does not say what the history says of that move"
    if first is not None and pointer.origin not in {None, first[0]}:
        return "names another first move of the channel"
    if channel.has_other_hash(pointer):
        return "has another hash of the version's manifest than the version"
    return None


def _signature_of_entry(channel: ChannelState, pointer: Pointer) -> list[Problem]:
    """Entries from before keys were used have none; those of retired keys hold by the journal's later ones."""
    if pointer.signature is None or pointer == channel.pointer:
        return []
    key = channel.journal_key(pointer.sequence)
    fault = channel.signature_fault(pointer, key=key)
    if fault is None or channel.state.trusted is None:
        return []
    known = pointer.signature.key_id in channel.state.trusted.key_ids()
    return [
        channel.problem(
            Code.JOURNAL_SIGNATURE,
            "damage" if known else "suspect",
            key,
            f"move {pointer.sequence} in the journal: {fault.message}",
            BACKUP if known else "where keys were rotated, give the old one with --public-key as well",
        )
    ]


def _gaps(channel: ChannelState) -> list[Problem]:
    if not channel.entries:
        return []
    # A channel without an origin is older than journals, and its first moves were never written down.
    from_the_first = any(one.pointer and one.pointer.origin for one in channel.entries.values())
    present = sorted(channel.entries)
    before = [0 if from_the_first else present[0], *present]
    return [
        channel.problem(
            Code.JOURNAL_GAP,
            "suspect",
            channel.journal_key(last + 1),
            f"{_moves(channel, last + 1, following - 1)} missing from the journal, and later ones are there",
            "nothing needs it, but whoever moves a channel completes the move before; so somebody deleted it",
        )
        for last, following in zip(before, present, strict=False)
        if following - last > 1  # one finding for each run: a single object may claim any number
    ]


def _moves(channel: ChannelState, first: int, last: int) -> str:
    if first == last:
        return f"move {first} of '{channel.name}' is"
    return f"the moves {first} to {last} of '{channel.name}' are"


def _unreached(state: ModelState, reached: set[str], unknown_below: dict[str, int]) -> list[Problem]:
    """Entries that no chain leads to. One that another of them follows was once what a pointer named."""
    problems = [
        state.problem(
            Code.HISTORY_ALTERED,
            "suspect",
            entry_key(state.model, name),
            f"an entry of the history that no channel leads to: {fault}",
            "restore it from a backup, if it belonged to a channel",
        )
        for name, fault in sorted(state.history.altered.items())
        if entry_key(state.model, name) not in reached
    ]
    lost: dict[str, dict[str, HistoryEntry]] = defaultdict(dict)
    for name, entry in state.history.entries.items():
        if name in reached or entry.sequence < unknown_below.get(entry.channel, 0):
            continue  # below a break nothing tells whether it belongs
        lost[entry.channel][name] = entry
    for channel, entries in sorted(lost.items()):
        problems += _lost_moves(state, channel, entries, reached)
    return problems


def _lost_moves(state: ModelState, channel: str, entries: dict[str, HistoryEntry], reached: set[str]) -> list[Problem]:
    followed = {entry.previous for entry in entries.values() if entry.previous in entries}
    has_pointer = channel in state.pointers
    problems: list[Problem] = []
    if not has_pointer and channel not in state.journal and any(entry.sequence > 1 for entry in entries.values()):
        last = max(entry.sequence for entry in entries.values())
        return [
            state.problem(
                Code.POINTER_DELETED,
                "damage",
                pointer_key(state.model, channel),
                f"the history holds {last} moves of a channel that has neither pointer nor journal",
                f"publish to it, which begins its history anew; or {BACKUP}",
                channels=(channel,),
            )
        ]
    replayed = {name for name in followed if has_pointer and _joins(entries, name, reached)}
    already = channel in state.journal and max(state.journal[channel]) > _sequence(state, channel)
    if replayed and not already:
        text = "the history holds moves that followed the one of the pointer: an older pointer was put back"
        problems.append(damaged(ChannelState(state, channel), Code.POINTER_REPLAYED, text, only_newest=True))
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].sequence, item[0])):
        if name in replayed or entry.previous in replayed:
            continue
        was_made = name in followed or entry.previous in entries
        text = "of a history that was given up for a new one" if was_made else "that never took place"
        problems.append(
            state.problem(
                Code.HISTORY_ORPHAN,
                "leftover",
                entry_key(state.model, name),
                f"move {entry.sequence} of '{channel}' by {entry.actor}, to {entry.to_version}, {text}",
                "harmless: its publisher was stopped, or lost to another one" if not was_made else "harmless",
                version=entry.to_version,
                channels=(channel,),
            )
        )
    return problems


def _joins(entries: dict[str, HistoryEntry], name: str | None, reached: set[str]) -> bool:
    """Whether the moves before that one lead to the channel's present history."""
    while name in entries:
        name = entries[name].previous
    return name in reached


def _sequence(state: ModelState, channel: str) -> int:
    seen = state.pointers.get(channel)
    return seen.pointer.sequence if seen is not None and seen.pointer is not None else 0
