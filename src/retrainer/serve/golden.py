"""Golden rows: real texts with the answers that a bundle gave when it was made.

A bundle is asked them again where it is loaded, before it serves: another CPU, another build of onnxruntime
or a damaged file must not change its answers unnoticed. int8 is the delicate one: on CPUs without VNNI its
products can saturate, and the answers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.errors import DataError, IntegrityError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.regular_files import read_regular
from retrainer.serve.predictor import Predictor, softmax
from retrainer.serve.texts import Text
from retrainer.store.bundle import GoldenRow

GOLDEN = "golden.jsonl"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a graph answered its golden rows here.

    :param max_difference: largest absolute difference of a logit; NaN when an answer is not a number.
    :param labels_changed: rows that got another label, those aside in which two labels stood level, or one stood at
        its threshold.
    """

    rows: int
    max_difference: float
    labels_changed: int
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the graph may serve here. False when there is nothing to compare."""
        return self.rows > 0 and self.labels_changed == 0 and self.max_difference <= self.tolerance

    def __str__(self) -> str:
        if self.rows == 0:
            return "there are no golden rows for it"
        return (
            f"{self.labels_changed} of {self.rows} golden rows get another label, "
            f"logits differ by up to {self.max_difference:.2g} (allowed {self.tolerance:g})"
        )


def read_golden(folder: Path) -> tuple[GoldenRow, ...]:
    """The golden rows of a bundle.

    :raises IntegrityError: they are missing or damaged.
    """
    path = folder / GOLDEN
    try:
        lines = read_regular(path).splitlines()
    except OSError as error:
        raise IntegrityError(f"no golden rows: {error.strerror}", where=str(path)) from None
    return tuple(GoldenRow.from_json(line, where=f"{path}:{number}") for number, line in enumerate(lines, start=1))


def text_of(row: GoldenRow) -> Text:
    """The text or pair of a golden row."""
    return row.text if row.text_pair is None else (row.text, row.text_pair)


def agreement(predictor: Predictor, golden: Sequence[GoldenRow]) -> Agreement:
    """Ask a graph its golden rows, one at a time as they were asked when the bundle was made.

    In int8 the scale of the activations depends on what else is in the batch, so batches would not compare.

    :raises IntegrityError: a golden row does not fit the graph, or the tokenizer cannot read it.
    """
    rows = [row for row in golden if predictor.precision in row.logits]
    tolerance = PRECISIONS.get(predictor.precision, PRECISIONS[REFERENCE]).golden_tolerance
    if not rows:
        return Agreement(0, float("nan"), 0, tolerance)
    labels = len(predictor.info.labels)
    widths = {len(row.logits[predictor.precision]) for row in rows}
    if widths != {labels}:
        raise IntegrityError(
            f"golden rows have {', '.join(map(str, sorted(widths)))} logits for {labels} labels",
            where=str(predictor.folder / GOLDEN),
        )
    expected = np.array([row.logits[predictor.precision] for row in rows], dtype=np.float32)
    try:
        answers = predictor.logits([text_of(row) for row in rows], batch_size=1)
    except DataError as error:
        # These texts are the version's own: not a caller's data is at fault, but its tokenizer.
        raise IntegrityError(
            f"golden rows cannot be asked: {error}",
            where=str(predictor.folder / GOLDEN),
            hint="publish the model again",
        ) from None
    changed = given(predictor, answers) != given(predictor, expected)
    decided = clearness(predictor, expected) > predictor.info.tie_margin
    return Agreement(
        rows=len(rows),
        max_difference=float(np.abs(answers - expected).max()),
        labels_changed=int((changed & decided).any(axis=1).sum()),
        tolerance=tolerance,
    )


def given(predictor: Predictor, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """What logits say: the index of the label, ``[rows, 1]``; or which of all labels apply, ``[rows, labels]``."""
    if predictor.thresholds is not None:
        return (predictor.probabilities_of(logits) >= predictor.thresholds).astype(np.int64)
    best: npt.NDArray[np.int64] = logits.argmax(axis=1)[:, None]
    return best


def clearness(predictor: Predictor, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How far, as a probability, each part of that is from another answer: behind the best label is the second best;
    of any number of labels each has its threshold. Of the shape of :func:`given`.
    """
    if predictor.thresholds is None:
        return lead(softmax(logits))[:, None]
    return np.abs(predictor.probabilities_of(logits) - predictor.thresholds)


def lead(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """By how much the best label leads the second, for each row."""
    if probabilities.shape[1] == 1:
        return np.ones(len(probabilities))
    ordered = np.sort(probabilities, axis=1)
    lead: npt.NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return lead
