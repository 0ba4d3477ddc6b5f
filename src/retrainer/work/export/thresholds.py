"""From which probability on a label applies, where a row has any number of labels: the threshold of the best F1.

Each label has its own, fitted on validation rows. Lipton, Elkan and Naryanaswamy, *Optimal Thresholding of Classifiers
to Maximize F1 Measure*, ECML PKDD 2014, show why it is seldom 0.5: of a calibrated model it is half of the best F1.
They also show that the best of few rows is too good by chance; so a label that few rows have keeps 0.5. Not here:
applying thresholds (``serve/predictor.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.calibration import FittedThreshold
from retrainer.serve.predictor import NO_THRESHOLD

FEWEST_POSITIVES = 10
# Digits that survive another order of sums, so that the same checkpoint gives the same bytes; more only where two rows
# are closer than that. 17 tell any two floats apart.
DIGITS = range(4, 18)

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
    # Saturated probabilities are exactly 0 or 1, and a threshold is neither: it takes all that are 1 and none of 0.
    probabilities = np.minimum(probabilities, math.nextafter(1.0, 0.0))
    reached = probabilities > 0.0
    if not truth[reached].any():
        return NO_THRESHOLD
    positives, probabilities, truth = truth.sum(), probabilities[reached], truth[reached]
    found, counts = np.unique(probabilities, return_counts=True)
    found, counts = found[::-1], counts[::-1]
    hits = np.bincount(np.searchsorted(-found, -probabilities[truth]), minlength=len(found))
    # With the threshold just at or below each of the values, from the largest on.
    f1 = 2 * hits.cumsum() / (counts.cumsum() + positives)
    below = np.append(found[1:], 0.0)
    inside = (below < NO_THRESHOLD) & (found >= NO_THRESHOLD)
    thresholds = np.where(inside, NO_THRESHOLD, (found + below) / 2)
    best = np.flatnonzero(f1 == f1.max())
    nearest = best[np.abs(thresholds[best] - NO_THRESHOLD).argmin()]
    return _rounded(float(thresholds[nearest]), float(below[nearest]), float(found[nearest]))


def _rounded(threshold: float, below: float, found: float) -> float:
    """The threshold in as few digits as keep it above one probability and not above the next."""
    shorter = (float(f"{threshold:.{digits}g}") for digits in DIGITS)
    # Between neighbouring floats there is no middle.
    return next((one for one in shorter if below < one <= found), found)


def f1_of(given: Flags, truth: Flags) -> float:
    """F1 of one label; 0 where no row has it and none is given it.

    :param given: ``[rows]``, as ``truth``.
    """
    of_both = int(given.sum() + truth.sum())
    return 2 * int((given & truth).sum()) / of_both if of_both else 0.0
