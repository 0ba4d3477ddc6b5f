"""The flips between champion and challenger on the test rows, with the texts of the surest mistakes for the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrainer.artifacts.evaluation import CHAMPION
from retrainer.gate.evidence import Evidence, Table
from retrainer.precisions import REFERENCE
from retrainer.report.flips import Flip, FlipCounts, Flips
from retrainer.work.snapshot_texts import parts, texts_of

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
    positive = evidence.record.positive
    right, was_right = (table.said(positive).right(challenger.labels) for table in (challenger, champion))
    harmful, beneficial = was_right & ~right, right & ~was_right

    def counted(group: str, inside: Mask) -> FlipCounts:
        here = {"harmful": int((inside & harmful).sum()), "beneficial": int((inside & beneficial).sum())}
        return FlipCounts(group=group, rows=int(inside.sum()), **here)

    groups = [counted(name, inside) for name, inside in _groups(evidence, challenger)]
    groups = [one for one in groups if one.harmful]
    return Flips(
        counts=counted("", np.ones(len(right), dtype=np.bool_)),
        groups=tuple(sorted(groups, key=lambda one: (-one.harmful / one.rows, one.group))[:MOST_GROUPS]),
        surest=tuple(_surest(challenger, labels, harmful, test) if labels else ()),
    )


def _groups(evidence: Evidence, table: Table) -> Iterator[tuple[str, Mask]]:
    """Rows of each label, of each value of a column that the gate slices by, and with each of its patterns."""
    for index, label in enumerate(evidence.record.labels):
        yield f"label = {label}", table.labels == index
    for name, values in table.slices.items():
        for value in np.unique(values[values != ""]):
            yield f"{name} = {value}", values == value
    if table.patterns is not None:
        for pattern, found in zip(evidence.record.patterns, table.patterns.T, strict=True):
            yield f"pattern = {pattern}", found


def _surest(table: Table, labels: tuple[str, ...], harmful: Mask, test: Path | None) -> Iterator[Flip]:
    at = np.flatnonzero(harmful)
    # The row id decides between equally sure ones, so that the same evidence gives the same page.
    order = np.lexsort((table.row_ids[at], -table.scores[at].max(axis=1)))
    chosen = at[order][:MOST_SHOWN]
    texts = texts_of_rows(test, [str(row_id) for row_id in table.row_ids[chosen]]) if test is not None else {}
    for row in chosen.tolist():
        row_id = str(table.row_ids[row])
        yield Flip(
            row_id=row_id,
            text=texts.get(row_id, "") if test is not None else None,
            label=labels[table.labels[row]],
            predicted=labels[table.predictions[row]],
            probability=float(table.scores[row].max()),
        )


def texts_of_rows(test: Path, row_ids: list[str]) -> dict[str, str]:
    """Row id to text, both of a pair with a bar between them.

    :param test: the split.
    """
    table: Any = pq.read_table(test)
    table = table.filter(pc.is_in(table.column("row_id"), pa.array(row_ids, pa.string())))
    texts = (" | ".join(parts(text)) for text in texts_of(table))
    return dict(zip(table.column("row_id").to_pylist(), texts, strict=True))
