"""From which probability on a label applies, where a row has any number of labels: the threshold of the best F1.

Each label has its own, fitted on validation rows. Lipton, Elkan and Naryanaswamy, *Optimal Thresholding of Classifiers
to Maximize F1 Measure*, ECML PKDD 2014, show why it is seldom 0.5: of a calibrated model it is half of the best F1.
They also show that the best of few rows is too good by chance; so a label that few rows have keeps 0.5. Not here:
applying thresholds (``serve/predictor.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.calibration import FittedThreshold
from retrainer.serve.predictor import NO_THRESHOLD

FEWEST_POSITIVES = 10
# Digits that survive another order of sums, so that the same checkpoint gives the same bytes.
DIGITS = 4
# With which every number is told from its neighbour.
MOST_DIGITS = 18

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def fit_thresholds(probabilities: Floats, truth: Flags, labels: Sequence[str]) -> dict[str, FittedThreshold]:
    """The threshold of each label.

    :param probabilities: ``[rows, labels]``.
    :param truth: which labels each row has, ``[rows, labels]``.
    """
    return {label: _fit(probabilities[:, at], truth[:, at]) for at, label in enumerate(labels)}


def _fit(probabilities: Floats, truth: Flags) -> FittedThreshold:
    positives = int(truth.sum())
    why_not = None
    if positives < FEWEST_POSITIVES:
        why_not = f"{positives} validation rows have it, and it takes {FEWEST_POSITIVES}"
    threshold = NO_THRESHOLD if why_not else best_threshold(probabilities, truth)
    return FittedThreshold(
        threshold=threshold,
        why_not_fitted=why_not,
        positives=positives,
        f1=f1_of(probabilities >= threshold, truth),
        f1_at_half=f1_of(probabilities >= NO_THRESHOLD, truth),
    )


def best_threshold(probabilities: Floats, truth: Flags) -> float:
    """The threshold with which the F1 of one label is best; of equally good ones that which is nearest to 0.5.

    Between two rows it lies in the middle, unless 0.5 does just as well: so a probability that is off in its last
    digits decides nothing.

    :param probabilities: ``[rows]``.
    :param truth: ``[rows]``, at least one.
    """
    found, counts = np.unique(probabilities, return_counts=True)
    found, counts = found[::-1], counts[::-1]
    hits = np.bincount(np.searchsorted(-found, -probabilities[truth]), minlength=len(found))
    # With the threshold just at or below each of the values, from the largest on.
    f1 = 2 * hits.cumsum() / (counts.cumsum() + truth.sum())
    # From a threshold above 0 on, which every threshold is, no row with a probability of 0 is given the label.
    f1 = np.where(found > 0.0, f1, 0.0)
    below = np.append(found[1:], 0.0)
    inside = (below < NO_THRESHOLD) & (found >= NO_THRESHOLD)
    thresholds = np.where(inside, NO_THRESHOLD, (found + below) / 2)
    if not f1.any():
        return NO_THRESHOLD
    best = np.flatnonzero(f1 == f1.max())
    nearest = best[np.abs(thresholds[best] - NO_THRESHOLD).argmin()]
    return _rounded(float(thresholds[nearest]), float(below[nearest]), float(found[nearest]))


def _rounded(threshold: float, below: float, found: float) -> float:
    """In as few digits as still tell the one row from the other.

    :param below: the largest probability to which the label is not given, ``found`` the least to which it is.
    """
    for digits in range(DIGITS, MOST_DIGITS):
        rounded = float(f"{threshold:.{digits}g}")
        if below < rounded <= found and rounded < 1.0:
            return rounded
    # The middle of two neighbouring numbers may be the lower one itself.
    return min(max(threshold, float(np.nextafter(below, 1.0))), float(np.nextafter(1.0, 0.0)))


def f1_of(given: Flags, truth: Flags) -> float:
    """F1 of one label; 0 where no row has it and none is given it.

    :param given: ``[rows]``, as ``truth``.
    """
    of_both = int(given.sum() + truth.sum())
    return 2 * int((given & truth).sum()) / of_both if of_both else 0.0
