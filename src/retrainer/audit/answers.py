"""What each model of a history answered, found in the evaluations that asked it: as challenger, champion or anchor.

By the ledger it is known who was asked on which rows, so that nothing is read in vain. No row that an evaluation holds
of a model is one that it was trained on: those are left out when it is asked. Not here: what is decided by the answers
(``replay.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from retrainer.artifacts.evaluation import ANCHOR, CHAMPION, EvaluationRecord, ModelEvidence
from retrainer.artifacts.repository import Artifacts
from retrainer.audit.history import Decision, History
from retrainer.audit.locate import evaluated_in
from retrainer.errors import NotFoundError
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.tables import Table
from retrainer.precisions import REFERENCE
from retrainer.store.entry import Look, Spent

# A champion stays for many nights, so that its answers are asked for again and again; a night needs three at most.
_KEPT = 8


class Asked(NamedTuple):
    """Where a model was asked.

    :ivar entry: of the ledger, that says so.
    :ivar evaluation: that holds its answers; ``table`` under which name.
    """

    entry: int
    look: Look
    evaluation: str
    table: str


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A model's answers to all rows of a night, in the order of the night's own.

    :param measured: of it, where it was asked; ``labels`` it knows.
    """

    table: Table
    measured: ModelEvidence
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lacking:
    """Why there are none.

    :param rows: how many of the night's rows nobody asked it, at least.
    """

    rows: int
    why: str


class StoredAnswers:
    """All evaluations that a ledger names."""

    def __init__(self, history: History, artifacts: Artifacts, numbers: Callable[[str], Sequence[int]]) -> None:
        self._history = history
        self._artifacts = artifacts
        self._numbers = numbers
        self._kept: OrderedDict[str, Evidence | str] = OrderedDict()

    @cached_property
    def _asked(self) -> dict[str, list[Asked]]:
        """Each model to where it was asked."""
        asked: dict[str, list[Asked]] = {}
        looks = {entry.sequence: entry.event for entry in self._history.entries if isinstance(entry.event, Look)}
        for number, look in looks.items():
            asked.setdefault(look.challenger, []).append(Asked(number, look, look.evaluation, REFERENCE))
        for entry in self._history.entries:
            spent = entry.event
            if not isinstance(spent, Spent) or spent.look not in looks:
                continue
            look = looks[spent.look]
            models = {REFERENCE: look.challenger, **{name: self._history.export_of(v) for name, v in _others(spent)}}
            for table, export in models.items():
                asked.setdefault(export, []).append(Asked(entry.sequence, look, spent.evaluation, table))
        return asked

    def evidence(self, evaluation: str) -> Evidence | str:
        """What an evaluation holds, or what of it is not as it was recorded. Read once, as long as it is in use.

        :raises NotFoundError: it is not there.
        """
        if evaluation not in self._kept:
            folder, problems = evaluated_in(self._artifacts, evaluation)
            self._kept[evaluation] = "; ".join(problems) or load_evidence(folder)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(evaluation)
        return self._kept[evaluation]

    def of(self, export: str, night: Decision) -> Found | Lacking:
        """A model's answers to the rows of a decision, aligned by row id; or why there are none.

        A row id stands for its text. What a model answered to it is held against the true label of this night, which
        may have been corrected since; an evaluation with other labels to choose from is not the same.

        :param export: the model.
        """
        mine = night.question.look
        tonight = self.evidence(mine.evaluation)
        if isinstance(tonight, str) or REFERENCE not in tonight.tables:
            return Lacking(mine.row_count, "the evaluation of that night cannot be used")
        best = Lacking(mine.row_count, "no evaluation ever asked it")
        for asked in sorted(self._asked.get(export, []), key=lambda one: self._distance(one, night)):
            if lacking := self._unasked(mine, asked.look):
                if lacking < best.rows:
                    best = Lacking(lacking, f"entry {asked.entry} asked it the most of them")
                continue
            found = self._aligned(asked, tonight)
            if isinstance(found, Found):
                return found
            if best.rows == mine.row_count or found.rows < best.rows:
                best = found
        return best

    @staticmethod
    def _distance(asked: Asked, night: Decision) -> tuple[bool, bool, int]:
        mine = night.question.look
        other_rows = asked.look.rows != mine.rows
        return asked.evaluation != mine.evaluation, other_rows, abs(asked.entry - night.entry.sequence)

    def _unasked(self, mine: Look, other: Look) -> int:
        """How many of my rows another look did not see."""
        if other.rows == mine.rows:
            return 0
        return len(frozenset(self._numbers(mine.rows)).difference(self._numbers(other.rows)))

    def _aligned(self, asked: Asked, tonight: Evidence) -> Found | Lacking:
        like = tonight.tables[REFERENCE]
        n = int(like.row_ids.size)
        try:
            evidence = self.evidence(asked.evaluation)
        except NotFoundError:
            return Lacking(n, f"the evaluate artifact {asked.evaluation[:12]} that holds them is gone")
        if isinstance(evidence, str):
            return Lacking(n, f"the evaluate artifact {asked.evaluation[:12]} was altered: {evidence}")
        table, measured = evidence.tables.get(asked.table), evidence.record.models.get(asked.table)
        if table is None or measured is None:
            return Lacking(n, f"the evaluate artifact {asked.evaluation[:12]} does not hold them")
        if evidence.record.labels != tonight.record.labels:
            return Lacking(n, f"entry {asked.entry} asked it for other labels")
        aligned = align(table, like)
        if isinstance(aligned, int):
            return Lacking(aligned, f"entry {asked.entry} says it asked it all of them, and its predictions do not")
        return Found(aligned, measured, _own_labels(evidence.record, asked.table))


def align(table: Table, like: Table) -> Table | int:
    """Answers in the order of other rows, with the true labels of those; or to how many there are none."""
    if table.row_ids is not like.row_ids and not np.array_equal(table.row_ids, like.row_ids):
        order = np.argsort(table.row_ids, kind="stable")
        at = np.searchsorted(table.row_ids, like.row_ids, sorter=order)
        at = order[np.minimum(at, order.size - 1)]
    else:
        at = np.arange(like.row_ids.size)
    same = table.row_ids[at] == like.row_ids
    if not same.all():
        return int((~same).sum())
    # Slices and lengths are those of the rows, and read of the challenger.
    return table.of_rows(at, like)


def _others(spent: Spent) -> list[tuple[str, str]]:
    """The versions that were asked beside a challenger, under the names of their answers."""
    champion = [(CHAMPION, spent.champion)] if spent.champion is not None else []
    if spent.anchor is None or spent.anchor_error is not None or spent.anchor == spent.champion:
        return champion
    return [*champion, (ANCHOR, spent.anchor)]


def _own_labels(record: EvaluationRecord, table: str) -> tuple[str, ...]:
    others = {CHAMPION: record.champion, ANCHOR: record.anchor}
    other = others.get(table)
    return other.labels if other is not None else record.labels
