"""What each model writes, and how near that is to the targets: for tasks that write text, greedy, by the client's own
predictor.

Not here: the scores of one row (``row_scores.py``), how long it takes (``costs.py``).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrainer.gate.answers import TextAnswers
from retrainer.serve.loading import open_predictor
from retrainer.spec.known_metrics import KNOWN_METRICS, names_of
from retrainer.work.evaluate.held_out import HeldOutRows
from retrainer.work.reporter import Reporter

# Rows of one call, after which progress is told.
CHUNK_ROWS = 32


def score(
    bundle: Path, precision: str, rows: HeldOutRows, labels: tuple[str, ...], reporter: Reporter, *, name: str
) -> TextAnswers:
    """What a bundle writes for all rows, with the scores of all metrics of such tasks.

    All, so that another policy can judge the same answers later.

    :param labels: none.
    """
    predictor: Any = open_predictor(bundle, precision=precision)
    written: list[str] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        written += [one.text for one in predictor.generate(rows.texts[start : start + CHUNK_ROWS])]
        reporter.progress(f"generating with {name}", done=len(written), total=len(rows), unit="row")
    return scored(written, rows.targets)


def scored(written: Sequence[str], targets: Sequence[Sequence[str]]) -> TextAnswers:
    """Texts with their scores.

    :param targets: of each of them.
    """
    functions = {name: pkgutil.resolve_name(KNOWN_METRICS[name].function) for name in names_of("generation")}
    predictions = np.empty(len(written), dtype=np.object_)
    predictions[:] = written
    return TextAnswers(
        predictions,
        {
            name: np.array([function(text, right) for text, right in zip(written, targets, strict=True)], dtype=float)
            for name, function in functions.items()
        },
    )
