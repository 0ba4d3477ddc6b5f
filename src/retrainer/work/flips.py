"""The flips between champion and challenger on the test rows, with the texts of the surest mistakes for the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.evaluation import CHAMPION
from retrainer.artifacts.texts import texts_of_rows
from retrainer.gate.answers import Said, SetAnswers
from retrainer.gate.evidence import Evidence
from retrainer.gate.tables import Table
from retrainer.precisions import REFERENCE
from retrainer.report.flips import Flip, FlipCounts, Flips

MOST_SHOWN = 20
MOST_GROUPS = 20

Mask = npt.NDArray[np.bool_]


def flips_of(evidence: Evidence, test: Path | None) -> Flips | None:
    """What changed on the rows that both models answered; ``None`` where they were not scored on the same ones.

    :param test: the snapshot's test split, for the texts; ``None`` to show none.
    """
    challenger, champion = evidence.tables.get(REFERENCE), evidence.tables.get(CHAMPION)
    if challenger is None or champion is None or not len(challenger.row_ids):
        return None
    if not np.array_equal(challenger.row_ids, champion.row_ids):
        return None
    labels = evidence.record.labels
    said, said_before = (table.said(evidence.record.positive) for table in (challenger, champion))
    right, was_right = (answers.right(challenger.labels) for answers in (said, said_before))
    everywhere = np.ones(len(right), dtype=np.bool_)
    groups = [_counted(name, inside, right, was_right) for name, inside in _groups(evidence, challenger)]
    if isinstance(said, SetAnswers) and isinstance(said_before, SetAnswers):
        decided, decided_before = (answers.applies == answers.truth for answers in (said, said_before))
        groups += [
            _counted(f"decision on {label}", everywhere, decided[:, at], decided_before[:, at])
            for at, label in enumerate(labels)
        ]
    groups = [one for one in groups if one.harmful]
    return Flips(
        counts=_counted("", everywhere, right, was_right),
        groups=tuple(sorted(groups, key=lambda one: (-one.harmful / one.rows, one.group))[:MOST_GROUPS]),
        surest=tuple(_surest(challenger, said, labels, was_right & ~right, test) if labels else ()),
    )


def _counted(group: str, inside: Mask, right: Mask, was_right: Mask) -> FlipCounts:
    """Of the rows inside, by which of them are right now and were before."""
    harmful, beneficial = inside & was_right & ~right, inside & right & ~was_right
    rows, here = int(inside.sum()), {"harmful": int(harmful.sum()), "beneficial": int(beneficial.sum())}
    return FlipCounts(group=group, rows=rows, **here)


def _groups(evidence: Evidence, table: Table) -> Iterator[tuple[str, Mask]]:
    """Rows of each label, of each value of a column that the gate slices by, and with each of its patterns."""
    for index, label in enumerate(evidence.record.labels):
        yield f"label = {label}", table.labels == index if table.sets is None else table.sets[:, index]
    for name, values in table.slices.items():
        for value in np.unique(values[values != ""]):
            yield f"{name} = {value}", values == value
    if table.patterns is not None:
        for pattern, found in zip(evidence.record.patterns, table.patterns.T, strict=True):
            yield f"pattern = {pattern}", found


def _surest(table: Table, said: Said, labels: tuple[str, ...], harmful: Mask, test: Path | None) -> Iterator[Flip]:
    at = np.flatnonzero(harmful)
    sure = said.gravity(at)
    # The row id decides between equally sure ones, so that the same evidence gives the same page.
    order = np.lexsort((table.row_ids[at], -sure))
    chosen = at[order][:MOST_SHOWN]
    texts = texts_of_rows(test, [str(row_id) for row_id in table.row_ids[chosen]]) if test is not None else {}
    for row, surely in zip(chosen.tolist(), sure[order].tolist(), strict=False):
        row_id = str(table.row_ids[row])
        true, given = table.in_words(row, labels)
        text = texts.get(row_id, "") if test is not None else None
        yield Flip(row_id=row_id, text=text, label=true, predicted=given, probability=surely)
