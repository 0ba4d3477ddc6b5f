"""What a channel went through: its decisions by the ledger, and the moves in between, in the order in which they came.

A move names the newest entry of the ledger of its time, so that the order is not a matter of clocks. A model is named
here by its export artifact, since only what went live has a version. Light. Not here: deciding again (``replay.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from retrainer.artifacts.evaluation import EvaluationRecord
from retrainer.artifacts.repository import Artifacts
from retrainer.chain.accounts import Books, Question
from retrainer.errors import IntegrityError, NotFoundError
from retrainer.store import ModelStore, Move
from retrainer.store.entry import Entry, Spent, Verdict
from retrainer.store.ledger import Ledger
from retrainer.tasks import Writes

# As many as a version's name has.
_DIGITS = 16
_NAMED = 5
# Eight bytes each.
_MOST_ROWS = 20_000_000


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the record.

    :param entry: of the ledger, with what it spent.
    :param said: the entry with its verdict, by whose number and time people know it.
    """

    entry: Entry
    question: Question
    said: Entry

    @property
    def verdict(self) -> Verdict:
        """What the gate said."""
        assert isinstance(self.said.event, Verdict)
        return self.said.event

    @property
    def challenger(self) -> str:
        """Its export artifact."""
        return self.question.look.challenger

    @property
    def evaluation(self) -> str:
        """Its evaluate artifact."""
        return self.question.look.evaluation


@dataclass(frozen=True, eq=False)
class History:
    """The history of one channel.

    :param entries: of the whole ledger, of all channels of the model.
    :param decisions: of this channel, in their order; those of which there is a verdict.
    :param moves: number of an entry to the moves of the channel that were made after it and before the next; 0 for
        those before the first.
    :param undecided: how many decisions were begun and have no verdict.
    """

    model: ModelStore
    channel: str
    entries: tuple[Entry, ...]
    decisions: tuple[Decision, ...]
    moves: Mapping[int, tuple[Move, ...]]
    undecided: int
    _exports: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        challengers = {decision.verdict.decision: decision.challenger for decision in self.decisions}
        for moves in self.moves.values():
            for move in moves:
                if move.decision in challengers:
                    self._exports[move.to_version] = challengers[move.decision]

    def export_of(self, version: str) -> str:
        """The export artifact that a version came from; the version itself where nobody knows."""
        if version not in self._exports:
            self._exports[version] = version
            with suppress(IntegrityError, NotFoundError):  # it was removed, or is damaged: fsck says more
                self._exports[version] = self.model.manifest(version).artifacts.get("export", version)
        return self._exports[version]

    def version_of(self, export: str) -> str | None:
        """The version that was made of an export artifact, as far as the channel's history knows."""
        return next((version for version, made_from in self._exports.items() if made_from == export), None)

    def name(self, export: str) -> str:
        """What a model is called: its version, or as many digits of its export where it has none."""
        return self.version_of(export) or export[:_DIGITS]


def read_history(model: ModelStore, channel: str) -> History:
    """The history of a channel, its chains checked.

    :raises NotFoundError: nothing was ever decided for it.
    :raises IntegrityError: ledger or channel were altered.
    """
    entries = model.ledger.entries()
    verdicts: dict[int, list[Entry]] = {}
    for entry in entries:
        if isinstance(entry.event, Verdict):
            verdicts.setdefault(entry.event.spent, []).append(entry)
    books = Books(model.ledger, entries)
    spent = [entry for entry in entries if isinstance(entry.event, Spent) and entry.event.channel == channel]
    decisions = [
        Decision(entry, books.question_of(entry), said) for entry in spent for said in verdicts.get(entry.sequence, [])
    ]
    if not decisions:
        others = sorted({entry.event.channel for entry in entries if isinstance(entry.event, Spent)} - {channel})
        raise NotFoundError(
            f"the ledger of '{model.name}' holds no decision of the channel '{channel}': there is nothing to replay",
            where=model.ledger.where(),
            hint=f"it holds decisions of: {', '.join(others)}" if others else "a decision of a run is written there",
        )
    undecided = sum(entry.sequence not in verdicts for entry in spent)
    return History(model, channel, tuple(entries), tuple(decisions), _placed(model, channel, entries), undecided)


def _placed(model: ModelStore, channel: str, entries: Sequence[Entry]) -> dict[int, tuple[Move, ...]]:
    numbers = {entry.sha256: entry.sequence for entry in entries}
    placed: dict[int, list[Move]] = {}
    for move in reversed(model.history(channel)):
        if move.ledger is not None and move.ledger not in numbers:
            raise IntegrityError(
                f"move {move.sequence} of the channel '{channel}' names an entry of the ledger that is not there: its "
                "end was cut off, or it was begun anew",
                where=model.ledger.where(),
                hint="run 'retrainer fsck'",
            )
        placed.setdefault(numbers[move.ledger] if move.ledger else 0, []).append(move)
    return {number: tuple(moves) for number, moves in placed.items()}


def since(history: History, moment: datetime | None) -> tuple[Decision, ...]:
    """The decisions from a moment on.

    :raises NotFoundError: there is none.
    """
    if moment is None:
        return history.decisions
    first = next((d for d in history.decisions if datetime.fromisoformat(d.said.at) >= moment), None)
    if first is None:
        last = history.decisions[-1].said
        raise NotFoundError(
            f"no decision of the channel '{history.channel}' was taken since {moment.isoformat()}; the newest is entry "
            f"{last.sequence}, of {last.at}",
            where=history.model.ledger.where(),
            hint="give an earlier --since",
        )
    return tuple(d for d in history.decisions if d.entry.sequence >= first.entry.sequence)


def require_artifacts(decisions: Sequence[Decision], artifacts: Artifacts, steps: Iterable[str]) -> None:
    """Insist that what is replayed is there.

    :param steps: ``evaluate``, and ``decide`` where the recorded policies and receipts are needed.
    :raises NotFoundError: some of it is not. Says which, and how many decisions can be replayed without.
    :raises ArtifactError: a manifest cannot be read.
    """
    missing: dict[int, str] = {}
    for at, decision in enumerate(decisions):
        for step in steps:
            digest = decision.evaluation if step == "evaluate" else decision.verdict.decision
            if artifacts.find(step, digest) is None:
                missing.setdefault(at, f"{step} {digest[:12]} (entry {decision.said.sequence})")
    if not missing:
        return
    named = list(missing.values())
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    rest = decisions[max(missing) + 1 :]
    later = f"; --since {rest[0].said.at} replays the last {len(rest):,}" if rest else ""
    raise NotFoundError(
        f"the artifacts of {len(missing):,} of {len(decisions):,} decisions are missing: "
        f"{', '.join(named[:_NAMED])}{more}",
        where=artifacts.root,
        hint=f"give the root that the runs wrote to (--artifacts){later}",
    )


class RowNumbers:
    """The sets of rows of a ledger, each read once as long as there is room."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[str, Sequence[int]] = {}
        self._room = _MOST_ROWS

    def __call__(self, rows: str) -> Sequence[int]:
        """The rows of a set, by its hash."""
        if rows in self._kept:
            return self._kept[rows]
        numbers = self._ledger.rows(rows).numbers()
        if len(numbers) <= self._room:
            self._room -= len(numbers)
            self._kept[rows] = numbers
        return numbers


def writes_of(decision: Decision, artifacts: Artifacts) -> Writes:
    """What the models answer with that it was about.

    :raises ArtifactError: its evaluation is gone, or was altered.
    :raises IntegrityError: it is of a task that this version does not know.
    """
    content = artifacts.read("evaluate", decision.evaluation, EvaluationRecord.file)
    return EvaluationRecord.from_json(content, where=f"evaluate artifact {decision.evaluation[:12]}").writes
