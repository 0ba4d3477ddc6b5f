"""Checks of a model's channels: the moves of each log, what the newest one says, and the hint that leads there."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from itertools import pairwise

from retrainer.errors import SignatureError
from retrainer.store.fsck.findings import Code, Problem, Repair, Severity
from retrainer.store.fsck.state import FoundLog, ModelState
from retrainer.store.log import ChannelLog
from retrainer.store.move import RECENT_MOVES, Move
from retrainer.store.names import MANIFEST, hint_key, move_key

_BACKUP = "restore it from a backup, or find out what happened before you go on (docs/store.md: what to do when)"
_REPAIR = "run 'retrainer fsck --repair'"


def check_channels(state: ModelState) -> list[Problem]:
    """Everything that is wrong with the channels of a model and their moves."""
    return [problem for name, log in sorted(state.logs.items()) for problem in _Channel(state, name, log).problems()]


class _Channel:
    """One channel while it is checked."""

    def __init__(self, state: ModelState, name: str, log: FoundLog) -> None:
        self.state = state
        self.name = name
        self.log = log
        self.moves = {sequence: found.move for sequence, found in log.moves.items() if found.move is not None}

    def problems(self) -> list[Problem]:
        """Everything that is wrong."""
        return [
            *self._single(),
            *self._missing(),
            *self._pairs(),
            *self._signatures(),
            *self._target(),
            *self._anchor(),
            *self._hint(),
        ]

    def _problem(
        self,
        code: Code,
        severity: Severity,
        sequence: int | None,
        message: str,
        hint: str = _BACKUP,
        *,
        version: str | None = None,
        repair: Repair | None = None,
    ) -> Problem:
        """A finding about a move of this channel, or about its hint."""
        key = (
            hint_key(self.state.model, self.name)
            if sequence is None
            else move_key(self.state.model, self.name, sequence)
        )
        return self.state.problem(
            code, severity, key, message, hint, version=version, channels=(self.name,), repair=repair
        )

    # The moves

    def _single(self) -> list[Problem]:
        """Moves that are none, or cannot be read."""
        return [
            self._problem(
                Code.OBJECT_UNREADABLE if found.unreadable else Code.MOVE_ALTERED,
                "damage",
                sequence,
                f"move {sequence} of '{self.name}' {found.fault}",
                "look at its permissions" if found.unreadable else _BACKUP,
            )
            for sequence, found in sorted(self.log.moves.items())
            if found.move is None
        ]

    def _missing(self) -> list[Problem]:
        """Numbers that are not there, though a later move or the hint is; one finding for each run of them."""
        present = sorted(self.log.moves)
        hinted = self.log.hint.sequence if self.log.hint else 0
        problems = []
        for last, following in pairwise([0, *present]):
            if following - last > 1:
                text = f"{self._named(last + 1, following - 1)} missing, and later moves are there"
                problems.append(self._problem(Code.MOVE_MISSING, "damage", last + 1, text))
        newest = present[-1] if present else 0
        if hinted > newest:
            text = f"{self._named(newest + 1, hinted)} missing: the newest moves were deleted, and the hint knows them"
            problems.append(self._problem(Code.MOVE_MISSING, "damage", newest + 1, text))
        return problems

    def _named(self, first: int, last: int) -> str:
        if first == last:
            return f"move {first} of '{self.name}' is"
        return f"the moves {first} to {last} of '{self.name}' are"

    def _pairs(self) -> list[Problem]:
        problems: list[Problem] = []
        for number, move in sorted(self.moves.items()):
            before = self.moves.get(number - 1)
            if before is None:
                continue
            if move.previous != before.sha256:
                if not self._contradicted(move):  # else it is the later one that was altered
                    text = (
                        f"move {before.sequence} of '{self.name}' was altered: its hash is not what the next move names"
                    )
                    problems.append(self._problem(Code.MOVE_ALTERED, "damage", before.sequence, text))
            elif not move.follows(before):
                text = f"move {number} of '{self.name}' does not continue the one before it"
                problems.append(self._problem(Code.MOVE_ALTERED, "damage", number, text))
            if datetime.fromisoformat(move.at) < datetime.fromisoformat(before.at):
                text = (
                    f"move {number} of '{self.name}' is dated {move.at}, before move {before.sequence}, which is dated"
                    f" {before.at}"
                )
                hint = "the clock of a publisher was wrong; 'retrainer history --at' goes by these times"
                problems.append(self._problem(Code.MOVE_TIMES, "suspect", number, text, hint))
        return problems

    def _signatures(self) -> list[Problem]:
        """The newest move as a reader takes it; of older ones, those that claim a key and do not hold.

        Moves from before keys were used have no signature; those by retired keys hold by the moves after them.
        """
        problems: list[Problem] = []
        newest = self.log.newest
        for number, move in sorted(self.moves.items()):
            fault = self._signature_fault(move)
            if move is newest:
                problems += self._signature_of_newest(move, fault)
            elif move.signature is not None and fault is not None and self.state.trusted is not None:
                known = move.signature.key_id in self.state.trusted.key_ids()
                problems.append(
                    self._problem(
                        Code.MOVE_SIGNATURE,
                        "damage" if known else "suspect",
                        number,
                        f"of '{self.name}': {fault.message}",
                        _BACKUP if known else "where keys were rotated, give the old one with --public-key as well",
                    )
                )
        return problems

    def _signature_of_newest(self, move: Move, fault: SignatureError | None) -> list[Problem]:
        if fault is not None:
            code = Code.MOVE_SIGNATURE if move.signature else Code.MOVE_UNSIGNED
            return [
                self._problem(
                    code, "damage", move.sequence, f"of '{self.name}': {fault.message}", fault.hint or _BACKUP
                )
            ]
        if move.signature is not None or not self.state.somebody_signs():
            return []
        if any(earlier.signature for earlier in self.moves.values()):
            text = f"move {move.sequence} of '{self.name}' is not signed, and earlier ones are: no publisher does that"
            hint = "find out by whom; if nobody vouches for it, delete it and the hint (docs/store.md: what to do when)"
            return [self._problem(Code.MOVE_UNSIGNED, "damage", move.sequence, text, hint)]
        text = f"move {move.sequence} of '{self.name}' is not signed, and other channels of this model are"
        hint = "sign it with 'retrainer sign', or move the channel with the private key, if it should be"
        return [self._problem(Code.MOVE_UNSIGNED, "suspect", move.sequence, text, hint)]

    def _signature_fault(self, move: Move) -> SignatureError | None:
        """Why the signature of a move does not hold; ``None`` where it does, or no key was given."""
        if self.state.trusted is None:
            return None
        where = self.state.storage.where(move_key(self.state.model, self.name, move.sequence))
        try:
            what = f"move {move.sequence}"
            self.state.trusted.check(move.signature, move.signed_bytes(), what=what, where=where)
        except SignatureError as error:
            return error
        return None

    def _target(self) -> list[Problem]:
        newest = self.log.newest
        if newest is None:
            return []
        problems = []
        version = self.state.version(newest.to_version)
        if version is None or MANIFEST not in version.objects:  # an altered one is for the checks of versions
            state = "has no manifest" if version is not None else "is not there"
            text = f"the channel '{self.name}' points at the version {newest.to_version}, which {state}"
            hint = "roll the channel back, or publish the same bundle again"
            problems.append(
                self._problem(Code.CHANNEL_DANGLING, "damage", newest.sequence, text, hint, version=newest.to_version)
            )
        elif version.as_written and version.sha256 != newest.manifest_sha256:
            text = f"move {newest.sequence} of '{self.name}' has another hash of the manifest than the version"
            problems.append(self._problem(Code.MOVE_ALTERED, "damage", newest.sequence, text))
        return problems

    def _anchor(self) -> list[Problem]:
        newest = self.log.newest
        if newest is None or newest.anchor == newest.to_version:
            return []
        version = self.state.version(newest.anchor)
        if version is not None and MANIFEST in version.objects:
            return []
        text = (
            f"the anchor of '{self.name}', version {newest.anchor}, is not there: no challenger can be held against it"
        )
        hint = "pin another one: 'retrainer anchor'"
        return [self._problem(Code.CHANNEL_ANCHOR, "damage", newest.sequence, text, hint, version=newest.anchor)]

    # The hint

    def _hint(self) -> list[Problem]:
        newest, hint = self.log.newest, self.log.hint
        if newest is None or (hint is not None and hint.sequence > newest.sequence):
            return []
        repair = self._writing_hint(newest)
        if hint is None:
            what = self.log.hint_fault or "is missing"
            code = Code.HINT_ALTERED if self.log.hint_fault else Code.HINT_BEHIND
            severity: Severity = "suspect" if self.log.hint_fault else "leftover"
            text = f"the hint of '{self.name}' {what}"
            return [
                self._problem(code, severity, None, text, "readers without the right to list need it", repair=repair)
            ]
        hinted = zip(range(hint.sequence, 0, -1), hint.hashes, strict=False)
        others = [number for number, sha256 in hinted if self._differs(number, sha256)]
        if others:
            proven = repair if all(self._is_proven(self.moves[number]) for number in others) else None
            text = f"the hint of '{self.name}' has another hash of move {others[0]} than that move has"
            way = "one of the two was altered; a signature would tell which, with --public-key. Else " + _BACKUP
            return [self._problem(Code.HINT_ALTERED, "damage", None, text, _REPAIR if proven else way, repair=proven)]
        if hint.sequence < newest.sequence:
            text = f"the hint of '{self.name}' is of move {hint.sequence}, and there is move {newest.sequence}"
            way = "harmless: a publisher was stopped before it wrote it, or an older one came late"
            return [self._problem(Code.HINT_BEHIND, "leftover", None, text, way, repair=repair)]
        return []

    def _differs(self, sequence: int, sha256: str) -> bool:
        """Whether a move is another than the hint says, and it is not the move after it that says so, too."""
        move, after = self.moves.get(sequence), self.moves.get(sequence + 1)
        return move is not None and move.sha256 != sha256 and (after is None or after.previous != sha256)

    def _contradicted(self, move: Move) -> bool:
        """Whether the hint has another hash of a move that no later one names."""
        hint = self.log.hint
        place = hint.sequence - move.sequence if hint else -1
        return (
            hint is not None
            and move is self.log.newest
            and 0 <= place < len(hint.hashes)
            and hint.hashes[place] != move.sha256
        )

    def _is_proven(self, move: Move) -> bool:
        """Whether something else than the hint vouches for a move: the one after it, or its signature."""
        after = self.moves.get(move.sequence + 1)
        if after is not None and after.previous == move.sha256:
            return True
        return self.state.trusted is not None and self._signature_fault(move) is None

    def _writing_hint(self, newest: Move) -> Repair | None:
        """How the hint is written anew; ``None`` where the last moves do not hold themselves."""
        hashes = [newest.sha256]
        move = newest
        while len(hashes) < RECENT_MOVES and (before := self.moves.get(move.sequence - 1)) is not None:
            if not move.follows(before):
                return None
            hashes.append(before.sha256)
            move = before
        if self._signature_fault(newest) is not None:
            return None
        log = ChannelLog(self.state.storage, self.state.model, self.name)
        return Repair(f"write it for move {newest.sequence}", partial(log.write_hint, hashes, newest.sequence))
