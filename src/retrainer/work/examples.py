"""Test rows with what was written beside what is right, chosen for the report. Not here: how they are shown
(``report/examples.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from retrainer.artifacts.evaluation import CHAMPION
from retrainer.artifacts.texts import texts_of_rows
from retrainer.gate.evidence import Evidence
from retrainer.gate.tables import TextTable
from retrainer.precisions import REFERENCE
from retrainer.report.examples import Example, Examples
from retrainer.work.snapshot_texts import evenly

MOST_SHOWN = 12


def examples_of(evidence: Evidence, metric: str, test: Path | None) -> Examples | None:
    """Some rows of the challenger, and of the champion where it answered the same; ``None`` where the task has labels.

    :param metric: by which rows are chosen, one that was measured.
    :param test: the snapshot's test split, for the texts; ``None`` to show none.
    """
    challenger, champion = evidence.tables.get(REFERENCE), evidence.tables.get(CHAMPION)
    if not isinstance(challenger, TextTable) or metric not in challenger.metrics or not len(challenger.row_ids):
        return None
    if not isinstance(champion, TextTable) or not np.array_equal(challenger.row_ids, champion.row_ids):
        champion = None
    scores = challenger.scores[:, challenger.metrics.index(metric)]
    before = champion.scores[:, champion.metrics.index(metric)] if champion and metric in champion.metrics else None
    # The row id decides between equal ones, so that the same evidence gives the same page.
    ordered = np.lexsort((challenger.row_ids, scores))
    spread = ordered[evenly(len(ordered), MOST_SHOWN)]
    lost = np.zeros(0, dtype=np.int64)
    if before is not None:
        order = np.lexsort((challenger.row_ids, scores - before))[:MOST_SHOWN]
        lost = order[scores[order] < before[order]]
    chosen = [str(challenger.row_ids[at]) for at in {*spread.tolist(), *lost.tolist()}]
    texts = texts_of_rows(test, chosen) if test is not None else {}

    def shown(rows: Iterable[int]) -> tuple[Example, ...]:
        return tuple(
            Example(
                row_id=(row_id := str(challenger.row_ids[at])),
                text=texts.get(row_id, "") if test is not None else None,
                target=" / ".join(challenger.targets[at]) if test is not None else None,
                written=challenger.predictions[at] if test is not None else None,
                champion=champion.predictions[at] if test is not None and champion is not None else None,
                score=float(scores[at]),
                difference=float(scores[at] - before[at]) if before is not None else None,
            )
            for at in rows
        )

    return Examples(metric, shown(spread.tolist()), shown(lost.tolist()))
