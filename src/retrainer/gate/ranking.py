"""The area under the ROC curve, one label against the rest, averaged over the labels that occur."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.answers import Floats, Ints
from retrainer.gate.bootstrap import Probable, RowStatistic, variance_of_sum


def placements(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """For each row the share of the other kind that it is on the right side of, ties counting half, ``[n]``.

    A positive row is right above negative ones, a negative row below positive ones. The mean over the positive
    rows is the area under the ROC curve, and so is the mean over the negative ones: E. DeLong, D. DeLong, D.
    Clarke-Pearson, Comparing the areas under two or more correlated receiver operating characteristic curves,
    Biometrics 44 (1988) 837-845; by one sort, as X. Sun, W. Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.

    :param positive: ``[n]``; at least one row of either kind.
    """
    order = np.argsort(scores)
    ordered, kinds = scores[order], positive[order]
    n_positive = int(np.count_nonzero(positive))
    # Positive rows up to each place and negative ones, of those with the same score only half.
    up_to = np.cumsum(kinds, dtype=np.float64)
    below = np.arange(1.0, scores.size + 1) - up_to
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if first.size < scores.size:
        last = np.r_[first[1:], scores.size] - 1
        tied = last - first + 1
        up_to = np.repeat((up_to[last] + np.r_[0.0, up_to[last[:-1]]]) / 2, tied)
        below = np.repeat((below[last] + np.r_[0.0, below[last[:-1]]]) / 2, tied)
    shares = np.empty(scores.size)
    shares[order] = np.where(kinds, below / (scores.size - n_positive), 1.0 - up_to / n_positive)
    return shares


def auroc_parts(labels: Ints, probabilities: Floats) -> tuple[float, Floats]:
    """Area under the ROC curve, one label against the rest, averaged; and how far each row moves it, ``[n]``.

    :return: the value, NaN where fewer than two labels occur or a score is not a number; and by row the sum over labels
        of its placement over the number of rows of its kind: the row's influence, up to a constant in each label.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    present = np.flatnonzero(counts)
    influence = np.zeros(labels.size)
    if present.size < 2 or not np.isfinite(probabilities).all():
        return float("nan"), influence
    areas = []
    for label in present:
        positive = labels == label
        shares = placements(positive, np.ascontiguousarray(probabilities[:, label]))
        areas.append(shares[positive].mean())
        influence += shares / np.where(positive, counts[label], labels.size - counts[label])
    return float(np.mean(areas)), influence / present.size


def _value(labels: Ints, answers: Probable) -> float:
    return float(answers.kept("auroc", labels, auroc_parts)[0])


def _limit(labels: Ints, models: Sequence[Probable]) -> tuple[float, str]:
    """The area is a mean up to terms of order 1/n, of placement values."""
    influences: list[Floats] = [model.kept("auroc", labels, auroc_parts)[1] for model in models]
    influence = influences[0] - influences[1] if len(influences) > 1 else influences[0]
    return variance_of_sum(labels, influence), "its limit by placement values (DeLong)"


def _least_variance(labels: Ints, answers: Probable) -> float:
    """Of two rows, one in favour of either model, spread over the labels by their shares. On such a row one of the
    models knows nothing: the row is in the middle of the others.
    """
    n = labels.size
    rows = np.bincount(labels)
    present = rows[rows > 0].astype(np.float64)
    as_other = (1 / (n - present)).sum() - 1 / (n - present)
    moved = (1 / present + as_other) / 2 / present.size
    return float((present / n * 2.0 * moved**2).sum())


AUROC = RowStatistic(_value, _limit, _least_variance)
