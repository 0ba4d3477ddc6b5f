"""What a bundle answers, in the order of the snapshot's labels.

Uses the client's own predictor: what is judged is what will be served. Not here: how long it takes (``costs.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.serve.predictor import Predictor
from retrainer.work.evaluate.rows import HeldOutRows
from retrainer.work.reporter import Reporter

CHUNK_ROWS = 512


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers.

    :param predictions: index of each row's label among the snapshot's; -1 when it is none of them.
    :param scores: probabilities, ``[rows, labels of the snapshot]``. A label the model does not know has 0.
    """

    predictions: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def score(
    bundle: Path, precision: str, rows: HeldOutRows, labels: tuple[str, ...], reporter: Reporter, *, name: str
) -> Answers:
    """Score a bundle on all rows, its labels matched to the snapshot's by name."""
    predictor = Predictor(bundle, precision=precision)
    probabilities = []
    for start in range(0, len(rows), CHUNK_ROWS):
        probabilities.append(predictor.probabilities(rows.texts[start : start + CHUNK_ROWS]))
        done = min(start + CHUNK_ROWS, len(rows))
        reporter.progress(f"scoring {name}", done=done, total=len(rows), unit="row")
    own = np.concatenate(probabilities)
    index = {label: position for position, label in enumerate(labels)}
    mapped = np.array([index.get(label, -1) for label in predictor.info.labels], dtype=np.int64)
    scores = np.zeros((len(rows), len(labels)))
    scores[:, mapped[mapped >= 0]] = own[:, mapped >= 0]
    return Answers(mapped[own.argmax(axis=1)], scores)
